"""Decode speed and time to first token through 1, 2 and 3 stages, beside the engine alone, transformers and llama.cpp.

    python -m benchmarks.decode [--model FOLDER] [--sessions 1 8 32] [--stages 1 2 3] [--threads 1]
                                [--llama-cpp PROGRAM --gguf FILE] [--json FILE] [--smoke]

All swarms and peers are started once and stay; every round asks each of them in turn, in random order, for the same
greedy continuations of the same prompts, so that a change of the machine's speed hits all alike. Figures are medians
over rounds, ratios medians of the ratios within a round. A rate is that of the tokens that come while all sessions are
under way, from the last one's first token to the first one's last. Every process computes with `--threads` threads; in
float32 the answers are compared token for token. Nobody guesses at next tokens here: the prompts are random, what
follows them repeats itself, and guesses would make the mesh look several times as fast (`benchmarks.speculation`). How
to have llama.cpp beside us: `python -m benchmarks.engine --help`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import SIZES, write_checkpoint
from benchmarks.contestants import prompts_of
from benchmarks.engine import Case, Contestant, Measured, start_contestants
from benchmarks.report import machine, paired_ratio, print_report, spread
from mesh.cli.processes import Child, Children, children
from mesh.client.client import Client
from shards.checkpoint.folder import Checkpoint

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
START_SECONDS = 120.0
COMPANY_PROMPT, COMPANY_NEW = 32, 64
"""Tokens of a prompt, and of an answer, of several sessions: the first one is still under way when the last begins."""


@dataclass(slots=True)
class Swarm(Measured):
    """A model served by some stages."""

    client: Client
    model: str
    vocab: int

    async def ask(self, case: Case, number: int) -> dict[str, Any]:
        """As a contestant answers: `first` until all sessions have a token, `rate` from there to one's end."""
        began = time.perf_counter()
        prompts = prompts_of(case.sessions, case.prompt, number, self.vocab)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._session(prompt, case.new)) for prompt in prompts]
        answers = [task.result() for task in running]
        first, last = max(times[0] for _, times in answers), min(times[-1] for _, times in answers)
        together = sum(first < moment <= last for _, times in answers for moment in times)
        rate = together / (last - first) if last > first else 0.0  # they did not run together: `COMPANY_NEW` is too few
        return {"first": first - began, "rate": rate, "tokens": [tokens for tokens, _ in answers]}

    async def _session(self, prompt: list[int], new: int) -> tuple[list[int], list[float]]:
        tokens: list[int] = []
        times: list[float] = []
        generation = self.client.stream(self.model, prompt, max_tokens=new, ignore_eos=True, speculate="off")
        async with generation:
            async for delta in generation:
                tokens.extend(delta.tokens)
                times += [time.perf_counter()] * len(delta.tokens)
        return tokens, times


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_swarm_options(parser, stages=[1, 2, 3])
    parser.add_argument("--sessions", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens of a session")
    parser.add_argument("--new", type=int, default=128, help="tokens to generate; of several sessions each 64")
    parser.add_argument("--llama-cpp", type=Path, help="the driver program built from benchmarks/llama_cpp.cpp")
    parser.add_argument("--gguf", type=Path, help="the same weights for llama.cpp")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, one round: does it run?")
    options = parser.parse_args()
    if (options.llama_cpp is None) != (options.gguf is None):
        parser.error("--llama-cpp and --gguf go together")
    if options.smoke:
        options.size, options.repeats, options.prompt, options.new, options.sessions = "smoke", 1, 16, 16, [1, 3]
    sys.exit(0 if asyncio.run(_measure(options)) else 1)


async def _measure(options: argparse.Namespace) -> bool:
    facts = machine()
    cases = [_case(count, options) for count in options.sessions]
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as name, ExitStack() as processes:
        folder = options.model or write_checkpoint(Path(name) / "model", SIZES[options.size])
        vocab = Checkpoint.open(folder).spec.vocab_size
        async with AsyncExitStack() as stack:
            family = await stack.enter_async_context(children())
            alone = await asyncio.to_thread(start_contestants, options, folder, processes, options.threads)
            swarms = []
            for stages in options.stages:
                address = await start_swarm(family, Path(name), folder, stages, options)
                client = await stack.enter_async_context(Client([address]))
                title = f"mesh, {stages} stage{'s' * (stages > 1)}"
                swarms.append(Swarm(client, folder.name, vocab, name=title))
            await _rounds(options, cases, alone, swarms)
    return _report(options, facts, cases, alone, swarms)


def _case(sessions: int, options: argparse.Namespace) -> Case:
    if sessions == 1 or options.smoke:
        return Case(sessions, options.prompt, options.new)
    return Case(sessions, min(options.prompt, COMPANY_PROMPT), max(COMPANY_NEW, options.new // sessions))


async def _rounds(options: argparse.Namespace, cases: list[Case], alone: list[Contestant], swarms: list[Swarm]) -> None:
    everybody: list[Contestant | Swarm] = [*alone, *swarms]
    for each in swarms:
        await each.ask(Case(2, 16, 4), 0)  # whatever is done once is done
    generator = random.Random(0)
    for number in range(1, options.repeats + 1):
        for case in cases:
            for each in generator.sample(everybody, len(everybody)):
                if isinstance(each, Swarm):
                    answer = await each.ask(case, number)
                else:
                    answer = await asyncio.to_thread(each.ask, case, number)
                each.note(case, answer)


def add_swarm_options(parser: argparse.ArgumentParser, *, stages: list[int]) -> None:
    """What `start_swarm` and the choice of a model go by; `stages` is the default."""
    parser.add_argument("--model", type=Path, help="a checkpoint's folder instead of a random model")
    parser.add_argument("--size", choices=sorted(SIZES), default="small", help="of the random model")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stages", type=int, nargs="+", default=stages)


async def start_swarm(family: Children, scratch: Path, model: Path, stages: int, options: argparse.Namespace) -> str:
    """Start `stages` providers that cut the model evenly; the address to join through."""
    n_blocks = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    bounds = [round(index * n_blocks / stages) for index in range(stages + 1)]
    address = ""
    nodes: list[Child] = []
    for index in range(stages):
        arguments = ["join", "--model", str(model), "--json", "--host-maddrs", LOOPBACK]
        arguments += ["--threads", str(options.threads), "--dtype", options.dtype]
        arguments += ["--blocks", f"{bounds[index]}:{bounds[index + 1]}"]
        arguments += ["--identity", str(scratch / f"{stages}-{index}.key")]
        arguments += ["--peers", address] if address else []
        nodes.append(await family.start(f"stage {index + 1} of {stages}", *arguments))
        if not address:
            address = (await nodes[0].wait_for("joined", START_SECONDS))["maddrs"][0]
    for node in nodes:
        await node.wait_for("serving", START_SECONDS)
    return address


def _report(
    options: argparse.Namespace,
    facts: dict[str, Any],
    cases: list[Case],
    alone: list[Contestant],
    swarms: list[Swarm],
) -> bool:
    results: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    truth = next(each for each in alone if each.name == "transformers")
    same = True
    peers: list[Measured] = [*alone, *swarms[:1]]
    for case in cases:
        for each in (*alone, *swarms):
            equal = None if each.tokens[case][0] is None else each.tokens[case] == truth.tokens[case]
            same &= equal is not False
            rate, first = spread(each.rate[case]), spread(each.first[case])
            ratios = {peer.name: paired_ratio(each.rate[case], peer.rate[case]) for peer in peers}
            first_ratio = paired_ratio(each.first[case], truth.first[case])
            results.append(
                {
                    "sessions": case.sessions,
                    "name": each.name,
                    "tokens_per_second": rate,
                    "first_token_seconds": first,
                    "rate_ratio_to": ratios,
                    "first_token_ratio_to_transformers": first_ratio,
                    "same_tokens_as_transformers": equal,
                }
            )
            rows.append(
                [
                    str(case.sessions),
                    each.name,
                    f"{rate['median']:.1f} ({rate['min']:.1f}–{rate['max']:.1f})",
                    *(f"{ratio:.2f}" for ratio in ratios.values()),
                    f"{first['median'] * 1000:.0f}",
                    f"{first_ratio:.2f}",
                    {True: "yes", False: "no", None: ""}[equal],
                ]
            )
    report = {
        "title": f"decode, {options.model or options.size}, {options.dtype}, prompts of {options.prompt} tokens",
        "method": (
            f"{options.repeats} interleaved rounds after a warm-up, {options.threads} thread(s) a process, greedy, "
            "loopback; medians; ratios are medians of per-round ratios"
        ),
        "machine": facts,
        "model": str(options.model) if options.model else vars_of(options.size),
        "results": results,
    }
    ratios_to = [f"÷ {peer.name}" for peer in peers]
    columns = ["sessions", "", "tokens/s (min–max)", *ratios_to, "first token ms", "÷ transformers", "same tokens"]
    print_report(report, columns, rows, options.json)
    return same or options.dtype != "float32"


def vars_of(size: str) -> dict[str, int]:
    """The model's shape for the report."""
    return asdict(SIZES[size])


if __name__ == "__main__":
    main()
