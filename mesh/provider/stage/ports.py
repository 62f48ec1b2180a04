"""What a stage core is connected to: its engine, the books of its provider, the channels of its clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from mesh.payment.credit.customers import Bill, Customer
from mesh.payment.credit.terms import CreditTerms
from mesh.transport.port import PeerId
from mesh.wire.messages import Message
from shards.engine.sampler import SamplerState
from shards.engine.sequence import SequenceState
from shards.engine.step import StepInput, StepOutput
from shards.model.span import Span

Payload = bytes | bytearray | memoryview


class SessionOwner(Protocol):
    """The control channel over which a client opens sessions; they end with it."""

    @property
    def peer(self) -> PeerId: ...

    def tell(self, message: Message, payload: bytes = b"") -> None: ...


class StageEngine(Protocol):
    """What a stage core asks of its engine, which answers at once (see `shards.engine.engine.Engine`)."""

    @property
    def free_pages(self) -> int: ...

    def add(
        self,
        session: bytes,
        span: Span,
        capacity: int,
        *,
        client: str,
        reserve: int,
        sampler: SamplerState | None,
        wire_dtype: torch.dtype,
        keys: Sequence[bytes],
    ) -> SequenceState: ...

    def name_pages(self, sequence: SequenceState, keys: Sequence[bytes]) -> None: ...

    def free(self, sequence: SequenceState) -> None: ...

    def submit(self, inputs: Sequence[StepInput]) -> None: ...


class Guesser(Protocol):
    """Guesses at one session's next tokens, at its last hop."""

    def at(self, position: int) -> tuple[int, ...]:
        """Those that were made last, if they are at the tokens after `position`; none otherwise."""

    def follow(self, output: StepOutput, now: float) -> tuple[int, ...]:
        """A trip has brought the output's choices: guesses at what comes next, for the next trip to check."""

    def instead(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The answer's form lets only these of the last guesses come next, or leaves hardly another choice than these:
        which of them are to be checked."""


class Guessing(Protocol):
    """Makes a guesser for each session of a stage."""

    def begin(self, fed: Sequence[int], capacity: int, most: int) -> Guesser:
        """For a session of so many tokens at most, which is `fed` these; a trip checks at most `most` guesses."""

    def passed(self, outputs: Sequence[StepOutput]) -> None:
        """The engine has run a pass."""


class Collector(Protocol):
    """What a stage's sessions need of the provider's books."""

    terms: CreditTerms

    def customer(self, peer: str) -> Customer | None: ...

    def open(self, customer: Customer, prompt: int, fed: int, blocks: int) -> Bill: ...

    def finish(self, bill: Bill, begun: int, done: int) -> None: ...

    def wait(self, customer: Customer) -> None: ...
