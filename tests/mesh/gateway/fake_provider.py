"""A provider without a model that answers as a test wants: it claims work, and takes the vouchers that it gets."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from chain import vouchers
from chain.primitives import key_of
from chain.vouchers import ContributionReceipt
from mesh.client.backend import BackendConfig
from mesh.client.generation import Patience
from mesh.discovery.directory import MemoryDirectory
from mesh.gateway.app import create_app
from mesh.gateway.billing import Billing, BillingConfig
from mesh.gateway.config import GatewayConfig
from mesh.identity import Identity
from mesh.payment.accounts.api_keys import hash_key
from mesh.payment.accounts.ports import Backing
from mesh.payment.accounts.store import AccountStore
from mesh.payment.credit.line import GENESIS, Pair, ReceiptClaim
from mesh.transport.port import Channel
from mesh.verification.commitments import Place
from mesh.verification.ledger import WorkLedger
from mesh.wire.messages import (
    CONTROL_PROTOCOL,
    CloseSession,
    FetchFile,
    FileData,
    Message,
    NewToken,
    OpenSession,
    Ping,
    Pong,
    Prompt,
    PromptProgress,
    SessionClosed,
    SessionFailed,
    SessionOpened,
    decode,
    encode,
)
from mesh.wire.paying import Hello, Receipt, Voucher, Welcome
from mesh.wire.work import Work
from shards.model.span import Span
from tests.mesh.gateway.paid import ANN, GATEWAY, MemoryChain
from tests.mesh.gateway.paid import DOMAIN as ESCROW
from tests.mesh.payment.money import DOMAIN, MODEL_ID, Money
from tests.mesh.swarm_in_memory import MODEL, MemorySwarm, memory_swarm

PRICE = 10**12
KEY = "k"


@dataclass
class Play:
    """What it does with a session: `tokens` of them (None: all), then fails, or not; each may be another's id."""

    progress: bool = False
    tokens: int | None = None
    at_once: bool = False
    prefill: float = 0.0
    """Seconds before the first token."""
    token: Callable[[int], int] = lambda position: 5 + position % 50
    fails: bool = True
    commits: bool = False
    """It signs records of work over what it made up, as an honest one does over what it computed."""


class FakeProvider:
    """Serves all blocks. `vouched` is what the gateway signed for it, in units."""

    def __init__(self, swarm: MemorySwarm, money: Money, plays: list[Play]) -> None:
        self.swarm, self.plays = swarm, plays
        self.identity = Identity.generate()
        self.blocks = swarm.files.spec.n_blocks
        self.sessions = self.vouched = self._units = self._sequence = 0
        self._previous = GENESIS
        self._answers: dict[bytes, dict[int, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        known = money.provider(self.identity, "fake", swarm.files.digest, self.blocks)
        self.account, self.binding = known.account, known.binding

    async def start(self) -> None:
        transport = await self.swarm.transport(self.identity.peer_id)
        await transport.serve(CONTROL_PROTOCOL, self._serve)
        record = replace(self.swarm.record(self.identity.peer_id, Span(0, self.blocks), 1e6), account=self.binding)
        await MemoryDirectory(self.identity, self.swarm.board).announce(record)

    async def _serve(self, channel: Channel) -> None:
        opened: dict[bytes, OpenSession] = {}
        prompts: dict[bytes, bytes] = {}
        while (frame := await channel.receive()) is not None:
            message = decode(frame)
            match message:
                case Hello():
                    await channel.send(encode(Welcome("fake", MODEL_ID, 64)))
                case FetchFile():
                    content = self.swarm.files.contents[message.name]
                    await channel.send(encode(FileData(message.request, None), content))
                case Ping():
                    await channel.send(encode(Pong(message.nonce)))
                case OpenSession():
                    opened[message.session] = message
                    await channel.send(encode(SessionOpened(message.session)))
                case Voucher():
                    self.vouched = max(self.vouched, message.units)
                case CloseSession():
                    for work in self._records(opened[message.session], prompts.get(message.session, b""), channel.peer):
                        await channel.send(encode(work))
                    await channel.send(encode(SessionClosed(message.session, 0, 0)))
                case Prompt():
                    prompts[message.session] = bytes(frame.payload)
                    task = asyncio.create_task(self._run(channel, opened[message.session]))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def _run(self, channel: Channel, session: OpenSession) -> None:
        play = self.plays[min(self.sessions, len(self.plays) - 1)]
        self.sessions += 1

        async def say(message: Message) -> None:
            await channel.send(encode(message))

        first = session.fed_tokens
        await asyncio.sleep(play.prefill)
        if play.progress:
            await say(PromptProgress(session.session, first - 1))
            await self._claim(say, first - 1)
        last = session.capacity if play.tokens is None else min(session.capacity, first + play.tokens)
        said = {position: play.token(position) for position in range(first, last)}
        if play.commits:
            self._answers[session.session] = said
        for position, token in said.items():
            finish = "length" if position + 1 == session.capacity else None
            await say(NewToken(session.session, position, token, finish, None, ()))
            if not play.at_once:
                await asyncio.sleep(0)
        await self._claim(say, first + 4 * (last - first))
        if play.fails:
            await say(SessionFailed(session.session, "internal", "sorry", None))

    def _records(self, session: OpenSession, prompt: bytes, client: str) -> list[Work]:
        """Of what a session was given and made up: the roots are right, only no model said it."""
        said = self._answers.pop(session.session, {})
        if not said:
            return []
        fed = [prompt[at : at + 4] for at in range(0, len(prompt), 4)]
        given = [struct.pack("<i", token) for token in said.values()]
        rows = [b""] * (len(fed) - 1) + given
        ledger = WorkLedger(self.identity, bytes(32))
        place = Place(session.digest, Span(0, self.blocks))
        made = ledger.ran(session.session, client, place, 0, [*fed, *given][: len(rows)], rows, alone=False)
        return [*made, *ledger.close(session.session, len(rows))]

    async def _claim(self, say: Callable[[Message], object], tokens: int) -> None:
        """A receipt over so many weighted tokens more, and a moment for the voucher to come."""
        self._units += self.blocks * tokens
        self._sequence += 1
        claim = ReceiptClaim(Pair("gateway", "fake", MODEL_ID), 7, self._sequence, self._units, self._previous)
        signed = ContributionReceipt(key_of("gateway"), key_of("fake"), MODEL_ID, 7, self._units)
        signature = self.account.sign_digest(vouchers.digest(DOMAIN, signed))
        receipt = Receipt(7, self._sequence, self._units, self._previous, signature, self.identity.sign(claim.link))
        self._previous = claim.link
        await say(receipt)  # type: ignore[misc]
        await asyncio.sleep(0.15)


@dataclass
class Served:
    """A gateway whose only provider is a fake one."""

    swarm: MemorySwarm
    fake: FakeProvider
    billing: Billing
    http: httpx.AsyncClient
    bodies: dict[str, object] = field(default_factory=dict)

    @property
    def vouched(self) -> int:
        """Wei that the gateway has signed for."""
        return -(-self.fake.vouched * PRICE // self.fake.blocks)

    @property
    def charged(self) -> int:
        """Wei that the developer was charged."""
        caller = self.billing.caller(KEY)
        assert caller is not None
        assert not caller.holder.account.running and not caller.holder.pending
        return caller.holder.account.charged

    async def ask(self, prompt: int, tokens: int, **changes: object) -> httpx.Response:
        body = {
            "model": MODEL,
            "prompt": [5 + each % 50 for each in range(prompt)],
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "return_token_ids": True,
        }
        answer = await self.http.post("/v1/completions", json={**body, **changes})
        await asyncio.sleep(0.4)  # for what is still claimed
        return answer


@asynccontextmanager
async def served_by_fake(
    folder: Path, *plays: Play, attempts: int = 8, unverified: bool = True
) -> AsyncIterator[Served]:
    """A gateway with billing over a swarm in memory; its developer has credit for anything.

    `unverified`: it serves and pays whoever is staked; else only those that have shown their work.
    """
    hasty = BackendConfig(patience=Patience(attempts=attempts, route_seconds=1.0, resume_seconds=1.5))
    money = Money()
    async with memory_swarm(folder, (), backend=hasty, money=money, unverified=unverified) as swarm:
        fake = FakeProvider(swarm, money, list(plays))
        await fake.start()
        chain = MemoryChain({MODEL: PRICE}, {ANN.canonical: Backing(10**18, 0)})
        store = AccountStore(None, GATEWAY)
        config = BillingConfig(increment_tokens=64, pause_seconds=0.3)
        async with Billing(config, GATEWAY, ESCROW, chain, chain, store) as billing:
            app = create_app(swarm.backend, GatewayConfig(), billing)
            store.add_key(hash_key(KEY), ANN.canonical, bytes(32), issued=0, now=0, redeemed=0, most=16)
            caller = billing.caller(KEY)
            assert caller is not None
            caller.holder.account.signed = 10**18
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app),
                base_url="http://gateway",
                headers={"Authorization": f"Bearer {KEY}"},
                timeout=60,
            ) as http:
                yield Served(swarm, fake, billing, http)
