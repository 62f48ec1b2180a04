"""An admitted session while it runs: its work under way."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from mesh.payment.credit.customers import Bill
from mesh.provider.stage.admission import HopSession
from mesh.provider.stage.control import ControlChannel
from mesh.wire.messages import OpenSession
from mesh.wire.sampling import from_wire
from mesh.wire.tokens import read_tokens
from shards.engine.sampler import SamplerState
from shards.engine.sequence import SequenceState
from shards.engine.step import StepInput
from shards.errors import InvalidSampling
from shards.model.spec import ModelSpec


@dataclass(slots=True)
class StageSession:
    """What belongs to an admitted session beside its entry in the table."""

    entry: HopSession
    owner: ControlChannel
    sequence: SequenceState
    """The session in the engine."""
    pending: dict[int, StepInput] = field(default_factory=dict)
    """Work that has arrived and is not done, by `id`."""
    pending_tokens: int = 0
    feeder: asyncio.Task[None] | None = None
    parked: tuple[int, int] | None = None
    """The next position and token, which wait until the client extends the session."""
    bill: Bill | None = None
    """What it is worth, where work is paid for."""
    held: deque[StepInput] = field(default_factory=deque)
    """Work that waits until the gateway has paid for what came before."""
    begun: dict[int, int] = field(default_factory=dict)
    """Units of work that the engine has, by `id`."""

    def begin(self, work: StepInput) -> None:
        """Count work as under way."""
        self.pending[id(work)] = work
        self.pending_tokens += work.count

    def end(self, work: StepInput) -> None:
        """Count work as done."""
        if self.pending.pop(id(work), None) is not None:
            self.pending_tokens -= work.count

    def overrun_by(self, count: int) -> bool:
        """True when no honest neighbour can have this much more under way, whatever the size of its pieces.

        Every position comes once, or a second time after a rejected draft; pieces of a prompt are not tiny.
        """
        capacity = self.entry.capacity
        return self.pending_tokens + count > 2 * capacity or len(self.pending) >= 256 + capacity // 32


def sampler_for(request: OpenSession, payload: bytes | bytearray | memoryview, spec: ModelSpec) -> SamplerState:
    """The last stage's part of a session. Raises `InvalidSampling`, `BadTensor` or `BadActivation`."""
    known = read_tokens(payload, request.fed_tokens, spec.vocab_size) if payload else None
    params = from_wire(request.sampling, request.logit_bias)
    outside = [token for token in params.logit_bias if token >= spec.vocab_size]
    if outside:
        raise InvalidSampling(f"logit_bias names token {outside[0]}, the vocabulary has {spec.vocab_size}")
    return SamplerState(
        params,
        prompt=request.prompt_tokens,
        fed=request.fed_tokens,
        capacity=request.capacity,
        eos=request.eos,
        prompt_scores=request.prompt_scores,
        known=known,
    )
