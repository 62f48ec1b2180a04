"""An epoch at scale: 10,000 providers, a million requests. Size of its checkpoint, time to build it, gas to settle it.

    python -m benchmarks.epoch_scale [--providers 10000] [--requests 1000000] [--sample 100] [--json FILE] [--smoke]

Requests are simulated and not served: each draws a way to cut the model into hops, a provider for every hop (some are
drawn far more often than others), and the lengths of prompt and answer; every hop earns blocks × weighted tokens, as
`mesh.payment.credit.units` counts them. All of it is integers and a seed. The leaves after the first thousandth,
hundredth and tenth of the requests and after all of them are built into trees and posted in epochs of their own on an
embedded chain; in the last of these epochs, the largest, a sample of providers proves and claims. Every provider has a
leaf from the first of these checkpoints on, one unit if it has not served yet, so that only the requests differ.
Each amount paid is compared with pot × units ÷ all units.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import machine, print_report
from benchmarks.settlement import GATEWAY, SLOW, START_SECONDS, Chain
from chain.client.rpc import Rpc
from chain.client.staking import StakingClient
from chain.deploy import Deployment, Parameters
from chain.devnet.accounts import faucet, faucets
from chain.leaves import CheckpointLeaves
from chain.merkle import ContributionTree, leaf_hash, verify
from chain.primitives import key_of
from chain.units import WEI_PER_FUNC
from mesh.cli.processes import children
from mesh.payment.credit.units import weighted_tokens

BLOCKS = 32
CUTS = (1, 2, 4, 8)
"""Into how many equal hops a route may cut the model."""
PRICE = 10**9
"""Wei per weighted token."""
STAGES = (1000, 100, 10, 1)
"""A checkpoint after this part of the requests."""
PER_OWNER = 100


@dataclass(slots=True)
class Demand:
    """Work so far: units by provider, and what the requests add up to."""

    units: dict[str, int]
    requests: int = 0
    hops: int = 0
    tokens: int = 0


def simulate(providers: int, requests: int, seed: int) -> Iterator[Demand]:
    """The same `Demand`, growing, after each part of the requests that STAGES names."""
    rng = random.Random(seed)
    names = [f"provider-{number:05d}" for number in range(providers)]
    rng.shuffle(names)
    demand = Demand(dict.fromkeys(names, 1))
    # Who serves which hop of which cut; inside a group the k-th is drawn in proportion to 1/(k + 10).
    groups: dict[tuple[int, int], list[str]] = {(cut, hop): [] for cut in CUTS for hop in range(cut)}
    for name, place in zip(names, itertools.cycle(groups), strict=False):
        groups[place].append(name)
    weights = {p: list(itertools.accumulate(10**6 // (k + 10) for k in range(len(g)))) for p, g in groups.items()}
    marks = {max(1, requests // part) for part in STAGES}
    for number in range(1, requests + 1):
        cut = CUTS[rng.randrange(len(CUTS))]
        prompt, generated = 1 << rng.randrange(4, 12), 1 << rng.randrange(3, 10)
        tokens = weighted_tokens(prompt + rng.randrange(prompt), generated + rng.randrange(generated))
        earned = BLOCKS // cut * tokens
        for hop in range(cut):
            served = rng.choices(groups[cut, hop], cum_weights=weights[cut, hop])[0]
            demand.units[served] += earned
        demand.requests, demand.hops, demand.tokens = number, demand.hops + cut, demand.tokens + tokens
        if number in marks:
            yield demand


def build(demand: Demand, model_id: int, epoch: int) -> tuple[CheckpointLeaves, ContributionTree, dict[str, Any]]:
    """What a gateway does at the end of an epoch, with its sizes (bytes) and times (seconds)."""
    took: dict[str, Any] = {"requests": demand.requests, "hops": demand.hops}
    began = time.perf_counter()
    leaves = CheckpointLeaves(GATEWAY, model_id, epoch, dict(demand.units))
    published = leaves.text().encode()
    leaves.data_hash()
    took["leaves_seconds"] = time.perf_counter() - began
    began = time.perf_counter()
    tree = leaves.tree()
    took["tree_seconds"] = time.perf_counter() - began
    began = time.perf_counter()
    proofs = {name: tree.proof(key_of(name)) for name in leaves.units}
    took["proofs_seconds"] = time.perf_counter() - began
    for name in list(proofs)[:100]:
        units = leaves.units[name]
        leaf = leaf_hash(key_of(GATEWAY), key_of(name), model_id, epoch, units)
        if not verify(tree.root, tree.total_units, leaf, units, proofs[name]):
            raise RuntimeError("a proof does not verify")
    began = time.perf_counter()
    if CheckpointLeaves.parse(published).tree().root != tree.root:
        raise RuntimeError("what was published gives another root")
    took["check_seconds"] = time.perf_counter() - began
    took["leaves"], took["units"], took["depth"] = len(leaves.units), tree.total_units, max(map(len, proofs.values()))
    took["published_bytes"], took["compressed_bytes"] = len(published), len(zlib.compress(published, 6))
    return leaves, tree, took


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.epoch_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--providers", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=100, help="providers that prove and claim on the chain")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="small numbers: does it run?")
    options = parser.parse_args()
    if options.smoke:
        options.providers, options.requests, options.sample = 200, 2_000, 5
    asyncio.run(_measure(options))


async def _measure(options: argparse.Namespace) -> None:
    about = machine("py-evm", "coincurve")
    async with children() as family:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "deployment.json"
            child = await family.start("chain", "chain", "up", "--json", "--port", "0", "--deployment", str(file))
            ready = await child.wait_for("ready", START_SECONDS)
            async with Rpc(ready["url"], SLOW) as rpc:
                chain = Chain("embedded", rpc, Deployment.read(file), 0.0)
                async with StakingClient(rpc.url, chain.deployment) as reader:
                    epochs, settled = await _settle(options, chain, reader)
    _report(options, about, epochs, settled)


async def _settle(
    options: argparse.Namespace, chain: Chain, reader: StakingClient
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    gateway = faucet(0)
    sample = random.Random(options.seed).sample(range(options.providers), options.sample)
    owned = {f"provider-{number:05d}": faucets()[1 + at // PER_OWNER] for at, number in enumerate(sorted(sample))}
    model_id = await _register(chain, reader, owned)
    began, busy, rows = time.perf_counter(), 0.0, []
    for demand in simulate(options.providers, options.requests, options.seed):
        paused = time.perf_counter()
        epoch = (await reader.epochs.status()).epoch + 1
        await chain.mine_to(reader, epoch + 1)
        leaves, tree, took = build(demand, model_id, epoch)
        if tree.total_units != BLOCKS * demand.tokens + options.providers:
            raise RuntimeError("hops do not add up to routes")
        fees = await reader.models.fee_for(model_id, epoch, tree.total_units)
        post = (model_id, epoch, tree.root, tree.total_units, fees, leaves.data_hash())
        took["post_gas"] = await chain.run(
            [await chain.sign(gateway, "Settlement", "postCheckpoint", *post, gas=500_000)]
        )
        rows.append({**took, "epoch": epoch, "fees": fees})
        busy += time.perf_counter() - paused
    simulated = time.perf_counter() - began - busy
    epoch = rows[-1]["epoch"]
    await chain.mine_to(reader, epoch + Parameters().epoch_reward_delay)
    for row in rows:
        finalize = await chain.sign(gateway, "Settlement", "finalize", model_id, row["epoch"], gas=800_000)
        row["finalize_gas"] = await chain.run([finalize])
    pool = await reader.core.pool(model_id)
    pot = (await reader.core.view("ProviderStaking", "pot", epoch, at=pool)).amount
    proving, claiming = [], []
    for name, owner in owned.items():
        units, proof = leaves.units[name], list(tree.proof(key_of(name)))
        prove = await chain.sign(
            owner, "Settlement", "proveContributionFor", GATEWAY, name, epoch, units, proof, gas=500_000
        )
        proving.append(await chain.run([prove]))
        due = await reader.providers.view_rewards(name, epoch, epoch)
        if due != pot * units // tree.total_units:
            raise RuntimeError(f"{name} is paid {due} for {units} units")
        claim = await chain.sign(owner, "ProviderStaking", "claimRewards", name, epoch, epoch, gas=300_000, at=pool)
        claiming.append(await chain.run([claim]))
    settled = {
        "simulation_seconds": simulated,
        "sampled": len(proving),
        "prove_gas": {"mean": sum(proving) // len(proving), "min": min(proving), "max": max(proving)},
        "claim_gas": {"mean": sum(claiming) // len(claiming), "min": min(claiming), "max": max(claiming)},
        "proof_depth": rows[-1]["depth"],
    }
    return rows, settled


async def _register(chain: Chain, reader: StakingClient, owned: dict[str, Any]) -> int:
    """A model, a gateway with a stake that covers the largest epoch, and the providers of the sample."""
    gateway, registry = faucet(0), chain.deployment.address("ProviderRegistry")
    model = ("benchmark", b"\x01" * 32, "", BLOCKS, PRICE, 500, WEI_PER_FUNC)
    stake = 10**23
    setup = [
        await chain.sign(gateway, "ModelRegistry", "createModel", *model, gas=600_000),
        await chain.sign(gateway, "FuncToken", "approve", chain.deployment.address("GatewayRegistry"), stake),
        await chain.sign(gateway, "GatewayRegistry", "registerAndStake", GATEWAY, "", stake, gas=600_000),
    ]
    for owner in {owner.address: owner for owner in owned.values()}.values():
        setup.append(await chain.sign(owner, "FuncToken", "approve", registry, PER_OWNER * WEI_PER_FUNC))
    await chain.run(setup)
    model_id = await reader.models.model_count()
    await chain.run(
        [
            await chain.sign(
                owner, "ProviderRegistry", "registerAndStake", name, model_id, '{"url":"https://x"}', gas=600_000
            )
            for name, owner in owned.items()
        ]
    )
    return int(model_id)


def _report(
    options: argparse.Namespace, about: dict[str, Any], epochs: list[dict[str, Any]], settled: dict[str, Any]
) -> None:
    last = epochs[-1]
    # The first checkpoint of all opens the gateway's and the model's books and costs more once.
    steady = [row["post_gas"] + row["finalize_gas"] for row in epochs[1:]]
    each = settled["prove_gas"]["mean"] + settled["claim_gas"]["mean"]
    report = {
        "title": f"An epoch of {options.providers:,} providers and {options.requests:,} requests",
        "method": (
            f"seed {options.seed}; {BLOCKS} blocks in 1, 2, 4 or 8 hops; one gateway, one model; each column is an "
            f"epoch of its own on one embedded chain; {settled['sampled']} providers prove and claim in the last; "
            "times from one pass"
        ),
        "machine": about,
        "epochs": [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in epochs],
        "settled": {**settled, "simulation_seconds": round(settled["simulation_seconds"], 2)},
        "gas": {
            "epoch_whatever_the_requests": {"min": min(steady), "max": max(steady)},
            "provider_prove_and_claim": each,
            "all_providers": steady[-1] + options.providers * each,
        },
        "bytes_per_leaf": round(last["published_bytes"] / last["leaves"], 1),
    }
    measures = [
        ("hops", "hops"),
        ("leaves published, bytes", "published_bytes"),
        ("the same compressed, bytes", "compressed_bytes"),
        ("build and hash the file, s", "leaves_seconds"),
        ("build the tree, s", "tree_seconds"),
        ("all proofs, s", "proofs_seconds"),
        ("read the file and check its root, s", "check_seconds"),
        ("gas: post", "post_gas"),
        ("gas: finalize", "finalize_gas"),
    ]
    table = [[label, *(_cell(row[name]) for row in epochs)] for label, name in measures]
    blank = [""] * (len(epochs) - 1)
    table.append([f"gas: prove at depth {last['depth']}, each", *blank, _cell(settled["prove_gas"]["mean"])])
    table.append(["gas: claim, each", *blank, _cell(settled["claim_gas"]["mean"])])
    print_report(report, ("requests", *(f"{row['requests']:,}" for row in epochs)), table, options.json)


def _cell(value: float) -> str:
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    main()
