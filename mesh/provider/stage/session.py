"""A session on one hop, from its admission to its end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mesh.wire.messages import PREEMPTED
from shards.engine.step import StepInput
from shards.errors import BadActivation, InvalidSampling, Preempted, ShardError
from shards.model.span import Span

if TYPE_CHECKING:
    import torch

    from mesh.payment.credit.customers import Bill
    from mesh.provider.stage.ports import Guesser, SessionOwner
    from shards.engine.sequence import SequenceState
    from shards.engine.step import StepOutput

MOST_PIECES = 256
"""That a session may have under way, beside one for every 32 tokens of its capacity."""


@dataclass(slots=True, eq=False)
class StageSession:
    """`expected` is the position of the next token that may arrive; it is the client's that opened it."""

    id: bytes
    client: str
    span: Span
    previous: str
    following: str
    prompt_tokens: int
    fed_tokens: int
    capacity: int
    limit: int
    is_first: bool
    is_last: bool
    pages: int
    """What it holds now, or will for the tokens that were announced."""
    last_active: float
    opened: float = 0.0
    held: int = 0
    """Tokens that it had when it was opened, from an earlier session; what is fed may begin anywhere up to there."""
    expected: int = 0
    tokens: int = 0
    busy_seconds: float = 0.0

    owner: SessionOwner = field(init=False)
    sequence: SequenceState = field(init=False)
    """The session in the engine."""
    prompt: torch.Tensor | None = None
    """What of the prompt the engine has not been given."""
    chunk: StepInput | None = None
    """The part of the prompt that it has."""
    parked: tuple[int, tuple[int, ...]] | None = None
    """The next position and its token, with guesses behind it, which wait until the client extends the session."""
    drafts: int = 0
    """Guesses that a trip may check at most."""
    guesser: Guesser | None = None
    """At the last hop, what makes the guesses."""
    ran: int = 0
    """Positions below have run here, some perhaps with guesses that were wrong."""
    running: dict[StepInput, int | None] = field(default_factory=dict)
    """Work that has arrived and is not done, with its units where it is paid for and has begun."""
    running_tokens: int = 0
    bill: Bill | None = None
    """What it is worth, where work is paid for."""
    unpaid: deque[StepInput] = field(default_factory=deque)
    """Of its work, what waits until the gateway has paid for what came before."""

    def begin(self, work: StepInput) -> None:
        """Count work as under way."""
        self.running[work] = None
        self.running_tokens += work.count

    def end(self, work: StepInput) -> int | None:
        """Count work as done; its units."""
        if work not in self.running:
            return None
        self.running_tokens -= work.count
        return self.running.pop(work)

    def work(
        self, start: int, count: int, tokens: torch.Tensor | None = None, hidden: torch.Tensor | None = None
    ) -> StepInput:
        """What has come over the ring, for the engine."""
        work = StepInput(self.sequence, start, count, tokens=tokens, hidden=hidden)
        work.verifies = start >= self.fed_tokens and count > 1
        if work.verifies and self.guesser is not None:
            work.drafts = self.guesser.at(start)[: count - 1]
        return work

    def guesses(self, output: StepOutput, now: float) -> tuple[int, ...]:
        """At the tokens after those that were chosen, to be checked with the next trip."""
        if self.guesser is None:
            return ()
        guesses = self.guesser.follow(output, now)
        form = None if self.sequence.sampler is None else self.sequence.sampler.form
        if form is None:
            return guesses
        # The last position before the capacity is only chosen, never run.
        room = self.capacity - 2 - output.choices[-1].position
        told = form.forced(max(0, min(self.drafts, room))) or guesses[: form.allowed(guesses)]
        return guesses if told == guesses else self.guesser.instead(told)

    def objection(self, start: int, count: int, are_tokens: bool) -> str | None:
        """Why no honest neighbour sends this."""
        if self.is_first != are_tokens:
            return "the first stage takes tokens, the others hidden states"
        if self.is_too_long(start, count):
            return f"{count} tokens from position {start} came at once"
        if self.overrun_by(count):
            return "more came than the session can have under way"
        return None

    def is_too_long(self, start: int, count: int) -> bool:
        """True for positions that no honest neighbour sends in one part: more guesses than a trip may check, at the
        last hop more than it made, or some that come with a part of the prompt."""
        end = start + count
        if end <= self.fed_tokens:
            return False
        most = self.drafts
        if self.is_last:
            most = 0 if self.guesser is None else len(self.guesser.at(start))
        return start < self.fed_tokens or count > 1 + most

    def overrun_by(self, count: int) -> bool:
        """True when no honest neighbour can have this much more under way, whatever the size of its pieces.

        Every position comes once, or a second time after a rejected draft; pieces of a prompt are not tiny.
        """
        pieces = MOST_PIECES + self.capacity // 32
        return self.running_tokens + count > 2 * self.capacity or len(self.running) >= pieces


def failure_code(error: ShardError) -> str:
    """As what its client hears of a session that an error of the engine ends."""
    match error:
        case BadActivation():
            return "bad_input"
        case InvalidSampling():
            return "bad_request"
        case Preempted():
            return PREEMPTED
        case _:
            return "failed"
