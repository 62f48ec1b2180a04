"""Starts the Go libp2p daemon (p2pd), connects hivemind's `P2P` to it, and makes it die with us."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import sys
from collections import deque
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self

from mesh.errors import ConfigError, InternalError, PeerUnreachable
from mesh.identity import Identity
from mesh.transport import _hivemind
from mesh.transport.runtime_dir import RuntimeDirectory

log = logging.getLogger(__name__)
daemon_log = logging.getLogger("mesh.p2pd")

_GUARD = Path(__file__).with_name("guard.py")
_CONTROL_TIMEOUT = 5.0  # seconds for one answer of the daemon's control socket
_STOP_TIMEOUT = 2.0  # seconds for the daemon to end when asked, before it is killed
_LINE_LIMIT = 1 << 20  # bytes of one line of its output
_CIRCUIT = b"\xa2\x02"  # /p2p-circuit in a binary multiaddr; hivemind's own parser trips over what comes before it

GuardKind = Literal["deathsig", "pipe"]


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """How the node appears on the network. Addresses are multiaddrs, as in `/ip4/0.0.0.0/tcp/31330`."""

    identity: Identity
    host_maddrs: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    """Where to listen; port 0 takes a free one. Give `/ip4/0.0.0.0/tcp/PORT` to be reached from elsewhere."""
    announce_maddrs: tuple[str, ...] = ()
    """The addresses to tell others, where they are not those we listen on (a forwarded port)."""
    initial_peers: tuple[str, ...] = ()
    """Peers to join the swarm through, each ending in `/p2p/PEER_ID`. None starts a new swarm."""
    client_mode: bool = False
    """Listen nowhere: open connections, accept none."""
    trusted_relays: tuple[str, ...] = ()
    """Relays through which to be reached when we are behind a NAT."""
    startup_timeout: float = 20.0
    runtime_root: Path | None = None
    """Where sockets go: a short path that only this user can use (default `/tmp/mesh-UID`)."""
    guard: GuardKind = "deathsig" if sys.platform == "linux" else "pipe"


class Daemon:
    """A running p2pd. `async with Daemon(config) as daemon:` starts it and stops it.

    Enter it on the thread that lives as long as the node does: on Linux the daemon dies with that thread.
    """

    def __init__(self, config: DaemonConfig) -> None:
        self._config = config
        self._process: asyncio.subprocess.Process
        self._reader: asyncio.Task[None] | None = None
        self._last_lines: deque[str] = deque(maxlen=5)
        self._stopping = False
        self._cleanup: contextlib.AsyncExitStack
        self.p2p: Any = None
        """hivemind's `P2P`, connected to the daemon."""
        self.visible_maddrs: tuple[str, ...] = ()
        """Where others can reach us, each ending in `/p2p/PEER_ID`; empty in client mode."""

    @property
    def peer_id(self) -> str:
        return self._config.identity.peer_id

    @property
    def identity(self) -> Identity:
        return self._config.identity

    @property
    def initial_peers(self) -> tuple[str, ...]:
        return self._config.initial_peers

    @property
    def client_mode(self) -> bool:
        return self._config.client_mode

    @property
    def pid(self) -> int:
        """The process id of p2pd (of its guard where that is not Linux)."""
        return self._process.pid

    async def __aenter__(self) -> Self:
        """Raises `ConfigError` (port in use, bad address) or `PeerUnreachable` (no initial peer answers)."""
        _hivemind.load()
        async with contextlib.AsyncExitStack() as stack:
            directory = stack.enter_context(RuntimeDirectory(self._config.runtime_root)).path
            await self._start(directory, stack)
            await self._connect(directory)
            self._cleanup = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        await self._cleanup.aclose()

    async def watch(self) -> NoReturn:
        """Run this beside the node: raises `InternalError` when p2pd ends though we did not stop it."""
        await self._process.wait()
        if self._stopping:
            await asyncio.Event().wait()
        last = "; ".join(self._last_lines) or "no output"
        raise InternalError(f"p2pd ended with code {self._process.returncode} while in use ({last})")

    async def connect(self, peer: str, maddrs: tuple[str, ...], *, timeout: float = 10.0) -> None:
        """Tell the daemon where `peer` is and connect to it. Raises `PeerUnreachable`."""
        h = _hivemind.load()
        try:
            async with asyncio.timeout(timeout):
                addresses = [h.Multiaddr(maddr.removesuffix(f"/p2p/{peer}")) for maddr in maddrs]
                await self.p2p._client.connect(h.PeerID.from_base58(peer), addresses)
        except (h.P2PDaemonError, OSError, ValueError, asyncio.IncompleteReadError) as error:
            raise PeerUnreachable(f"{peer} cannot be reached: {error}", peer=peer) from error

    async def disconnect(self, peer: str) -> None:
        """Have the daemon give up its connections to `peer`, so that the next channel dials anew.

        A connection that was cut off for a while only goes on when TCP asks again, at intervals that double.
        """
        h = _hivemind.load()
        try:
            async with asyncio.timeout(_CONTROL_TIMEOUT):
                await self.p2p._client.disconnect(h.PeerID.from_base58(peer))
        except (TimeoutError, OSError, EOFError, ValueError, h.P2PDaemonError) as error:
            log.debug("p2pd did not disconnect %s: %r", peer, error)

    async def refresh_maddrs(self) -> tuple[str, ...]:
        """Ask the daemon again where we can be reached: addresses come and go (a relay, a port mapping)."""
        async with asyncio.timeout(_CONTROL_TIMEOUT):
            _, maddrs = await self.p2p._client.identify()
        self.visible_maddrs = tuple(f"{maddr}/p2p/{self.peer_id}" for maddr in maddrs)
        return self.visible_maddrs

    async def relayed_peers(self) -> frozenset[str]:
        """The peers that we are connected to through relays only. Raises `InternalError` when p2pd is gone."""
        h = _hivemind.load()
        try:
            async with asyncio.timeout(_CONTROL_TIMEOUT):
                peers = await self.p2p.list_peers()
        except (TimeoutError, OSError, EOFError, h.P2PDaemonError) as error:
            raise InternalError(f"p2pd does not say whom it knows: {error!r}") from error
        ways: dict[str, list[bool]] = {}
        for info in peers:
            relayed = ways.setdefault(info.peer_id.to_base58(), [])
            relayed.extend(_CIRCUIT in address.to_bytes() for address in info.addrs)
        return frozenset(peer for peer, relayed in ways.items() if relayed and all(relayed))

    async def _start(self, directory: Path, stack: contextlib.AsyncExitStack) -> None:
        check_ports(self._config)
        key = directory / "identity.key"
        key.touch(mode=0o600)
        key.write_bytes(self._config.identity.to_protobuf())
        python = [sys.executable, "-I", "-S", str(_GUARD), self._config.guard, str(os.getpid())]
        self._process = await asyncio.create_subprocess_exec(
            *python,
            *arguments(self._config, directory),
            stdin=asyncio.subprocess.PIPE if self._config.guard == "pipe" else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_LIMIT,
            env={**os.environ, "GOLOG_LOG_LEVEL": "error", "GOLOG_LOG_FMT": "json"},
            start_new_session=True,  # Ctrl-C is for us; the daemon goes on until we have said our goodbyes
        )
        stack.push_async_callback(self._stop)
        ready = asyncio.Event()
        self._reader = asyncio.create_task(self._read_output(ready), name="p2pd output")
        started = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait(
                {started, self._reader},
                timeout=self._config.startup_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            started.cancel()
        if not ready.is_set():
            raise self._explain(late=not self._reader.done())
        key.unlink()

    async def _connect(self, directory: Path) -> None:
        h = _hivemind.load()
        # hivemind puts its own socket under this prefix; ours is a directory that nobody else can enter.
        private: Any = type("PrivateP2P", (h.P2P,), {"_UNIX_SOCKET_PREFIX": f"/unix{directory}/"})
        try:
            async with asyncio.timeout(_CONTROL_TIMEOUT):
                self.p2p = await private.replicate(h.Multiaddr(f"/unix{_control_socket(directory)}"))
        except (TimeoutError, h.P2PDaemonError, OSError, asyncio.IncompleteReadError) as error:
            raise InternalError(f"p2pd started but does not answer: {error!r}") from error
        if self.p2p.peer_id.to_base58() != self.peer_id:
            raise InternalError(f"p2pd took the peer id {self.p2p.peer_id} instead of {self.peer_id}")
        await self.refresh_maddrs()

    async def _disconnect(self) -> None:
        if self.p2p is None:
            return
        client = self.p2p._client.control
        tasks = [task for task in (client._read_task, client._write_task, self.p2p._listen_task) if task is not None]
        await self.p2p.shutdown()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_TIMEOUT)

    async def _stop(self) -> None:
        process = self._process
        # Once its output has ended it ends by itself; `terminate` would race with asyncio's wait. For the same
        # reason it is told to end before we disconnect, upon which it would end as well.
        if process.returncode is None and (self._reader is None or not self._reader.done()):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        await self._disconnect()
        if not await self._ended() and process.stdin is not None:
            process.stdin.close()  # the guard kills p2pd; killing the guard itself would set it free
            await self._ended()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        if process.stdin is not None:
            process.stdin.close()
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=_STOP_TIMEOUT)
            self._reader.cancel()

    async def _ended(self) -> bool:
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    async def _read_output(self, ready: asyncio.Event) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                raw = await self._process.stdout.readline()
            except ValueError:
                continue  # a line over the limit, thrown away
            if not raw:
                return
            line = raw.decode(errors="replace").rstrip()
            if line.startswith("Peer ID:"):
                ready.set()
            elif line.startswith("{"):
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    line = " ".join(str(record[name]) for name in ("logger", "msg", "error") if name in record)
            self._last_lines.append(line[:500])
            daemon_log.debug("%s", line)

    def _explain(self, *, late: bool) -> Exception:
        """Why p2pd did not start, from the last it said."""
        config = self._config
        output = "\n".join(self._last_lines)
        if "failed to connect to bootstrap peers" in output or (late and config.initial_peers):
            peers = ", ".join(config.initial_peers)
            return PeerUnreachable(f"none of the initial peers could be reached: {peers}")
        if "multiaddr" in output or "bind:" in output or "listen on any" in output:
            return ConfigError(f"p2pd does not accept an address: {output}")
        if late:
            return InternalError(f"p2pd did not start within {config.startup_timeout:g} s: {output}")
        return InternalError(f"p2pd did not start: {output or 'it said nothing'}")


def arguments(config: DaemonConfig, directory: Path) -> list[str]:
    """The command line of p2pd; its sockets and key are in `directory`. Raises `ConfigError`."""
    for maddr in config.announce_maddrs:
        if maddr.endswith(("/tcp/0", "/udp/0")):
            raise ConfigError(f"an address to announce needs a port: {maddr}")
    for maddr in config.initial_peers:
        if "/p2p/" not in maddr:
            raise ConfigError(f"an initial peer's address ends in /p2p/PEER_ID, got {maddr}")
    local = all(maddr.startswith(("/ip4/127.", "/ip6/::1/")) for maddr in config.host_maddrs)
    flags: dict[str, object] = {
        "listen": f"/unix{_control_socket(directory)}",
        "id": directory / "identity.key",
        "idleTimeout": f"{config.startup_timeout + 10:g}s",
        "dhtClient" if config.client_mode else "dhtServer": 1,
        "connManager": 1,
        "tls": 1,
        "relay": 1,
        "autonat": int(not local),
        "natPortMap": int(not local and not config.client_mode),
    }
    if config.client_mode:
        flags["noListenAddrs"] = 1
    else:
        flags["hostAddrs"] = ",".join(config.host_maddrs)
    if config.announce_maddrs:
        flags["announceAddrs"] = ",".join(config.announce_maddrs)
    if config.initial_peers:
        flags["b"] = 1
        flags["bootstrapPeers"] = ",".join(config.initial_peers)
    if config.trusted_relays:
        # Without relayDiscovery=0 the daemon looks for other relays for three minutes before it uses these.
        flags |= {"autoRelay": 1, "relayDiscovery": 0, "trustedRelays": ",".join(config.trusted_relays)}
    return [str(_binary()), *(f"-{name}={value}" for name, value in flags.items())]


def check_ports(config: DaemonConfig) -> None:
    """Raise `ConfigError` when a port to listen on is taken.

    p2pd would not notice: it shares a port with another p2pd (SO_REUSEPORT), and each gets half of the calls.
    """
    if config.client_mode:
        return
    for maddr in config.host_maddrs:
        match maddr.split("/"):
            case ["", "ip4" | "ip6" as family, host, "tcp" | "udp" as kind, port, *_] if port.isdecimal():
                with socket.socket(
                    socket.AF_INET if family == "ip4" else socket.AF_INET6,
                    socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM,
                ) as probe:
                    if kind == "tcp":  # connections of an earlier run that are still closing do not count
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        probe.bind((host, int(port)))
                    except (OSError, OverflowError) as error:
                        if getattr(error, "errno", None) == errno.EADDRINUSE:
                            problem = f"port {port} is already in use ({maddr}): stop what uses it or take another"
                        else:
                            problem = f"cannot listen on {maddr}: {error}"
                        raise ConfigError(problem) from error
            case _:
                pass  # p2pd judges it


def _control_socket(directory: Path) -> Path:
    return directory / "p2pd.sock"


def _binary() -> Path:
    spec = find_spec("hivemind")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "hivemind_cli" / "p2pd"
        if path.is_file():
            return path
    raise ConfigError("hivemind's p2pd is not installed: run `pip install --force-reinstall hivemind`")
