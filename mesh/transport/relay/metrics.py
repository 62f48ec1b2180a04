"""What a relay shows to Prometheus: its places, its circuits, and what went through them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mesh.transport.relay.service import Relay


class RelayCollector(Collector):
    """Reads the relay whenever it is asked."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def collect(self) -> Iterator[Metric]:
        """All of it."""
        relay = self._relay
        gauges: tuple[tuple[str, str, float], ...] = (
            ("reservations", "Nodes that are reached through it now.", len(relay.places)),
            ("reservations_limit", "So many there may be.", relay.limits.reservations),
            ("circuits", "Connections that are passed on now.", relay.places.circuits),
            ("circuits_limit", "So many there may be.", relay.limits.circuits),
        )
        for name, text, value in gauges:
            yield GaugeMetricFamily(f"mesh_relay_{name}", text, value)
        yield CounterMetricFamily("mesh_relay_bytes", "Bytes passed on, both ways.", relay.relayed_bytes)


def relay_registry(relay: Relay) -> CollectorRegistry:
    """The relay's figures, and those of its process."""
    registry = CollectorRegistry()
    registry.register(RelayCollector(relay))
    ProcessCollector(registry=registry)
    return registry
