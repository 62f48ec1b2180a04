"""Single-stream decode speed and time to first token on 1, 2 and 3 stages, beside `transformers` in one process.

    python -m benchmarks.decode [--size small|medium] [--repeats 5] [--json FILE] [--smoke]

All swarms and the reference are started once and stay; every round asks each of them in turn for the same greedy
continuation of the same prompt, so that a change of the machine's speed hits all alike. Figures are medians over
rounds, ratios medians of the ratios within a round. Every process computes with one thread; the answers are
compared token for token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import SIZES, write_checkpoint
from benchmarks.report import machine, paired_ratio, print_report, spread
from mesh.cli.processes import Child, Children, children
from mesh.client.client import Client

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
START_SECONDS = 120.0
ANSWER_SECONDS = 300.0


@dataclass(slots=True)
class Series:
    """One configuration's measurements, a value per round."""

    name: str
    tokens_per_second: list[float] = field(default_factory=list)
    time_to_first_token: list[float] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens")
    parser.add_argument("--new", type=int, default=128, help="tokens to generate")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, one round: does it run?")
    options = parser.parse_args()
    if options.smoke:
        options.size, options.repeats, options.prompt, options.new = "smoke", 1, 16, 16
    ok = asyncio.run(_measure(options))
    sys.exit(0 if ok else 1)


async def _measure(options: argparse.Namespace) -> bool:
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as name:
        folder = write_checkpoint(Path(name) / "model", SIZES[options.size])
        async with AsyncExitStack() as stack:
            family = await stack.enter_async_context(children())
            reference = await _start_reference(stack, folder)
            swarms = {}
            for stages in options.stages:
                address = await _start_swarm(family, Path(name), folder, stages)
                swarms[stages] = await stack.enter_async_context(Client([address]))
            series = await _rounds(options, folder.name, reference, swarms)
    return _report(options, facts, series)


async def _rounds(
    options: argparse.Namespace, model: str, reference: asyncio.subprocess.Process, swarms: dict[int, Client]
) -> list[Series]:
    baseline = Series("transformers, 1 process")
    ours = {stages: Series(f"mesh, {stages} stage{'s' * (stages > 1)}") for stages in swarms}
    generator = random.Random(0)
    for number in range(options.repeats + 1):
        prompt = [generator.randrange(2, 2000) for _ in range(options.prompt)]
        kept = number > 0 or options.smoke  # the first round warms everything up
        order: list[int] = [0, *swarms]
        generator.shuffle(order)
        for stages in order:
            if stages == 0:
                found = await _ask_reference(reference, prompt, options.new)
                series = baseline
            else:
                found = await _ask_mesh(swarms[stages], model, prompt, options.new)
                series = ours[stages]
            if kept:
                series.answers.append(found["tokens"])
                series.time_to_first_token.append(found["first"])
                series.tokens_per_second.append((options.new - 1) / (found["total"] - found["first"]))
        if options.smoke:
            break
    return [baseline, *ours.values()]


async def _ask_mesh(client: Client, model: str, prompt: list[int], new: int) -> dict[str, Any]:
    began = time.perf_counter()
    first = 0.0
    tokens: list[int] = []
    generation = await client.stream(model, prompt, max_tokens=new, ignore_eos=True)
    async with generation:
        async for delta in generation:
            if delta.tokens and not tokens:
                first = time.perf_counter() - began
            tokens.extend(delta.tokens)
            if len(tokens) == new:
                total = time.perf_counter() - began
    return {"tokens": tokens, "first": first, "total": total}


async def _ask_reference(process: asyncio.subprocess.Process, prompt: list[int], new: int) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps({"prompt": prompt, "new": new}).encode() + b"\n")
    async with asyncio.timeout(ANSWER_SECONDS):
        answer: dict[str, Any] = json.loads(await process.stdout.readline())
    return answer


async def _start_reference(stack: AsyncExitStack, folder: Path) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.reference", str(folder), "1"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )

    async def stop() -> None:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()

    stack.push_async_callback(stop)
    assert process.stdout is not None
    async with asyncio.timeout(START_SECONDS):
        await process.stdout.readline()
    return process


async def _start_swarm(family: Children, scratch: Path, model: Path, stages: int) -> str:
    """Start `stages` providers that cut the model evenly; the address to join through."""
    n_blocks = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    bounds = [round(index * n_blocks / stages) for index in range(stages + 1)]
    address = ""
    nodes: list[Child] = []
    for index in range(stages):
        arguments = ["join", "--model", str(model), "--json", "--host-maddrs", LOOPBACK, "--threads", "1"]
        arguments += ["--blocks", f"{bounds[index]}:{bounds[index + 1]}"]
        arguments += ["--identity", str(scratch / f"{stages}-{index}.key")]
        arguments += ["--peers", address] if address else []
        nodes.append(await family.start(f"stage {index + 1} of {stages}", *arguments))
        if not address:
            address = (await nodes[0].wait_for("joined", START_SECONDS))["maddrs"][0]
    for node in nodes:
        await node.wait_for("serving", START_SECONDS)
    return address


def _report(options: argparse.Namespace, facts: dict[str, Any], series: list[Series]) -> bool:
    baseline = series[0]
    results = []
    for entry in series:
        results.append(
            {
                "name": entry.name,
                "tokens_per_second": spread(entry.tokens_per_second),
                "time_to_first_token_seconds": spread(entry.time_to_first_token),
                "decode_ratio_to_transformers": paired_ratio(entry.tokens_per_second, baseline.tokens_per_second),
                "first_token_ratio_to_transformers": paired_ratio(
                    entry.time_to_first_token, baseline.time_to_first_token
                ),
                "same_tokens_as_transformers": entry.answers == baseline.answers,
            }
        )
    report = {
        "title": f"single-stream decode, {options.size} model, {options.prompt} + {options.new} tokens",
        "method": (
            f"{options.repeats} interleaved rounds after a warm-up, one thread per process, float32, greedy, loopback; "
            "medians; ratios are medians of per-round ratios"
        ),
        "machine": facts,
        "model": vars_of(options.size),
        "results": results,
    }
    rows = [
        [
            entry["name"],
            f"{entry['tokens_per_second']['median']:.1f} "
            f"({entry['tokens_per_second']['min']:.1f}–{entry['tokens_per_second']['max']:.1f})",
            f"{entry['decode_ratio_to_transformers']:.2f}",
            f"{entry['time_to_first_token_seconds']['median'] * 1000:.0f}",
            f"{entry['first_token_ratio_to_transformers']:.2f}",
            "yes" if entry["same_tokens_as_transformers"] else "NO",
        ]
        for entry in results
    ]
    columns = ["", "tokens/s (min–max)", "× transformers", "first token ms", "× transformers", "same tokens"]
    print_report(report, columns, rows, options.json)
    return all(entry["same_tokens_as_transformers"] for entry in results)


def vars_of(size: str) -> dict[str, int]:
    """The model's shape for the report."""
    from dataclasses import asdict

    return asdict(SIZES[size])


if __name__ == "__main__":
    main()
