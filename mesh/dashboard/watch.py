"""Looks at the swarm for the dashboard: the offers that a client keeps, and providers asked whether they are there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self

from mesh.client.catalog import Offer
from mesh.dashboard.snapshot import About, Opinion, Probe, RequestRow, Snapshot, snapshot
from mesh.errors import MeshError, PeerError
from mesh.transport.pairs_service import ask_pairs
from mesh.transport.port import Transport

log = logging.getLogger(__name__)


class SwarmSource(Protocol):
    """What is needed of a client; `mesh.client.backend.SwarmBackend` is the real one."""

    async def listed(self) -> Sequence[Offer]:
        """Everything that is announced, as it was known not long ago. Raises `MeshError`."""

    def opinion(self) -> tuple[Mapping[str, int], Mapping[str, float]]:
        """Our sessions by peer, and how many times slower than they say peers count that have failed."""


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """How often and how much is asked (seconds)."""

    offers_seconds: float = 1.0
    patience: float = 0.3
    """So long a look waits for new offers; older ones are shown then …"""
    first_patience: float = 3.0
    """… but so long where there are none yet."""
    offers_timeout: float = 15.0
    probe_seconds: float = 2.5
    """Every provider is asked so often, where there are not too many …"""
    probes_per_second: float = 20.0
    """… for this."""
    again_seconds: float = 0.5
    """One that did not answer is asked once more after this, before it is said to be gone."""
    probe_timeout: float = 2.0
    probes_at_once: int = 16


class SwarmWatch:
    """Use as `async with`. `look` is cheap: what takes time goes on beside it, and only as long as it is called."""

    def __init__(
        self,
        source: SwarmSource,
        transport: Transport,
        about: Callable[[], About],
        requests: Callable[[], Mapping[str, RequestRow]] = dict,
        config: WatchConfig | None = None,
    ) -> None:
        """`about` and `requests` are asked at every look."""
        self._source = source
        self._transport = transport
        self._about = about
        self._requests = requests
        self._config = config or WatchConfig()
        self._tasks = asyncio.TaskGroup()
        self._offers: Sequence[Offer] = ()
        self._offers_at = -float("inf")
        self._problem: str | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._probes: dict[str, tuple[float, Probe]] = {}
        """By peer: when it is to be asked again, and what it said."""
        self._missed: set[str] = set()
        """Those that did not answer once."""
        self._probing: dict[str, asyncio.Task[None]] = {}
        self._probe_due = -float("inf")

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in (self._renewing, *self._probing.values()):
            if task is not None:
                task.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    async def look(self) -> Snapshot:
        """The swarm as it is known now."""
        await self._renew_offers()
        self._start_probes()
        ours, trouble = self._source.opinion()
        return snapshot(
            replace(self._about(), problem=self._problem),
            self._offers,
            {peer: probe for peer, (_, probe) in self._probes.items()},
            Opinion(ours, trouble),
            self._requests(),
        )

    async def _renew_offers(self) -> None:
        config, now = self._config, time.monotonic()
        if self._renewing is None and now - self._offers_at >= config.offers_seconds:
            self._renewing = self._tasks.create_task(self._ask_offers())
        if self._renewing is not None:
            patience = config.patience if self._offers else config.first_patience
            await asyncio.wait({self._renewing}, timeout=patience)

    async def _ask_offers(self) -> None:
        try:
            async with asyncio.timeout(self._config.offers_timeout):
                self._offers = await self._source.listed()
            self._problem = None
        except (MeshError, TimeoutError) as error:
            log.info("the swarm could not be looked at: %r", error)
            self._problem = "the swarm does not answer"
        finally:
            self._offers_at = time.monotonic()
            self._renewing = None

    def _start_probes(self) -> None:
        """Ask those whose turn it is, the longest unasked first."""
        config, now = self._config, time.monotonic()
        peers = dict.fromkeys(record.peer for offer in self._offers for record in offer.records)
        for peer in [peer for peer in self._probes if peer not in peers]:
            del self._probes[peer]
        self._missed &= peers.keys()
        allowed = int((now - max(self._probe_due, now - 1.0)) * config.probes_per_second)
        self._probe_due = now
        room = min(allowed, config.probes_at_once - len(self._probing))
        due = [
            (self._probes[peer][0] if peer in self._probes else 0.0, peer)
            for peer in peers
            if peer not in self._probing and (peer not in self._probes or now >= self._probes[peer][0])
        ]
        for _, peer in sorted(due)[: max(0, room)]:
            self._probing[peer] = self._tasks.create_task(self._probe(peer))

    async def _probe(self, peer: str) -> None:
        config, began = self._config, time.monotonic()
        try:
            pairs = await ask_pairs(self._transport, peer, timeout=config.probe_timeout)
        except PeerError as error:
            log.debug("%s does not answer: %s", peer, error)
            self._note_silence(peer)
        else:
            self._missed.discard(peer)
            probe = Probe(True, (time.monotonic() - began) * 1000, pairs)
            self._probes[peer] = time.monotonic() + config.probe_seconds, probe
        finally:
            self._probing.pop(peer, None)

    def _note_silence(self, peer: str) -> None:
        now, known = time.monotonic(), self._probes.get(peer)
        if peer in self._missed or known is None:
            self._probes[peer] = now + self._config.probe_seconds, Probe(False)
        else:
            self._probes[peer] = now + self._config.again_seconds, known[1]
        self._missed.add(peer)
