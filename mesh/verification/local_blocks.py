"""Runs blocks again from weights that are on this machine, those of one span at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mesh.errors import PeerFailed
from mesh.verification.replay import replay_here
from mesh.wire.audit import Replay, Replayed
from shards.checkpoint.opening import open_checkpoint
from shards.engine.core import EngineCore
from shards.errors import ShardError
from shards.model.loading import load_stage
from shards.model.paging import pages_for
from shards.model.span import Span


class LocalBlocks:
    """A replayer by the model in `folder`."""

    name = "the weights here"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def replay(self, question: Replay, payload: bytes) -> tuple[Replayed, bytes]:
        """See `ReplayRun`. Raises `PeerFailed` where the folder's model cannot answer."""
        try:
            return await asyncio.to_thread(self._replay, question, payload)
        except ShardError as error:
            raise PeerFailed(f"{self._folder} cannot be run: {error}") from error

    def _replay(self, question: Replay, payload: bytes) -> tuple[Replayed, bytes]:
        span = Span(question.start, question.end)
        stage = load_stage(open_checkpoint(self._folder, span=span), span, dtype=question.wire_dtype)
        return replay_here(EngineCore(stage, pages_for(question.count + 1)), question, payload)
