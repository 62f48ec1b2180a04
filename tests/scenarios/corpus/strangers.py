"""Strangers' providers, light ones in this process: real nodes that announce and serve what is in the corpus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from chain.client.staking import StakingClient
from chain.wallet import Account
from mesh.discovery.records import FileDigest, ProviderRecord
from mesh.errors import MeshError
from mesh.identity import Identity
from mesh.node import Node, NodeConfig
from mesh.payment.credit.binding import Binding, sign_binding
from mesh.transport.port import Channel
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
    SessionClosed,
    SessionOpened,
    decode,
    encode,
)
from mesh.wire.paying import Hello, Welcome
from shards.model.span import Span
from tests.scenarios.corpus.records import Signed

ANNOUNCE_SECONDS = 12.0
CREDIT = 1 << 20
BLOCKS = 4
STAKE, PRICE = 1, 1
"""In wei: a stranger's model costs nothing to stake for."""


@dataclass(frozen=True)
class Case:
    """What a stranger's model has for files, and how it is asked: by a text, or by a conversation (`text` None)."""

    kind: str
    name: str
    files: dict[str, bytes]
    text: str | None
    tokens: tuple[int, ...]
    """What its provider answers."""


@dataclass
class Stranger:
    """One stranger's provider: registered and staked, for a model of its own whose files change."""

    node: Node
    model: str
    model_id: int
    account: bytes
    """Its binding."""
    case: Case
    fetched: set[str] = field(default_factory=set)
    """Names of the cases whose tokenizer the gateway has fetched."""
    _sessions: dict[bytes, OpenSession] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return digest_of(self.model)

    async def announce(self) -> None:
        """The model as it is now."""
        files = {name: FileDigest(sha256(data).hexdigest(), len(data)) for name, data in self.case.files.items()}
        record = ProviderRecord(
            self.node.peer_id, self.model, self.digest, BLOCKS, Span(0, BLOCKS), "serving", 2048, 1 << 20,
            throughput=100.0, maddrs=self.node.maddrs[:16], files=files, account=self.account,
        )  # fmt: skip
        await self.node.directory.announce(record)

    async def keep(self) -> None:
        """Announce again and again until cancelled."""
        while True:
            await asyncio.sleep(ANNOUNCE_SECONDS)
            try:
                await self.announce()
            except MeshError:
                continue  # the machine is busy: the next round may reach the others

    async def serve(self, channel: Channel) -> None:
        """A control channel as the protocol has it, with answers that cost nothing."""
        while (frame := await channel.receive()) is not None:
            for message, payload in self._answers(decode(frame)):
                await channel.send(encode(message, payload))

    def _answers(self, message: Message) -> list[tuple[Message, bytes]]:
        match message:
            case Hello():
                return [(Welcome(self.model, self.model_id, CREDIT), b"")]
            case FetchFile(request=request, name=name):
                if name == "tokenizer.json":
                    self.fetched.add(self.case.name)
                data = self.case.files.get(name)
                return [(FileData(request, "no such file" if data is None else None), data or b"")]
            case Ping(nonce=nonce):
                return [(Pong(nonce), b"")]
            case OpenSession(session=session):
                self._sessions[session] = message
                return [(SessionOpened(session), b"")]
            case Prompt(session=session) if session in self._sessions:
                return [(token, b"") for token in self._tokens(self._sessions[session])]
            case CloseSession(session=session):
                self._sessions.pop(session, None)
                return [(SessionClosed(session, 0, 0), b"")]
            case _:
                return []

    def _tokens(self, session: OpenSession) -> list[Message]:
        made: list[Message] = []
        for position in range(session.fed_tokens, session.capacity):
            token = self.case.tokens[(position - session.fed_tokens) % len(self.case.tokens)]
            finish = "stop" if token in session.eos else "length" if position + 1 == session.capacity else None
            made.append(NewToken(session.session, position, token, finish, None, ()))
            if finish is not None:
                break
        return made

    async def spread(self, items: Sequence[Signed]) -> int:
        """Hand others' records to the swarm as a node may; how many items all nodes took whole."""
        entries = [entry for item in items for entry in item.entries]
        keys, subkeys, values, expiries = (list(column) for column in zip(*entries, strict=True))
        stored = await self._dht.store_many(keys, values, expiries, subkeys=subkeys)
        return sum(all(stored.get((key, subkey)) for key, subkey, *_ in item.entries) for item in items)

    def poison(self, items: Sequence[Signed]) -> None:
        """Have them in our own storage without a look at them: who asks us hears them."""
        from mesh.discovery import _hivemind_dht as h

        protocol = self._dht.protocol
        for item in items:
            for key, subkey, value, expires in item.entries:
                protocol.storage.store_subkey(h.key_id(key), subkey, protocol.serializer.dumps(value), expires)

    @property
    def _dht(self) -> Any:
        directory: Any = self.node.directory
        return directory._node


def digest_of(model: str) -> str:
    """What a stranger says that its model's manifest is."""
    return sha256(model.encode()).hexdigest()


async def publish(client: StakingClient, count: int) -> dict[str, int]:
    """Strangers' models on the chain, each with a provider of the same id; their numbers by name."""
    numbers = {}
    for number in range(count):
        name = f"stranger-{number}"
        result = await client.models.create_model(
            name, bytes.fromhex(digest_of(name)), "", blocks=BLOCKS, price_per_token=PRICE, royalty_bps=0,
            model_stake_amount=STAKE,
        )  # fmt: skip
        numbers[name] = int(result.event("ModelCreated").arguments.model_id)
        await client.providers.register_and_stake(name, numbers[name], '{"url":"p2p:x"}')
    return numbers


@asynccontextmanager
async def strangers(
    client: StakingClient, account: Account, models: dict[str, int], peers: str, first: Case
) -> AsyncIterator[list[Stranger]]:
    """A running provider for each of these models, which has nothing but the first case yet."""
    deployment = client.deployment
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        made: list[Stranger] = []

        async def start(model: str, number: int) -> None:
            identity = Identity.generate()
            config = NodeConfig(identity, initial_peers=(peers,), direct_port=None)
            node = await stack.enter_async_context(Node(config))
            expires = int(time.time()) + 3600
            binding = Binding(
                "provider", model, deployment.chain_id, deployment.address("Settlement"), account.address,
                identity.peer_id, expires,
            )  # fmt: skip
            stranger = Stranger(node, model, number, sign_binding(binding, identity, account), first)
            await node.transport.serve(CONTROL_PROTOCOL, stranger.serve)
            made.append(stranger)

        for model, number in models.items():
            await start(model, number)
        keeping = [tasks.create_task(stranger.keep()) for stranger in made]
        try:
            yield made
        finally:
            for task in keeping:
                task.cancel()
