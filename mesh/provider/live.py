"""An admitted session while it runs: its work under way; and how its work leaves as frames."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch

from mesh.payment.credit.customers import Bill
from mesh.provider.control import ControlChannel
from mesh.provider.sessions import HopSession
from mesh.provider.tensors import hidden_payload
from mesh.wire.frame import Frame
from mesh.wire.messages import Activations, NewToken, OpenSession, PromptScores, encode
from mesh.wire.sampling import from_wire
from mesh.wire.tokens import read_tokens
from shards.engine.sampler import SamplerState
from shards.engine.sequence import SequenceState
from shards.engine.step import StepInput, StepOutput
from shards.errors import InvalidSampling
from shards.model.spec import ModelSpec

FRAME_BYTES = 16 * 1024 * 1024
"""Pieces are put into one frame up to this size."""

SCORES_PER_MESSAGE = 256


@dataclass(slots=True)
class LiveSession:
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


def activation_frames(outcomes: Iterable[StepOutput]) -> Iterator[Frame]:
    """The outcomes' hidden states as `Activations` of bounded size."""
    parts: list[tuple[bytes, int, int]] = []
    pieces: list[torch.Tensor] = []
    size = 0
    for outcome in outcomes:
        hidden = outcome.hidden
        if hidden is None:
            continue
        if parts and size + hidden.nbytes > FRAME_BYTES:
            yield encode(Activations(tuple(parts)), hidden_payload(pieces))
            parts, pieces, size = [], [], 0
        parts.append((outcome.sequence.session, outcome.start, outcome.count))
        pieces.append(hidden)
        size += hidden.nbytes
    if parts:
        yield encode(Activations(tuple(parts)), hidden_payload(pieces))


def answers(outcome: StepOutput) -> Iterator[PromptScores | NewToken]:
    """What the client of the last hop is told of an outcome: prompt scores, then the chosen token."""
    session, choice = outcome.sequence.session, outcome.choice
    for offset in range(0, len(outcome.scores), SCORES_PER_MESSAGE):
        scores = outcome.scores[offset : offset + SCORES_PER_MESSAGE]
        yield PromptScores(session, outcome.start + 1 + offset, scores)
    if choice is not None:
        sampled = choice.sampled
        yield NewToken(session, choice.position, sampled.token, choice.finish, sampled.logprob, sampled.top)
