"""The adapter and a host of py-libp2p's own, with its own muxer, on its own event loop, in a process of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mesh.errors import PeerUnreachable
from mesh.identity import Identity
from mesh.transport.libp2p.transport import Libp2pTransport
from mesh.transport.port import Channel
from mesh.wire.frame import Frame

pytestmark = pytest.mark.timeout(60)

PROTOCOL = "/mesh/test/1"

STOCK = """
import sys
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

PROTOCOL = TProtocol("/mesh/test/1")

async def echo(stream):
    try:
        while data := await stream.read(65536):
            await stream.write(data)
    except Exception:  # an end is an exception here, and one that is not caught stops the whole host
        pass

async def main(address):
    host = new_host(key_pair=create_new_key_pair())
    host.set_stream_handler(PROTOCOL, echo)
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        print(host.get_addrs()[0], flush=True)
        if address:
            info = info_from_p2p_addr(Multiaddr(address))
            await host.connect(info)
            stream = await host.new_stream(info.peer_id, [PROTOCOL])
            sent = b"IM\\1\\0" + (1).to_bytes(4, "big") + (300_000).to_bytes(4, "big") + b"h" + bytes(300_000)
            await stream.write(sent)
            back = b""
            while len(back) < len(sent):
                back += await stream.read(len(sent) - len(back))
            print(back == sent, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)

trio.run(main, sys.argv[1])
"""


@asynccontextmanager
async def stock_host(dials: str = "") -> AsyncIterator[asyncio.StreamReader]:
    """What it prints: its address, and whether it got back what it sent."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c", STOCK, dials),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.kill()
        await process.communicate()


async def test_a_stock_host_is_dialled_and_echoes_large_frames_over_several_streams() -> None:
    async with stock_host() as says, Libp2pTransport(Identity.generate()) as own:
        address = (await says.readline()).decode().strip()
        peer = address.rpartition("/")[2]
        own.learn(peer, [address])

        async def talk(size: int) -> None:
            channel = await own.open(peer, PROTOCOL)
            async with asyncio.TaskGroup() as group:
                group.create_task(channel.send(Frame(b"%d" % size, bytes(size))))
                back = await channel.receive()
            assert back == Frame(b"%d" % size, bytearray(size))
            await channel.aclose()

        for sizes in ((0, 100, 70_000), (3_000_000,)):
            async with asyncio.TaskGroup() as group:
                for size in sizes:
                    group.create_task(talk(size))
        with pytest.raises(PeerUnreachable):
            await own.open(peer, "/mesh/other/1")


async def test_a_stock_host_dials_us_and_is_answered() -> None:
    seen: list[str] = []

    async def echo(channel: Channel) -> None:
        seen.append(channel.peer)
        while (frame := await channel.receive()) is not None:
            await channel.send(frame)

    async with Libp2pTransport(Identity.generate(), listen=("/ip4/127.0.0.1/tcp/0",)) as own:
        await own.serve(PROTOCOL, echo)
        async with stock_host(own.maddrs[0]) as says:
            address = (await says.readline()).decode().strip()
            assert (await says.readline()).decode().strip() == "True"
        assert seen == [address.rpartition("/")[2]]
