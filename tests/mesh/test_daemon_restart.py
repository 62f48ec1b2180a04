"""A node whose own daemon dies or hangs: it is started again as the same peer at the same address."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mesh.errors import DaemonDown, InternalError, PeerUnreachable
from mesh.identity import Identity
from mesh.node import Node, NodeConfig
from mesh.transport.daemon import Daemon
from mesh.transport.daemon_config import DaemonConfig, with_ports_of
from mesh.transport.daemon_keeper import DaemonKeeper, RestartPolicy
from mesh.transport.hivemind import HivemindTransport
from mesh.transport.port import Channel
from mesh.wire.frame import Frame
from tests.mesh.sample_record import sample_record
from tests.mesh.test_daemon import daemons, is_p2pd

pytestmark = pytest.mark.timeout(60)
ECHO = "/test/echo/1"


@pytest.fixture
def root() -> Iterator[Path]:
    # Not tmp_path: that one can be too long for a socket.
    with TemporaryDirectory(prefix="mesh-") as directory:
        yield Path(directory)


@asynccontextmanager
async def node(root: Path, *peers: str) -> AsyncIterator[Node]:
    os.mkdir(root, 0o700)  # noqa: PTH102
    config = NodeConfig(Identity.generate(), initial_peers=peers, runtime_root=root, direct_port=None)
    async with Node(config) as running:
        yield running


async def echo(channel: Channel) -> None:
    while (frame := await channel.receive()) is not None:
        await channel.send(frame)


async def says(asking: Node, peer: str) -> bytes:
    channel = await asking.transport.open(peer, ECHO, timeout=10.0)
    try:
        await channel.send(Frame(b"", b"hello"))
        answer = await channel.receive()
    finally:
        await channel.aclose()
    assert answer is not None
    return bytes(answer.payload)


def hit(root: Path, number: signal.Signals) -> None:
    for pid in daemons(root):
        if is_p2pd(pid):
            os.kill(pid, number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_node_outlives_its_daemon(root: Path, number: signal.Signals) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(node(root / "a"))
        other = await stack.enter_async_context(node(root / "b", first.maddrs[0]))
        await first.transport.serve(ECHO, echo)
        record = await first.directory.announce(sample_record(first.peer_id))
        assert await says(other, first.peer_id) == b"hello"
        before, maddrs = daemons(root / "a"), first.maddrs

        hit(root / "a", number)
        began = time.monotonic()
        while daemons(root / "a") == before or not first._daemon.up.is_set():
            await asyncio.sleep(0.05)
            assert time.monotonic() - began < 20
        assert first.maddrs == maddrs
        assert await says(first, first.peer_id) == b"hello"
        while [each.peer for each in await other.directory.providers(record.model_key)] != [first.peer_id]:
            assert time.monotonic() - began < 25, "the record is not there again"
            await asyncio.sleep(0.2)
        while True:  # the other's daemon waits some seconds after a dial that failed
            try:
                assert await says(other, first.peer_id) == b"hello"
                break
            except PeerUnreachable:
                assert time.monotonic() - began < 25
                await asyncio.sleep(0.2)


async def test_a_daemon_that_does_not_stay_ends_the_node_with_the_reason(root: Path) -> None:
    async with Daemon(DaemonConfig(Identity.generate(), runtime_root=root)) as daemon:
        keeping = asyncio.create_task(DaemonKeeper(daemon, RestartPolicy(restarts=2)).run())
        while not keeping.done():
            if daemon.up.is_set():
                hit(root, signal.SIGKILL)
            await asyncio.sleep(0.02)
        with pytest.raises(InternalError, match="2 times again within 10 minutes and does not stay: p2pd ended"):
            await keeping
        transport = HivemindTransport(daemon)
        with pytest.raises(DaemonDown) as down:
            await transport.open(Identity.generate().peer_id, ECHO, timeout=0.1)
        assert down.value.retry_after > 0


async def test_ports_that_were_free_ones_are_kept(root: Path) -> None:
    maddrs = ("/ip4/0.0.0.0/tcp/0", "/ip6/::1/tcp/0", "/ip4/127.0.0.1/tcp/31330")
    seen = ("/ip4/192.0.2.2/tcp/4001/p2p/x", "/ip6/::1/tcp/4002/p2p/x", "/ip4/127.0.0.1/tcp/31330/p2p/x")
    kept = with_ports_of(DaemonConfig(Identity.generate(), host_maddrs=maddrs), seen).host_maddrs
    assert kept == ("/ip4/0.0.0.0/tcp/4001", "/ip6/::1/tcp/4002", "/ip4/127.0.0.1/tcp/31330")
