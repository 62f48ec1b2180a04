"""Runs blocks again from weights that are on this machine: the spans asked for last stay loaded, up to a bound."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Final

from mesh.errors import PeerFailed
from mesh.verification.replay import replay_here
from mesh.wire.audit import Replay, Replayed
from shards.checkpoint.opening import open_checkpoint
from shards.engine.core import EngineCore
from shards.errors import ShardError
from shards.model.loading import load_stage
from shards.model.paging import pages_for
from shards.model.precision import Precision
from shards.model.span import Span
from shards.model.stage import StageModel

KEPT_BYTES: Final = 1 << 30
"""Of weights that stay loaded between two questions; a span that is larger is loaded for each."""

MOST_POSITIONS: Final = 8192
"""Of one question."""


class LocalBlocks:
    """A replayer by the model in `folder` (or GGUF file), quantised as it is loaded where `precision` says so.

    One question is answered at a time: the memory of one span, beyond what is kept.
    """

    name = "the weights here"
    most = MOST_POSITIONS
    completes = True

    def __init__(self, folder: Path, precision: Precision | None = None, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._folder = folder
        self._precision = precision
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[tuple[Span, str], tuple[StageModel, int]] = OrderedDict()
        self._turn = threading.Lock()

    async def replay(self, question: Replay, payload: bytes) -> tuple[Replayed, bytes]:
        """See `ReplayRun`. Raises `PeerFailed` where the folder's model cannot answer."""
        try:
            return await asyncio.to_thread(self._replay, question, payload)
        except ShardError as error:
            raise PeerFailed(f"{self._folder} cannot be run: {error}") from error

    def _replay(self, question: Replay, payload: bytes) -> tuple[Replayed, bytes]:
        with self._turn:
            stage = self._stage(Span(question.start, question.end), question.wire_dtype)
            return replay_here(EngineCore(stage, pages_for(question.count + 1)), question, payload)

    def _stage(self, span: Span, dtype: str) -> StageModel:
        known = self._kept.pop((span, dtype), None)
        if known is None:
            checkpoint = open_checkpoint(self._folder, span=span, precision=self._precision)
            size = checkpoint.nbytes(span)
            while self._kept and sum(each for _, each in self._kept.values()) + size > self._kept_bytes:
                self._kept.popitem(last=False)
            known = load_stage(checkpoint, span, dtype=dtype), size
        if known[1] <= self._kept_bytes:
            self._kept[span, dtype] = known
        return known[0]
