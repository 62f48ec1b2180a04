"""How far honest work is from a replay of it, and how far that of cheats is: distributions, and the matrix of cheats.

    python -m benchmarks.verification [--model FOLDER] [--sessions 16] [--json FILE] [--smoke]

Sessions of 64 prompt tokens and 32 of an answer (the source of Python's library) run over three middle blocks: the
prompt in chunks, the answer one row at a time beside other sessions. Their inputs are run again as one prefill, as
an audit does, and each record of 32 positions gives a median and a largest dRel = ‖Δp − Δv‖ ÷ ‖Δv‖. Honest conditions:
float32 and bfloat16, native kernels and torch, 1, 4 and 16 sessions together, chunks of 7, 32 and 256, one and two
threads (the replay has one). The pair says on which kernels the work was done and on which it was run again. Cheats are
done and audited on native kernels, whole sessions at a time; the last column has the share whose outcome is «differs»,
once by what is allowed among equal profiles, once by what is allowed among different ones.
"""

from __future__ import annotations

import argparse
import heapq
import inspect
import itertools
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import shards.model.llama as llama
from benchmarks.report import machine, print_report
from mesh.verification.evidence import e_value, likelihood_ratio
from mesh.verification.judge import SAME_BITS, TOLERANCES, Distance, distance, outcome
from shards.checkpoint.manifest import MANIFEST_NAME
from shards.checkpoint.opening import open_checkpoint
from shards.checkpoint.source import resolve
from shards.engine.core import EngineCore
from shards.engine.step import StepInput
from shards.model.loading import load_stage
from shards.model.paging import pages_for
from shards.model.precision import Precision
from shards.model.span import Span
from shards.model.stage import StageModel
from shards.text.fast import load_tokenizer

BEFORE: Final = Span(0, 2)
SPAN: Final = Span(2, 5)
SHIFTED: Final = Span(3, 6)
PROMPT: Final = 64
ANSWER: Final = 32
RECORD: Final = 32
LENGTH: Final = PROMPT + ANSWER
DTYPES: Final = ("float32", "bfloat16")
PAIRS: Final = (("native", "native"), ("torch", "torch"), ("torch", "native"))
TOGETHER: Final = (1, 4, 16)
CHUNKS: Final = (7, 32, 256)
THREADS: Final = (1, 2)


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.verification",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="tiny-python", help="a checkpoint's folder, or one that ships; of 6 blocks")
    parser.add_argument("--sessions", type=int, default=16, help="of each condition")
    parser.add_argument("--threads", type=int, nargs="+", default=list(THREADS), help="of those who do the work")
    parser.add_argument("--json", type=Path, help="file for the report")
    parser.add_argument("--smoke", action="store_true", help="a few sessions of few conditions")
    options = parser.parse_args()
    _run(
        resolve(options.model),
        2 if options.smoke else options.sessions,
        options.json,
        options.threads,
        smoke=options.smoke,
    )


def _run(folder: Path, sessions: int, path: Path | None, threads: Sequence[int], *, smoke: bool) -> None:
    where = machine("torch")
    bench = _Bench(folder, sessions)
    honest: list[dict[str, Any]] = []
    together = TOGETHER[:1] if smoke else TOGETHER
    chunks = CHUNKS[1:2] if smoke else CHUNKS
    threads = threads[:1] if smoke else threads
    for dtype, (done, again) in itertools.product(DTYPES, PAIRS):
        records: list[Distance] = []
        for many, chunk, count in itertools.product(together, chunks, threads):
            records += bench.honest(dtype, done, again, many, chunk, count)
        same = done == again == "native"
        honest.append(_summary(dtype, f"{done} by {again}", records, same))
    matrix = [row for dtype in DTYPES for row in bench.cheats(dtype)]
    report = {
        "title": "dRel of honest work by pair of kernels, and of cheats",
        "method": f"{sum(row['records'] for row in honest)} honest records of {RECORD} positions × {len(SPAN)} blocks; "
        f"tolerances {TOLERANCES}, same bits {SAME_BITS}; of cheats: share caught by the same bits; by tolerance",
        "machine": where,
        "model": folder.name,
        "conditions": {"together": together, "chunks": chunks, "threads": threads, "sessions": sessions},
        "honest": honest,
        "cheats": matrix,
    }
    rows = [
        [
            row["dtype"],
            row["what"],
            str(row["records"]),
            f"{row['median']['p50']:.1e}",
            f"{row['median']['max']:.1e}",
            f"{row['largest']['max']:.1e}",
            f"{row['differs']}",
        ]
        for row in honest
    ]
    rows += [
        [
            row["dtype"],
            row["what"],
            str(row["audits"]),
            f"{row['median']:.1e}",
            "",
            f"{row['largest']:.1e}",
            f"{row['caught']:.2f}; {row['caught_tolerant']:.2f}",
        ]
        for row in matrix
    ]
    print_report(report, ("dtype", "what", "n", "median", "worst median", "largest", "differ"), rows, path)


def _summary(dtype: str, what: str, records: Sequence[Distance], same: bool) -> dict[str, Any]:
    medians, largest = [each.median for each in records], [each.largest for each in records]
    values = [e_value(likelihood_ratio(each, dtype, same=same)) for each in records]
    return {
        "dtype": dtype,
        "what": what,
        "records": len(records),
        "exact": sum(each.exact for each in records),
        "differs": sum(outcome(each, dtype, same=same) == "differs" for each in records),
        "median": _quantiles(medians),
        "largest": _quantiles(largest),
        "mean_e": round(float(np.mean(values)), 4),
        "largest_e": round(max(values), 4),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    marks = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9}
    found = {name: float(f"{np.percentile(values, at):.3g}") for name, at in marks.items()}
    return {**found, "max": float(f"{max(values):.3g}")}


class _Bench:
    """A model, and the sessions of a measurement."""

    def __init__(self, folder: Path, sessions: int) -> None:
        tokenizer = load_tokenizer(folder)
        ids = tokenizer.encode(inspect.getsource(heapq) + inspect.getsource(textwrap))
        generator = np.random.default_rng(11)
        starts = generator.integers(0, len(ids) - LENGTH, sessions)
        self._folder = folder
        self._tokens = [ids[start : start + LENGTH] for start in starts]
        self._stages: dict[tuple[str, str, Span], StageModel] = {}
        self._inputs: dict[str, list[torch.Tensor]] = {}
        self._replays: dict[tuple[str, str], list[torch.Tensor]] = {}

    def honest(self, dtype: str, done: str, again: str, many: int, chunk: int, threads: int) -> list[Distance]:
        """The distances of all records of one condition."""
        gave = self.work(self.stage(dtype, done, SPAN), dtype, many, chunk, threads)
        return [
            distance(
                _floats(came[at : at + RECORD]), _floats(rows[at : at + RECORD]), _floats(replay[at : at + RECORD])
            )
            for came, rows, replay in zip(self.inputs(dtype), gave, self.replays(dtype, again), strict=True)
            for at in range(0, LENGTH, RECORD)
        ]

    def cheats(self, dtype: str) -> Iterator[dict[str, Any]]:
        """A row for each cheat: its sessions, audited whole."""
        for name, gave in self._cheating(dtype):
            found = [
                distance(_floats(came), _floats(rows), _floats(replay))
                for came, rows, replay in zip(self.inputs(dtype), gave, self.replays(dtype, "native"), strict=True)
            ]
            values = [e_value(likelihood_ratio(each, dtype, same=True)) for each in found]
            apart = [outcome(each, dtype, same=False) == "differs" for each in found]
            yield {
                "dtype": dtype,
                "what": name,
                "audits": len(found),
                "caught": round(sum(outcome(each, dtype, same=True) == "differs" for each in found) / len(found), 4),
                "caught_tolerant": round(sum(apart) / len(found), 4),
                "median": float(f"{np.median([each.median for each in found]):.3g}"),
                "largest": float(f"{max(each.largest for each in found):.3g}"),
                "e": round(float(np.exp(np.mean(np.log(values)))), 3),
            }

    def _cheating(self, dtype: str) -> Iterator[tuple[str, list[torch.Tensor]]]:
        def changed(change: Callable[[str, torch.Tensor], torch.Tensor], span: Span = SPAN) -> list[torch.Tensor]:
            with _variant(self._folder, change) as folder:
                return self.work(load_stage(open_checkpoint(folder), span, dtype=dtype), dtype)

        generator = torch.Generator().manual_seed(7)
        for size in (1e-4, 1e-3):
            yield f"noise {size:g}", changed(_of_blocks(lambda _, w, s=size: w * (1 + s * _noise(w, generator))))
        yield "fp8 weights", changed(_of_blocks(lambda _, w: w.to(torch.float8_e4m3fn).to(w.dtype)))
        for precision in Precision:
            stage = load_stage(open_checkpoint(self._folder, precision=precision), SPAN, dtype=dtype)
            yield f"{precision} weights", self.work(stage, dtype)
        yield "skipped block", changed(_of_blocks(lambda name, w: w * (0 if ".3." in name else 1)))
        yield "other model", changed(_of_blocks(lambda _, w: w * (1 + _noise(w, generator))))
        yield "pass-through", [each.clone() for each in self.inputs(dtype)]
        honest = self.work(self.stage(dtype, "native", SPAN), dtype)
        yield "cached answers", honest[1:] + honest[:1]
        yield "wrong span", self.work(self.stage(dtype, "native", SHIFTED), dtype, span=SHIFTED)

    def stage(self, dtype: str, kernels: str, span: Span) -> StageModel:
        """Loaded once."""
        key = dtype, kernels, span
        if key not in self._stages:
            library = llama.native_library
            if kernels == "torch":
                llama.native_library = lambda: None
            try:
                self._stages[key] = load_stage(open_checkpoint(self._folder), span, dtype=dtype)
            finally:
                llama.native_library = library
        return self._stages[key]

    def inputs(self, dtype: str) -> list[torch.Tensor]:
        """What the blocks before give, per session [LENGTH, hidden]."""
        if dtype not in self._inputs:
            tokens = [torch.tensor(ids, dtype=torch.int64) for ids in self._tokens]
            self._inputs[dtype] = _prefill(self.stage(dtype, "native", BEFORE), dtype, BEFORE, tokens=tokens)
        return self._inputs[dtype]

    def replays(self, dtype: str, kernels: str) -> list[torch.Tensor]:
        """What an auditor gets, per session."""
        key = dtype, kernels
        if key not in self._replays:
            torch.set_num_threads(1)
            self._replays[key] = _prefill(self.stage(dtype, kernels, SPAN), dtype, SPAN, hidden=self.inputs(dtype))
        return self._replays[key]

    def work(
        self, stage: StageModel, dtype: str, many: int = 4, chunk: int = 32, threads: int = 1, span: Span = SPAN
    ) -> list[torch.Tensor]:
        """What a stage gives that serves `many` sessions at once."""
        given = self.inputs(dtype)
        torch.set_num_threads(threads)
        out: list[torch.Tensor] = []
        for at in range(0, len(given), many):
            out += _serve(stage, dtype, span, given[at : at + many], chunk)
        torch.set_num_threads(1)
        return out


def _serve(stage: StageModel, dtype: str, span: Span, given: Sequence[torch.Tensor], chunk: int) -> list[torch.Tensor]:
    core = EngineCore(stage, len(given) * pages_for(LENGTH))
    wire = getattr(torch, dtype)
    states = [core.add(b"s", span, LENGTH, reserve=LENGTH, wire_dtype=wire) for _ in given]
    rows: dict[int, list[torch.Tensor]] = {state.number: [] for state in states}
    pieces = [(at, min(chunk, PROMPT - at)) for at in range(0, PROMPT, chunk)]
    with torch.inference_mode():
        for start, count in [*pieces, *((at, 1) for at in range(PROMPT, LENGTH))]:
            parts = [each[start : start + count] for each in given]
            core.feed(StepInput(s, start, count, hidden=part) for s, part in zip(states, parts, strict=True))
            while core.has_work:
                for output in core.step():
                    if output.error is not None:
                        raise output.error
                    if output.hidden is not None:
                        rows[output.sequence.number].append(output.hidden)
    return [torch.cat(rows[state.number]) for state in states]


def _prefill(
    stage: StageModel,
    dtype: str,
    span: Span,
    *,
    tokens: Sequence[torch.Tensor] = (),
    hidden: Sequence[torch.Tensor] = (),
) -> list[torch.Tensor]:
    core = EngineCore(stage, pages_for(LENGTH))
    out: list[torch.Tensor] = []
    for each in tokens or hidden:
        state = core.add(b"a", span, LENGTH, reserve=LENGTH, wire_dtype=getattr(torch, dtype))
        work = StepInput(state, 0, LENGTH, tokens=each) if tokens else StepInput(state, 0, LENGTH, hidden=each)
        core.feed([work])
        parts: list[torch.Tensor] = []
        with torch.inference_mode():
            while core.has_work:
                for output in core.step():
                    if output.error is not None:
                        raise output.error
                    if output.hidden is not None:
                        parts.append(output.hidden)
        core.free(state)
        out.append(torch.cat(parts))
    return out


def _of_blocks(change: Callable[[str, torch.Tensor], torch.Tensor]) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """The change for the matrices of blocks; everything else stays."""
    return lambda name, w: change(name, w) if w.ndim == 2 and ".layers." in name else w


def _noise(weights: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(weights.shape, generator=generator)


@contextmanager
def _variant(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Iterator[Path]:
    """The checkpoint with other weights, in float32, while it is needed."""
    with tempfile.TemporaryDirectory() as base:
        copy = Path(shutil.copytree(folder, Path(base) / "model", ignore=shutil.ignore_patterns(MANIFEST_NAME)))
        for path in copy.glob("*.safetensors"):
            weights = {name: change(name, w.float()).contiguous() for name, w in load_file(path).items()}
            save_file(weights, path, metadata={"format": "pt"})
        yield copy


def _floats(rows: torch.Tensor) -> Any:
    return rows.float().numpy()


if __name__ == "__main__":
    main()
