"""Strangers' providers, light ones in this process: real nodes that announce and serve what is in the corpus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
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
from shards.checkpoint.manifest import MANIFEST_NAME, Manifest, digest_of, model_digest
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

    def served(self) -> dict[str, bytes]:
        """The files, with a manifest that lists them."""
        listed = Manifest({name: digest_of(data) for name, data in self.files.items()})
        return {**self.files, MANIFEST_NAME: listed.to_bytes()}


@dataclass(frozen=True)
class Model:
    """A stranger's model on the chain, which has a provider of the same id."""

    name: str
    number: int
    case: Case

    @property
    def manifest(self) -> FileDigest:
        found = digest_of(self.case.served()[MANIFEST_NAME])
        return FileDigest(found.sha256, found.size)

    @property
    def digest(self) -> str:
        return model_digest(self.name, self.manifest.sha256)


@dataclass
class Stranger:
    """One stranger's node, which serves one hostile model after another."""

    node: Node
    bind: Callable[[str], bytes]
    """Makes its binding to a provider's id."""
    model: Model
    fetched: set[str] = field(default_factory=set)
    """Names of the cases whose tokenizer the gateway has fetched."""
    _sessions: dict[bytes, OpenSession] = field(default_factory=dict)

    @property
    def case(self) -> Case:
        return self.model.case

    async def announce(self) -> None:
        """The model as it is now."""
        model = self.model
        record = ProviderRecord(
            self.node.peer_id, model.name, model.digest, BLOCKS, Span(0, BLOCKS), "serving", 2048, 1 << 20,
            throughput=100.0, maddrs=self.node.maddrs[:16], files={MANIFEST_NAME: model.manifest},
            account=self.bind(model.name),
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
                return [(Welcome(self.model.name, self.model.number, CREDIT), b"")]
            case FetchFile(request=request, name=name):
                if name == "tokenizer.json":
                    self.fetched.add(self.case.name)
                data = self.case.served().get(name)
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


async def publish(client: StakingClient, cases: Sequence[Case]) -> list[Model]:
    """A model on the chain for each case, with a provider of the same id."""
    made: list[Model] = []
    for number, case in enumerate(cases):
        planned = Model(f"stranger-{number}", 0, case)
        result = await client.models.create_model(
            planned.name, bytes.fromhex(planned.digest), "", blocks=BLOCKS, price_per_token=PRICE, royalty_bps=0,
            model_stake_amount=STAKE,
        )  # fmt: skip
        made.append(replace(planned, number=int(result.event("ModelCreated").arguments.model_id)))
        await client.providers.register_and_stake(planned.name, made[-1].number, '{"url":"p2p:x"}')
    return made


@asynccontextmanager
async def strangers(
    client: StakingClient, account: Account, models: Sequence[Model], peers: str
) -> AsyncIterator[list[Stranger]]:
    """A running provider for each of these models, to begin with."""
    deployment = client.deployment
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        made: list[Stranger] = []

        async def start(model: Model) -> None:
            identity = Identity.generate()
            config = NodeConfig(identity, initial_peers=(peers,), direct_port=None)
            node = await stack.enter_async_context(Node(config))
            expires = int(time.time()) + 3600

            def bind(provider: str) -> bytes:
                binding = Binding(
                    "provider", provider, deployment.chain_id, deployment.address("Settlement"), account.address,
                    identity.peer_id, expires,
                )  # fmt: skip
                return sign_binding(binding, identity, account)

            stranger = Stranger(node, bind, model)
            await node.transport.serve(CONTROL_PROTOCOL, stranger.serve)
            made.append(stranger)

        for model in models:
            await start(model)
        keeping = [tasks.create_task(stranger.keep()) for stranger in made]
        try:
            yield made
        finally:
            for task in keeping:
                task.cancel()
