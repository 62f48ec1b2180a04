"""Leaves over the mesh: served whole, checked against the chain's root, and safe from hostile peers on both ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from chain.leaves import CheckpointLeaves
from chain.primitives import keccak256
from mesh.errors import PeerFailed, PeerTimeout, PeerUnreachable, ProtocolViolation
from mesh.gateway.leaves_api import leaves_routes
from mesh.identity import Identity
from mesh.payment.settlement.leaves import LeavesService, check_leaves, fetch_document, fetch_leaves
from mesh.payment.settlement.store import SettlementStore
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.transport.port import Channel
from mesh.wire.frame import Frame
from mesh.wire.leaves import (
    LEAVES_PROTOCOL,
    MAX_DOCUMENT,
    PART_BYTES,
    Assembly,
    DocumentPart,
    FetchDocument,
    decode,
    encode,
)

LEAVES = CheckpointLeaves("g", 1, 4, {"ann": 10, "bob": 20})
ROOT = LEAVES.tree().root


@pytest.fixture
async def network() -> AsyncIterator[tuple[MemoryTransport, MemoryTransport]]:
    shared = MemoryNetwork()
    one, two = (MemoryTransport(Identity.generate().peer_id, shared) for _ in range(2))
    async with one, two:
        yield one, two


def stored(tmp_path: Path, leaves: CheckpointLeaves = LEAVES) -> SettlementStore:
    store = SettlementStore(tmp_path / "settlement.sqlite")
    root = leaves.tree().root
    store.publish("g", leaves.model_id, leaves.epoch, root, leaves.text().encode())
    store.mark_posted("g", leaves.model_id, leaves.epoch, root)
    return store


async def test_leaves_are_served_and_checked(network: tuple[MemoryTransport, MemoryTransport], tmp_path: Path) -> None:
    gateway, provider = network
    with stored(tmp_path) as store:
        service = LeavesService(gateway, store, "g")
        await service.start()
        assert service.leaves(1, 4) == LEAVES.text().encode()
        found = await fetch_leaves(
            provider, gateway.peer_id, gateway="g", model_id=1, epoch=4, root=ROOT, data_hash=LEAVES.data_hash()
        )
        assert found.leaves == LEAVES and found.hash_matches
        other = await fetch_leaves(
            provider, gateway.peer_id, gateway="g", model_id=1, epoch=4, root=ROOT, data_hash=keccak256(b"other")
        )
        assert other.leaves == LEAVES and not other.hash_matches  # the root decides
        with pytest.raises(ProtocolViolation):
            await fetch_leaves(provider, gateway.peer_id, gateway="g", model_id=1, epoch=4, root=bytes(32))


async def test_leaves_of_many_providers_come_in_parts(
    network: tuple[MemoryTransport, MemoryTransport], tmp_path: Path
) -> None:
    gateway, provider = network
    many = CheckpointLeaves("g", 1, 4, {f"provider-{number}-{'x' * 40}": number + 1 for number in range(20_000)})
    assert len(many.text()) > PART_BYTES
    with stored(tmp_path, many) as store:
        await LeavesService(gateway, store, "g").start()
        body = await fetch_document(provider, gateway.peer_id, "leaves", "g", 1, 4)
        assert body == many.text().encode()
        with pytest.raises(ProtocolViolation, match="over the limit"):
            await fetch_document(provider, gateway.peer_id, "leaves", "g", 1, 4, limit=PART_BYTES)


async def test_what_is_not_there_is_said_to_be_missing(
    network: tuple[MemoryTransport, MemoryTransport], tmp_path: Path
) -> None:
    gateway, provider = network
    with stored(tmp_path) as store:
        store.publish("g", 1, 5, bytes(32), b"leaves that are not posted yet")
        await LeavesService(gateway, store, "g").start()
        for name, model, epoch in (("h", 1, 4), ("g", 2, 4), ("g", 1, 5)):
            with pytest.raises(PeerFailed):
                await fetch_document(provider, gateway.peer_id, "leaves", name, model, epoch)
        with pytest.raises(PeerFailed):
            await fetch_document(provider, gateway.peer_id, "reports", "g", 0, 4)
        store.keep_reports("g", 4, b"signed")
        assert store.keep_reports("g", 4, b"other") == b"signed"
        assert await fetch_document(provider, gateway.peer_id, "reports", "g", 0, 4) == b"signed"
    with pytest.raises(PeerUnreachable):
        await fetch_document(gateway, provider.peer_id, "leaves", "g", 1, 4)


async def test_one_channel_may_carry_several_requests_and_garbage_ends_it(
    network: tuple[MemoryTransport, MemoryTransport], tmp_path: Path
) -> None:
    gateway, provider = network
    with stored(tmp_path) as store:
        await LeavesService(gateway, store, "g").start()
        channel = await provider.open(gateway.peer_id, LEAVES_PROTOCOL)
        for _ in range(3):
            await channel.send(encode(FetchDocument("leaves", "g", 1, 4)))
            frame = await channel.receive()
            assert frame is not None and bytes(frame.payload) == LEAVES.text().encode()
        await channel.send(Frame(b"\xc1 no message"))
        with pytest.raises(PeerUnreachable):
            await channel.receive()


HOSTILE = [
    [encode(DocumentPart(0, MAX_DOCUMENT, None), b"x"), encode(DocumentPart(0, 5, None), b"x")],
    [encode(DocumentPart(1, 5, None), b"x")],
    [encode(DocumentPart(0, 5, None), b"xxxxxx")],
    [encode(DocumentPart(0, 5, None))],
    [encode(FetchDocument("leaves", "g", 1, 4))],
    [Frame(b"\x80")],
    [Frame(encode(DocumentPart(0, 5, None)).header, b"x" * (PART_BYTES + 1))],
]


@pytest.mark.parametrize("frames", HOSTILE)
async def test_a_gateway_that_does_not_keep_to_the_protocol_is_refused(
    network: tuple[MemoryTransport, MemoryTransport], frames: list[Frame]
) -> None:
    gateway, provider = network

    async def serve(channel: Channel) -> None:
        for frame in frames:
            await channel.send(frame)
        await channel.receive()

    await gateway.serve(LEAVES_PROTOCOL, serve)
    with pytest.raises(ProtocolViolation):
        await fetch_document(provider, gateway.peer_id, "leaves", "g", 1, 4)


async def test_a_gateway_that_says_nothing_is_given_up(network: tuple[MemoryTransport, MemoryTransport]) -> None:
    gateway, provider = network

    async def silent(channel: Channel) -> None:
        while await channel.receive() is not None:
            pass

    await gateway.serve(LEAVES_PROTOCOL, silent)
    with pytest.raises(PeerTimeout):
        await fetch_document(provider, gateway.peer_id, "leaves", "g", 1, 4, timeout=0.1)


@given(st.binary(max_size=200))
def test_whatever_is_sent_as_leaves_is_refused_cleanly(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        check_leaves(body, gateway="g", model_id=1, epoch=4, root=ROOT)


@given(
    st.builds(
        FetchDocument,
        st.sampled_from(["leaves", "reports"]),
        st.text(max_size=64),
        st.integers(0, 2**63 - 1),
        st.integers(0, 2**63 - 1),
    )
    | st.builds(
        DocumentPart, st.integers(0, MAX_DOCUMENT), st.integers(0, MAX_DOCUMENT), st.none() | st.text(max_size=200)
    )
)
def test_messages_read_back_as_they_were(message: FetchDocument | DocumentPart) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=100), st.binary(max_size=4))
def test_any_header_is_read_or_refused(header: bytes, payload: bytes) -> None:
    try:
        decode(Frame(header, payload))
    except ProtocolViolation:
        pass


@given(st.binary(max_size=300), st.lists(st.integers(1, 80), min_size=1))
def test_a_document_is_put_together_from_parts_of_any_size(body: bytes, sizes: list[int]) -> None:
    assembly, at, turn = Assembly(), 0, 0
    done = False
    while not done:
        size = sizes[turn % len(sizes)]
        done = assembly.add(DocumentPart(at, len(body), None), body[at : at + size])
        at, turn = at + size, turn + 1
    assert assembly.body == body


async def test_http_serves_the_same_bytes(network: tuple[MemoryTransport, MemoryTransport], tmp_path: Path) -> None:
    with stored(tmp_path) as store:
        store.keep_reports("g", 4, b"{}")
        app = FastAPI()
        app.include_router(leaves_routes(LeavesService(network[0], store, "g")))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
            found = await http.get("/mesh/leaves/1/4")
            assert (found.status_code, found.content) == (200, LEAVES.text().encode())
            assert (await http.get("/mesh/reports/4")).content == b"{}"
            for path in ("/mesh/leaves/1/5", "/mesh/leaves/2/4", "/mesh/reports/5"):
                assert (await http.get(path)).status_code == 404
            for path in ("/mesh/leaves/0/4", f"/mesh/leaves/1/{2**64}", "/mesh/leaves/x/4"):
                assert (await http.get(path)).status_code == 422
