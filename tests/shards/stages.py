"""A model cut into stages in one process, and sessions on them: what the tests of the model paths drive."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from shards.checkpoint.opening import open_checkpoint
from shards.model.loading import load_stage
from shards.model.paging import pages_for
from shards.model.precision import Precision
from shards.model.span import Span
from shards.model.stage import LogitsMode, Piece, StageModel

THREE_STAGES = (Span(0, 2), Span(2, 4), Span(4, 5))


class Memory:
    """A stage's pages, handed out in no order; making it takes them from all sessions that there were."""

    def __init__(self, stage: StageModel, pages: int = 256) -> None:
        stage.allocate(pages)
        self.stage = stage
        self._free = random.Random(pages).sample(range(pages), pages)
        self._numbers = itertools.count(1)

    def session(self, capacity: int = 256, span: Span | None = None) -> StageSession:
        """A session with pages for `capacity` tokens."""
        pages = [self._free.pop() for _ in range(pages_for(capacity))]
        return StageSession(self.stage, next(self._numbers), span or self.stage.span, pages)


@dataclass(slots=True, eq=False)
class StageSession:
    """One session on one stage."""

    stage: StageModel
    sequence: int
    span: Span
    pages: list[int]
    length: int = 0

    def piece(
        self,
        tokens: torch.Tensor | None = None,
        hidden: torch.Tensor | None = None,
        want: LogitsMode = LogitsMode.NOTHING,
    ) -> Piece:
        """The next tokens."""
        return Piece(self.sequence, self.span, self.pages, self.length, tokens, hidden, want)

    def truncate(self, length: int) -> None:
        self.stage.cut(self.sequence, length)
        self.length = length


def forward(parts: Sequence[tuple[StageSession, Piece]]) -> list[torch.Tensor]:
    """One pass over sessions of one stage, which hold the tokens afterwards."""
    results = parts[0][0].stage.forward([piece for _, piece in parts])
    for session, piece in parts:
        value = piece.tokens if piece.tokens is not None else piece.hidden
        assert value is not None
        session.length += value.shape[0]
    return results


@dataclass(slots=True)
class Session:
    """One session on every stage."""

    hops: list[StageSession]

    @property
    def length(self) -> int:
        return self.hops[0].length

    def truncate(self, length: int) -> None:
        for hop in self.hops:
            hop.truncate(length)


class Pipeline:
    """The stages of one model, one after the other."""

    def __init__(
        self, folder: Path, spans: Sequence[Span] = THREE_STAGES, *, precision: Precision | None = None
    ) -> None:
        checkpoint = open_checkpoint(folder, precision=precision)
        self.stages: list[StageModel] = [load_stage(checkpoint, span) for span in spans]
        self._memories = [Memory(stage) for stage in self.stages]

    def session(self, capacity: int = 256) -> Session:
        return Session([memory.session(capacity) for memory in self._memories])

    def step(
        self, parts: Sequence[tuple[Session, Sequence[int]]], want: LogitsMode = LogitsMode.ALL
    ) -> list[torch.Tensor]:
        """One micro-batch of several sessions' next tokens through all stages; the last one's output."""
        carried: list[torch.Tensor] = []
        for index in range(len(self.stages)):
            pieces = []
            for row, (session, tokens) in enumerate(parts):
                hop = session.hops[index]
                if index == 0:
                    pieces.append((hop, hop.piece(torch.tensor(tokens), want=want)))
                else:
                    pieces.append((hop, hop.piece(hidden=carried[row], want=want)))
            carried = forward(pieces)
        return carried

    def logits(self, session: Session, tokens: Sequence[int]) -> torch.Tensor:
        """Logits [n, vocab] of one session's next tokens."""
        return self.step([(session, tokens)])[0]

    def greedy(self, session: Session, prompt: Sequence[int], count: int) -> list[int]:
        """`count` tokens after `prompt`, each the likeliest."""
        tokens: list[int] = []
        new: Sequence[int] = prompt
        while len(tokens) < count:
            (last,) = self.step([(session, new)], LogitsMode.LAST)
            new = [int(last[0].argmax())]
            tokens += new
        return tokens


def random_tokens(count: int, *, seed: int = 1, vocab_size: int = 300) -> list[int]:
    return torch.randint(2, vocab_size, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
