"""Whether our addresses can be dialled, asked of a neighbour: it dials us and nobody else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mesh.errors import PeerFailed, ProtocolViolation
from mesh.transport.knock_service import AT_ONCE, GREETING, ask_to_knock, knock_handler
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.wire.knock import KNOCK_PROTOCOL, Knock, KnockAnswer, Knocked, check_answer, encode, seen_from, tcp_of


@asynccontextmanager
async def listening(greeting: bytes) -> AsyncIterator[int]:
    """A server on loopback that answers everybody with `greeting`; yields its port."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(greeting)
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def test_a_neighbour_tells_open_closed_and_foreign_addresses_apart() -> None:
    network = MemoryNetwork()

    async def connections(peer: str) -> tuple[str, ...]:
        assert peer == "asker"
        return ("/ip4/127.0.0.1/tcp/50000",)

    async with (
        MemoryTransport("asker", network) as asker,
        MemoryTransport("neighbour", network) as neighbour,
        listening(GREETING) as node,
        listening(b"HTTP/1.1 400 Bad Request\r\n") as web,
    ):
        await neighbour.serve(KNOCK_PROTOCOL, knock_handler(connections))
        asked = {
            f"/ip4/127.0.0.1/tcp/{node}": "open",
            f"/ip4/127.0.0.1/tcp/{web}": "other",
            f"/ip4/127.0.0.1/tcp/{closed_port()}": "closed",
            f"/ip4/127.0.0.2/tcp/{node}": "elsewhere",
            "/dns4/example.org/tcp/4001": "elsewhere",
        }
        answer = await ask_to_knock(asker, "neighbour", list(asked))
        assert answer.seen == ("127.0.0.1",)
        assert {each.maddr: each.outcome for each in answer.knocked} == asked


async def test_more_askers_than_there_are_places_get_no_answer() -> None:
    network, waiting = MemoryNetwork(), asyncio.Event()

    async def connections(peer: str) -> tuple[str, ...]:
        await waiting.wait()
        return ()

    async with MemoryTransport("asker", network) as asker, MemoryTransport("neighbour", network) as neighbour:
        await neighbour.serve(KNOCK_PROTOCOL, knock_handler(connections))
        asking = [
            asyncio.create_task(ask_to_knock(asker, "neighbour", ["/ip4/10.0.0.1/tcp/1"])) for _ in range(AT_ONCE)
        ]
        await asyncio.sleep(0.05)
        with pytest.raises(PeerFailed):
            await ask_to_knock(asker, "neighbour", [])
        waiting.set()
        assert {each.knocked[0].outcome for each in await asyncio.gather(*asking)} == {"elsewhere"}


async def test_an_answer_about_other_addresses_is_refused() -> None:
    network = MemoryNetwork()
    lie = KnockAnswer((), (Knocked("/ip4/192.0.2.9/tcp/1", "open"),))

    async with (
        MemoryTransport("asker", network) as asker,
        MemoryTransport("liar", network) as liar,
        MemoryTransport("parrot", network) as parrot,
    ):
        await liar.serve(KNOCK_PROTOCOL, lambda channel: channel.send(encode(lie)))
        with pytest.raises(ProtocolViolation):
            await ask_to_knock(asker, "liar", ["/ip4/192.0.2.1/tcp/1"])
        await parrot.serve(KNOCK_PROTOCOL, lambda channel: channel.send(encode(Knock(()))))
        with pytest.raises(PeerFailed):
            await ask_to_knock(asker, "parrot", [])


def test_only_addresses_from_which_the_asker_is_seen_are_dialled() -> None:
    relayed = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWRelay/p2p-circuit/p2p/12D3KooWUs"
    assert seen_from(["/ip4/192.0.2.1/tcp/5", "/ip4/192.0.2.1/tcp/6", "/ip6/2001:db8::1/tcp/5", relayed]) == (
        "192.0.2.1",
        "2001:db8::1",
    )
    seen = ("192.0.2.1", "2001:db8::1")
    assert tcp_of("/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWUs", seen) == ("192.0.2.1", 4001)
    assert tcp_of("/ip6/2001:0db8::0001/tcp/4001", seen) == ("2001:db8::1", 4001)
    for other in ("/ip4/192.0.2.7/tcp/4001", "/ip4/192.0.2.1/tcp/0", "/ip4/192.0.2.1/udp/9", "/ip4/x/tcp/9", relayed):
        assert tcp_of(other, (*seen, "192.0.2.7") if other == relayed else seen) is None
    assert tcp_of("/ip4/192.0.2.1/tcp/65536", seen) is None
    answer = KnockAnswer(seen, (Knocked("a", "open"),))
    assert check_answer(["a"], answer) is answer
