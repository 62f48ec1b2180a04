"""Starts the Go libp2p daemon (p2pd), connects hivemind's `P2P` to it, and makes it die with us."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from mesh.errors import ConfigError, DescriptorsExhausted, InternalError, PeerUnreachable
from mesh.identity import Identity
from mesh.transport import _hivemind
from mesh.transport.daemon_config import DaemonConfig, arguments, check_ports, control_socket, with_ports_of
from mesh.transport.foreign import foreign_environment
from mesh.transport.guard import guarded
from mesh.transport.runtime_dir import RuntimeDirectory
from mesh.wire import multiaddr

log = logging.getLogger(__name__)
daemon_log = logging.getLogger("mesh.p2pd")

NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
_CONTROL_TIMEOUT = 5.0  # seconds for one answer of the daemon's control socket
_STOP_TIMEOUT = 2.0  # seconds for the daemon to end when asked, before it is killed
_LINE_LIMIT = 1 << 20  # bytes of one line of its output

UNKNOWN = "/unknown"


class _Failed(Exception):
    """p2pd did not do what it was asked."""


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
        self._life = contextlib.AsyncExitStack()
        """Ends the process that runs now."""
        self._directory: Path
        self._restarted: list[Callable[[], Awaitable[None]]] = []
        self.up = asyncio.Event()
        """Set while the process runs and answers, as far as is known."""
        self.p2p: Any = None
        """hivemind's `P2P`, connected to the daemon; another one after a restart."""
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
            self._directory = stack.enter_context(RuntimeDirectory(self._config.runtime_root)).path
            stack.push_async_callback(self._end_life)
            await self._begin_life()
            self.up.set()
            self._cleanup = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        await self._cleanup.aclose()

    async def watch(self) -> NoReturn:
        """Raises `InternalError` when p2pd ends though we did not stop it."""
        await self._process.wait()
        if self._stopping:
            await asyncio.Event().wait()
        self.up.clear()
        last = "; ".join(self._last_lines) or "no output"
        raise InternalError(f"p2pd ended with code {self._process.returncode} while in use ({last})")

    def on_restart(self, serve_again: Callable[[], Awaitable[None]]) -> None:
        """After a restart `serve_again` is called, in the order of these calls: what the old process knew is lost."""
        self._restarted.append(serve_again)

    async def restart(self, *, alone: bool = False) -> None:
        """End the process, if it runs still, and start another with the same identity and ports.

        `alone`: without bootstrapping, where none of the initial peers is there. Raises as entering does.
        """
        self.up.clear()
        await self._end_life()
        self._config = with_ports_of(self._config, self.visible_maddrs)
        await self._begin_life(bootstrap=not alone)
        for serve_again in self._restarted:
            await serve_again()
        self.up.set()

    async def _begin_life(self, *, bootstrap: bool = True) -> None:
        config = self._config if bootstrap else replace(self._config, initial_peers=())
        async with contextlib.AsyncExitStack() as life:
            await self._start(config, self._directory, life)
            await self._connect(self._directory)
            self._life = life.pop_all()

    async def _end_life(self) -> None:
        await self._life.aclose()

    async def connect(self, peer: str, maddrs: tuple[str, ...], *, timeout: float = 10.0) -> None:
        """Tell the daemon where `peer` is and connect to it. Raises `PeerUnreachable`."""
        h = _hivemind.load()
        try:
            # hivemind's own encoding gets relayed addresses wrong.
            addresses = [multiaddr.encode(maddr.removesuffix(f"/p2p/{peer}")) for maddr in maddrs]
            request = h.p2pd_pb2.ConnectRequest(peer=h.PeerID.from_base58(peer).to_bytes(), addrs=addresses)
            await self._ask("CONNECT", timeout=timeout, connect=request)
        except (_Failed, ValueError) as error:
            raise PeerUnreachable(f"{peer} cannot be reached: {error}", peer=peer) from error

    async def disconnect(self, peer: str) -> None:
        """Have the daemon give up its connections to `peer`, so that the next channel dials anew.

        A connection that was cut off for a while only goes on when TCP asks again, at intervals that double.
        """
        h = _hivemind.load()
        try:
            request = h.p2pd_pb2.DisconnectRequest(peer=h.PeerID.from_base58(peer).to_bytes())
            await self._ask("DISCONNECT", disconnect=request)
        except (_Failed, ValueError) as error:
            log.debug("p2pd did not disconnect %s: %s", peer, error)

    async def refresh_maddrs(self, *, timeout: float = _CONTROL_TIMEOUT) -> tuple[str, ...]:
        """Ask the daemon again where we can be reached: addresses come and go (a port mapping)."""
        try:
            answer = await self._ask("IDENTIFY", timeout=timeout)
        except _Failed as error:
            raise InternalError(f"p2pd does not say where it is: {error}") from error
        known = [self.text_of(maddr) for maddr in answer.identify.addrs]
        behind_nat = bool(self._config.relays)

        def far(maddr: str) -> tuple[bool, bool]:
            """Others join through the first: one that leads to us from elsewhere, if there is one."""
            ip = multiaddr.ip_of(maddr)
            return multiaddr.is_relayed(maddr) != behind_nat, ip is not None and ip.is_loopback

        known = sorted((maddr for maddr in known if maddr != UNKNOWN), key=far)
        self.visible_maddrs = tuple(f"{maddr}/p2p/{self.peer_id}" for maddr in known)
        return self.visible_maddrs

    async def open_stream(self, peer: str, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A stream of bytes to a peer. Raises `PeerUnreachable` or `OSError`; the caller sets the deadline."""
        h = _hivemind.load()
        pb = h.p2pd_pb2
        remote = h.PeerID.from_base58(peer).to_bytes()
        request = pb.Request(
            type=pb.Request.STREAM_OPEN, streamOpen=pb.StreamOpenRequest(peer=remote, proto=[protocol])
        )
        reader, writer, answer = await self._converse(request)
        if answer.type == pb.Response.ERROR:
            writer.transport.abort()
            raise PeerUnreachable(f"{peer} cannot be reached for {protocol}: {answer.error.msg}", peer=peer)
        if answer.streamInfo.peer != remote:
            writer.transport.abort()
            raise PeerUnreachable("the daemon connected us to another peer", peer=peer)
        return reader, writer

    async def connections(self, *, timeout: float = _CONTROL_TIMEOUT) -> dict[str, tuple[str, ...]]:
        """Whom we are connected to, and the address at the other end of each connection.

        Raises `InternalError` when p2pd is gone, or does not answer in time, and `DescriptorsExhausted`.
        """
        h = _hivemind.load()
        try:
            answer = await self._ask("LIST_PEERS", timeout=timeout)
        except _Failed as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in NO_DESCRIPTORS:
                raise DescriptorsExhausted("this process may open no more files and sockets") from error
            raise InternalError(f"p2pd does not say whom it knows: {error}") from error
        ways: dict[str, list[str]] = {}
        for info in answer.peers:
            ways.setdefault(h.PeerID(info.id).to_base58(), []).extend(map(self.text_of, info.addrs))
        return {peer: tuple(addresses) for peer, addresses in ways.items()}

    async def addresses_of(self, peer: str) -> tuple[str, ...]:
        """Where a peer says that it can be reached, as far as libp2p's own DHT knows. Raises `PeerUnreachable`."""
        h = _hivemind.load()
        pb = h.p2pd_pb2
        wanted = h.PeerID.from_base58(peer).to_bytes()
        question = pb.DHTRequest(type=pb.DHTRequest.FIND_PEER, peer=wanted, timeout=int(_CONTROL_TIMEOUT))
        try:
            answer = await self._ask("DHT", dht=question)
        except _Failed as error:
            raise PeerUnreachable(f"{peer} is not found: {error}", peer=peer) from error
        return tuple(map(self.text_of, answer.dht.peer.addrs))

    async def _ask(self, kind: str, *, timeout: float = _CONTROL_TIMEOUT, **fields: Any) -> Any:
        """One request to p2pd and its answer. Raises `_Failed`."""
        pb = _hivemind.load().p2pd_pb2
        try:
            async with asyncio.timeout(timeout):
                _, writer, answer = await self._converse(pb.Request(type=pb.Request.Type.Value(kind), **fields))
        except TimeoutError as error:
            raise _Failed(f"no answer in {timeout:g} s") from error
        except (OSError, EOFError) as error:
            raise _Failed(repr(error)) from error
        writer.transport.abort()
        if answer.type == pb.Response.ERROR:
            raise _Failed(answer.error.msg)
        return answer

    async def _converse(self, request: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Any]:
        """p2pd's answer, on a connection that is the caller's. hivemind's own calls leak theirs when cancelled."""
        h = _hivemind.load()
        reader, writer = await self.p2p._client.control.daemon_connector.open_connection()
        try:
            await h.write_message(writer, request)
            answer = h.p2pd_pb2.Response()
            await h.read_message(reader, answer)
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer, answer

    @staticmethod
    def text_of(address: bytes) -> str:
        """An address that the daemon gave us; `UNKNOWN` for a kind that we cannot read."""
        try:
            return multiaddr.decode(address)
        except ValueError:
            return UNKNOWN

    async def _start(self, config: DaemonConfig, directory: Path, stack: contextlib.AsyncExitStack) -> None:
        check_ports(config)
        control_socket(directory).unlink(missing_ok=True)  # of one that was killed
        key = directory / "identity.key"
        key.touch(mode=0o600)
        key.write_bytes(config.identity.to_protobuf())
        self._process = await asyncio.create_subprocess_exec(
            *guarded(arguments(config, directory), config.guard),
            stdin=asyncio.subprocess.PIPE if config.guard == "pipe" else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_LIMIT,
            env=foreign_environment(os.environ, GOLOG_LOG_LEVEL="error", GOLOG_LOG_FMT="json"),
            start_new_session=True,  # Ctrl-C is for us; the daemon goes on until we have said our goodbyes
        )
        stack.push_async_callback(self._stop)
        ready = asyncio.Event()
        self._reader = asyncio.create_task(self._read_output(ready), name="p2pd output")
        started = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait(
                {started, self._reader},
                timeout=config.startup_timeout,
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
                self.p2p = await private.replicate(h.Multiaddr(f"/unix{control_socket(directory)}"))
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
