"""A swarm that gives up on its hops quickly, and what is asked of it."""

from __future__ import annotations

from dataclasses import replace

from mesh.client.backend import BackendConfig
from mesh.client.deadlines import DeadlineBounds
from mesh.client.generation import Patience
from mesh.client.types import GenerateRequest
from shards.model.span import Span
from tests.mesh.swarm_in_memory import MODEL
from tests.shards.stages import random_tokens

SPANS = (Span(0, 2), Span(2, 4), Span(4, 5))
BRISK = BackendConfig(
    admit_seconds=0.5,
    deadlines=DeadlineBounds(suspect_least=0.5, suspect_unknown=0.5, lost_least=0.5, lost_most=0.5),
    patience=Patience(route_seconds=1.0, resume_seconds=1.0),
)


def ask(count: int = 60, **changes: object) -> GenerateRequest:
    request = GenerateRequest(MODEL, tuple(random_tokens(20)), count, ignore_eos=True)
    return replace(request, **changes)  # type: ignore[arg-type]


def warm_up() -> GenerateRequest:
    """What fetches the tokenizer's files; too short for a route to be preferred since it holds some of it."""
    return ask(1, prompt=tuple(random_tokens(3)))
