"""Time to the first token of a chat's first turn and of its second, which repeats what was said and adds a little.

    python -m benchmarks.turns [--model FOLDER] [--stages 1 3] [--prompt 1000] [--new 32] [--more 20] [--json FILE]
                               [--smoke]

Swarms are started once. In every round each of them, in random order, has a new conversation: `--prompt` tokens,
`--new` generated, then all that again with `--more` tokens behind it. Ratios are medians of those within a round. In
float32 the tokens of the first conversation must be those of transformers, which reads each turn anew.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.checkpoint import SIZES, write_checkpoint
from benchmarks.contestants import prompts_of
from benchmarks.decode import add_swarm_options, start_swarm
from benchmarks.report import machine, paired_ratio, print_report, spread
from mesh.cli.processes import children
from mesh.client.client import Client
from shards.checkpoint.folder import Checkpoint


@dataclass(slots=True)
class Chats:
    """A swarm, and what its conversations took."""

    name: str
    client: Client
    model: str
    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    said: list[tuple[list[int], list[int]]] = field(default_factory=list)
    """Prompt and answer of every turn."""

    async def warm_up(self, vocab: int) -> None:
        """Whatever is done once is done."""
        prompt, more = prompts_of(2, 40, 0, vocab)
        await self._turn(prompt, 4)
        await self._turn(more, 4)

    async def converse(self, prompt: list[int], more: list[int], new: int) -> None:
        """Both turns of a conversation."""
        answer, seconds, _ = await self._turn(prompt, new)
        self.first.append(seconds)
        again = [*prompt, *answer, *more]
        second, seconds, cached = await self._turn(again, new)
        self.second.append(seconds)
        self.cached.append(cached)
        self.said += [(prompt, answer), (again, second)]

    async def _turn(self, prompt: list[int], new: int) -> tuple[list[int], float, int]:
        began, first = time.perf_counter(), 0.0
        tokens: list[int] = []
        async with self.client.stream(self.model, prompt, max_tokens=new, ignore_eos=True) as generation:
            async for delta in generation:
                if delta.tokens and not tokens:
                    first = time.perf_counter() - began
                tokens.extend(delta.tokens)
        if generation.completion is None:
            raise RuntimeError("a generation ended without a completion")
        return tokens, first, generation.completion.cached_tokens


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.turns", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_swarm_options(parser, stages=[1, 3])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=1000, help="tokens of the first turn")
    parser.add_argument("--new", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--more", type=int, default=20, help="tokens that the second turn adds")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, one round: does it run?")
    options = parser.parse_args()
    if options.smoke:
        options.size, options.repeats, options.prompt, options.new = "smoke", 1, 60, 20
    sys.exit(0 if asyncio.run(_measure(options)) else 1)


async def _measure(options: argparse.Namespace) -> bool:
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as name:
        folder = options.model or write_checkpoint(Path(name) / "model", SIZES[options.size])
        vocab = Checkpoint.open(folder).spec.vocab_size
        async with AsyncExitStack() as stack:
            family = await stack.enter_async_context(children())
            swarms: list[Chats] = []
            for stages in options.stages:
                address = await start_swarm(family, Path(name), folder, stages, options)
                client = await stack.enter_async_context(Client([address]))
                swarms.append(Chats(f"{stages} stage{'s' * (stages > 1)}", client, folder.name))
                await swarms[-1].warm_up(vocab)
            generator = random.Random(0)
            for number in range(options.repeats):
                prompt, more = prompts_of(2, options.prompt, number + 1, vocab)
                for each in generator.sample(swarms, len(swarms)):
                    await each.converse(prompt, more[: options.more], options.new)
        same = await asyncio.to_thread(_same, folder, swarms, options.new)
    return _report(options, facts, swarms, same)


def _same(folder: Path, swarms: list[Chats], new: int) -> dict[str, bool]:
    """Whether each swarm's first conversation is what transformers says."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found: dict[str, bool] = {}
    with torch.inference_mode():
        for each in swarms:
            found[each.name] = True
            for prompt, answer in each.said[:2]:
                ids = torch.tensor([prompt])
                truth = model.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False
                )
                found[each.name] &= truth[0, len(prompt) :].tolist() == answer
    return found


def _report(options: argparse.Namespace, facts: dict[str, Any], swarms: list[Chats], same: dict[str, bool]) -> bool:
    results: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    for each in swarms:
        first, second = spread(each.first), spread(each.second)
        ratio = paired_ratio(each.second, each.first)
        results.append(
            {
                "name": each.name,
                "first_turn_seconds": first,
                "second_turn_seconds": second,
                "second_to_first": ratio,
                "cached_tokens": sorted(each.cached),
                "same_tokens_as_transformers": same[each.name],
            }
        )
        rows.append(
            [
                each.name,
                f"{first['median'] * 1000:.0f}",
                f"{second['median'] * 1000:.0f}",
                f"{ratio:.3f}",
                str(sorted(each.cached)[len(each.cached) // 2]),
                "yes" if same[each.name] else "no",
            ]
        )
    report = {
        "title": f"two turns of a chat, {options.model or options.size}, {options.dtype}, {options.prompt} tokens",
        "method": (
            f"{options.repeats} rounds after a warm-up, {options.threads} thread(s) a process, greedy, loopback; "
            f"{options.new} tokens an answer, {options.more} more in the second turn; medians; ratios are medians of "
            "per-round ratios"
        ),
        "machine": facts,
        "results": results,
    }
    columns = ["", "first token, turn 1 (ms)", "turn 2 (ms)", "turn 2 ÷ turn 1", "cached tokens", "same tokens"]
    print_report(report, columns, rows, options.json)
    return all(same.values()) or options.dtype != "float32"


if __name__ == "__main__":
    main()
