"""What the gateway counts for Prometheus; every app has a registry of its own."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mesh.client.types import ModelInfo

UNKNOWN_MODEL = "unknown"
"""Label for requests that name no served model: a stranger must not be able to invent label values."""
MAX_MODEL_LABELS = 256

_FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
_INTER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.3, 2.5, 5.0)


class Metrics:
    """The gateway's instruments. Labels: route (a path template), model, status (HTTP, 499: client left)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mesh_gateway_requests",
            "Requests answered.",
            ("route", "model", "status"),
            registry=self.registry,
        )
        self.tokens_in = Counter(
            "mesh_gateway_prompt_tokens",
            "Prompt tokens of finished sessions.",
            ("model",),
            registry=self.registry,
        )
        self.tokens_out = Counter(
            "mesh_gateway_completion_tokens", "Tokens generated.", ("model",), registry=self.registry
        )
        self.first_token = Histogram(
            "mesh_gateway_time_to_first_token_seconds",
            "From the request's arrival to a choice's first token.",
            ("model",),
            buckets=_FIRST_TOKEN,
            registry=self.registry,
        )
        self.inter_token = Histogram(
            "mesh_gateway_inter_token_seconds",
            "Between tokens of one session.",
            ("model",),
            buckets=_INTER_TOKEN,
            registry=self.registry,
        )
        self.active = Gauge("mesh_gateway_active_sessions", "Sessions open now.", registry=self.registry)
        self.coverage = Gauge(
            "mesh_gateway_model_coverage_ratio",
            "Part of a model's blocks that somebody serves.",
            ("model",),
            registry=self.registry,
        )
        self.vouchers = Counter("mesh_gateway_vouchers", "Vouchers signed for providers.", registry=self.registry)
        self.receipts = Counter("mesh_gateway_receipts", "Receipts taken from providers.", registry=self.registry)
        self._models: set[str] = set()

    def model_label(self, model: str) -> str:
        """`model`, or `UNKNOWN_MODEL` once the swarm has shown more names than a metric should carry."""
        if model not in self._models and len(self._models) >= MAX_MODEL_LABELS:
            return UNKNOWN_MODEL
        self._models.add(model)
        return model

    def tokens_arrived(self, model: str, count: int, seconds: float) -> None:
        """`count` tokens came together, `seconds` after the ones before them."""
        self.tokens_out.labels(model).inc(count)
        for _ in range(count):
            self.inter_token.labels(model).observe(seconds / count)

    def render(self, models: Sequence[ModelInfo]) -> bytes:
        """The exposition text, with the coverage of `models` as it is now."""
        self.coverage.clear()
        for info in models:
            self.coverage.labels(self.model_label(info.name)).set(coverage(info))
        return generate_latest(self.registry)


def coverage(info: ModelInfo) -> float:
    """The part of the model's blocks that somebody serves, 0 to 1."""
    if info.n_blocks < 1:
        return 0.0
    return max(0.0, 1.0 - sum(len(gap) for gap in info.gaps) / info.n_blocks)
