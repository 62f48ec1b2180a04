"""Settlement on the embedded chain beside anvil: transactions a second, proofs and claims of 1,000 providers, trees.

    python -m benchmarks.settlement [--providers 1000] [--transfers 300] [--repeats 3] [--json FILE] [--smoke]

Both chains are started by `mesh chain up`, stay, and take turns in every round, so that a change of the machine's
speed hits both alike. `transfers` are FUNC transfers, signed before the clock starts, from the first broadcast to the
last receipt; `client` is the staking client making deposits all at once, with estimates and its journal. Proving and
claiming is done once a chain: each provider's leaf is proven, then every owner claims for its (at most 100) providers.
Trees are built in this process. anvil comes from MESH_ANVIL, PATH or the npm folder of chain/tooling; without it the
embedded chain is measured alone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report import machine, paired_ratio, print_report, spread
from chain import abi
from chain.client.answers import quantity
from chain.client.lifecycle import Policy, Refusal, read_refusal
from chain.client.retry import RetryPolicy
from chain.client.rpc import Rpc
from chain.client.staking import StakingClient
from chain.deploy import Deployment, Parameters
from chain.devnet.accounts import faucet, faucets
from chain.devnet.anvil import find_anvil
from chain.errors import DevnetError, RpcRefused
from chain.leaves import CheckpointLeaves
from chain.merkle import ContributionTree, Leaf, leaf_hash, verify
from chain.primitives import keccak256, key_of
from chain.transactions import Fees, Transaction
from chain.units import WEI_PER_FUNC
from chain.wallet import Account
from mesh.cli.processes import children

TOOLING = Path(__file__).parents[1] / "chain" / "tooling" / "node_modules" / "@foundry-rs"
START_SECONDS = 120.0
SLOW = RetryPolicy(deadline=300.0, attempt_timeout=120.0)
RESEND_SECONDS = 10.0
POLL_SECONDS = 0.02
TAKEN = (Refusal.KNOWN, Refusal.NONCE_USED)
FEES = Fees(10**12, 10**9)
PER_OWNER = 100
GATEWAY = "benchmark-gateway"


@dataclass
class Chain:
    """One running chain and what was measured on it."""

    name: str
    rpc: Rpc
    deployment: Deployment
    start_seconds: float
    nonces: dict[str, int] = field(default_factory=dict)
    transfers_per_second: list[float] = field(default_factory=list)
    client_per_second: list[float] = field(default_factory=list)
    settlement: dict[str, float] = field(default_factory=dict)

    async def sign(
        self,
        account: Account,
        contract: str,
        function: str,
        *arguments: Any,
        gas: int = 200_000,
        at: str | None = None,
    ) -> str:
        """A raw transaction with the account's next nonce; `at` is an address other than the deployment's."""
        if account.address not in self.nonces:
            answer = await self.rpc.call("eth_getTransactionCount", account.address, "latest")
            self.nonces[account.address] = quantity(answer)
        nonce = self.nonces[account.address]
        self.nonces[account.address] = nonce + 1
        data = abi.load(contract).function(function, len(arguments)).encode(arguments)
        to = bytes.fromhex((at or self.deployment.address(contract))[2:])
        signed = account.sign_transaction(Transaction(self.deployment.chain_id, nonce, FEES, gas, to, 0, data))
        return "0x" + signed.raw.hex()

    async def run(self, raws: Sequence[str]) -> int:
        """Broadcast all, wait for all receipts, and check that all succeeded; gas used in all."""
        missing, gas = {"0x" + keccak256(bytes.fromhex(raw[2:])).hex(): raw for raw in raws}, 0
        sent = float("-inf")
        while missing:
            if time.monotonic() > sent + RESEND_SECONDS:
                # Nothing is heard for long: anvil lost a part of the batch, or left what did not fit into one block
                # waiting until something else comes.
                if sent > 0:
                    await self.rpc.call("evm_mine")
                for answer in await self.rpc.batch([("eth_sendRawTransaction", (raw,)) for raw in missing.values()]):
                    if isinstance(answer, RpcRefused) and read_refusal(str(answer)) not in TAKEN:
                        raise RuntimeError(f"{self.name} refused a transaction: {answer}")
                sent = time.monotonic()
            asked = list(missing)
            receipts = await self.rpc.batch([("eth_getTransactionReceipt", (each,)) for each in asked])
            for tx_hash, receipt in zip(asked, receipts, strict=True):
                if isinstance(receipt, dict):
                    if receipt["status"] != "0x1":
                        raise RuntimeError(f"{tx_hash} failed on {self.name}")
                    gas += quantity(receipt["gasUsed"])
                    del missing[tx_hash]
                    sent = time.monotonic()
                elif receipt is not None:
                    raise RuntimeError(f"{tx_hash} on {self.name}: {receipt}")
            if missing:
                await asyncio.sleep(POLL_SECONDS)
        return gas

    async def mine_to(self, client: StakingClient, epoch: int) -> None:
        """Until the next block begins `epoch`."""
        start = await client.epochs.start_block(epoch)
        await self.rpc.call("anvil_mine", hex(start - 1 - await client.core.block_number()), deadline=300)


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.settlement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--providers", type=int, default=1_000)
    parser.add_argument("--transfers", type=int, default=300)
    parser.add_argument("--deposits", type=int, default=100)
    parser.add_argument("--leaves", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="small numbers, one round: does it run?")
    options = parser.parse_args()
    if options.smoke:
        options.providers, options.transfers, options.deposits, options.leaves, options.repeats = 12, 20, 10, 1_000, 1
    asyncio.run(_measure(options))


async def _measure(options: argparse.Namespace) -> None:
    about = machine("py-evm", "coincurve")
    tree = _trees(options.leaves, options.repeats)
    async with children() as family:
        with tempfile.TemporaryDirectory() as folder:
            chains = []
            for name, arguments in _kinds().items():
                file = Path(folder) / f"{name}.json"
                began = time.perf_counter()
                child = await family.start(
                    name, "chain", "up", "--json", "--port", "0", "--deployment", str(file), *arguments
                )
                ready = await child.wait_for("ready", START_SECONDS)
                seconds = time.perf_counter() - began
                rpc = await Rpc(ready["url"], SLOW).__aenter__()
                chains.append(Chain(name, rpc, Deployment.read(file), seconds))
            for _ in range(options.repeats):
                for chain in chains:
                    await _transfers(chain, options.transfers)
                    await _client(chain, options.deposits)
            for chain in chains:
                await _settle(chain, options.providers)
                await chain.rpc.__aexit__(None, None, None)
    _report(options, about, tree, chains)


def _kinds() -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {"embedded": []}
    found = sorted(TOOLING.glob("anvil-*/bin/anvil"))
    try:
        executable = find_anvil(found[0] if found else None)
    except DevnetError as error:
        sys.stderr.write(f"without anvil: {error}\n")
    else:
        kinds["anvil"] = ["--anvil", "--anvil-path", str(executable)]
    return kinds


async def _transfers(chain: Chain, count: int) -> None:
    to = faucet(9).address
    raws = [await chain.sign(faucet(1), "FuncToken", "transfer", to, 1 + i, gas=80_000) for i in range(count)]
    began = time.perf_counter()
    await chain.run(raws)
    chain.transfers_per_second.append(count / (time.perf_counter() - began))


async def _client(chain: Chain, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        client = StakingClient(
            chain.rpc.url,
            chain.deployment,
            account=faucet(2),
            journal=Path(folder) / "journal.sqlite",
            policy=Policy(),
            poll=0.05,
        )
        async with client:
            await client.token.approve(chain.deployment.address("Escrow"), 10**20)
            began = time.perf_counter()
            await asyncio.gather(*(client.escrow.deposit(1 + i) for i in range(count)))
            chain.client_per_second.append(count / (time.perf_counter() - began))
    chain.nonces.pop(faucet(2).address, None)


async def _settle(chain: Chain, providers: int) -> None:
    """Register, checkpoint, prove and claim for so many providers of as many owners as they need."""
    delay = Parameters().epoch_reward_delay
    owners = faucets()[: -(-providers // PER_OWNER)]
    names = [f"provider-{index}" for index in range(providers)]
    by_owner = {owner.address: (owner, names[at * PER_OWNER : (at + 1) * PER_OWNER]) for at, owner in enumerate(owners)}
    registry = chain.deployment.address("ProviderRegistry")
    async with StakingClient(chain.rpc.url, chain.deployment) as reader:
        model = (
            "benchmark", b"\x01" * 32, "", 8, 10**12, 500, WEI_PER_FUNC,
        )  # fmt: skip
        setup = [
            await chain.sign(owners[0], "ModelRegistry", "createModel", *model, gas=600_000),
            await chain.sign(owners[0], "FuncToken", "approve", chain.deployment.address("GatewayRegistry"), 10**23),
            await chain.sign(owners[0], "GatewayRegistry", "registerAndStake", GATEWAY, "", 10**23, gas=600_000),
        ]
        setup += [await chain.sign(owner, "FuncToken", "approve", registry, 10**21) for owner in owners]
        await chain.run(setup)
        model_id = await reader.models.model_count()
        began = time.perf_counter()
        await chain.run(
            [
                await chain.sign(
                    owner, "ProviderRegistry", "registerAndStake", name, model_id, '{"url":"https://x"}', gas=600_000
                )
                for owner, own in by_owner.values()
                for name in own
            ]
        )
        chain.settlement["register_seconds"] = time.perf_counter() - began
        epoch = (await reader.epochs.status()).epoch + 1
        await chain.mine_to(reader, epoch + 1)
        leaves = CheckpointLeaves(GATEWAY, model_id, epoch, dict.fromkeys(names, 8000))
        tree = leaves.tree()
        fees = await reader.models.fee_for(model_id, epoch, tree.total_units)
        post = (model_id, epoch, tree.root, tree.total_units, fees, leaves.data_hash())
        chain.settlement["checkpoint_gas"] = await chain.run(
            [await chain.sign(owners[0], "Settlement", "postCheckpoint", *post, gas=500_000)]
        )
        await chain.mine_to(reader, epoch + delay)
        proofs = [
            await chain.sign(
                owners[0],
                "Settlement",
                "proveContributionFor",
                GATEWAY,
                name,
                epoch,
                8_000,
                list(tree.proof(key_of(name))),
                gas=500_000,
            )
            for name in names
        ]
        began = time.perf_counter()
        gas = await chain.run(proofs)
        chain.settlement["prove_seconds"] = time.perf_counter() - began
        chain.settlement["prove_gas_each"] = gas / providers
        claims = [
            await chain.sign(owner, "ProviderRegistry", "claimRewardsCluster", epoch, epoch, gas=20_000_000)
            for owner in owners
        ]
        before = await reader.token.balance(owners[-1].address)
        began = time.perf_counter()
        gas = sum([await chain.run([claim]) for claim in claims])
        chain.settlement["claim_seconds"] = time.perf_counter() - began
        chain.settlement["claim_gas_each"] = gas / providers
        if await reader.token.balance(owners[-1].address) <= before:
            raise RuntimeError(f"nothing was paid on {chain.name}")


def _trees(count: int, repeats: int) -> dict[str, Any]:
    """Seconds to build a tree, from providers' units to the root, and for a proof; one proof is verified."""
    gateway = key_of(GATEWAY)
    leaves = [Leaf(key_of(f"p{index}"), index + 1) for index in range(count)]
    building, proving = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        tree = ContributionTree(gateway, 1, 1, leaves)
        root = tree.root
        building.append(time.perf_counter() - began)
        began = time.perf_counter()
        proofs = [tree.proof(leaf.provider) for leaf in leaves[:1000]]
        proving.append((time.perf_counter() - began) / len(proofs) * 1e6)
    one = leaves[0]
    leaf, total = leaf_hash(gateway, one.provider, 1, 1, one.units), sum(each.units for each in leaves)
    if not verify(root, total, leaf, one.units, proofs[0]):
        raise RuntimeError("a proof does not verify")
    return {"leaves": count, "build_seconds": spread(building), "proof_microseconds": spread(proving)}


def _report(options: argparse.Namespace, about: dict[str, Any], tree: dict[str, Any], chains: list[Chain]) -> None:
    results = {
        chain.name: {
            "start_seconds": round(chain.start_seconds, 2),
            "transfers_per_second": spread(chain.transfers_per_second),
            "client_deposits_per_second": spread(chain.client_per_second),
            **{name: round(value, 3) for name, value in chain.settlement.items()},
        }
        for chain in chains
    }
    report = {
        "title": f"Settlement: {options.providers} providers, {options.transfers} transfers a round",
        "method": (
            f"{options.repeats} rounds, chains in turn, medians; figures of proving and claiming from one pass; "
            "the chains are processes of their own on this machine"
        ),
        "machine": about,
        "chains": results,
        "tree": tree,
    }
    if len(chains) == 2:
        report["embedded_to_anvil"] = {
            "transfers": paired_ratio(chains[0].transfers_per_second, chains[1].transfers_per_second),
            "client_deposits": paired_ratio(chains[0].client_per_second, chains[1].client_per_second),
        }
    measures = [
        ("start, s", "start_seconds"),
        ("FUNC transfers, 1/s", "transfers_per_second"),
        ("client deposits, 1/s", "client_deposits_per_second"),
        (f"register and stake {options.providers}, s", "register_seconds"),
        (f"prove {options.providers}, s", "prove_seconds"),
        (f"claim for {options.providers}, s", "claim_seconds"),
        ("gas: checkpoint", "checkpoint_gas"),
        ("gas: proof, each", "prove_gas_each"),
        ("gas: claim, each", "claim_gas_each"),
    ]
    rows = [[label, *(_cell(results[chain.name][name]) for chain in chains)] for label, name in measures] + [
        [f"tree of {tree['leaves']:,} leaves, s", _cell(tree["build_seconds"]), *[""] * (len(chains) - 1)]
    ]
    print_report(report, ("measure", *(chain.name for chain in chains)), rows, options.json)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['median']:,.2f} ({value['min']:,.2f} … {value['max']:,.2f})"
    return f"{value:,.2f}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}"


if __name__ == "__main__":
    main()
