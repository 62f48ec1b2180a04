"""A flood of free peer ids over real DHT nodes: those that were there stay in sight, a newcomer comes into sight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from mesh.discovery.dht import DhtDirectory
from mesh.discovery.directory import Announcer
from mesh.discovery.index import INDEX_KEYS
from mesh.discovery.places import DRAW_SECONDS
from mesh.discovery.records import ModelKey, ProviderRecord
from mesh.discovery.records_service import RecordsService
from mesh.identity import Identity
from mesh.transport import _hivemind
from mesh.transport.daemon import Daemon
from mesh.transport.daemon_config import DaemonConfig
from mesh.transport.hivemind import HivemindTransport
from mesh.wire.records import RECORDS_PROTOCOL
from shards.model.span import Span
from tests.mesh.test_dht_floods import Context

pytestmark = pytest.mark.timeout(150)

MODEL = ModelKey("tiny/llama", "ab" * 32)
ROOM, INDEX_ROOM, TOTAL = 32, 32, 400
FLOOD = 200
"""Ids of the flood: six times the room under a key, and one and a half times all the room that there is."""
PATIENCE = 90.0
"""Seconds in which a newcomer is seen; one in ten thousand takes longer by chance."""


def record(identity: Identity, model: ModelKey = MODEL) -> ProviderRecord:
    return ProviderRecord(identity.peer_id, *model, 12, Span(0, 4), "serving", 2048, 32000)


@dataclass
class Crowd:
    """Three nodes that store, and peers that were made up, each of which insists in every draw."""

    directories: list[DhtDirectory]
    maddrs: tuple[str, ...]
    stack: AsyncExitStack
    announcers: list[Announcer] = field(default_factory=list)
    rounds: int = 0

    async def join(self, *, client_mode: bool = True) -> tuple[Identity, DhtDirectory, Daemon]:
        """One more node; one in client mode stores nothing for others, and answers nobody."""
        identity = Identity.generate()
        config = DaemonConfig(identity, initial_peers=self.maddrs, client_mode=client_mode)
        daemon = await self.stack.enter_async_context(Daemon(config))
        return identity, await self.stack.enter_async_context(DhtDirectory(daemon)), daemon

    async def flood(self) -> None:
        """Announce every made-up peer at every node, as from its own connection, once for each draw, for ever."""
        from mesh.discovery import _hivemind_dht as h

        identities = [Identity.generate() for _ in range(FLOOD)]
        announcers = [Announcer(identity) for identity in identities]
        peer_ids = [_hivemind.load().PeerID.from_base58(identity.peer_id) for identity in identities]
        while True:
            began = time.monotonic()
            for identity, announcer, peer_id in zip(identities, announcers, peer_ids, strict=True):
                _, entries = announcer.publish(record(identity), now=time.time())
                for directory in self.directories:
                    protocol: Any = directory._node.protocol
                    request = h.dht_pb2.StoreRequest(
                        keys=[h.hash_key(key) for key, _, _ in entries],
                        subkeys=[protocol.serializer.dumps(identity.peer_id)] * len(entries),
                        values=[protocol.serializer.dumps(data) for _, data, _ in entries],
                        expiration_time=[expires for _, _, expires in entries],
                        in_cache=[False] * len(entries),
                    )
                    await protocol.rpc_store(request, Context(peer_id))
                await asyncio.sleep(0)
            self.rounds += 1
            await asyncio.sleep(max(0.0, DRAW_SECONDS - (time.monotonic() - began)))

    async def flooded(self, tasks: asyncio.TaskGroup) -> asyncio.Task[None]:
        """Start the flood, and wait until the nodes are full of it."""
        flood = tasks.create_task(self.flood())
        while self.rounds < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        assert all(directory._node.protocol.storage._all.used >= TOTAL - 10 for directory in self.directories)
        return flood


@pytest.fixture
async def crowd(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Crowd]:
    _hivemind.load()
    from mesh.discovery import _hivemind_dht as h

    index = {h.hash_key(key): INDEX_ROOM for key in INDEX_KEYS}
    monkeypatch.setattr(h, "bounded_storage", lambda: h.BoundedStorage(room=ROOM, total=TOTAL, index=index))
    async with AsyncExitStack() as stack:
        made = Crowd([], (), stack)
        for _ in range(3):
            _, directory, daemon = await made.join(client_mode=False)
            made.directories.append(directory)
            made.maddrs = made.maddrs or daemon.visible_maddrs
        yield made


@asynccontextmanager
async def announcing(directory: DhtDirectory, mine: ProviderRecord) -> AsyncIterator[None]:
    """Announce every few seconds, as a provider does."""

    async def keep() -> None:
        while True:
            await directory.announce(mine)
            await asyncio.sleep(8.0)

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until_seen(reader: DhtDirectory, peer: str, model: ModelKey) -> float:
    """Look as a client does until a provider is among those of its model; the seconds that it took."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        while peer not in {each.peer for each in await reader.providers(model)}:  # noqa: ASYNC110
            await asyncio.sleep(1.0)
    return time.monotonic() - began


async def test_a_newcomer_is_seen_in_the_flood_and_one_that_was_there_is_never_lost(crowd: Crowd) -> None:
    old, old_directory, _ = await crowd.join()
    new, new_directory, _ = await crowd.join()
    _, reader, _ = await crowd.join()
    async with asyncio.TaskGroup() as tasks, announcing(old_directory, record(old)):
        await until_seen(reader, old.peer_id, MODEL)
        flood = await crowd.flooded(tasks)
        async with announcing(new_directory, record(new)):
            await until_seen(reader, new.peer_id, MODEL)
            # By its id, of what those hold that were asked alone: nothing of it was heard before.
            async with asyncio.timeout(PATIENCE):
                while not await reader.records_of_peers([new.peer_id]):  # noqa: ASYNC110
                    await asyncio.sleep(1.0)
        for _ in range(5):
            _, fresh, _ = await crowd.join()
            assert old.peer_id in {each.peer for each in await fresh.providers(MODEL)}
        flood.cancel()


async def test_a_model_is_found_by_its_name_while_the_index_is_full_of_others(crowd: Crowd) -> None:
    mine = ModelKey("mine/model", "cd" * 32)
    new, new_directory, _ = await crowd.join()
    _, reader, _ = await crowd.join()
    async with asyncio.TaskGroup() as tasks:
        flood = await crowd.flooded(tasks)
        async with announcing(new_directory, record(new, mine)), asyncio.timeout(PATIENCE):
            while await reader.models(mine.name) != (mine,):  # noqa: ASYNC110
                await asyncio.sleep(1.0)
            assert mine in await reader.models()
        flood.cancel()


async def test_a_peer_that_can_be_asked_itself_is_found_at_once_whatever_the_dht_keeps(crowd: Crowd) -> None:
    """As a gateway that pays finds the providers that the chain names."""
    provider, own, daemon = await crowd.join(client_mode=False)
    transport = await crowd.stack.enter_async_context(HivemindTransport(daemon))
    service = RecordsService(own)
    crowd.stack.push_async_callback(service.aclose)
    await transport.serve(RECORDS_PROTOCOL, service)
    _, _, asking = await crowd.join()
    control = await crowd.stack.enter_async_context(HivemindTransport(asking))
    reader = await crowd.stack.enter_async_context(DhtDirectory(asking, transport=control))
    sent = await own.announce(record(provider))
    for directory in (*crowd.directories, own):  # as if a flood had won every place
        storage: Any = directory._node.protocol.storage
        for key in list(storage.data):
            del storage[key]
    stranger = Identity.generate().peer_id
    assert await reader.records_of_peers([stranger, provider.peer_id, "nonsense", ""]) == (sent,)
    await own.withdraw()
    assert await reader.records_of_peers([provider.peer_id]) == ()
