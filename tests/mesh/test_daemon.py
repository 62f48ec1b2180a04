"""The Go daemon under guard: it starts with clear errors, dies with us, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mesh.errors import ConfigError, InternalError, PeerUnreachable
from mesh.identity import Identity
from mesh.transport.daemon import Daemon
from mesh.transport.daemon_config import DaemonConfig, GuardKind, arguments
from mesh.transport.hivemind import HivemindTransport
from mesh.transport.port import Channel
from mesh.transport.runtime_dir import RuntimeDirectory
from mesh.wire.frame import Frame

pytestmark = pytest.mark.timeout(60)

STRANGER = "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo"

HOLDER = """
import asyncio, signal, sys
from pathlib import Path
from mesh.identity import Identity
from mesh.transport.daemon import Daemon
from mesh.transport.daemon_config import DaemonConfig

async def main():
    task = asyncio.current_task()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    root, guard, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    async with Daemon(DaemonConfig(Identity.generate(), runtime_root=root, guard=guard)) as daemon:
        print(daemon.pid, flush=True)
        if how == "wait":
            await asyncio.sleep(60)

try:
    asyncio.run(main())
except asyncio.CancelledError:
    pass
"""


@pytest.fixture
def root() -> Iterator[Path]:
    # Not tmp_path: that one can be too long for a socket.
    with TemporaryDirectory(prefix="mesh-") as directory:
        yield Path(directory)


def config(root: Path, **options: object) -> DaemonConfig:
    return DaemonConfig(Identity.generate(), runtime_root=root, **options)  # type: ignore[arg-type]


def daemons(root: Path) -> list[int]:
    """The processes whose command line names `root`: p2pd, and its guard where there is one."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and f"/unix{root}/".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def is_p2pd(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"/p2pd")


def entries(root: Path) -> list[Path]:
    return sorted(root.iterdir())


async def gone(root: Path, seconds: float) -> bool:
    deadline = asyncio.get_running_loop().time() + seconds
    while daemons(root):
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


async def hold(root: Path, guard: GuardKind, how: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(root), guard, how, stdout=asyncio.subprocess.PIPE
    )


async def test_a_daemon_has_our_identity_and_tells_where_it_is(root: Path) -> None:
    options = config(root)
    async with Daemon(options) as daemon:
        assert daemon.peer_id == options.identity.peer_id == daemon.p2p.peer_id.to_base58()
        (maddr,) = daemon.visible_maddrs
        assert maddr.startswith("/ip4/127.0.0.1/tcp/")
        assert maddr.endswith(f"/p2p/{daemon.peer_id}")
        (runtime,) = entries(root)
        assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
        assert not (runtime / "identity.key").exists()
        assert daemons(root) == [daemon.pid]
    assert entries(root) == []
    assert daemons(root) == []


async def test_a_client_listens_nowhere_and_reaches_the_swarm(root: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Daemon(config(root)))
        options = config(root, client_mode=True, initial_peers=server.visible_maddrs)
        client = await stack.enter_async_context(Daemon(options))
        assert client.visible_maddrs == ()
        await client.connect(server.peer_id, server.visible_maddrs)
        with pytest.raises(PeerUnreachable):
            await client.connect(Identity.generate().peer_id, ("/ip4/127.0.0.1/tcp/1",))
        with pytest.raises(PeerUnreachable):
            await client.connect(Identity.generate().peer_id, ("nonsense",))


@pytest.mark.parametrize("guard", ["deathsig", "pipe"])
async def test_nothing_outlives_a_process_that_is_killed(root: Path, guard: GuardKind) -> None:
    holder = await hold(root, guard, "wait")
    assert holder.stdout is not None
    pid = int(await holder.stdout.readline())
    assert pid in daemons(root)
    # p2pd ends by itself when its last client is gone; stopped, it cannot, and only the guard is left to end it.
    for daemon in daemons(root):
        if is_p2pd(daemon):
            os.kill(daemon, signal.SIGSTOP)

    holder.kill()
    await holder.wait()

    assert await gone(root, 2.0)
    assert entries(root), "the dead process could not tidy up"
    async with Daemon(config(root)):  # the next one does
        assert len(entries(root)) == 1


@pytest.mark.parametrize(
    ("guard", "how"), [("deathsig", "wait"), ("pipe", "wait"), ("deathsig", "exit"), ("pipe", "exit")]
)
async def test_a_process_that_ends_in_order_leaves_nothing(root: Path, guard: GuardKind, how: str) -> None:
    holder = await hold(root, guard, how)
    assert holder.stdout is not None
    await holder.stdout.readline()
    if how == "wait":
        holder.terminate()

    assert await holder.wait() == 0
    assert daemons(root) == []
    assert entries(root) == []


@pytest.mark.parametrize("guard", ["deathsig", "pipe"])
async def test_the_node_learns_that_its_daemon_died(root: Path, guard: GuardKind) -> None:
    async with Daemon(config(root, guard=guard)) as daemon:
        watch = asyncio.create_task(daemon.watch())
        for pid in daemons(root):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(InternalError, match="p2pd ended"):
            async with asyncio.timeout(5):
                await watch


async def test_stopping_is_not_reported_as_a_death(root: Path) -> None:
    async with Daemon(config(root)) as daemon:
        watch = asyncio.create_task(daemon.watch())
        await asyncio.sleep(0)
    done, _ = await asyncio.wait({watch}, timeout=0.1)
    assert not done
    watch.cancel()


async def test_a_port_that_is_in_use_is_a_config_error(root: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is already in use"):
            async with Daemon(config(root, host_maddrs=(f"/ip4/127.0.0.1/tcp/{port}",))):
                pass
    assert entries(root) == []


async def test_two_daemons_do_not_share_a_port(root: Path) -> None:
    async with Daemon(config(root)) as first:
        listening = first.visible_maddrs[0].partition("/p2p/")[0]
        with pytest.raises(ConfigError, match="already in use"):
            async with Daemon(config(root, host_maddrs=(listening,))):
                pass


async def test_unreachable_initial_peers_are_named(root: Path) -> None:
    nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}"
    with pytest.raises(PeerUnreachable, match=nobody):
        async with Daemon(config(root, initial_peers=(nobody,))):
            pass
    assert entries(root) == []
    assert daemons(root) == []


@pytest.mark.parametrize(
    "options",
    [
        {"host_maddrs": ("nonsense",)},
        {"host_maddrs": ("/ip4/203.0.113.1/tcp/0",)},
        {"host_maddrs": ("/ip4/127.0.0.1/tcp/99999",)},
        {"initial_peers": ("/ip4/127.0.0.1/tcp/1",)},
        {"announce_maddrs": ("/ip4/127.0.0.1/tcp/0",)},
    ],
)
async def test_an_address_that_cannot_be_is_a_config_error(root: Path, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        async with Daemon(config(root, **options)):
            pass


def test_no_port_is_mapped_for_a_node_on_loopback(tmp_path: Path) -> None:
    identity = Identity.generate()
    local = arguments(DaemonConfig(identity), tmp_path)
    public = arguments(DaemonConfig(identity, host_maddrs=("/ip4/0.0.0.0/tcp/31330",)), tmp_path)
    assert "-natPortMap=0" in local
    assert "-natPortMap=1" in public


def test_a_runtime_directory_in_use_is_not_swept(root: Path) -> None:
    with RuntimeDirectory(root) as first, RuntimeDirectory(root) as second:
        assert first.path.is_dir()
        assert second.path.is_dir()
    assert entries(root) == []


def test_a_root_that_others_can_enter_is_refused(root: Path) -> None:
    root.chmod(0o755)
    with pytest.raises(ConfigError, match="only you"), RuntimeDirectory(root):
        pass
    link = root / "link"
    link.symlink_to(root)
    with pytest.raises(ConfigError, match="only you"), RuntimeDirectory(link):
        pass


def test_a_root_too_long_for_a_socket_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="shorter"), RuntimeDirectory(root / ("x" * 100)):
        pass


async def test_a_peer_that_was_disconnected_is_dialled_anew(root: Path) -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def serve(channel: Channel) -> None:
        await channel.send(Frame(b"here"))  # else a stream could be cut off before anybody here has heard of it
        try:
            await channel.receive()
        except PeerUnreachable as error:
            ended.put_nowait(str(error))

    async with (
        Daemon(config(root)) as first,
        HivemindTransport(first) as there,
        Daemon(config(root, initial_peers=first.visible_maddrs, client_mode=True)) as second,
        HivemindTransport(second) as here,
        asyncio.timeout(30),
    ):
        await there.serve("/mesh/test/1", serve)
        channel = await here.open(there.peer_id, "/mesh/test/1")
        assert (await channel.receive()).header == b"here"
        await second.disconnect(there.peer_id)
        with pytest.raises(PeerUnreachable):
            await channel.receive()
        await ended.get()
        again = await here.open(there.peer_id, "/mesh/test/1")
        await again.send(Frame(b"x"))
        await again.aclose()
        await second.connect(there.peer_id, first.visible_maddrs)
        with pytest.raises(PeerUnreachable):
            await second.connect(STRANGER, ("/ip4/127.0.0.1/tcp/1",), timeout=3.0)
        await second.disconnect(STRANGER)  # nothing happens
