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
    threads: int | None = None
