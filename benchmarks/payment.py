"""What being paid costs: decode speed of a paid swarm beside a free one, and the messages that money adds.

    python -m benchmarks.payment [--size small|medium] [--repeats 9] [--stages 3] [--json FILE] [--smoke]

Two swarms of the same processes serve the same model, each behind its own gateway; in the paid one the work is
metered, every hop gets vouchers for receipts, the developer's agent pays the gateway, and all of them follow an
embedded chain. Every round asks both, in random order, for the same greedy answer over HTTP; the ratio is the median of
the ratios within a round. Receipts and vouchers are the gateway's own counters, bytes those of their frames.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.checkpoint import SIZES, write_checkpoint
from benchmarks.decode import vars_of
from benchmarks.report import machine, paired_ratio, print_report, spread
from mesh.cli.demo_chain import DemoChain, reserve, start_chain
from mesh.cli.processes import Child, Children, children
from mesh.client.gateway_http import GatewayHttp
from mesh.client.payer import Payer
from mesh.payment.credit.units import weighted_tokens
from mesh.provider.model_files import read_model_files
from mesh.wire.frame import Frame
from mesh.wire.messages import encode
from mesh.wire.paying import Receipt, Voucher

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
START_SECONDS = 180.0
ANSWER_SECONDS = 300.0
BUDGET = 10**20
PREFIX_BYTES = 12


@dataclass(slots=True)
class Series:
    """One configuration's measurements, a value per round."""

    name: str
    tokens_per_second: list[float] = field(default_factory=list)
    time_to_first_token: list[float] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)


@dataclass(slots=True)
class Swarm:
    """One gateway and what it needs to be asked."""

    name: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.payment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--stages", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens")
    parser.add_argument("--new", type=int, default=256, help="tokens to generate")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, one round: does it run?")
    options = parser.parse_args()
    if options.smoke:
        options.size, options.repeats, options.prompt, options.new, options.stages = "smoke", 1, 16, 16, 2
    sys.exit(0 if asyncio.run(_measure(options)) else 1)


async def _measure(options: argparse.Namespace) -> bool:
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as name:
        scratch = Path(name)
        model = write_checkpoint(scratch / "model", SIZES[options.size])
        async with AsyncExitStack() as stack:
            family = await stack.enter_async_context(children())
            chain = await _chain(family, scratch, model, options.stages)
            free = Swarm("free", await _swarm(family, scratch, model, options.stages, None))
            paid = Swarm("paid", await _swarm(family, scratch, model, options.stages, chain))
            developer = chain.accounts["developer"]
            async with GatewayHttp(paid.url) as http:
                terms = await http.terms()
                await reserve(chain, terms.gateway)
                key = await http.make_key(developer, developer.canonical, terms)
            paid.headers = {"Authorization": f"Bearer {key}"}
            await stack.enter_async_context(Payer(paid.url, key, developer, budget=BUDGET, beside=True))
            series, counted = await _rounds(options, model.name, free, paid)
    return _report(options, facts, series, counted)


async def _chain(family: Children, scratch: Path, model: Path, stages: int) -> DemoChain:
    files = await asyncio.to_thread(read_model_files, model.name, model)
    names = ["creator", "developer", "gateway", *(f"stage-{index}" for index in range(stages))]
    return await start_chain(family, scratch, names, model.name, files.digest, files.spec.n_blocks)


async def _swarm(family: Children, scratch: Path, model: Path, stages: int, chain: DemoChain | None) -> str:
    """Start one swarm; its gateway's URL."""
    kind = "free" if chain is None else "paid"
    n_blocks = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    bounds = [round(index * n_blocks / stages) for index in range(stages + 1)]
    address, nodes = "", list[Child]()
    for index in range(stages):
        arguments = ["join", "--model", str(model), "--json", "--host-maddrs", LOOPBACK, "--threads", "1"]
        arguments += ["--blocks", f"{bounds[index]}:{bounds[index + 1]}"]
        arguments += ["--identity", str(scratch / f"{kind}-{index}.key")]
        arguments += ["--peers", address] if address else []
        if chain is not None:
            arguments += _paying(chain, f"stage-{index}")
        nodes.append(await family.start(f"{kind} stage {index + 1}", *arguments))
        if not address:
            address = (await nodes[0].wait_for("joined", START_SECONDS))["maddrs"][0]
    for node in nodes:
        await node.wait_for("serving", START_SECONDS)
    arguments = ["gateway", "--port", "0", "--json", "--peers", address, "--identity", str(scratch / f"{kind}.key")]
    if chain is not None:
        arguments += [*_paying(chain, "gateway"), "--host-maddrs", LOOPBACK, "--serve-unverified"]
    else:  # another run's model of this name was another one
        digest = (await asyncio.to_thread(read_model_files, model.name, model)).digest
        arguments += ["--digest", f"{model.name}={digest}"]
    gateway = await family.start(f"{kind} gateway", *arguments)
    url: str = (await gateway.wait_for("ready", START_SECONDS))["url"]
    return url


def _paying(chain: DemoChain, who: str) -> list[str]:
    """As an operator would: the chain is looked at every two seconds."""
    arguments = chain.options(who)
    arguments[arguments.index("--chain-poll") + 1] = "2.0"
    return arguments


async def _rounds(
    options: argparse.Namespace, model: str, free: Swarm, paid: Swarm
) -> tuple[list[Series], dict[str, float]]:
    both = {swarm.name: Series(swarm.name) for swarm in (free, paid)}
    generator = random.Random(0)
    before: dict[str, float] = {}
    for number in range(options.repeats + 1):
        prompt = [generator.randrange(2, 2000) for _ in range(options.prompt)]
        order = [free, paid]
        generator.shuffle(order)
        if number == (0 if options.smoke else 1):
            before = await _counters(paid)
        for swarm in order:
            found = await _ask(swarm, model, prompt, options.new)
            if number > 0 or options.smoke:  # the first round warms everything up
                series = both[swarm.name]
                series.answers.append(found["text"])
                series.time_to_first_token.append(found["first"])
                series.tokens_per_second.append((options.new - 1) / (found["seconds"] - found["first"]))
        if options.smoke:
            break
    await asyncio.sleep(1.0)  # the last receipts
    after = await _counters(paid)
    return list(both.values()), {name: after[name] - before[name] for name in after}


async def _ask(swarm: Swarm, model: str, prompt: list[int], new: int) -> dict[str, Any]:
    body = {"model": model, "prompt": prompt, "max_tokens": new, "temperature": 0, "stream": True, "ignore_eos": True}
    text, answer_id = "", ""
    async with httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False, headers=swarm.headers) as http:
        await _until_complete(http, swarm.url, model)
        async with http.stream("POST", f"{swarm.url}/completions", json=body) as response:
            if response.status_code != 200:
                raise SystemExit(f"{swarm.name}: {response.status_code} {(await response.aread()).decode()}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise SystemExit(f"{swarm.name}: {chunk['error']['message']}")
                answer_id = chunk["id"]
                text += "".join(choice["text"] for choice in chunk["choices"])
        # Text may be held back until its characters are whole: the gateway's own clock counts tokens.
        report = (await http.get(f"{swarm.url.removesuffix('/v1')}/mesh/requests/{answer_id}")).json()
    (choice,) = report["choices"]
    if choice["completion_tokens"] != new:
        raise SystemExit(f"{swarm.name}: {choice['completion_tokens']} tokens instead of {new}")
    return {"text": text, "first": choice["time_to_first_token"], "seconds": choice["seconds"]}


async def _until_complete(http: httpx.AsyncClient, url: str, model: str) -> None:
    async with asyncio.timeout(START_SECONDS):
        while model not in {each["id"] for each in (await http.get(f"{url}/models")).json().get("data", ())}:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def _counters(swarm: Swarm) -> dict[str, float]:
    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
        text = (await http.get(f"{swarm.url.removesuffix('/v1')}/metrics")).text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(lines[f"mesh_gateway_{name}_total"]) for name in ("vouchers", "receipts")}


def _size(frame: Frame) -> int:
    return PREFIX_BYTES + len(frame.header) + len(frame.payload)


def _report(
    options: argparse.Namespace, facts: dict[str, Any], series: list[Series], counted: dict[str, float]
) -> bool:
    free, paid = series
    rounds = len(paid.tokens_per_second)
    tokens = rounds * options.new
    receipt = _size(encode(Receipt(1000, 10**6, 10**9, bytes(32), bytes(65), bytes(64))))
    voucher = _size(encode(Voucher(1000, 10**9, bytes(65))))
    extra = counted["receipts"] * receipt + counted["vouchers"] * voucher
    report = {
        "title": (
            f"paid beside free, {options.size} model, {options.stages} stages, {options.prompt} + {options.new} tokens"
        ),
        "method": (
            f"{rounds} interleaved rounds after a warm-up through two gateways, one thread a provider, float32, "
            "greedy, loopback, the idle swarm keeps running; medians; the ratio is the median of per-round ratios"
        ),
        "machine": facts,
        "model": vars_of(options.size),
        "free_tokens_per_second": spread(free.tokens_per_second),
        "paid_tokens_per_second": spread(paid.tokens_per_second),
        "paid_to_free": paired_ratio(paid.tokens_per_second, free.tokens_per_second),
        "first_token_paid_to_free": paired_ratio(paid.time_to_first_token, free.time_to_first_token),
        "same_answers": free.answers == paid.answers,
        "receipts_per_token": round(counted["receipts"] / tokens, 4),
        "vouchers_per_token": round(counted["vouchers"] / tokens, 4),
        "bytes_per_token": round(extra / tokens, 2),
        "receipt_bytes": receipt,
        "voucher_bytes": voucher,
        "weighted_tokens_per_round": weighted_tokens(options.prompt, options.new),
    }
    rows = [
        ["tokens/s free (min–max)", _shown(free)],
        ["tokens/s paid (min–max)", _shown(paid)],
        ["paid ÷ free", f"{report['paid_to_free']:.3f}"],
        ["first token, paid ÷ free", f"{report['first_token_paid_to_free']:.2f}"],
        ["receipts and vouchers a token", f"{report['receipts_per_token']} + {report['vouchers_per_token']}"],
        ["bytes a token for them", f"{report['bytes_per_token']}"],
        ["same answers", "yes" if report["same_answers"] else "NO"],
    ]
    print_report(report, ["", ""], rows, options.json)
    return bool(report["same_answers"])


def _shown(series: Series) -> str:
    figures = spread(series.tokens_per_second)
    return f"{figures['median']:.1f} ({figures['min']:.1f}–{figures['max']:.1f})"


if __name__ == "__main__":
    main()
