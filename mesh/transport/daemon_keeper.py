"""Keeps a node's own daemon running: notices when it ends or hangs, starts it again, gives up when that is no use."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import NoReturn

from mesh.errors import ConfigError, DescriptorsExhausted, InternalError, PeerError, PeerUnreachable
from mesh.transport.daemon import NO_DESCRIPTORS, Daemon
from mesh.transport.relay.local import own_addresses
from mesh.wire.multiaddr import ip_of, is_relayed

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 3.0  # for one earlier neighbour to be reached again
_MOST_NEIGHBOURS = 16


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a daemon counts as hung, and how often it is started again (seconds)."""

    look: float = 2.0
    """Between two questions whether it is there …"""
    answer: float = 3.0
    """… each of which it has so long for; …"""
    misses: int = 2
    """… so many without an answer, one after the other, mean that it hangs."""
    restarts: int = 5
    """So many restarts …"""
    window: float = 600.0
    """… in so long are tried; then the node ends, with an error."""
    first_pause: float = 0.25
    """Before the second restart in a row; doubled for each further one, up to …"""
    most_pause: float = 8.0


class DaemonKeeper:
    """`run` it beside a node for as long as that lives."""

    def __init__(self, daemon: Daemon, policy: RestartPolicy | None = None) -> None:
        self._daemon = daemon
        self._policy = policy or RestartPolicy()
        self._times: deque[float] = deque()
        self._neighbours: dict[str, tuple[str, ...]] = {}
        self._here: set[ipaddress.IPv4Address | ipaddress.IPv6Address] = set()
        """Of this machine's addresses those at which others reach us."""
        self.restarts = 0
        """Restarts that succeeded."""

    async def run(self) -> NoReturn:
        """Raises `InternalError` when the daemon has ended and cannot be kept running."""
        while True:
            reason = await self._failure()
            self._daemon.up.clear()
            log.warning("%s: starting it again, requests wait or are told to come back meanwhile", reason)
            await self._restart(reason)
            self.restarts += 1
            log.warning("p2pd runs again, as the same peer at the same addresses")

    async def _failure(self) -> str:
        """Wait until it ends or hangs; in words."""
        ended = asyncio.create_task(self._daemon.watch())
        hung = asyncio.create_task(self._hung())
        try:
            await asyncio.wait({ended, hung}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (ended, hung):
                task.cancel()
            await asyncio.gather(ended, hung, return_exceptions=True)
        for task in (ended, hung):
            if not task.cancelled() and (error := task.exception()) is not None:
                if not isinstance(error, InternalError):
                    raise error
                return str(error)
        return "p2pd does not answer any more"

    async def _hung(self) -> None:
        missed, short = 0, False
        while missed < self._policy.misses:
            try:
                self._neighbours = await self._daemon.connections(timeout=self._policy.answer)
                if short:
                    log.warning("files and sockets can be opened again")
                missed, short = 0, False
                await self._look_where_we_are()
                await asyncio.sleep(self._policy.look)
            except DescriptorsExhausted as error:
                # Our own trouble, and no sign that p2pd hangs; to start another would take even more of them.
                if not short:
                    log.error("%s (ulimit -n): newcomers wait until others have left", error)
                short = True
                await asyncio.sleep(self._policy.look)
            except InternalError as error:
                missed += 1
                log.info("%s", error)

    async def _look_where_we_are(self) -> None:
        """An address that this machine has no more took its connections with it, though nothing says so for minutes.

        Where another one of its kind stayed, as beside IPv6 addresses that come and go, connections are left alone.
        """
        maddrs = await self._daemon.refresh_maddrs(timeout=self._policy.answer)
        own = {ipaddress.ip_address(address) for address in own_addresses()}
        seen = {ip for maddr in maddrs if not is_relayed(maddr) and (ip := ip_of(maddr)) is not None}
        stayed = {ip.version for ip in self._here & own}
        gone = {ip for ip in self._here - own if ip.version not in stayed}
        self._here = {ip for ip in seen & own if not ip.is_loopback}
        if gone:
            log.warning("this machine has %s no longer: connecting anew", ", ".join(sorted(map(str, gone))))
            known = self._neighbours
            await asyncio.gather(*map(self._daemon.disconnect, known))
            await self.meet_neighbours()

    async def _restart(self, reason: str) -> None:
        """Until it runs again. Raises `InternalError` where that has been tried too often."""
        pause, alone = 0.0, False
        while True:
            now = time.monotonic()
            while self._times and now - self._times[0] > self._policy.window:
                self._times.popleft()
            if len(self._times) >= self._policy.restarts:
                tried = f"{len(self._times)} times again within {self._policy.window / 60:g} minutes"
                raise InternalError(f"p2pd was started {tried} and does not stay: {reason}")
            self._times.append(now)
            await asyncio.sleep(pause)
            pause = min(max(2 * pause, self._policy.first_pause), self._policy.most_pause)
            try:
                await self._daemon.restart(alone=alone)
            except PeerUnreachable as error:
                # None of the peers that we joined through is there now. Others know us, and will ask for us.
                reason, alone = str(error), True
            except OSError as error:
                reason = str(error)
                if error.errno in NO_DESCRIPTORS:
                    self._times.pop()  # that was no try
            except (ConfigError, InternalError, PeerError) as error:
                reason = str(error)
            else:
                return
            log.warning("p2pd could not be started again: %s", reason)

    async def meet_neighbours(self) -> list[str]:
        """After a restart: connect to those that we were connected to; who is there."""
        known = list(self._neighbours.items())[:_MOST_NEIGHBOURS]
        tries = [self._daemon.connect(peer, maddrs, timeout=_CONNECT_SECONDS) for peer, maddrs in known]
        results = await asyncio.gather(*tries, return_exceptions=True)
        return [peer for (peer, _), error in zip(known, results, strict=True) if error is None]
