"""How much faster the native path decodes than the adapter, for each family that it knows.

    python -m benchmarks.families [FAMILY ...] [--threads 1] [--repeats 5] [--json FILE] [--smoke]

Each family is a random checkpoint of its real architecture, small enough to be made in a moment, in float32. Both
implementations answer the same prompts of 64 tokens, 1 session and 8, greedily, in turn within each round; figures are
medians over rounds, ratios medians of the ratios within a round. That both say the same is shown beside them: rounding
may decide between two tokens of random weights that are all but equally likely.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.contestants import engine, prompts_of
from benchmarks.report import machine, paired_ratio, print_report, spread

CASES: Final = ((1, 49), (8, 17))
"""Sessions, and new tokens of each after a prompt of 64."""
SHAPE: Final[Mapping[str, Any]] = {
    "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 4, "vocab_size": 8192, "max_position_embeddings": 2048, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GEMMA: Final = {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 512}
FAMILIES: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 64}),
    "gemma2": ("Gemma2Config", _GEMMA),
    "gemma3": ("Gemma3TextConfig", _GEMMA),
    "phi3": ("Phi3Config", {}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 1024}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 384, "head_dim": 64},
    ),
    "gpt_oss": (
        "GptOssConfig",
        {"num_local_experts": 16, "num_experts_per_tok": 4, "intermediate_size": 512, "head_dim": 64},
    ),
}
"""transformers' config class, and what differs from `SHAPE`."""


@dataclass(slots=True)
class Found:
    """What was measured of a family, by the number of sessions."""

    native: dict[int, list[float]] = field(default_factory=dict)
    adapter: dict[int, list[float]] = field(default_factory=dict)
    same: bool = True


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.families",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("family", nargs="*", help=f"default: all of {', '.join(FAMILIES)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="two blocks of two families, one round: does it run?")
    options = parser.parse_args()
    names = options.family or (["gemma2", "qwen3_moe"] if options.smoke else list(FAMILIES))
    if options.smoke:
        options.repeats = 1
    if unknown := set(names) - set(FAMILIES):
        parser.error(f"no family {', '.join(sorted(unknown))}: one of {', '.join(FAMILIES)}")
    facts = machine()
    found = {}
    for name in names:
        sys.stderr.write(f"{name}\n")
        found[name] = measure(name, options)
    _report(options, facts, found)


def measure(name: str, options: argparse.Namespace) -> Found:
    """Both implementations of a family, in turn."""
    found, order = Found(), random.Random(0)
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as scratch:
        folder = write(name, Path(scratch), blocks=2 if options.smoke else None)
        vocab, native = engine(folder, "float32", options.threads)
        _, adapter = engine(folder, "float32", options.threads, adapter=True)
        for number in range(options.repeats + 1):
            for sessions, new in CASES:
                prompts = prompts_of(sessions, 64, number, vocab)
                contestants = [(native, found.native), (adapter, found.adapter)]
                said = []
                for answer, rates in order.sample(contestants, 2):
                    _, rate, tokens = answer(prompts, new)
                    said.append(tokens)
                    if number:  # whatever is done once is done in the first round
                        rates.setdefault(sessions, []).append(rate)
                found.same &= said[0] == said[1]
    return found


def write(name: str, folder: Path, *, blocks: int | None) -> Path:
    """A random checkpoint of a family."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    config_class, own = FAMILIES[name]
    shape = {**SHAPE, **own} | ({} if blocks is None else {"num_hidden_layers": blocks})
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**shape)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def _report(options: argparse.Namespace, facts: dict[str, Any], found: Mapping[str, Found]) -> None:
    results: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    for name, each in found.items():
        ratios = {sessions: paired_ratio(rates, each.adapter[sessions]) for sessions, rates in each.native.items()}
        results.append(
            {
                "family": name,
                "native_tokens_per_second": {str(count): spread(rates) for count, rates in each.native.items()},
                "adapter_tokens_per_second": {str(count): spread(rates) for count, rates in each.adapter.items()},
                "ratio": {str(count): ratio for count, ratio in ratios.items()},
                "same_tokens": each.same,
            }
        )
        speeds = [
            f"{spread(each.native[count])['median']:.1f} ÷ {spread(each.adapter[count])['median']:.1f} = {ratio:.2f}"
            for count, ratio in ratios.items()
        ]
        rows.append([name, *speeds, "yes" if each.same else "no"])
    report = {
        "title": "native path ÷ adapter, random checkpoints, float32",
        "method": f"{options.repeats} interleaved rounds on {options.threads} thread(s), tokens/s of decoding",
        "machine": facts,
        "results": results,
    }
    print_report(report, ["family", *(f"{count} session(s)" for count, _ in CASES), "same tokens"], rows, options.json)


if __name__ == "__main__":
    main()
