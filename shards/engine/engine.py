"""A stage's engine: one thread that drives the core, and what others may ask of it meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

import torch

from shards.engine.core import EngineCore
from shards.engine.passes import Pass
from shards.engine.sampler import SamplerState
from shards.engine.scheduler import BatchLimits
from shards.engine.sequence import SequenceState
from shards.engine.step import StepInput, StepOutput
from shards.model.span import Span
from shards.model.stage import StageModel

logger = logging.getLogger(__name__)

STOP_SECONDS = 30.0
NEXT_SECONDS = 0.02
RATE_SMOOTHING = 0.05


class Engine:
    """Runs a stage on a thread of its own. Use it as a context manager.

    `deliver` is called on that thread with the outputs of each pass, in order; it must not block for long.
    `crashed` is called on it once, with the exception, if a bug of ours ends the thread. Everything else may be called
    from any thread: it waits for no pass.

    Of a `whole` model each token is the next pass's input, and sessions that take turns in two halves would read the
    weights twice as often as all of them together: so the next pass waits, `NEXT_SECONDS` at most, until whoever took
    the last one's outputs has called `next_fed`.
    """

    def __init__(
        self,
        model: StageModel,
        deliver: Callable[[Sequence[StepOutput]], None],
        crashed: Callable[[BaseException], None],
        *,
        pages: int,
        limits: BatchLimits | None = None,
        threads: int | None = None,
        whole: bool = False,
    ) -> None:
        """Raises `CapacityExceeded` where the device has no room for so many pages."""
        self.model = model
        self._core = EngineCore(model, pages, limits)
        self._deliver = deliver
        self._crashed = crashed
        self._threads = threads
        self._changed = threading.Condition()
        self._stopping = False
        self._whole = whole
        self._next_until = 0.0
        """When the next pass begins at the latest, if what follows from the last one is not queued by then."""
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
        self.stop()
        self._thread.join(STOP_SECONDS)

    def stop(self) -> None:
        """End after the pass that runs; what waits is dropped."""
        with self._changed:
            self._stopping = True
            self._core.drop_queue()
            self._changed.notify_all()

    @property
    def pages(self) -> int:
        """Pages of the stage's memory."""
        return self._core.blocks.pages

    @property
    def free_pages(self) -> int:
        """Pages that no session holds."""
        return self._core.blocks.available

    @property
    def queued(self) -> int:
        """Inputs that wait."""
        return self._core.queued

    def add(
        self,
        session: bytes,
        span: Span,
        capacity: int,
        *,
        client: str = "",
        reserve: int = 0,
        sampler: SamplerState | None = None,
        wire_dtype: torch.dtype = torch.float32,
        keys: Sequence[bytes] = (),
    ) -> SequenceState:
        """A new session (see `EngineCore.add`). Raises `CapacityExceeded`."""
        with self._changed:
            return self._core.add(
                session,
                span,
                capacity,
                client=client,
                reserve=reserve,
                sampler=sampler,
                wire_dtype=wire_dtype,
                keys=keys,
            )

    def name_pages(self, sequence: SequenceState, keys: Sequence[bytes]) -> None:
        """See `EngineCore.name_pages`."""
        with self._changed:
            self._core.name_pages(sequence, keys)

    def free(self, sequence: SequenceState) -> None:
        """The session has ended: what waits of it is dropped. Its pages are free when this returns."""
        with self._changed:
            self._core.free(sequence)
            self._changed.notify()

    def submit(self, inputs: Iterable[StepInput]) -> None:
        """Queue work: none of it waits for a pass that begins later than another part of it.

        Raises `CapacityExceeded` when the queue is full: the caller waits or refuses.
        """
        with self._changed:
            self._core.feed(inputs)
            self._changed.notify()

    def next_fed(self) -> None:
        """What follows from the outputs that were delivered last is queued."""
        with self._changed:
            self._next_until = 0.0
            self._changed.notify()

    def _run(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                while (chosen := self._take()) is not None:
                    outputs = self._pass(chosen)
                    if outputs:
                        if self._whole:
                            self._next_until = time.monotonic() + NEXT_SECONDS
                        self._deliver(outputs)
        except BaseException as error:
            logger.critical("the stage engine stopped: a bug of ours", exc_info=True)
            self._crashed(error)

    def _take(self) -> Pass | None:
        with self._changed:
            while not self._stopping:
                left = self._next_until - time.monotonic() if self._core.has_work else None
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            return None if self._stopping else self._core.plan()

    def _pass(self, chosen: Pass) -> list[StepOutput]:
        outputs = self._core.compute(chosen)
        self._account(outputs)
        with self._changed:
            return self._core.book(chosen, outputs)

    def _account(self, outputs: Sequence[StepOutput]) -> None:
        tokens = sum(output.count for output in outputs)
        seconds = sum(output.seconds for output in outputs)
        self.tokens_done += tokens
        self.busy_seconds += seconds
        if outputs and all(output.count == 1 for output in outputs) and seconds > 0:
            rate = tokens / seconds
            before = self.decode_rate or rate
            self.decode_rate = before + RATE_SMOOTHING * (rate - before)
