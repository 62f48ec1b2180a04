"""Deadlines and memory of the client side."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.client.deadlines import DeadlineBounds
from mesh.client.generation import Patience
from mesh.client.outlook import LookConfig


@dataclass(frozen=True, slots=True)
class BackendConfig:
    """Deadlines and memory of the client side (seconds)."""

    admit_seconds: float = 15.0
    deadlines: DeadlineBounds = field(default_factory=DeadlineBounds)
    """When a route that falls silent is suspected, and when it is given up."""
    looks: LookConfig = field(default_factory=LookConfig)
    """How old may be what the directory has said."""
    penalty_seconds: float = 3.0
    """A peer that failed is only used when there is no other; how bad that counts halves in this time."""
    pairs_delay: float = 5.0
    pairs_seconds: float = 60.0
    """When providers are first asked for the round trips between them, and how often."""
    window_tokens: int = 64
    """Tokens that paid hops may compute ahead of who reads them."""
    linger_seconds: float = 20.0
    """So long a paid session whose client has left goes on until its prompt is run, which is then paid for."""
    patience: Patience = field(default_factory=Patience)
    audit_share: float | None = None
    """Of our sessions, how many have the work of one of their hops audited, where another provider holds its blocks or
    the weights are here; None: `SHARE` and, of those that are paid for, `PAID_SHARE` of `mesh.client.audits`."""
