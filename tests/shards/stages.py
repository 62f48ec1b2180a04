"""A model cut into stages in one process: what the tests of the model paths drive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from shards.checkpoint.folder import Checkpoint
from shards.model.loading import load_stage
from shards.model.span import Span
from shards.model.stage import KVCache, LogitsMode, Piece, StageModel

THREE_STAGES = (Span(0, 2), Span(2, 4), Span(4, 5))


@dataclass(slots=True)
class Session:
    """One session's cache on every stage."""

    caches: list[KVCache]

    @property
    def length(self) -> int:
        return self.caches[0].length

    def truncate(self, length: int) -> None:
        for cache in self.caches:
            cache.truncate(length)


class Pipeline:
    """The stages of one model, one after the other."""

    def __init__(self, folder: Path, spans: Sequence[Span] = THREE_STAGES) -> None:
        checkpoint = Checkpoint.open(folder)
        self.stages: list[StageModel] = [load_stage(checkpoint, span) for span in spans]

    def session(self, capacity: int = 256) -> Session:
        return Session([stage.new_cache(stage.span, capacity) for stage in self.stages])

    def step(
        self, parts: Sequence[tuple[Session, Sequence[int]]], want: LogitsMode = LogitsMode.ALL
    ) -> list[torch.Tensor]:
        """One micro-batch of several sessions' next tokens through all stages; the last one's output."""
        starts = [session.length for session, _ in parts]
        carried: list[torch.Tensor] = []
        for index, stage in enumerate(self.stages):
            pieces = []
            for row, (session, tokens) in enumerate(parts):
                piece = Piece(session.caches[index], starts[row], want=want)
                if index == 0:
                    piece.tokens = torch.tensor(tokens)
                else:
                    piece.hidden = carried[row]
                pieces.append(piece)
            carried = stage.forward(pieces)
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
