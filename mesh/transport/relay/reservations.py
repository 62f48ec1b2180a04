"""Being reached through relays: places at all of them are taken, renewed, and taken again when a relay was away.

libp2p would do this itself, but it waits an hour before it asks a relay again that it has once asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from mesh.errors import InternalError, PeerError, PeerTimeout, PeerUnreachable
from mesh.transport.daemon import Daemon
from mesh.transport.relay.reading import read_message
from mesh.wire.circuit import HOP_PROTOCOL, RESERVE, Answer, Status, read_answer
from mesh.wire.multiaddr import is_relayed

log = logging.getLogger(__name__)

ASK_SECONDS: Final = 5.0
"""For one question to a relay."""
LOOK_SECONDS: Final = 1.0
"""Between two looks at whether a relay is still connected."""
RENEW_SECONDS: Final = 15.0
"""A place is renewed this often, so that a relay that is silently gone is noticed."""
FIRST_RETRY: Final = 1.0
LAST_RETRY: Final = 10.0
LAST_RETRY_REFUSED: Final = 300.0
"""Seconds until a relay is asked again: the first time, at most, and at most where it said no."""
LEAST_BYTES: Final = 64 << 20
LEAST_SECONDS: Final = 600
"""A relay that gives less to a connection is of no use for a session."""


class Refused(PeerError):
    """A relay does not take us."""


class Reservations:
    """Our places at `relays` (addresses that end in `/p2p/PEER_ID`), kept from `async with` on until it is left."""

    def __init__(self, daemon: Daemon, relays: tuple[str, ...]) -> None:
        self._daemon = daemon
        self._relays = {relay.rpartition("/p2p/")[2]: relay for relay in relays}
        self._held: dict[str, None] = {}
        self._asked: set[str] = set()
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def held(self) -> tuple[str, ...]:
        """The relays (peer ids) that we are reached through now."""
        return tuple(self._held)

    async def __aenter__(self) -> Self:
        for peer, maddr in self._relays.items():
            self._tasks.append(asyncio.create_task(self._keep(peer, maddr), name=f"place at relay {peer}"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def first(self, seconds: float) -> None:
        """Wait until a relay has taken us, all have been asked, or the time is over."""
        try:
            async with asyncio.timeout(seconds):
                while not self._held and len(self._asked) < len(self._relays):
                    await self._change()
        except TimeoutError:
            pass

    async def watch(self, tell: Callable[[tuple[str, ...]], None]) -> None:
        """Call `tell` with `held` whenever it changes, until cancelled."""
        told = set(self._held)
        while True:
            await self._change()
            if set(self._held) != told:
                told = set(self._held)
                tell(self.held)

    async def _change(self) -> None:
        changed = self._changed
        await changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _keep(self, peer: str, maddr: str) -> None:
        wait = FIRST_RETRY
        while True:
            try:
                answer = await self._ask(peer, maddr)
                if peer not in self._held:
                    log.info("relay %s takes us", peer)
                self._held[peer] = None
                self._asked.add(peer)
                self._tell()
                wait = FIRST_RETRY
                await self._stay(peer, min(RENEW_SECONDS, max(1.0, (answer.expires - time.time()) / 2)))
                continue
            except (PeerError, InternalError) as error:
                log.log(logging.WARNING if peer in self._held else logging.DEBUG, "relay %s: %s", peer, error)
                most = LAST_RETRY_REFUSED if isinstance(error, Refused) else LAST_RETRY
                wait = min(2 * wait, most)
            self._held.pop(peer, None)
            self._asked.add(peer)
            self._tell()
            await asyncio.sleep(wait / 2)

    async def _stay(self, peer: str, seconds: float) -> None:
        """Wait for the time to renew. Raises `PeerUnreachable` when the connection to the relay is gone."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(LOOK_SECONDS)
            ways = (await self._daemon.connections()).get(peer, ())
            if all(map(is_relayed, ways)):
                raise PeerUnreachable("the connection to it is gone", peer=peer)

    async def _ask(self, peer: str, maddr: str) -> Answer:
        """Take or renew a place. Raises `PeerError`s."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await _knock(maddr)
                ways = (await self._daemon.connections()).get(peer, ())
                if ways and all(map(is_relayed, ways)):  # it reached us through another relay, which is no use here
                    await self._daemon.disconnect(peer)
                await self._daemon.connect(peer, (maddr,))
                reader, writer = await self._daemon.open_stream(peer, HOP_PROTOCOL)
                try:
                    writer.write(RESERVE)
                    await writer.drain()
                    answer = read_answer(await read_message(reader.readexactly))
                finally:
                    writer.transport.abort()
        except TimeoutError:
            raise PeerTimeout("it does not answer", peer=peer) from None
        except (OSError, EOFError) as error:
            raise PeerUnreachable(f"the connection to it broke: {error!r}", peer=peer) from error
        if answer.status != Status.OK:
            raise Refused(f"it refuses us ({answer.status})", peer=peer)
        limit = answer.limit
        if 0 < limit.bytes < LEAST_BYTES or 0 < limit.seconds < LEAST_SECONDS:
            raise Refused(f"it cuts connections after {limit.bytes} bytes or {limit.seconds} s: no use", peer=peer)
        return answer


async def _knock(maddr: str) -> None:
    """See whether anybody listens there at all. Raises `OSError`.

    The daemon waits longer after every dial that failed, up to five minutes, and would miss a relay that is back.
    """
    match maddr.split("/"):
        case ["", "ip4" | "ip6" | "dns" | "dns4" | "dns6", host, "tcp", port, *_]:
            _, writer = await asyncio.open_connection(host, int(port))
            writer.transport.abort()
