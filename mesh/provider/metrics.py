"""What a provider shows to Prometheus: the figures of its record as they are now, and the work that it has done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mesh.discovery.records import State
from mesh.provider.readings import Meter

STATES: Final[tuple[State, ...]] = get_args(State)


class ProviderCollector(Collector):
    """Reads the meter whenever it is asked."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def collect(self) -> Iterator[Metric]:
        """All of it; nothing before the provider has joined."""
        if self._meter.read is None:
            return
        reading = self._meter.read()
        record = reading.record
        info = GaugeMetricFamily("mesh_provider_info", "Who this is.", labels=("peer", "model", "numerics", "version"))
        info.add_metric((record.peer, record.model, record.numerics, record.version), 1)
        yield info
        state = GaugeMetricFamily("mesh_provider_state", "1 for the state that it is in.", labels=("state",))
        for each in STATES:
            state.add_metric((each,), each == record.state)
        yield state
        gauges: tuple[tuple[str, str, float], ...] = (
            ("first_block", "The first block that it serves.", record.span.start),
            ("blocks", "How many blocks it serves.", len(record.span)),
            ("model_blocks", "How many blocks the model has.", record.n_blocks),
            ("sessions", "Sessions open now.", record.sessions),
            ("queue_depth", "Steps that wait for the engine.", record.queue_depth),
            ("cache_free_tokens", "Tokens that its cache has room for.", record.kv_free_tokens),
            ("block_tokens_per_second", "Measured speed of one block; 0: not known.", record.throughput),
            ("link_tokens_per_second", "Tokens whose hidden states its link carries; 0: not known.", record.link_rate),
        )
        for name, text, value in gauges:
            yield GaugeMetricFamily(f"mesh_provider_{name}", text, value)
        yield CounterMetricFamily("mesh_provider_tokens", "Tokens that its engine has run.", reading.tokens)
        yield CounterMetricFamily(
            "mesh_provider_busy_seconds", "Seconds that its engine has computed.", reading.busy_seconds
        )


def provider_registry(meter: Meter) -> CollectorRegistry:
    """The provider's figures, and those of its process."""
    registry = CollectorRegistry()
    registry.register(ProviderCollector(meter))
    ProcessCollector(registry=registry)
    return registry
