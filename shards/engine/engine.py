"""A stage's engine: one thread that turns queued work into passes over the model."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import torch

from shards.engine.scheduler import BatchLimits, choose_batch
from shards.engine.work import Outcome, Work
from shards.errors import BadActivation, CapacityExceeded, ShardError
from shards.model.stage import LogitsMode, Piece, StageModel

logger = logging.getLogger(__name__)

MAX_QUEUED = 4096
STOP_SECONDS = 30.0
RATE_SMOOTHING = 0.05


class Engine:
    """Runs a stage on a thread of its own. Use it as a context manager.

    `deliver` is called on that thread with the outcomes of each pass, in order; it must not block for long.
    `crashed` is called on it once, with the exception, if a bug of ours ends the thread.
    """

    def __init__(
        self,
        model: StageModel,
        deliver: Callable[[Sequence[Outcome]], None],
        crashed: Callable[[BaseException], None],
        *,
        limits: BatchLimits | None = None,
        threads: int | None = None,
    ) -> None:
        self.model = model
        self._deliver = deliver
        self._crashed = crashed
        self._limits = limits or BatchLimits()
        self._threads = threads
        self._waiting: deque[Work] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="stage-engine", daemon=True)
        self.tokens_done = 0
        self.busy_seconds = 0.0
        self.decode_rate = 0.0
        """Tokens per second of recent decode passes, all sessions together (smoothed; 0.0 before the first)."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopping = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(STOP_SECONDS)

    @property
    def queued(self) -> int:
        """Pieces of work that wait."""
        return len(self._waiting)

    def submit(self, work: Work) -> None:
        """Queue work. Raises `CapacityExceeded` when the queue is full: the caller waits or refuses."""
        with self._changed:
            if len(self._waiting) >= MAX_QUEUED:
                raise CapacityExceeded("the stage's queue is full")
            self._waiting.append(work)
            self._changed.notify()

    def _run(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                while (batch := self._take()) is not None:
                    if batch:
                        self._deliver(self._pass(batch))
        except BaseException as error:
            logger.critical("the stage engine stopped: a bug of ours", exc_info=True)
            self._crashed(error)

    def _take(self) -> list[Work] | None:
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            if self._stopping:
                return None
            live = [work for work in self._waiting if not work.cancelled]
            batch = choose_batch(live, self._limits)
            taken = {id(work) for work in batch}
            self._waiting = deque(work for work in live if id(work) not in taken)
            first_turns = {work.session: work for work in reversed(self._waiting)}
            for work in first_turns.values():
                work.passed_over += 1
            return batch

    def _pass(self, batch: list[Work]) -> list[Outcome]:
        began = time.perf_counter()
        outcomes: dict[int, Outcome] = {}
        ready: list[Work] = []
        pieces: list[Piece] = []
        for work in batch:
            try:
                pieces.append(self._piece(work))
                ready.append(work)
            except ShardError as error:
                outcomes[id(work)] = Outcome(work, error=error)
            except RuntimeError as error:  # what torch raises when the device has no room for the input
                outcomes[id(work)] = Outcome(work, error=CapacityExceeded(f"the device has no room: {error}"))
        results = self._forward(ready, pieces, outcomes)
        for work, result in zip(ready, results, strict=True):
            outcomes[id(work)] = self._conclude(work, result)
        seconds = time.perf_counter() - began
        self._account(batch, outcomes, seconds)
        return [outcomes[id(work)] for work in batch]

    def _piece(self, work: Work) -> Piece:
        cache = work.cache
        if work.start > cache.length:
            raise BadActivation(f"tokens from position {work.start} came, but {cache.length} was next")
        if work.start < cache.length:
            cache.truncate(work.start)
        want = LogitsMode.NOTHING if work.tail is None else work.tail.want(work.start, work.count)
        if work.tokens is not None:
            return Piece(cache, work.start, tokens=work.tokens.to(self.model.device), want=want)
        if work.hidden is None:
            raise BadActivation("neither tokens nor hidden states were given")
        hidden = work.hidden.to(device=self.model.device, dtype=self.model.dtype)
        if not bool(torch.isfinite(hidden).all()):
            raise BadActivation("hidden states with NaN or infinite values were received")
        return Piece(cache, work.start, hidden=hidden, want=want)

    def _forward(self, ready: list[Work], pieces: list[Piece], outcomes: dict[int, Outcome]) -> list[torch.Tensor]:
        """The model's results for `ready`; work that fails is moved from `ready` to `outcomes`."""
        if not pieces:
            return []
        lengths = [piece.cache.length for piece in pieces]
        try:
            return self.model.forward(pieces)
        except (ShardError, RuntimeError) as error:
            # One bad piece must not fail the sessions that share its pass: take them one at a time.
            if not isinstance(error, ShardError):
                logger.warning("a pass over %d sessions failed: %s", len(pieces), error)
            results: list[torch.Tensor] = []
            survivors: list[Work] = []
            for work, piece, length in zip(list(ready), pieces, lengths, strict=True):
                piece.cache.truncate(length)
                try:
                    results.extend(self.model.forward([piece]))
                    survivors.append(work)
                except ShardError as own:
                    outcomes[id(work)] = Outcome(work, error=own)
                except RuntimeError as own:
                    outcomes[id(work)] = Outcome(work, error=CapacityExceeded(f"the device could not run it: {own}"))
            ready[:] = survivors
            return results

    def _conclude(self, work: Work, result: torch.Tensor) -> Outcome:
        if work.tail is None:
            hidden = result.to(dtype=work.wire_dtype, device="cpu")
            if not bool(torch.isfinite(hidden).all()):
                # Never handed on: the next stage would take us for the one at fault.
                return Outcome(work, error=_overflow(work))
            return Outcome(work, hidden=hidden)
        try:
            choice, scores = work.tail.conclude(work.start, work.count, result)
        except ShardError as error:
            return Outcome(work, error=error)
        except RuntimeError as error:  # what torch raises when the device has no room for the logits' copies
            return Outcome(work, error=CapacityExceeded(f"the device could not sample: {error}"))
        return Outcome(work, choice=choice, scores=scores)

    def _account(self, batch: list[Work], outcomes: dict[int, Outcome], seconds: float) -> None:
        tokens = sum(work.count for work in batch)
        for work in batch:
            outcomes[id(work)].seconds = seconds * work.count / tokens
        self.tokens_done += tokens
        self.busy_seconds += seconds
        if all(work.is_decode for work in batch) and seconds > 0:
            rate = tokens / seconds
            before = self.decode_rate or rate
            self.decode_rate = before + RATE_SMOOTHING * (rate - before)


def _overflow(work: Work) -> ShardError:
    if work.hidden is None:
        return ShardError("the blocks made values that are not finite out of token ids: are the weights sound?")
    return BadActivation("the hidden states that were received make values that are not finite")
