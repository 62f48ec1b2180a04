"""A relay and the nodes that need it, as real daemons: places, circuits, limits, and a relay that goes and comes back.

On loopback nothing keeps two daemons from dialling each other, so the circuits here are opened by hand, on the bare
protocol; tests/scenarios/test_nat.py has the routers that make libp2p open them itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mesh.identity import Identity
from mesh.transport.daemon import Daemon
from mesh.transport.daemon_config import DaemonConfig
from mesh.transport.relay.places import RelayLimits
from mesh.transport.relay.reading import read_message
from mesh.transport.relay.reservations import Reservations
from mesh.transport.relay.service import Relay
from mesh.wire.circuit import HOP_PROTOCOL, RESERVE, STOP_PROTOCOL, Limit, Status, read_answer
from mesh.wire.multiaddr import peer_to_bytes

pytestmark = pytest.mark.timeout(60)

OK = bytes((4, 8, 1, 0x20, 100))
"""A target's consent, with its length before it."""


@pytest.fixture
def root() -> Iterator[Path]:
    with TemporaryDirectory(prefix="mesh-", dir="/tmp") as directory:
        yield Path(directory)


@asynccontextmanager
async def started(root: Path, limits: RelayLimits | None, nodes: int) -> AsyncIterator[tuple[Relay, list[Daemon]]]:
    """A relay and nodes that are connected to it."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Daemon(DaemonConfig(Identity.generate(), runtime_root=root)))
        relay = await stack.enter_async_context(Relay(server, limits))
        options = {"runtime_root": root, "initial_peers": server.visible_maddrs}
        found = [
            await stack.enter_async_context(Daemon(DaemonConfig(Identity.generate(), **options)))  # type: ignore[arg-type]
            for _ in range(nodes)
        ]
        yield relay, found


async def ask(node: Daemon, relay: Relay, request: bytes) -> tuple[int, Limit]:
    reader, writer = await node.open_stream(relay._daemon.peer_id, HOP_PROTOCOL)
    writer.write(request)
    answer = read_answer(await read_message(reader.readexactly))
    writer.transport.abort()
    return answer.status, answer.limit


def connect(target: Daemon) -> bytes:
    peer = peer_to_bytes(target.peer_id)
    message = bytes((8, 1, 0x12, len(peer) + 2, 0x0A, len(peer))) + peer
    return bytes((len(message),)) + message


@asynccontextmanager
async def agreeing(target: Daemon) -> AsyncIterator[asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    """`target` agrees to every circuit; its ends come out of the queue."""
    ends: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def agree(info: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader.readexactly)
        writer.write(OK)
        ends.put_nowait((reader, writer))

    await target.p2p.add_binary_stream_handler(STOP_PROTOCOL, agree)
    yield ends


async def circuit(
    relay: Relay, source: Daemon, target: Daemon
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, asyncio.StreamReader, asyncio.StreamWriter]:
    """Both ends of a circuit."""
    assert (await ask(target, relay, RESERVE))[0] == Status.OK
    async with agreeing(target) as ends:
        reader, writer = await source.open_stream(relay._daemon.peer_id, HOP_PROTOCOL)
        writer.write(connect(target))
        assert read_answer(await read_message(reader.readexactly)).status == Status.OK
        return reader, writer, *(await ends.get())


async def closed(relay: Relay) -> None:
    """Wait until the relay has forgotten its circuits."""
    async with asyncio.timeout(10):
        while relay.places.circuits:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_bytes_go_both_ways_through_a_circuit(root: Path) -> None:
    async with started(root, RelayLimits(), 2) as (relay, (one, other)):
        reader, writer, far_reader, far_writer = await circuit(relay, one, other)
        data = bytes(range(256)) * 8192
        writer.write(data)
        assert await far_reader.readexactly(len(data)) == data
        far_writer.write(b"back")
        assert await reader.readexactly(4) == b"back"
        assert relay.places.circuits == 1
        writer.write_eof()
        assert await far_reader.read() == b""
        await closed(relay)
        assert relay.relayed_bytes == len(data) + 4
        writer.transport.abort()
        far_writer.transport.abort()


async def test_a_place_tells_the_limits(root: Path) -> None:
    async with started(root, RelayLimits(circuit_seconds=77, circuit_bytes=1 << 20), 1) as (relay, (node,)):
        assert await ask(node, relay, RESERVE) == (Status.OK, Limit(77, 1 << 20))


async def test_without_a_place_there_is_no_circuit(root: Path) -> None:
    async with started(root, RelayLimits(), 2) as (relay, (one, other)):
        assert (await ask(one, relay, connect(other)))[0] == Status.NO_RESERVATION


async def test_a_node_that_is_no_relay_refuses(root: Path) -> None:
    async with started(root, None, 2) as (relay, (one, other)):
        assert (await ask(one, relay, RESERVE))[0] == Status.RESERVATION_REFUSED
        assert (await ask(one, relay, connect(other)))[0] == Status.NO_RESERVATION


async def test_nonsense_is_refused_and_the_relay_goes_on(root: Path) -> None:
    async with started(root, RelayLimits(), 1) as (relay, (node,)):
        assert (await ask(node, relay, b"\x02\x08\x07"))[0] == Status.MALFORMED_MESSAGE
        half_a_gigabyte = b"\xff\xff\xff\xff"
        assert (await ask(node, relay, half_a_gigabyte))[0] == Status.MALFORMED_MESSAGE
        assert (await ask(node, relay, RESERVE))[0] == Status.OK


@pytest.mark.parametrize(
    "limits",
    [RelayLimits(circuit_bytes=100_000), RelayLimits(circuit_seconds=1), RelayLimits(idle_seconds=0.5)],
    ids=["bytes", "duration", "silence"],
)
async def test_a_circuit_is_cut_at_its_limit(root: Path, limits: RelayLimits) -> None:
    async with started(root, limits, 2) as (relay, (one, other)):
        _, writer, far_reader, far_writer = await circuit(relay, one, other)
        writer.write(bytes(150_000) if limits.circuit_bytes == 100_000 else b"x")
        received = await asyncio.wait_for(far_reader.read(), 10)
        assert len(received) == (100_000 if limits.circuit_bytes == 100_000 else 1)
        await closed(relay)
        writer.transport.abort()
        far_writer.transport.abort()


async def test_one_peer_cannot_take_every_stream(root: Path) -> None:
    async with started(root, RelayLimits(), 2) as (relay, (greedy, other)):
        streams = [await greedy.open_stream(relay._daemon.peer_id, HOP_PROTOCOL) for _ in range(70)]
        reads = [asyncio.create_task(reader.read()) for reader, _ in streams]
        try:
            async with asyncio.timeout(15):
                while sum(read.done() for read in reads) < 6:  # noqa: ASYNC110 (broken off, while the others wait)
                    await asyncio.sleep(0.05)
            assert (await ask(other, relay, RESERVE))[0] == Status.OK
            assert sum(read.done() for read in reads) == 6
        finally:
            for read, (_, writer) in zip(reads, streams, strict=True):
                read.cancel()
                writer.transport.abort()
            await asyncio.gather(*reads, return_exceptions=True)


async def test_a_circuit_is_no_faster_than_allowed(root: Path) -> None:
    async with started(root, RelayLimits(bytes_per_second=200_000), 2) as (relay, (one, other)):
        _, writer, far_reader, far_writer = await circuit(relay, one, other)
        began = asyncio.get_running_loop().time()
        writer.write(bytes(500_000))  # a second's worth goes at once
        await far_reader.readexactly(500_000)
        assert asyncio.get_running_loop().time() - began > 0.5
        writer.transport.abort()
        far_writer.transport.abort()


async def test_a_place_is_kept_and_taken_again_when_the_relay_is_back(root: Path) -> None:
    identity = Identity.generate()
    config = DaemonConfig(identity, runtime_root=root)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        server = await first.enter_async_context(Daemon(config))
        await first.enter_async_context(Relay(server, RelayLimits()))
        (maddr,) = server.visible_maddrs
        no_relay = await stack.enter_async_context(Daemon(DaemonConfig(Identity.generate(), runtime_root=root)))
        await stack.enter_async_context(Relay(no_relay))
        node = await stack.enter_async_context(Daemon(DaemonConfig(Identity.generate(), runtime_root=root)))
        relays = maddr, *no_relay.visible_maddrs
        places = await stack.enter_async_context(Reservations(node, relays))
        await places.first(10)
        assert places.held == (identity.peer_id,)
        told: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()
        watching = asyncio.create_task(places.watch(told.put_nowait))
        await first.aclose()
        assert await asyncio.wait_for(told.get(), 10) == ()
        again = DaemonConfig(identity, host_maddrs=(maddr.rpartition("/p2p/")[0],), runtime_root=root)
        server = await stack.enter_async_context(Daemon(again))
        await stack.enter_async_context(Relay(server, RelayLimits()))
        assert await asyncio.wait_for(told.get(), 30) == (identity.peer_id,)
        watching.cancel()


async def test_the_daemons_own_small_relay_is_not_used(root: Path) -> None:
    async with AsyncExitStack() as stack:
        trap = await stack.enter_async_context(Daemon(DaemonConfig(Identity.generate(), runtime_root=root)))
        node = await stack.enter_async_context(Daemon(DaemonConfig(Identity.generate(), runtime_root=root)))
        places = await stack.enter_async_context(Reservations(node, trap.visible_maddrs))
        await places.first(10)
        assert places.held == ()
