"""Who may be reached through a relay, and how many circuits each may have (pure; times in seconds)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass

from mesh.wire.circuit import Status

PeerId = str


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What a relay gives. The defaults suit a small server."""

    reservations: int = 128
    """Peers that may be reached through us at a time …"""
    reservations_per_host: int = 16
    """… of which as many from one IP address: a household, or a provider's shared address."""
    reservation_seconds: int = 900
    """How long a place lasts; Go peers renew it two minutes before its end."""
    circuits: int = 512
    circuits_per_peer: int = 16
    """Counted at both ends."""
    circuit_seconds: int = 4 * 3600
    circuit_bytes: int = 64 << 30
    """Each way. Over either limit the circuit is cut; its peers dial anew, and running sessions go on elsewhere."""
    bytes_per_second: int = 0
    """Of one circuit, each way; 0: as fast as it goes."""
    idle_seconds: float = 120.0
    """libp2p says something every 30 s on every connection, so a circuit that is silent for this long is dead."""


class Places:
    """The reservations and the circuits of a relay."""

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._places: dict[PeerId, tuple[str, float]] = {}
        self._circuits: Counter[PeerId] = Counter()
        self._total = 0

    def __len__(self) -> int:
        return len(self._places)

    @property
    def circuits(self) -> int:
        """Those open now."""
        return self._total

    def reserve(self, peer: PeerId, host: str, now: float) -> Status:
        """Give or renew the place of a peer that is connected from `host`."""
        self._expire(now)
        others = [at for other, (at, _) in self._places.items() if other != peer]
        if len(others) >= self._limits.reservations or others.count(host) >= self._limits.reservations_per_host:
            return Status.RESERVATION_REFUSED
        self._places[peer] = host, now + self._limits.reservation_seconds
        return Status.OK

    def keep(self, connected: Container[PeerId], now: float) -> list[PeerId]:
        """Take the places of those that are not connected any more; returns them."""
        self._expire(now)
        gone = [peer for peer in self._places if peer not in connected]
        for peer in gone:
            del self._places[peer]
        return gone

    def open(self, source: PeerId, target: PeerId, now: float) -> Status:
        """Count a circuit in, if there may be one; after OK, `close` must follow."""
        self._expire(now)
        limits = self._limits
        if target not in self._places or source == target:
            return Status.NO_RESERVATION
        most = max(self._circuits[source], self._circuits[target])
        if most >= limits.circuits_per_peer or self._total >= limits.circuits:
            return Status.RESOURCE_LIMIT_EXCEEDED
        self._total += 1
        self._circuits.update((source, target))
        return Status.OK

    def close(self, source: PeerId, target: PeerId) -> None:
        """The circuit has ended."""
        self._total -= 1
        self._circuits.subtract((source, target))
        for peer in (source, target):
            if not self._circuits[peer]:
                del self._circuits[peer]

    def _expire(self, now: float) -> None:
        for peer in [peer for peer, (_, until) in self._places.items() if until <= now]:
            del self._places[peer]
