"""Which way recent requests went: what /mesh/requests and /mesh/status tell (pure but for its memory)."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mesh.client.types import Completion, HopReport, ModelInfo
from mesh.gateway.metrics import coverage
from mesh.swarm.route import Hop

RequestStatus = Literal["running", "done", "failed", "cancelled"]


@dataclass(slots=True)
class RequestReport:
    """One request; `choices` fills up as its sessions end."""

    id: str
    model: str
    created: int
    sessions: int
    status: RequestStatus = "running"
    error: str | None = None
    choices: dict[int, Completion] = field(default_factory=dict)
    tokens: int = 0
    """Of all its sessions, so far."""
    first_token: float | None = None
    """Seconds from its arrival."""
    last_token: float = 0.0
    hops: Sequence[Hop] = ()
    """The route of the session that gave a token last."""

    def advance(self, tokens: int, seconds: float, hops: Sequence[Hop]) -> None:
        """`tokens` more came, so long after its arrival, over these hops."""
        self.hops = hops
        if tokens:
            self.tokens += tokens
            self.last_token = seconds
            if self.first_token is None:
                self.first_token = seconds

    @property
    def tokens_per_second(self) -> float | None:
        """After the first token; None while there are too few to tell."""
        if self.first_token is None or self.last_token <= self.first_token or self.tokens < 2:
            return None
        return (self.tokens - 1) / (self.last_token - self.first_token)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "mesh.request",
            "model": self.model,
            "created": self.created,
            "status": self.status,
            "error": self.error,
            "sessions": self.sessions,
            "choices": [choice_json(index, self.choices[index]) for index in sorted(self.choices)],
        }


class RequestLog:
    """The last `capacity` requests by id; the oldest is forgotten first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._reports: OrderedDict[str, RequestReport] = OrderedDict()

    def add(self, report: RequestReport) -> None:
        self._reports[report.id] = report
        while len(self._reports) > self._capacity:
            self._reports.popitem(last=False)

    def newest(self, most: int) -> list[RequestReport]:
        """The last `most` requests, the oldest of them first."""
        return list(itertools.islice(reversed(self._reports.values()), most))[::-1]

    def get(self, request_id: str) -> RequestReport | None:
        return self._reports.get(request_id)

    def __len__(self) -> int:
        return len(self._reports)


def choice_json(index: int, completion: Completion) -> dict[str, Any]:
    """One choice's cost and route. Times in seconds."""
    return {
        "index": index,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "time_to_first_token": _finite(completion.time_to_first_token),
        "seconds": _finite(completion.seconds),
        "route": [hop_json(hop) for hop in completion.route],
    }


def hop_json(hop: HopReport) -> dict[str, Any]:
    """One hop: who computed which blocks, for how many tokens, how fast."""
    return {
        "peer": hop.peer,
        "blocks": str(hop.span),
        "tokens": hop.tokens,
        "busy_seconds": _finite(hop.busy_seconds),
        "tokens_per_second": _finite(hop.tokens_per_second),
    }


def _finite(value: float) -> float:
    """Peers report these figures, and JSON has no infinity."""
    return value if math.isfinite(value) else 0.0


def status_json(info: ModelInfo) -> dict[str, Any]:
    """A model as the swarm serves it now."""
    return {
        "id": info.name,
        "digest": info.digest,
        "blocks": info.n_blocks,
        "context_length": info.context_length,
        "vocab_size": info.vocab_size,
        "complete": info.complete,
        "coverage": coverage(info),
        "gaps": [str(gap) for gap in info.gaps],
    }


def model_json(info: ModelInfo, created: int) -> dict[str, Any]:
    """A model as OpenAI lists it, with what a client may want to know beside."""
    return {
        "id": info.name,
        "object": "model",
        "created": created,
        "owned_by": "mesh",
        "max_model_len": info.context_length,
        "digest": info.digest,
        "complete": info.complete,
    }
