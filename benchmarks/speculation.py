"""What guessing at the next tokens gives: a stream through three stages, with it and without, on links of some delay.

    python -m benchmarks.speculation [--model FOLDER|FILE.gguf] [--delays 0 20 50] [--sessions 1] [--new 96]
                                     [--repeats 3] [--threads 1] [--json FILE] [--smoke]

Every stage is a process of its own. With a delay, all that any two of them say to each other goes through a process
that hands it on so many milliseconds later, one way: a trip round the ring takes three of them. The texts come with
Python: prose (the language reference) and code (the standard library), each to be continued, and `copy`: a piece of
code, and its beginning once more. All are continued greedily, prose also at temperature 1, where hardly anything
repeats itself. Each round asks for every text with guesses and without, in random order, in so many sessions at once.
Figures are medians over rounds, ratios medians of the ratios within a round, and the tokens of both are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.delay import DelayedPorts
from benchmarks.report import machine, paired_ratio, print_report, spread
from mesh.cli.processes import Children, children
from mesh.client.client import Client
from mesh.client.types import Completion, Speculate
from shards.checkpoint.opening import open_checkpoint
from shards.checkpoint.source import resolve
from shards.text.tokenizer import Tokenizer

STAGES: Final = 3
START_SECONDS: Final = 120.0
CODE: Final = ("heapq", "textwrap", "csv", "fractions", "bisect", "queue")
PROMPT: Final = 256
BEGINNING: Final = 24
"""Tokens of a piece that is to be copied that are there once more."""


Case = tuple[float, int, str]
"""Delay of a link in milliseconds, sessions at once, kind of text."""
SAMPLED: Final = "prose, temperature 1"


@dataclass(slots=True)
class Found:
    """What was measured of one case, with guesses (1) and without (0)."""

    rates: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    tokens: int = 0
    trips: int = 0
    drafted: int = 0
    accepted: int = 0
    same: bool = True

    def note(self, speculates: bool, ends: Sequence[Completion], rate: float) -> None:
        self.rates[speculates].append(rate)
        if speculates:
            self.tokens += sum(done.completion_tokens for done in ends)
            self.trips += sum(done.trips for done in ends)
            self.drafted += sum(done.drafted_tokens for done in ends)
            self.accepted += sum(done.accepted_tokens for done in ends)


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speculation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="tiny-python", help="a checkpoint's folder, a GGUF file, or one that ships")
    parser.add_argument("--delays", type=float, nargs="+", default=[0.0, 20.0, 50.0], help="of each link, milliseconds")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1], help="at once")
    parser.add_argument("--new", type=int, default=96, help="tokens of an answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="short answers, one round, one delay: does it run?")
    options = parser.parse_args()
    if options.smoke:
        options.delays, options.sessions, options.new, options.repeats = [5.0], [2], 24, 1
    sys.exit(0 if asyncio.run(_measure(options)) else 1)


def texts(tokenizer: Tokenizer, rounds: int) -> dict[str, list[list[int]]]:
    """By kind, a prompt for each round."""
    from pydoc_data.topics import topics

    code = "\n\n".join(inspect.getsource(__import__(name)) for name in CODE)
    prose = "\n\n".join(text for _, text in sorted(topics.items()))
    pieces = {
        name: _pieces(tokenizer.encode(text[: 24 * PROMPT * (rounds + 1)]), rounds)
        for name, text in (("prose", prose), ("code", code))
    }
    return {**pieces, SAMPLED: pieces["prose"], "copy": [piece + piece[:BEGINNING] for piece in pieces["code"]]}


def _pieces(tokens: Sequence[int], rounds: int) -> list[list[int]]:
    step = max(1, (len(tokens) - PROMPT) // max(1, rounds))
    return [list(tokens[number * step : number * step + PROMPT]) for number in range(rounds)]


async def _measure(options: argparse.Namespace) -> bool:
    facts = machine()
    folder = resolve(options.model)
    found: dict[Case, Found] = {}
    for delay in options.delays:
        with tempfile.TemporaryDirectory(prefix="mesh-bench-") as scratch:
            async with AsyncExitStack() as stack:
                family = await stack.enter_async_context(children())
                ports = await stack.enter_async_context(DelayedPorts(delay / 1000))
                address = await _start(family, ports, Path(scratch), folder, options)
                client = await stack.enter_async_context(Client([address]))
                await _rounds(client, delay, options, found)
    return _report(options, facts, found)


async def _start(
    family: Children, ports: DelayedPorts, scratch: Path, folder: Path, options: argparse.Namespace
) -> str:
    """Start the stages, which know each other by the delayed ports only; the address to join through."""
    n_blocks = open_checkpoint(folder).spec.n_blocks
    bounds = [round(index * n_blocks / STAGES) for index in range(STAGES + 1)]
    address = ""
    nodes = []
    for index in range(STAGES):
        inner, outer = await ports.open()
        arguments = ["join", "--model", str(folder), "--json", "--host-maddrs", f"/ip4/127.0.0.1/tcp/{inner}"]
        arguments += ["--announce-maddrs", f"/ip4/127.0.0.1/tcp/{outer}", "--direct-port", "-1"]
        arguments += ["--threads", str(options.threads), "--blocks", f"{bounds[index]}:{bounds[index + 1]}"]
        arguments += ["--identity", str(scratch / f"{index}.key")]
        arguments += ["--peers", address] if address else []
        nodes.append(await family.start(f"stage {index + 1} of {STAGES}", *arguments))
        if not address:
            address = (await nodes[0].wait_for("joined", START_SECONDS))["maddrs"][0]
    for node in nodes:
        await node.wait_for("serving", START_SECONDS)
    return address


async def _rounds(
    client: Client,
    delay: float,
    options: argparse.Namespace,
    found: dict[Case, Found],
) -> None:
    (info,) = await client.models()
    most = max(options.sessions)
    prompts = texts(await client.backend.tokenizer(info.name), options.repeats * most)
    for speculates in (False, True):  # whatever is done once is done
        await _ask(client, info.name, [prompts["code"][0][:32]], 8, 0.0, speculates)
    order = random.Random(0)
    for number in range(options.repeats):
        for sessions in options.sessions:
            for kind, pieces in prompts.items():
                result = found.setdefault((delay, sessions, kind), Found())
                asked = pieces[number * most : number * most + sessions]
                answers = {}
                for speculates in order.sample((False, True), 2):
                    temperature = 1.0 if kind == SAMPLED else 0.0
                    ends, answers[speculates], rate = await _ask(
                        client, info.name, asked, options.new, temperature, speculates
                    )
                    result.note(speculates, ends, rate)
                result.same &= answers[False] == answers[True]


async def _ask(
    client: Client, model: str, prompts: Sequence[Sequence[int]], new: int, temperature: float, speculates: bool
) -> tuple[list[Completion], list[list[int]], float]:
    """Answers to all at once: their ends, their tokens, and how many came in a second after the last one's first."""
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(_answer(client, model, prompt, new, temperature, speculates)) for prompt in prompts
        ]
    answers = [task.result() for task in running]
    began, ended = max(times[0] for _, _, times in answers), max(times[-1] for _, _, times in answers)
    tokens = sum(moment > began for _, _, times in answers for moment in times)
    return [done for done, _, _ in answers], [each for _, each, _ in answers], tokens / max(ended - began, 1e-9)


async def _answer(
    client: Client, model: str, prompt: Sequence[int], new: int, temperature: float, speculates: bool
) -> tuple[Completion, list[int], list[float]]:
    tokens: list[int] = []
    times: list[float] = []
    speculate: Speculate = "auto" if speculates else "off"
    generation = client.stream(
        model, prompt, max_tokens=new, ignore_eos=True, temperature=temperature, seed=1, speculate=speculate
    )
    async for delta in generation:
        times += [time.perf_counter()] * len(delta.tokens)
        tokens.extend(delta.tokens)
    if generation.completion is None:
        raise RuntimeError("an answer has no end")
    return generation.completion, tokens, times


def _report(options: argparse.Namespace, facts: dict[str, Any], found: dict[Case, Found]) -> bool:
    results, rows = [], []
    for (delay, sessions, kind), each in found.items():
        off, on = each.rates
        ratio = paired_ratio(on, off)
        results.append(
            {
                "delay_ms": delay,
                "sessions": sessions,
                "text": kind,
                "tokens_per_second_without": spread(off),
                "tokens_per_second_with": spread(on),
                "ratio": ratio,
                "tokens_per_trip": round(each.tokens / max(1, each.trips), 3),
                "drafted": each.drafted,
                "accepted": each.accepted,
                "same_tokens": each.same,
            }
        )
        rows.append(
            [
                f"{delay:g}",
                str(sessions),
                kind,
                f"{statistics.median(off):.1f}",
                f"{statistics.median(on):.1f}",
                f"{ratio:.2f}",
                f"{each.tokens / max(1, each.trips):.2f}",
                f"{each.accepted}/{each.drafted}",
                "yes" if each.same else "no",
            ]
        )
    report = {
        "title": f"speculation over {STAGES} stages, {Path(options.model).name}, prompts of {PROMPT} tokens",
        "method": (
            f"{options.repeats} rounds, each text with guesses and without in random order; {options.new} tokens, "
            f"{options.threads} thread(s) a stage; medians; ratios are medians of per-round ratios"
        ),
        "machine": facts,
        "results": results,
    }
    columns = [
        "delay ms",
        "sessions",
        "text",
        "tokens/s off",
        "on",
        "ratio",
        "tokens a trip",
        "right/guessed",
        "same tokens",
    ]
    print_report(report, columns, rows, options.json)
    return all(each.same for each in found.values())


if __name__ == "__main__":
    main()
