"""What goes into the engine and what comes out: one session's tokens and what became of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from shards.engine.sampler import Choice, Score
from shards.engine.sequence import SequenceState
from shards.errors import ShardError


@dataclass(slots=True, eq=False)
class StepInput:
    """`count` consecutive tokens of one session from position `start`.

    One of `tokens` (int64 [count]) and `hidden` ([count, hidden_size], any float dtype, on the CPU) is given. Setting
    `cancelled` (from any thread) makes the engine drop what of it has not begun.

    One that `verifies` is the last token of the answer and guesses at those after it: it is run whole, and among the
    single tokens. At the model's head `drafts` are those guesses, one for every row but the first.
    """

    sequence: SequenceState
    start: int
    count: int
    tokens: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    verifies: bool = False
    drafts: tuple[int, ...] = ()
    cancelled: bool = False
    ran: int = 0
    """Tokens of it that have been run, or are part of a pass (counted by the engine)."""
    passed_over: int = 0
    """Passes that went without it while it was its session's next turn (counted by the engine)."""

    @property
    def left(self) -> int:
        """Tokens that no pass has taken yet."""
        return self.count - self.ran

    @property
    def is_decode(self) -> bool:
        """A single token, or one and guesses: what goes before prompts, so that running sessions keep their pace."""
        return self.verifies or self.left == 1


@dataclass(slots=True, eq=False)
class StepOutput:
    """What became of some tokens of a session: hidden states for the next hop, the last stage's choices, or an error.

    There is one choice, and another after each draft that turned out right: the tokens that the answer goes on with.

    `input` is None for a session that lost its pages while nothing of it was queued. A long input is run in parts: each
    gives an output, of `count` tokens from `start` on, and the last one is `complete`. `seconds` is the tokens' share
    of the pass that they were part of.
    """

    sequence: SequenceState
    input: StepInput | None
    start: int
    count: int
    complete: bool = True
    seconds: float = 0.0
    hidden: torch.Tensor | None = None
    choices: tuple[Choice, ...] = ()
    scores: tuple[Score, ...] = field(default=())
    error: ShardError | None = None

    @property
    def choice(self) -> Choice | None:
        """The last of the choices: the token to run next, unless the session ends with it."""
        return self.choices[-1] if self.choices else None
