"""A swarm of real processes that work for money on a real chain, and what the chain says became of it."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from chain.client.staking import StakingClient
from chain.units import WEI_PER_FUNC
from mesh.cli.demo_chain import PRICE, ROYALTY_BPS, STAKE, DemoChain, start_chain
from mesh.cli.processes import Child, Children, children
from mesh.client.gateway_http import GatewayHttp
from mesh.client.payer import Payer
from mesh.provider.model_files import read_model_files

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
START_SECONDS = 120.0
EVENT_SECONDS = 90.0
PATCHED = """
import runpy, sys
exec(sys.argv.pop(1))
runpy.run_module("mesh", run_name="__main__", alter_sys=True)
"""
SKEWED = "import time; right = time.time; time.time = lambda: right() + {ahead}"
"""A clock that is wrong."""
GREEDY = """
from mesh.payment.credit.collector import VoucherCollector
finish = VoucherCollector.finish
VoucherCollector.finish = lambda self, bill, begun, done: finish(self, bill, begun, done + done // 4)
"""
"""A provider that claims a quarter more than it does."""
HASTY = """
from dataclasses import replace
from mesh.payment.credit.line import CreditLine
claim = CreditLine.claim
def ahead(self):
    found = claim(self)
    return None if found is None else replace(found, epoch=found.epoch + 1, units=2 * found.units)
CreditLine.claim = ahead
"""
"""A provider that claims twice what it does, and as work of the next epoch."""
GARBAGE = """
import mesh.provider.stage.frames as frames
honest = frames.hidden_payload
frames.hidden_payload = lambda pieces: honest([piece * float("nan") for piece in pieces])
"""
"""A provider that hands over what is no number."""
REPLAYING = """
import mesh.payment.credit.issuer as issuer
honest, sent = issuer.Voucher, []
def voucher(*values):
    sent.append(honest(*values))
    return sent[0]
issuer.Voucher = voucher
"""
"""A gateway that pays with its first voucher again and again."""
STRICT = """
from mesh.payment.credit.terms import CreditTerms
CreditTerms.__init__.__defaults__ = (1024, {pause}, 0.2)
"""
"""A provider that drops who does not pay after `pause` seconds."""
IMPATIENT = """
from mesh.client.generation import Patience
Patience.__init__.__defaults__ = (8, 15.0, {seconds})
"""
"""A gateway that looks for another route for `seconds` and no longer."""

RESERVED = 50 * WEI_PER_FUNC
"""For the developer at each gateway."""
PROMPT_TOKENS = 4
"""Of every request."""


@dataclass
class PaidSwarm:
    """The chain, and the processes on it by name."""

    family: Children
    chain: DemoChain
    folder: Path
    address: str = ""
    urls: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    """The developer's by gateway; another one's by "name@gateway"."""
    charged: int = 0
    poll: float = 0.25
    """How often, in seconds, nodes look at the chain: with many of them it has no time for anything else."""

    async def _start(self, name: str, arguments: list[str], patch: str) -> Child:
        """A node, perhaps one whose owner has changed its code by `patch`."""
        arguments = [*arguments, "--chain-poll", str(self.poll)]
        if not patch:
            return await self.family.start(name, *arguments)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PATCHED, patch, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        return self.family.adopt(name, process)

    async def provider(
        self, name: str, model: Path, blocks: str, *, wallet: str | None = None, patch: str = ""
    ) -> Child:
        """Start a provider of these blocks and wait until it serves."""
        arguments = ["join", "--model", str(model), "--blocks", blocks, "--json", "--host-maddrs", LOOPBACK]
        arguments += ["--threads", "1", "--identity", str(self.folder / f"{name}.key"), "--provider-id", name]
        arguments += self.chain.options(wallet or name)
        if self.address:
            arguments += ["--peers", self.address]
        child = await self._start(name, arguments, patch)
        joined = await child.wait_for("joined", START_SECONDS)
        self.address = self.address or joined["maddrs"][0]
        await child.wait_for("serving", START_SECONDS)
        return child

    async def gateway(
        self,
        name: str,
        *,
        patch: str = "",
        twin_of: str | None = None,
        reserved: int = RESERVED,
        weights: Path | None = None,
    ) -> Child:
        """Start a gateway and make a key for the developer there, who reserves `reserved` wei for it.

        With the `weights` it pays for what it has verified; else for whatever comes, and makes no sessions of its own.

        `twin_of`: with that gateway's wallet and id, but on another machine: another peer, with books of its own.
        """
        arguments = ["gateway", "--port", "0", "--json", "--peers", self.address, "--host-maddrs", LOOPBACK]
        arguments += ["--identity", str(self.folder / f"{name}.key"), "--gateway-id", twin_of or name]
        arguments += self.chain.options(twin_of or name)
        arguments += ["--serve-unverified"] if weights is None else ["--weights", str(weights)]
        if twin_of is not None:
            arguments[arguments.index("--payment-folder") + 1] = str(self.books(name))
        child = await self._start(name, arguments, patch)
        self.urls[name] = (await child.wait_for("ready", START_SECONDS))["url"]
        if twin_of is None and name not in self.keys and reserved:
            async with self.chain.client("developer") as client:
                await client.escrow.deposit_and_reserve(name, reserved)
        if name not in self.keys and (reserved or twin_of is not None):
            self.keys[name] = await self.make_key(name, "developer")
        return child

    async def make_key(self, gateway: str, developer: str) -> str:
        """An API key for a developer's deposit. Raises `PaymentRefused` where nothing of it is reserved there."""
        account = self.chain.accounts[developer]
        async with GatewayHttp(self.urls[gateway]) as http:
            return await http.make_key(account, account.canonical, await http.terms())

    async def ask(
        self, gateway: str, model: str, tokens: int, *, budget: int = 50 * WEI_PER_FUNC, developer: str = "developer"
    ) -> httpx.Response:
        """One request as a developer, paid for by his agent; what it cost is added to `charged`."""
        url, key = self.urls[gateway], self._key(gateway, developer)
        store = self.folder / f"{developer}-promises.sqlite"
        agent = Payer(url, key, self.chain.accounts[developer], budget=budget, store=store, beside=True)
        async with agent, self.http(gateway, developer) as http:
            await self.until_complete(http, model)
            response = await http.post("/completions", json=request(model, tokens))
        if response.status_code == 200:
            self.charged += int(response.json()["usage"]["cost"]["wei"])
        return response

    def _key(self, gateway: str, developer: str) -> str:
        return self.keys[gateway if developer == "developer" else f"{developer}@{gateway}"]

    def http(self, gateway: str, developer: str = "developer") -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self._key(gateway, developer)}"}
        return httpx.AsyncClient(base_url=self.urls[gateway], headers=headers, timeout=150, trust_env=False)

    async def until_complete(self, http: httpx.AsyncClient, model: str) -> None:
        """Wait until the gateway has seen a provider for every block."""
        async with asyncio.timeout(START_SECONDS):
            while model not in {each["id"] for each in (await http.get("/models")).json().get("data", ())}:  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    async def event(self, child: Child, what: str, **expected: Any) -> dict[str, Any]:
        """The first settlement transaction of a kind."""

        def find() -> dict[str, Any] | None:
            for seen in child.events:
                is_sent = seen["event"] == "settlement" and seen["kind"] == "sent" and seen["what"] == what
                if is_sent and all(seen.get(name) == value for name, value in expected.items()):
                    return seen
            return None

        return await child.wait_until(find, f"settle ({what} {expected})", EVENT_SECONDS)

    async def kill(self, child: Child) -> None:
        """kill -9."""
        child.process.kill()
        await child.process.wait()

    async def leave(self, child: Child) -> None:
        """SIGTERM."""
        child.process.terminate()
        await child.process.wait()

    def books(self, name: str) -> Path:
        """The folder of a node's journals."""
        return self.chain.folder / f"{name}-books"

    def units(self, name: str, column: str = "voucher_units", *, since: int = 0) -> int:
        """What a provider's journal holds vouchers for (or another column), from an epoch on."""
        with sqlite3.connect(self.books(name) / f"provider-{name}.sqlite") as db:
            found = db.execute(f"SELECT total({column}) FROM slots WHERE epoch >= ?", (since,))
            return int(found.fetchone()[0])

    async def until_vouched(self, name: str, units: int, *others: str, since: int = 0) -> None:
        """Wait until a provider, together with others where one of them did the work, has vouchers for that much.

        What comes after an epoch's end is settled in the next.
        """
        async with asyncio.timeout(EVENT_SECONDS):
            while sum(self.units(each, since=since) for each in (name, *others)) < units:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def publish(self, name: str, model: Path) -> int:
        """One more model; its number on the chain."""
        files = await asyncio.to_thread(read_model_files, name, model)
        async with self.chain.client("creator") as client:
            result = await client.models.create_model(
                name,
                bytes.fromhex(files.digest),
                "",
                blocks=files.spec.n_blocks,
                price_per_token=PRICE,
                royalty_bps=ROYALTY_BPS,
                model_stake_amount=STAKE,
            )
            return int(result.event("ModelCreated").arguments.model_id)


def request(model: str, tokens: int) -> dict[str, Any]:
    """The body of a request of ours."""
    return {"model": model, "prompt": [1, 2, 3, 4], "max_tokens": tokens, "temperature": 0}


@asynccontextmanager
async def paid_swarm(
    folder: Path, model: Path, names: Sequence[str], *, arguments: Sequence[str] = ()
) -> AsyncIterator[PaidSwarm]:
    """A chain with the model on it and an account for each of `names` (creator and developer besides)."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    files = await asyncio.to_thread(read_model_files, model.name, model)
    async with children() as family:
        everybody = ["creator", "developer", *names]
        chain = await start_chain(
            family, folder, everybody, model.name, files.digest, files.spec.n_blocks, arguments=arguments
        )
        yield PaidSwarm(family, chain, folder)


@dataclass(frozen=True)
class Sums:
    """What the chain says was paid, in wei, over all epochs."""

    fees: int
    emission: int
    pots: int
    claimed: int
    shares: int
    royalties: int

    @property
    def dust(self) -> int:
        return self.pots - self.claimed


async def sums(client: StakingClient, models: Sequence[int]) -> Sums:
    """Added up from the events of every contract."""
    pots = emission = fees = claimed = shares = royalties = 0
    async for event in client.core.events("Settlement", "CheckpointPosted"):
        fees += event.arguments.total_fees
    async for event in client.core.events("Settlement", "EpochFinalized"):
        pots += event.arguments.pot
        emission += event.arguments.emission
    async for event in client.core.events("Settlement", "RoyaltyClaimed"):
        royalties += event.arguments.amount
    async for event in client.core.events("GatewayStaking", "GatewayClaimedRewards"):
        shares += event.arguments.amount
    for model in models:
        royalties += await client.settlement.royalty_of(model)
        pool = await client.core.pool(model)
        async for event in client.core.events("ProviderStaking", "ProviderClaimedRewards", at=pool):
            claimed += event.arguments.amount
    return Sums(fees, emission, pots, claimed, shares, royalties)


def second_model(model: Path, folder: Path, name: str = "second") -> Path:
    """The same weights under another name: another model to everybody."""
    other = folder / name
    shutil.copytree(model, other)
    return other
