"""Asking others for what given peers say of themselves, and for the models of one name."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mesh.discovery.directory import MemoryDirectory
from mesh.discovery.records import encode_record, peer_key
from mesh.discovery.records_service import RecordsService, RecordsSettings
from mesh.identity import Identity
from mesh.transport.memory import MemoryTransport
from mesh.transport.port import Channel
from mesh.wire.records import RECORDS_PROTOCOL, AskRecords, Records, SignedRecord, decode, encode, pack_records
from tests.mesh.libp2p.test_records import (
    GOOD,
    LIAR,
    MODEL,
    OTHER,
    VICTIM,
    Town,
    answer,
    broken,
    new_town,
    record,
    signed,
)


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    async with new_town() as made:
        yield made


async def test_peers_are_asked_for_by_their_ids_and_withdrawals_are_believed(town: Town) -> None:
    sent = [await directory.announce(record(identity)) for identity, directory in town.providers]
    peers = [identity.peer_id for identity, _ in town.providers]
    found = town.directory(await town.honest())
    many = [Identity.generate().peer_id for _ in range(150)]
    assert await found.records_of_peers([*many, *peers, "nonsense"]) == tuple(sorted(sent, key=lambda each: each.peer))
    assert set(town.learned) == set(peers)
    await town.providers[0][1].withdraw()
    later = town.directory(await town.honest(RecordsSettings(fresh_seconds=0)))
    assert [each.peer for each in await later.records_of_peers(peers)] == [peers[1]]
    assert await later.records_of_peers([]) == ()


async def test_a_peer_that_others_hide_tells_of_itself(town: Town) -> None:
    identity, directory = town.providers[0]
    sent = await directory.announce(record(identity))
    own = await town.stack.enter_async_context(MemoryTransport(identity.peer_id, town.network))
    service = RecordsService(directory)
    town.stack.push_async_callback(service.aclose)
    await own.serve(RECORDS_PROTOCOL, service)
    assert await town.directory(await town.liar(answer())).records_of_peers([identity.peer_id]) == (sent,)
    assert await town.directory(Identity.generate().peer_id).records_of_peers([identity.peer_id]) == (sent,)


async def test_nobody_speaks_for_another_peer(town: Town) -> None:
    forged = [
        SignedRecord(VICTIM.peer_id, encode_record(record(LIAR), LIAR, key=peer_key(LIAR.peer_id))),
        signed(VICTIM, GOOD),
        broken(signed(VICTIM, GOOD, key=peer_key(VICTIM.peer_id)), 100),
        SignedRecord(VICTIM.peer_id, bytes(64)),
    ]
    for lie in forged:
        assert await town.directory(await town.liar(answer(lie))).records_of_peers([VICTIM.peer_id]) == ()


async def test_models_of_one_name_are_asked_for_by_it(town: Town) -> None:
    (first, a), (second, b) = town.providers
    await a.announce(record(first))
    await b.announce(record(second, OTHER))
    listed: dict[str, int] = {}
    honest = RecordsService(MemoryDirectory(Identity.generate(), town.board))
    town.stack.push_async_callback(honest.aclose)

    async def handler(channel: Channel) -> None:
        frame = await channel.receive()
        assert frame is not None
        question = decode(frame)
        assert isinstance(question, AskRecords)
        records = await honest._find(question)
        assert records is not None
        listed[question.name] = len(records)
        count, payload = pack_records(records)
        await channel.send(encode(Records(count), payload))

    node = await town.stack.enter_async_context(MemoryTransport(Identity.generate().peer_id, town.network))
    await node.serve(RECORDS_PROTOCOL, handler)
    found = town.directory(node.peer_id)
    assert await found.models(MODEL.name) == (MODEL,)
    assert await found.models() == tuple(sorted((MODEL, OTHER)))
    assert await found.models("nothing") == ()
    assert listed == {MODEL.name: 1, "": 2, "nothing": 0}
