"""How a stage serves: what the operator can set."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.provider.sessions import AdmissionLimits
from shards.engine.queue import BatchLimits

PREFILL_CHUNK = 256


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """How a stage serves: limits of admission and of a pass, tokens per prompt chunk, torch threads."""

    admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    batch: BatchLimits = field(default_factory=BatchLimits)
    prefill_chunk: int = PREFILL_CHUNK
    stranger_requests: tuple[float, float] = (50.0, 500.0)
    """Requests a second, and at once, of a peer that has no session …"""
    client_requests: tuple[float, float] = (1000.0, 2000.0)
    """… and of one that has."""
    channel_seconds: float = 600.0
    """A channel to us ends after so long without a word, unless a session depends on it."""
    threads: int | None = None
