"""What every directory does alike: the in-memory twin, the DHT over real p2pd daemons, and asking others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mesh.discovery import dht
from mesh.discovery.asking import AskingDirectory
from mesh.discovery.dht import DhtDirectory
from mesh.discovery.directory import Directory, MemoryBoard, MemoryDirectory
from mesh.discovery.index import IndexEntry, encode_entry, index_key
from mesh.discovery.records import (
    FileDigest,
    ModelKey,
    ProviderRecord,
    encode_record,
    peer_key,
    provider_key,
)
from mesh.discovery.records_service import RecordsService, RecordsSettings
from mesh.identity import Identity
from mesh.transport import _hivemind
from mesh.transport.daemon import Daemon
from mesh.transport.daemon_config import DaemonConfig
from mesh.transport.libp2p.transport import Libp2pTransport
from mesh.wire.records import RECORDS_PROTOCOL
from shards.model.span import Span

pytestmark = pytest.mark.timeout(60)

MODEL = ModelKey("tiny/llama", "ab" * 32)
OTHER = ModelKey("tiny/gpt", "cd" * 32)
KEY = provider_key(MODEL)
SPAN = Span(0, 4)


@dataclass(frozen=True)
class Swarm:
    """Three nodes with a directory each, and a hostile one that stores what it likes under any peer's name."""

    identities: list[Identity]
    directories: list[Directory]
    store_raw: Callable[[bytes, str, bytes, float], Awaitable[bool]]
    maddrs: tuple[str, ...] = ()


SwarmMaker = Callable[..., AbstractAsyncContextManager[Swarm]]


@asynccontextmanager
async def memory_swarm(lifetime: float = 30.0) -> AsyncIterator[Swarm]:
    board = MemoryBoard()
    identities = [Identity.generate() for _ in range(3)]

    async def store_raw(key: bytes, peer: str, data: bytes, expires: float) -> bool:
        return board.store(key, peer, data)

    async with AsyncExitStack() as stack:
        directories = [
            await stack.enter_async_context(MemoryDirectory(identity, board, lifetime=lifetime))
            for identity in identities
        ]
        yield Swarm(identities, list(directories), store_raw)


@asynccontextmanager
async def dht_swarm(lifetime: float = 30.0) -> AsyncIterator[Swarm]:
    _hivemind.load()
    from hivemind.dht.node import DHTNode

    async with AsyncExitStack() as stack:
        peers: tuple[str, ...] = ()
        identities, directories = [], []
        for _ in range(3):
            identity = Identity.generate()
            daemon = await stack.enter_async_context(Daemon(DaemonConfig(identity, initial_peers=peers)))
            peers = peers or daemon.visible_maddrs
            identities.append(identity)
            directories.append(await stack.enter_async_context(DhtDirectory(daemon, lifetime=lifetime)))
        villain = await stack.enter_async_context(Daemon(DaemonConfig(Identity.generate(), initial_peers=peers)))
        raw = await DHTNode.create(villain.p2p, initial_peers=peers, client_mode=True)  # it checks nothing

        async def store_raw(key: bytes, peer: str, data: bytes, expires: float) -> bool:
            return bool(await raw.store(key, data, expires, subkey=peer, exclude_self=True))

        yield Swarm(identities, list(directories), store_raw, peers)
        await raw.shutdown()


class Asked(AskingDirectory):
    """Finds by asking a node over real connections; announces where that node looks."""

    def __init__(self, own: MemoryDirectory, transport: Libp2pTransport, node: Libp2pTransport) -> None:
        super().__init__(transport, [node.peer_id])
        self.announce = own.announce  # type: ignore[method-assign]
        self.withdraw = own.withdraw  # type: ignore[method-assign]


@asynccontextmanager
async def asking_swarm(lifetime: float = 30.0) -> AsyncIterator[Swarm]:
    async with memory_swarm(lifetime) as swarm, AsyncExitStack() as stack:
        node = Libp2pTransport(Identity.generate(), listen=("/ip4/127.0.0.1/tcp/0",))
        await stack.enter_async_context(node)
        seen: Any = swarm.directories[0]
        service = RecordsService(seen, RecordsSettings(fresh_seconds=0, burst=1000))
        stack.push_async_callback(service.aclose)
        await node.serve(RECORDS_PROTOCOL, service)
        directories: list[Directory] = []
        for identity, own in zip(swarm.identities, swarm.directories, strict=True):
            transport = await stack.enter_async_context(Libp2pTransport(identity))
            transport.learn(node.peer_id, node.maddrs)
            assert isinstance(own, MemoryDirectory)
            directories.append(Asked(own, transport, node))
        yield replace(swarm, directories=directories)


@pytest.fixture(params=[memory_swarm, dht_swarm, asking_swarm], ids=["memory", "dht", "asking"])
def swarm(request: pytest.FixtureRequest) -> SwarmMaker:
    return request.param  # type: ignore[no-any-return]


def record(identity: Identity, model: ModelKey = MODEL, span: Span = SPAN) -> ProviderRecord:
    return ProviderRecord(
        peer=identity.peer_id,
        model=model.name,
        digest=model.digest,
        n_blocks=12,
        span=span,
        state="serving",
        context_length=2048,
        vocab_size=32000,
        maddrs=("/ip4/127.0.0.1/tcp/31330",),
        files={"config.json": FileDigest("ef" * 32, 500)},
    )


async def test_an_announcement_is_seen_from_every_other_node(swarm: SwarmMaker) -> None:
    async with swarm() as s:
        sent = [await s.directories[n].announce(record(s.identities[n], span=Span(n, n + 1))) for n in (0, 1)]
        for directory in s.directories:
            assert await directory.providers(MODEL) == tuple(sorted(sent, key=lambda r: r.peer))
            assert await directory.models() == (MODEL,)
            assert await directory.providers(OTHER) == ()


async def test_an_empty_swarm_has_no_models(swarm: SwarmMaker) -> None:
    async with swarm() as s:
        assert await s.directories[0].models() == ()
        await s.directories[0].withdraw()


async def test_a_new_announcement_takes_the_place_of_the_last(swarm: SwarmMaker) -> None:
    async with swarm() as s:
        mine = record(s.identities[0])
        first = await s.directories[0].announce(replace(mine, state="joining"))
        second = await s.directories[0].announce(replace(mine, queue_depth=5))

        assert second.sequence > first.sequence
        for directory in s.directories:
            assert await directory.providers(MODEL) == (second,)


async def test_a_withdrawal_is_seen_at_once_and_can_be_taken_back(swarm: SwarmMaker) -> None:
    async with swarm() as s:
        await s.directories[0].announce(record(s.identities[0]))
        stays = await s.directories[1].announce(record(s.identities[1]))
        assert len(await s.directories[2].providers(MODEL)) == 2

        await s.directories[0].withdraw()
        for directory in s.directories:
            assert await directory.providers(MODEL) == (stays,)
        await s.directories[1].withdraw()
        assert await s.directories[2].models() == ()

        back = await s.directories[0].announce(record(s.identities[0]))
        assert await s.directories[2].providers(MODEL) == (back,)
        assert await s.directories[2].models() == (MODEL,)


async def test_a_node_that_changes_its_model_leaves_the_old_one(swarm: SwarmMaker) -> None:
    async with swarm() as s:
        await s.directories[0].announce(record(s.identities[0]))
        moved = await s.directories[0].announce(record(s.identities[0], OTHER))

        assert await s.directories[1].providers(MODEL) == ()
        assert await s.directories[1].providers(OTHER) == (moved,)
        assert await s.directories[1].models() == (OTHER,)


async def test_a_record_that_is_not_announced_again_expires(swarm: SwarmMaker) -> None:
    async with swarm(lifetime=1.0) as s:
        sent = await s.directories[0].announce(record(s.identities[0]))
        assert await s.directories[1].providers(MODEL) == (sent,)
        await asyncio.sleep(max(0.0, sent.expires - time.time()) + 0.01)
        for directory in s.directories:
            assert await directory.providers(MODEL) == ()
            assert await directory.models() == ()


async def test_peers_are_found_by_their_ids_whatever_model_they_serve(swarm: SwarmMaker) -> None:
    async with swarm() as s:
        sent = [
            await s.directories[n].announce(record(s.identities[n], model)) for n, model in ((0, MODEL), (1, OTHER))
        ]
        peers = [identity.peer_id for identity in s.identities]
        for directory in s.directories:
            assert await directory.records_of_peers(peers) == tuple(sorted(sent, key=lambda r: r.peer))
            assert await directory.records_of_peers(peers[1:]) == (sent[1],)
            assert await directory.models(MODEL.name) == (MODEL,)
        await s.directories[0].withdraw()
        assert await s.directories[2].records_of_peers(peers) == (sent[1],)
        newer = await s.directories[1].announce(record(s.identities[1]))
        assert await s.directories[2].records_of_peers([*peers, "nobody", peers[1]]) == (newer,)


async def test_forged_and_unsigned_records_are_not_accepted(swarm: SwarmMaker) -> None:
    async with swarm() as s:
        good = await s.directories[0].announce(record(s.identities[0]))
        thief, expires = Identity.generate(), time.time() + 60
        stolen = replace(good, sequence=good.sequence + 1, expires=expires)
        his = replace(stolen, peer=thief.peer_id)
        by_thief = encode_record(his, thief)
        body = encode_record(stolen, s.identities[0])[64:]
        attempts = {
            "another's record signed by the thief": (KEY, good.peer, thief.sign(body) + body),
            "unsigned": (KEY, good.peer, bytes(64) + body),
            "not a record": (KEY, thief.peer_id, b"anything"),
            "his record under another's name": (KEY, good.peer, by_thief),
            "his record under no peer's name": (KEY, "nobody", by_thief),
            "his record under another model": (provider_key(OTHER), thief.peer_id, by_thief),
            "his record in the index": (index_key(thief.peer_id), thief.peer_id, by_thief),
            "his record under his own key": (peer_key(thief.peer_id), thief.peer_id, by_thief),
            "his record under another's own key": (peer_key(good.peer), thief.peer_id, by_thief),
            "another's index entry signed by the thief": (
                index_key(good.peer),
                good.peer,
                encode_entry(IndexEntry(thief.peer_id, *MODEL, good.sequence + 1, expires), thief),
            ),
            "an unknown key": (b"anything/else", thief.peer_id, by_thief),
        }
        for what, (key, peer, data) in attempts.items():
            assert not await s.store_raw(key, peer, data, expires), what

        assert await s.store_raw(KEY, thief.peer_id, by_thief, expires), "a stranger may announce himself"
        for directory in s.directories:
            seen = await directory.providers(MODEL)
            assert seen == tuple(sorted((good, his), key=lambda r: r.peer))
            assert await directory.models() == (MODEL,)


async def test_a_stale_record_is_not_accepted_again(swarm: SwarmMaker) -> None:
    async with swarm() as s:
        old = await s.directories[0].announce(record(s.identities[0]))
        new = await s.directories[0].announce(replace(record(s.identities[0]), state="draining"))
        replayed = encode_record(old, s.identities[0])

        assert not await s.store_raw(KEY, old.peer, replayed, old.expires)
        assert await s.directories[1].providers(MODEL) == (new,)


async def test_an_expired_or_far_future_record_is_not_accepted(swarm: SwarmMaker) -> None:
    async with swarm() as s:
        me = Identity.generate()
        for expires in (time.time() - 1, time.time() + 4000):
            data = encode_record(replace(record(me), sequence=1, expires=expires), me)
            assert not await s.store_raw(KEY, me.peer_id, data, expires)
        assert await s.directories[0].providers(MODEL) == ()


async def test_a_replayed_record_with_a_longer_life_is_not_accepted() -> None:
    # Only the DHT keeps an expiry beside the record, which the signature does not cover.
    async with dht_swarm() as s:
        good = await s.directories[0].announce(record(s.identities[0]))
        data = encode_record(good, s.identities[0])
        assert not await s.store_raw(KEY, good.peer, data, good.expires + 30)
        await s.directories[0].withdraw()
        assert not await s.store_raw(KEY, good.peer, data, good.expires + 90)
        assert await s.directories[1].providers(MODEL) == ()


async def test_a_peer_that_answers_searches_with_rubbish_hides_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in everybody's routing table, and claims an endless life for an empty, ill-typed dictionary."""
    async with dht_swarm() as s, AsyncExitStack() as stack:
        from hivemind.dht.node import DHTNode
        from hivemind.dht.protocol import DHTProtocol
        from hivemind.dht.storage import DictionaryDHTValue
        from hivemind.p2p import P2PContext
        from hivemind.proto import dht_pb2
        from hivemind.utils import MSGPackSerializer

        sent = await s.directories[1].announce(record(s.identities[1]))
        options = DaemonConfig(Identity.generate(), initial_peers=s.maddrs)
        villain = await stack.enter_async_context(Daemon(options))
        honest, lied = DHTProtocol.rpc_find, asyncio.Event()

        async def rpc_find(self: Any, request: dht_pb2.FindRequest, context: P2PContext) -> dht_pb2.FindResponse:
            if self.p2p is not villain.p2p:
                return await honest(self, request, context)
            lied.set()
            rubbish = DictionaryDHTValue()
            rubbish.maxsize = "many"
            found = dht_pb2.FindResult(
                type=dht_pb2.FOUND_DICTIONARY,
                value=MSGPackSerializer.dumps(rubbish),
                expiration_time=float("inf"),
            )
            return dht_pb2.FindResponse(results=[found] * len(request.keys), peer=self.node_info)

        rpc_find.__annotations__ = honest.__annotations__  # from which hivemind takes the message types
        monkeypatch.setattr(DHTProtocol, "rpc_find", rpc_find)
        raw = await DHTNode.create(villain.p2p, initial_peers=s.maddrs)
        stack.push_async_callback(raw.shutdown)
        for _ in range(3):
            for directory in s.directories:
                assert await directory.providers(MODEL) == (sent,)
        assert lied.is_set()


async def test_pieces_of_a_dht_that_forgot_each_other_find_together_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dht, "_MEET_SECONDS", 0.2)
    async with dht_swarm() as s:
        pieces = [set(range(2)), {2}]
        nodes = [directory._node for directory in s.directories]  # type: ignore[attr-defined]
        tables = [node.protocol.routing_table for node in nodes]
        async with asyncio.timeout(20):
            for n, directory in enumerate(s.directories):  # all have met
                while len(directory._acquaintances) < 2:  # type: ignore[attr-defined]  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                nodes[n].blacklist.register_failure(nodes[n - 1].peer_id)
        for piece in pieces:  # as after a time in which nobody reached the other piece
            for n in piece:
                for other in {0, 1, 2} - piece:
                    if nodes[other].node_id in tables[n]:
                        del tables[n][nodes[other].node_id]
        assert len(tables[2].peer_id_to_uid) <= 1  # the hostile node at most
        sent = await s.directories[2].announce(record(s.identities[2]))
        async with asyncio.timeout(20):
            for directory in s.directories:
                while await directory.providers(MODEL) != (sent,):
                    await asyncio.sleep(0.1)
                    await s.directories[2].announce(record(s.identities[2]))
                    sent = (await s.directories[2].providers(MODEL))[0]
