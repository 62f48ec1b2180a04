"""A relay for peers behind a NAT, spoken to by libp2p's circuit v2, with the Go daemon's streams underneath.

The daemon has a relay of its own, which cannot be relied on: it starts two of them, one with the limits asked for and
one that cuts every circuit after 128 KiB or two minutes, and chance decides which one answers (docs/decisions.md).
So every node answers for itself: a relay with its own limits, all others by refusing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from mesh.errors import InternalError, MeshError, PeerError, PeerTimeout, PeerUnreachable, ProtocolViolation
from mesh.transport import _hivemind
from mesh.transport.daemon import Daemon
from mesh.transport.memory import Streams
from mesh.transport.relay.places import Places, RelayLimits
from mesh.transport.relay.reading import read_message
from mesh.wire.circuit import (
    HOP_PROTOCOL,
    STOP_PROTOCOL,
    Connect,
    Limit,
    Reserve,
    Status,
    hop_status,
    read_hop,
    read_stop_status,
    reservation,
    stop_connect,
)
from mesh.wire.multiaddr import ip_of, is_relayed

log = logging.getLogger(__name__)

_CONTROL_SECONDS = 5.0  # for one answer of the daemon's control socket
_ASK_SECONDS = 10.0  # for a peer to say what it wants
_CONNECT_SECONDS = 10.0  # for the target of a circuit to answer
_KEEP_SECONDS = 5.0  # between two looks at who is still connected
_MAX_STREAMS = 2048  # that are open at a time, circuits included …
_MAX_PEER_STREAMS = 64  # … and as many of one peer
_CHUNK = 256 * 1024
_BUFFER = 1 << 20  # bytes of a circuit that wait here for a slow reader, each way
_REFUSE_ALL = RelayLimits(reservations=0)


class Relay:
    """Answers circuit requests of the daemon, which it does not own. Use as `async with`."""

    def __init__(
        self, daemon: Daemon, limits: RelayLimits | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Without `limits` this node is no relay: it refuses."""
        self._daemon = daemon
        self._limits = limits or _REFUSE_ALL
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: Counter[str] = Counter()
        self._keeper: asyncio.Task[None] | None = None
        self.places = Places(self._limits)
        self.relayed_bytes = 0
        """Bytes passed on so far, both ways together."""

    @property
    def limits(self) -> RelayLimits:
        return self._limits

    async def __aenter__(self) -> Self:
        """Raises `InternalError` when the daemon does not let us."""
        await self._serve_hops()
        self._daemon.on_restart(self._serve_hops)
        if self._limits.reservations:
            self._keeper = asyncio.create_task(self._keep(), name="relay places")
        return self

    async def _serve_hops(self) -> None:
        h = _hivemind.load()
        try:
            async with asyncio.timeout(_CONTROL_SECONDS):
                await self._daemon.p2p.add_binary_stream_handler(HOP_PROTOCOL, self._accept)
        except (TimeoutError, OSError, EOFError, h.P2PDaemonError) as error:
            raise InternalError(f"p2pd cannot serve {HOP_PROTOCOL}: {error!r}") from error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = self._tasks | ({self._keeper} if self._keeper is not None else set())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _accept(self, info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = info.peer_id.to_base58()
        most = max(_MAX_PEER_STREAMS, 2 * self._limits.circuits_per_peer)
        if len(self._tasks) >= _MAX_STREAMS or self._streams[peer] >= most:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(peer, info.addr.to_bytes(), reader, writer), name=f"relay {peer}")
        self._tasks.add(task)
        self._streams[peer] += 1

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]

        task.add_done_callback(ended)

    async def _serve(
        self, peer: str, address: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await self._answer(peer, self._daemon.text_of(address), (reader, writer))
        except (MeshError, OSError, EOFError) as error:
            log.debug("a circuit request of %s failed: %s", peer, error)
        finally:
            writer.transport.abort()

    async def _answer(self, peer: str, address: str, stream: Streams) -> None:
        reader, writer = stream
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                request = read_hop(await read_message(reader.readexactly))
        except TimeoutError:
            raise PeerTimeout("it asked for nothing", peer=peer) from None
        except ProtocolViolation:
            await _say(writer, hop_status(Status.MALFORMED_MESSAGE))
            raise
        if is_relayed(address) and self._limits.reservations:  # over another relay: no chains
            await _say(writer, hop_status(Status.PERMISSION_DENIED))
            return
        match request:
            case Reserve():
                host = str(ip_of(address))
                now = self._clock()
                status = self.places.reserve(peer, host, now)
                if status is Status.OK:
                    log.info("%s is reached through us", peer)
                    expires = int(now) + self._limits.reservation_seconds
                    await _say(writer, reservation(expires, self._daemon.visible_maddrs[:8], self._limit))
                else:
                    await _say(writer, hop_status(status))
            case Connect(peer=target):
                await self._connect(peer, target, stream)

    async def _connect(self, source: str, target: str, stream: Streams) -> None:
        status = self.places.open(source, target, self._clock())
        if status is not Status.OK:
            await _say(stream[1], hop_status(status))
            return
        try:
            try:
                other = await self._reach(source, target)
            except PeerError as error:
                log.info("%s could not be connected to %s: %s", source, target, error)
                await _say(stream[1], hop_status(Status.CONNECTION_FAILED))
                return
            try:
                await _say(stream[1], hop_status(Status.OK, self._limit), finish=False)
                log.info("relaying %s to %s", source, target)
                why = await self._splice(stream, other)
                log.info("the circuit of %s to %s ended: %s", source, target, why)
            finally:
                other[1].transport.abort()
        finally:
            self.places.close(source, target)

    @property
    def _limit(self) -> Limit:
        return Limit(self._limits.circuit_seconds, self._limits.circuit_bytes)

    async def _reach(self, source: str, target: str) -> Streams:
        """A stream to the target that has agreed to the circuit. Raises `PeerError`."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                # Opening a stream would dial; a place is only worth something while its owner is connected to us.
                if not any(not is_relayed(way) for way in (await self._daemon.connections()).get(target, ())):
                    self.places.keep((await self._daemon.connections()).keys(), self._clock())
                    raise PeerUnreachable("it is not connected any more", peer=target)
                reader, writer = await self._daemon.open_stream(target, STOP_PROTOCOL)
                try:
                    writer.write(stop_connect(source, self._limit))
                    await writer.drain()
                    status = read_stop_status(await read_message(reader.readexactly))
                    if status != Status.OK:
                        raise PeerUnreachable(f"it answers {status}", peer=target)
                except BaseException:
                    writer.transport.abort()
                    raise
        except TimeoutError:
            raise PeerTimeout("it does not answer", peer=target) from None
        except (OSError, EOFError) as error:
            raise PeerUnreachable(f"the stream to it broke: {error}", peer=target) from error
        return reader, writer

    async def _splice(self, one: Streams, other: Streams) -> str:
        """Pass bytes on both ways until one side ends or a limit is reached; returns why it ended."""
        tasks = {
            asyncio.create_task(self._pump(one[0], other[1])),
            asyncio.create_task(self._pump(other[0], one[1])),
        }
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=self._limits.circuit_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            return next(iter(done)).result() if done else f"{self._limits.circuit_seconds} s are over"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Pass bytes on one way; returns why it ended."""
        limits = self._limits
        writer.transport.set_write_buffer_limits(high=_BUFFER)
        passed = 0
        began = time.monotonic()
        most = min(_CHUNK, max(4096, limits.bytes_per_second // 4)) if limits.bytes_per_second else _CHUNK
        try:
            while True:
                async with asyncio.timeout(limits.idle_seconds):
                    data = await reader.read(min(most, limits.circuit_bytes - passed))
                    if not data:
                        return "closed" if passed < limits.circuit_bytes else f"{passed} bytes are over the limit"
                    writer.write(data)
                    await writer.drain()
                passed += len(data)
                self.relayed_bytes += len(data)
                if limits.bytes_per_second:
                    # A second's worth may go at once.
                    ahead = passed / limits.bytes_per_second - (time.monotonic() - began) - 1.0
                    if ahead > 0:
                        await asyncio.sleep(ahead)
        except TimeoutError:
            return f"silent for {limits.idle_seconds:g} s"
        except OSError as error:
            return f"broken: {error}"

    async def _keep(self) -> None:
        """Free the places of peers that have gone."""
        while True:
            await asyncio.sleep(_KEEP_SECONDS)
            try:
                connected = await self._daemon.connections()
            except InternalError as error:
                log.warning("%s", error)
                continue
            for peer in self.places.keep(connected.keys(), self._clock()):
                log.info("%s is not connected any more", peer)


async def _say(writer: asyncio.StreamWriter, answer: bytes, *, finish: bool = True) -> None:
    """Send an answer; with `finish` it is the last thing, and what is on its way may arrive before we break off."""
    writer.write(answer)
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            await writer.drain()
            if finish:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except TimeoutError:
        raise PeerTimeout("it does not read our answer") from None
