"""What `mesh join --quantize` costs in quality and gives in speed.

    python -m benchmarks.quantisation [MODEL_FOLDER] [--rescale] [--windows 32] [--length 512] [--repeats 5]
                                      [--threads 1] [--json FILE] [--smoke]

The loss is the mean cross-entropy of the next token in nats, over text that comes with Python: half prose (the
language reference in `pydoc_data.topics`) and half code (modules of the standard library), in windows of `--length`
tokens. Every precision sees the same windows; beside its loss stands the mean over windows of the difference to
float32, with its standard error. As a comparison the int4 blocks are also made by rounding to nearest, as the `gguf`
library does.
A checkpoint that was widened from 4 bits loses nothing when it is quantised to them again: --rescale first gives it
other weights that compute the same (see `rescaled.py`).

Tokens per second are those of greedy decoding, of 1 and of 8 sessions: each round asks all precisions in turn; figures
are medians over rounds, ratios medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import inspect
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.contestants import Answer, engine, prompts_of
from benchmarks.report import machine, paired_ratio, print_report, spread
from benchmarks.rescaled import write_rescaled
from shards.checkpoint.folder import Checkpoint
from shards.checkpoint.opening import AnyCheckpoint
from shards.checkpoint.quantising import QuantisedCheckpoint
from shards.checkpoint.source import resolve
from shards.model.loading import load_stage
from shards.model.paging import pages_for
from shards.model.precision import Precision
from shards.model.quantise import quantise
from shards.model.span import Span
from shards.model.stage import LogitsMode, Piece, StageModel
from shards.text.fast import load_tokenizer

CODE = ("argparse", "heapq", "textwrap", "statistics", "configparser", "ast", "csv", "fractions")
CASES = ((1, 33), (8, 17))
"""Sessions, and new tokens of each after a prompt of 64."""


@dataclass(slots=True)
class Variant:
    """A precision, and what was measured of it."""

    name: str
    precision: Precision | None = None
    nearest: bool = False
    losses: list[float] = field(default_factory=list)
    """Of each window."""
    nbytes: int = 0
    rates: dict[int, list[float]] = field(default_factory=dict)


VARIANTS = (
    ("float32", None, False),
    ("int4, nearest", Precision.INT4, True),
    ("int8", Precision.INT8, False),
    ("int4", Precision.INT4, False),
)


def nearest(weight: torch.Tensor, block_type: str) -> torch.Tensor:
    """`shards.model.quantise.quantise` by the format's own library."""
    from gguf import GGMLQuantizationType, quants

    return torch.from_numpy(quants.quantize(weight.float().numpy(), GGMLQuantizationType[block_type]))


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantisation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", default="tiny-python", help="an unquantised checkpoint folder")
    parser.add_argument("--rescale", action="store_true", help="for a checkpoint that was quantised once before")
    parser.add_argument("--windows", type=int, default=32, help="of text, half of them prose")
    parser.add_argument("--length", type=int, default=512, help="tokens of a window")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="little text, one round: does it run?")
    options = parser.parse_args()
    if options.smoke:
        options.windows, options.length, options.repeats = 2, 64, 1
    if options.windows < 2:
        parser.error("--windows must be at least 2: one of prose, one of code")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as scratch:
        folder = resolve(options.model)
        if options.rescale:
            folder = write_rescaled(folder, Path(scratch) / "rescaled")
        _run(options, folder)


def _run(options: argparse.Namespace, folder: Path) -> None:
    facts = machine()
    variants = [Variant(*each) for each in VARIANTS]
    windows = windows_of(folder, options.windows, options.length)
    for each in variants:
        measure_loss(each, folder, windows)
    measure_speed(variants, folder, options)
    _report(options, facts, variants)


def windows_of(folder: Path, count: int, length: int) -> list[torch.Tensor]:
    """Token ids [length + 1] of prose and code in turn."""
    from pydoc_data.topics import topics

    tokenizer = load_tokenizer(folder)
    prose = "\n\n".join(text for _, text in sorted(topics.items()))
    code = "\n\n".join(inspect.getsource(__import__(name)) for name in CODE)
    found: list[torch.Tensor] = []
    for number, text in enumerate((prose, code)):
        wanted = (count + 1 - number) // 2
        characters = min(len(text), wanted * (length + 1) * 8)
        ids = torch.tensor(tokenizer.encode(text[:characters]))
        step = max(length + 1, (len(ids) - length - 1) // max(1, wanted))
        found += [ids[at : at + length + 1] for at in range(0, len(ids) - length, step)][:wanted]
    return found


def measure_loss(variant: Variant, folder: Path, windows: Sequence[torch.Tensor]) -> None:
    """Every window by itself through a stage that has the whole model."""
    stage, variant.nbytes = _stage(variant, folder)
    length = len(windows[0]) - 1
    pages = list(range(pages_for(length)))
    stage.allocate(len(pages))
    for number, window in enumerate(windows):
        piece = Piece(number, stage.span, pages, 0, tokens=window[:-1], want=LogitsMode.ALL)
        (logits,) = stage.forward([piece])
        variant.losses.append(F.cross_entropy(logits, window[1:]).item())


def _stage(variant: Variant, folder: Path) -> tuple[StageModel, int]:
    checkpoint: AnyCheckpoint = Checkpoint.open(folder)
    if variant.precision is not None:
        method = nearest if variant.nearest else quantise
        checkpoint = QuantisedCheckpoint(checkpoint, variant.precision, method)
    span = Span(0, checkpoint.spec.n_blocks)
    return load_stage(checkpoint, span, dtype="float32"), checkpoint.nbytes(span)


def measure_speed(variants: Sequence[Variant], folder: Path, options: argparse.Namespace) -> None:
    """Tokens per second of all but what has the same form as another."""
    served = [each for each in variants if not each.nearest]
    answers: list[Answer] = [engine(folder, "float32", options.threads, each.precision)[1] for each in served]
    vocab = Checkpoint.open(folder).spec.vocab_size
    order = random.Random(0)
    for number in range(options.repeats + 1):
        for sessions, new in CASES:
            prompts = prompts_of(sessions, 64, number, vocab)
            for index in order.sample(range(len(served)), len(served)):
                _, rate, _ = answers[index](prompts, new)
                if number:  # whatever is done once is done in the first round
                    served[index].rates.setdefault(sessions, []).append(rate)


def _report(options: argparse.Namespace, facts: dict[str, Any], variants: Sequence[Variant]) -> None:
    plain = variants[0]
    results: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    base = statistics.fmean(plain.losses)
    for each in variants:
        differences = [ours - theirs for ours, theirs in zip(each.losses, plain.losses, strict=True)]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        more = statistics.fmean(differences)
        result: dict[str, Any] = {
            "name": each.name,
            "loss": round(base + more, 5),
            "more_loss": round(more, 5),
            "more_loss_standard_error": round(error, 5),
            "more_loss_percent": round(100 * more / base, 3),
            "bytes": each.nbytes,
            "tokens_per_second": {str(count): spread(rates) for count, rates in each.rates.items()},
            "rate_ratio_to_float32": {
                str(count): paired_ratio(rates, plain.rates[count]) for count, rates in each.rates.items()
            },
        }
        results.append(result)
        rates, ratios = result["tokens_per_second"], result["rate_ratio_to_float32"]
        speeds = [
            f"{rates[count]['median']:.1f} ({ratios[count]:.2f})" if count in rates else ""
            for count in (str(sessions) for sessions, _ in CASES)
        ]
        rows.append(
            [
                each.name,
                f"{result['loss']:.4f}",
                f"{result['more_loss_percent']:+.2f} ± {100 * error / base:.2f} %",
                f"{each.nbytes / 1e6:.1f}",
                *speeds,
            ]
        )
    tokens = options.windows * options.length
    report = {
        "title": f"quantisation of {options.model}{', rescaled' if options.rescale else ''}",
        "method": f"loss over {tokens} tokens; {options.repeats} interleaved rounds on {options.threads} thread(s)",
        "machine": facts,
        "results": results,
    }
    columns = ["weights", "loss (nats)", "more", "MB", *(f"tokens/s × {count} (÷ float32)" for count, _ in CASES)]
    print_report(report, columns, rows, options.json)


if __name__ == "__main__":
    main()
