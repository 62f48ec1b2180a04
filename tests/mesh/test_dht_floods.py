"""One peer's calls cannot fill what a node stores for the swarm."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mesh.discovery.record_check import RecordCheck
from mesh.discovery.records import ModelKey, ProviderRecord, encode_record, provider_key
from mesh.identity import Identity
from mesh.transport import _hivemind
from shards.model.span import Span


@dataclass(frozen=True)
class Context:
    """Who calls."""

    remote_id: Any


class Storing:
    """The protocol of a node, called as peers would."""

    def __init__(self, protocol: Any, module: Any) -> None:
        self.protocol, self.module = protocol, module

    def context(self, peer: Identity) -> Context:
        h = _hivemind.load()
        return Context(h.PeerID.from_base58(peer.peer_id))

    async def store(self, sender: Identity, entries: list[tuple[Identity, str]]) -> list[bool]:
        """Records of peers under models' names, handed over by `sender`; which were taken."""
        rows = [self.entry(peer, model) for peer, model in entries]
        request = self.module.dht_pb2.StoreRequest(
            keys=[row[0] for row in rows],
            subkeys=[row[1] for row in rows],
            values=[row[2] for row in rows],
            expiration_time=[row[3] for row in rows],
            in_cache=[False] * len(rows),
        )
        return list((await self.protocol.rpc_store(request, self.context(sender))).store_ok)

    def entry(self, peer: Identity, model: str) -> tuple[bytes, bytes, bytes, float]:
        dumps = self.protocol.serializer.dumps
        expires = time.time() + 30
        record = replace(RECORD, peer=peer.peer_id, model=model, expires=expires)
        key = provider_key(ModelKey(model, RECORD.digest))
        return self.module.hash_key(key), dumps(peer.peer_id), dumps(encode_record(record, peer)), expires


RECORD = ProviderRecord("", "m", "ab" * 32, 4, Span(0, 4), "serving", 512, 300)


@pytest.fixture
async def node() -> Storing:
    _hivemind.load()
    from mesh.discovery import _hivemind_dht as h

    protocol = await h.DHTProtocol.create(
        None, h.DHTID.generate(), 20, 5, 3, 1.0,
        client_mode=True, record_validator=h.SignedRecords(RecordCheck(time.time)),
    )  # fmt: skip
    protocol.storage = h.bounded_storage()
    return Storing(protocol, h)


async def test_a_provider_lists_itself_again_and_again(node: Storing) -> None:
    me = Identity.generate()
    for _ in range(50):
        (taken,) = await node.store(me, [(me, "m")])
        assert taken


async def test_a_peer_lists_itself_under_few_models(node: Storing) -> None:
    me = Identity.generate()
    taken = await node.store(me, [(me, f"model-{number}") for number in range(100)])
    assert taken == [True] * 8 + [False] * 92
    assert len(node.protocol.storage) == 8
    assert await node.store(me, [(me, "model-3")]) == [True]


async def test_made_up_peers_of_one_sender_do_not_fill_the_storage(node: Storing) -> None:
    sender, honest = Identity.generate(), Identity.generate()
    invented = [Identity.generate() for _ in range(150)]

    taken = await node.store(sender, [(peer, "m") for peer in invented])

    assert sum(taken) == 64
    assert await node.store(honest, [(honest, "m")]) == [True]
    other = Identity.generate()
    assert all(await node.store(other, [(peer, "m") for peer in invented[-20:]])), (
        "a node that hands over a few is heard"
    )


async def test_a_peer_that_calls_without_end_is_not_answered(node: Storing) -> None:
    sender, honest = Identity.generate(), Identity.generate()
    taken = [(await node.store(sender, [(sender, "m")]))[0] for _ in range(260)]
    assert taken[:200] == [True] * 200 and False in taken[200:]
    assert await node.store(honest, [(honest, "m")]) == [True]


def test_the_name_that_other_nodes_call_is_hiveminds() -> None:
    from mesh.discovery import _hivemind_dht as h

    assert h.DHTProtocol._get_handle_name(None, "rpc_store") == "DHTProtocol.rpc_store"


async def test_what_is_handed_over_costs_nobody_a_place_and_an_announcement_of_ones_own_may(node: Storing) -> None:
    node.protocol.storage = node.module.BoundedStorage(room=10, total=100)
    crowd = [Identity.generate() for _ in range(10)]
    for peer in crowd:
        assert await node.store(peer, [(peer, "m")]) == [True]
    invented = [Identity.generate() for _ in range(100)]
    for n in range(10):
        sender = Identity.generate()
        assert not any(await node.store(sender, [(peer, "m") for peer in invented[10 * n : 10 * n + 10]]))
    came = sum([(await node.store(peer, [(peer, "m")]))[0] for peer in invented])
    assert 0 < came < 60
    assert len(next(iter(node.protocol.storage.data.values())).value.data) == 10
    for peer in crowd[:5]:
        assert await node.store(peer, [(peer, "m")]) == [True], "who was there first stays"


async def test_a_node_that_is_asked_before_it_is_ready_answers_as_nobody() -> None:
    """hivemind serves the protocol first and says who it is afterwards."""
    _hivemind.load()
    from mesh.discovery import _hivemind_dht as h

    early = Storing(h.DHTProtocol(_initialized_with_create=True), h)
    for answer in (
        await early.protocol.rpc_ping(h.dht_pb2.PingRequest(), early.context(Identity.generate())),
        await early.protocol.rpc_store(h.dht_pb2.StoreRequest(), early.context(Identity.generate())),
    ):
        assert not answer.peer.node_id


async def test_nothing_is_kept_in_the_cache_for_others(node: Storing) -> None:
    me = Identity.generate()
    row = node.entry(me, "m")
    request = node.module.dht_pb2.StoreRequest(
        keys=[row[0]], subkeys=[row[1]], values=[row[2]], expiration_time=[row[3]], in_cache=[True]
    )
    assert list((await node.protocol.rpc_store(request, node.context(me))).store_ok) == [False]
    assert len(node.protocol.cache) == len(node.protocol.storage) == 0
