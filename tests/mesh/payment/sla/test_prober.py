"""Probes over the mesh, against real answers and silence."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from mesh.identity import Identity
from mesh.payment.sla.prober import Prober
from mesh.payment.sla.reports import LEAST_OBSERVATIONS, SlaBook
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.transport.port import Channel
from mesh.wire.messages import CONTROL_PROTOCOL, Ping, Pong, decode, encode

EPOCH = 3


async def answers(channel: Channel) -> None:
    while (frame := await channel.receive()) is not None:
        message = decode(frame)
        assert isinstance(message, Ping)
        await channel.send(encode(Pong(message.nonce)))


async def lies(channel: Channel) -> None:
    while (frame := await channel.receive()) is not None:
        message = decode(frame)
        assert isinstance(message, Ping)
        await channel.send(encode(Pong(message.nonce + 1)))


async def is_silent(channel: Channel) -> None:
    while await channel.receive() is not None:
        pass


@pytest.fixture
async def peers() -> AsyncIterator[tuple[MemoryTransport, dict[str, str]]]:
    """A gateway's transport, and providers of every kind."""
    async with AsyncExitStack() as stack:
        network = MemoryNetwork()

        async def join() -> MemoryTransport:
            return await stack.enter_async_context(MemoryTransport(Identity.generate().peer_id, network))

        found = {}
        for name, handler in (("good", answers), ("liar", lies), ("silent", is_silent)):
            transport = await join()
            await transport.serve(CONTROL_PROTOCOL, handler)
            found[name] = transport.peer_id
        found["gone"] = Identity.generate().peer_id
        yield await join(), found


async def test_who_answers_is_timed_and_who_does_not_has_failed(
    peers: tuple[MemoryTransport, dict[str, str]],
) -> None:
    ours, targets = peers
    book = SlaBook()

    async def known() -> dict[str, str]:
        return targets

    prober = Prober(ours, known, lambda: EPOCH, book, timeout=0.1)
    for _ in range(LEAST_OBSERVATIONS):
        found = await prober.sweep()
        assert found["good"] is not None and found["good"] < 100
        assert found["liar"] is found["silent"] is found["gone"] is None
    measured = book.measured(EPOCH)
    assert {name: each.uptime_bps for name, each in measured.items()} == {
        "good": 10_000,
        "liar": 0,
        "silent": 0,
        "gone": 0,
    }
    assert measured["good"].latency_ms >= 1


async def test_a_sweep_that_nobody_answers_is_our_own_trouble(peers: tuple[MemoryTransport, dict[str, str]]) -> None:
    ours, targets = peers
    book = SlaBook()

    async def known() -> dict[str, str]:
        return {name: peer for name, peer in targets.items() if name != "good"}

    for _ in range(LEAST_OBSERVATIONS):
        await Prober(ours, known, lambda: EPOCH, book, timeout=0.05).sweep()
    assert not book.measured(EPOCH)
