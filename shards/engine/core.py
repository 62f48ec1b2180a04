"""What a stage's engine decides and keeps: sessions, their pages, what the next pass takes, what it gave (no threads).

`step` is `plan`, `compute` and `book`. `compute` changes nothing here, so that a thread can run it while others add,
feed and free sessions; everything else is one thread's at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

import torch

from shards.engine.blocks import BlockManager
from shards.engine.pace import PrefillPace
from shards.engine.passes import Part, Pass, conclude_parts
from shards.engine.sampler import SamplerState
from shards.engine.scheduler import BatchLimits, Shares, Turn, choose_turns, choose_victim
from shards.engine.sequence import SequenceState
from shards.engine.step import StepInput, StepOutput
from shards.errors import BadActivation, CapacityExceeded, Preempted, ShardError
from shards.model.paging import PAGE, pages_for
from shards.model.span import Span
from shards.model.stage import LogitsMode, Piece, StageModel

logger = logging.getLogger(__name__)

MAX_QUEUED = 4096


class EngineCore:
    """Sessions over one stage, in `pages` pages of its memory."""

    def __init__(
        self,
        model: StageModel,
        pages: int,
        limits: BatchLimits | None = None,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Raises `CapacityExceeded` where the device has no room for the pages."""
        self.model = model
        self.limits = limits or BatchLimits()
        self._clock = clock or (lambda: time.perf_counter())  # looked up at each call: simulations replace it
        self._pace = PrefillPace(self.limits)
        self.blocks = BlockManager(pages)
        self.queued = 0
        """Inputs that wait."""
        self._sequences: dict[int, SequenceState] = {}
        self._waiting: dict[int, SequenceState] = {}
        """Sessions with queued inputs, the longest waiting first."""
        self._shares = Shares()
        self._cuts: list[tuple[int, int]] = []
        self._forgotten: list[int] = []
        """What the model has to be told before the next pass."""
        self._number = 0
        model.allocate(pages)

    def __len__(self) -> int:
        return len(self._sequences)

    # Sessions.

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
        """A session of at most `capacity` tokens, with pages for the first `reserve` of them.

        Of the pages named by `keys` those that are there are shared: its `length` tokens need not be fed, but at least
        one of those reserved must. Raises `CapacityExceeded` where it can never fit or there are not enough pages now.
        """
        if not self.model.span.covers(span):
            raise CapacityExceeded(f"this stage serves blocks {self.model.span}, not {span}")
        if not 1 <= capacity <= self.model.longest or pages_for(capacity) > self.blocks.pages:
            most = min(self.model.longest, self.blocks.pages * PAGE)
            raise CapacityExceeded(f"a session holds between 1 and {most} tokens here, not {capacity}")
        if not self.model.shares_pages:
            keys = ()
        hits = min(self.blocks.find(keys), max(0, reserve - 1) // PAGE)
        pages = self.blocks.share(keys[:hits])
        more = self.blocks.take(pages_for(reserve) - hits)
        if more is None:
            self.blocks.give(pages)
            raise CapacityExceeded(f"{pages_for(reserve) - hits} pages are needed, {self.blocks.available} are free")
        self._number += 1
        sequence = SequenceState(self._number, session, client, span, capacity, sampler, wire_dtype, keys)
        sequence.pages = pages + more
        sequence.length, sequence.published = hits * PAGE, hits
        self._sequences[sequence.number] = sequence
        return sequence

    def name_pages(self, sequence: SequenceState, keys: Sequence[bytes]) -> None:
        """What has been run of the session may be found under `keys`, which go on from those that it was added with."""
        known = sequence.published
        if self.model.shares_pages and not sequence.freed and list(keys[:known]) == list(sequence.keys[:known]):
            sequence.keys = keys
            self._publish(sequence)

    def _rewind(self, sequence: SequenceState, length: int) -> None:
        """Forget the session's tokens from `length` on: guesses that were wrong, or what is sent again.

        Raises `BadActivation` where it has fewer, or where others have begun to use what would be written over.
        """
        if not 0 <= length <= sequence.length:
            raise BadActivation(f"cannot cut a session of {sequence.length} tokens at {length}")
        whole = pages_for(length)
        if sequence.published * PAGE > length and length % PAGE and not self.blocks.retract(sequence.pages[whole - 1]):
            raise BadActivation(f"position {length} came again, but others use what was there")
        if sequence.published > whole:  # these stay as they are, to be found; the session gets others
            self.blocks.give(rest := sequence.pages[whole:])
            sequence.pages[whole:] = self.blocks.take(len(rest)) or []
        sequence.published = min(sequence.published, length // PAGE)
        if length < sequence.length:
            sequence.length = length
            self._cuts.append((sequence.number, length))

    def free(self, sequence: SequenceState) -> None:
        """The session has ended: what waits is dropped, its pages are free. Twice is harmless."""
        if not sequence.freed:
            sequence.freed = True
            del self._sequences[sequence.number]
            self._release(sequence)

    def _release(self, sequence: SequenceState) -> None:
        self.queued -= len(sequence.queue)
        sequence.queue.clear()
        self._waiting.pop(sequence.number, None)
        self.blocks.give(sequence.pages)
        sequence.pages, sequence.length, sequence.published = [], 0, 0
        sequence.losses += 1
        self._forgotten.append(sequence.number)

    # Work.

    def feed(self, inputs: Iterable[StepInput]) -> None:
        """Queue all of it. Raises `CapacityExceeded`, and queues nothing, when the queue is full.

        What belongs to a session that has ended is dropped.
        """
        inputs = [each for each in inputs if not each.sequence.freed]
        if self.queued + len(inputs) > MAX_QUEUED:
            raise CapacityExceeded("the stage's queue is full")
        active = {sequence.client for sequence in self._waiting.values()}
        for each in inputs:
            sequence = each.sequence
            if sequence.client not in active:
                self._shares.enter(sequence.client, active)
                active.add(sequence.client)
            self._waiting.setdefault(sequence.number, sequence)
            sequence.queue.append(each)
            self.queued += 1

    def drop_queue(self) -> None:
        """Nothing that waits is run any more."""
        for sequence in self._waiting.values():
            sequence.queue.clear()
        self._waiting.clear()
        self.queued = 0

    @property
    def has_work(self) -> bool:
        """There is something for a pass to do."""
        return bool(self._waiting or self._forgotten)

    def step(self) -> list[StepOutput]:
        """One pass; its outputs, in the order in which work was chosen."""
        chosen = self.plan()
        return self.book(chosen, self.compute(chosen))

    def plan(self) -> Pass:
        """What the next pass does. Pages are taken for it; what cannot be run has its error already."""
        chosen = Pass()
        self._drop_cancelled()
        now = self._clock()
        budget = self._pace.budget(now, company=len(self._waiting) > 1)
        turns = choose_turns(list(self._waiting.values()), self.limits, self._shares, budget)
        if any(turn.sequence.queue[0].is_decode for turn in turns):
            self._pace.decoded(now)
        taken = {turn.sequence.number for turn in turns}
        for number, sequence in self._waiting.items():
            sequence.queue[0].passed_over += number not in taken
        ran = [self._part(turn) for turn in turns]
        # The oldest first: who gets pages then loses none for a younger one.
        for part in sorted(ran, key=lambda each: each.sequence.number):
            if part.error is None and part.losses == part.sequence.losses:
                self._find_room(part, chosen)
        chosen.parts = [part for part in ran if part.losses == part.sequence.losses]
        for part in chosen.parts:
            self._shares.count(part.sequence.client, part.count)
            self._requeue(part)
            part.pages = tuple(part.sequence.pages)
        chosen.cuts, self._cuts = self._cuts, []
        chosen.forgotten, self._forgotten = self._forgotten, []
        return chosen

    def _drop_cancelled(self) -> None:
        for number, sequence in list(self._waiting.items()):
            while sequence.queue and sequence.queue[0].cancelled:
                sequence.queue.popleft()
                self.queued -= 1
            if not sequence.queue:
                del self._waiting[number]

    def _part(self, turn: Turn) -> Part:
        sequence = turn.sequence
        head = sequence.queue[0]
        start = head.start + head.ran
        head.ran += turn.count
        part = Part(head, start, turn.count, not head.left, sequence.losses)
        try:
            if start > sequence.length:
                raise BadActivation(f"tokens from position {start} came, but {sequence.length} was next")
            if start + turn.count > sequence.capacity:
                raise CapacityExceeded(f"{start} + {turn.count} tokens exceed a session of {sequence.capacity}")
            if start < sequence.length:
                self._rewind(sequence, start)
        except ShardError as error:
            part.error = error
        return part

    def _requeue(self, part: Part) -> None:
        """The session waits behind the others with what is left; what cannot be run is not run on."""
        sequence = part.sequence
        del self._waiting[sequence.number]
        if part.error is not None and not part.complete:
            part.input.ran, part.complete = part.input.count, True
        if part.complete:
            sequence.queue.popleft()
            self.queued -= 1
        if sequence.queue:
            self._waiting[sequence.number] = sequence

    def _find_room(self, part: Part, chosen: Pass) -> None:
        sequence = part.sequence
        needed = pages_for(part.start + part.count) - len(sequence.pages)
        if needed <= 0:
            return
        while (pages := self.blocks.take(needed)) is None:
            victim = choose_victim(self._sequences.values(), sequence, self.blocks.pages, self.limits)
            self.preempt(victim, chosen)
            if victim is sequence:
                return
        sequence.pages += pages

    def preempt(self, sequence: SequenceState, chosen: Pass) -> None:
        """Take a session's pages away; its owner may feed it again from its first token."""
        head = sequence.queue[0] if sequence.queue else None
        error = Preempted("its pages were needed for others")
        chosen.outputs.append(StepOutput(sequence, head, sequence.length, 0, error=error))
        self._release(sequence)

    def compute(self, chosen: Pass) -> list[StepOutput]:
        """Run a pass. One bad part fails alone. Raises what is a bug of ours."""
        for number, length in chosen.cuts:
            self.model.cut(number, length)
        for number in chosen.forgotten:
            self.model.forget(number)
        if not chosen.parts:
            return []
        began = self._clock()
        outputs: dict[int, StepOutput] = {}
        ready: list[Part] = []
        pieces: list[Piece] = []
        for part in chosen.parts:
            try:
                pieces.append(self._piece(part))
                ready.append(part)
            except ShardError as error:
                outputs[id(part)] = part.output(error)
            except RuntimeError as error:  # what torch raises when the device has no room for the input
                outputs[id(part)] = part.output(CapacityExceeded(f"the device has no room: {error}"))
        results = self._forward(ready, pieces, outputs)
        outputs |= {id(part): output for part, output in zip(ready, conclude_parts(ready, results), strict=True)}
        seconds = self._clock() - began
        tokens = sum(part.count for part in chosen.parts)
        for part in chosen.parts:
            outputs[id(part)].seconds = seconds * part.count / tokens
        return [outputs[id(part)] for part in chosen.parts]

    def _piece(self, part: Part) -> Piece:
        if part.error is not None:
            raise part.error
        sequence, given = part.sequence, part.input
        rows = slice(part.start - given.start, part.start - given.start + part.count)
        sampler = sequence.sampler
        want = LogitsMode.NOTHING if sampler is None else sampler.want(part.start, part.count)
        piece = Piece(sequence.number, sequence.span, part.pages, part.start, want=want)
        if given.tokens is not None:
            if given.tokens.shape != (given.count,):
                raise BadActivation(f"{given.count} tokens were announced, but not given")
            piece.tokens = given.tokens[rows].to(self.model.device)
            return piece
        if given.hidden is None:
            raise BadActivation("neither tokens nor hidden states were given")
        if given.hidden.shape[:1] != (given.count,):
            raise BadActivation(f"{given.count} rows of hidden states were announced, but not given")
        piece.hidden = given.hidden[rows].to(device=self.model.device, dtype=self.model.dtype)
        if not bool(torch.isfinite(piece.hidden).all()):
            raise BadActivation("hidden states with NaN or infinite values were received")
        return piece

    def _forward(self, ready: list[Part], pieces: list[Piece], outputs: dict[int, StepOutput]) -> list[torch.Tensor]:
        """The model's results for `ready`; what fails is moved from `ready` to `outputs`."""
        if not pieces:
            return []
        try:
            return self.model.forward(pieces)
        except (ShardError, RuntimeError) as error:
            # One bad piece must not fail the sessions that share its pass: take them one at a time.
            if not isinstance(error, ShardError):
                logger.warning("a pass over %d sessions failed: %s", len(pieces), error)
        results: list[torch.Tensor] = []
        survivors: list[Part] = []
        for part, piece in zip(list(ready), pieces, strict=True):
            try:
                results.extend(self.model.forward([piece]))
                survivors.append(part)
            except ShardError as own:
                outputs[id(part)] = part.output(own)
            except RuntimeError as own:
                outputs[id(part)] = part.output(CapacityExceeded(f"the device could not run it: {own}"))
        ready[:] = survivors
        return results

    def book(self, chosen: Pass, outputs: list[StepOutput]) -> list[StepOutput]:
        """Count what a pass has run as held; all outputs of the pass. What failed drops what of its input was left."""
        tokens, seconds = sum(part.count for part in chosen.parts), sum(output.seconds for output in outputs)
        self._pace.ran(tokens, seconds, prompts=any(part.count > 1 for part in chosen.parts))
        for part, output in zip(chosen.parts, outputs, strict=True):
            sequence = part.sequence
            if part.losses != sequence.losses:
                continue
            if output.error is None:
                sequence.length = part.start + part.count
                self._publish(sequence)
            elif not output.complete:
                output.complete = part.input.cancelled = True
        return chosen.outputs + outputs

    def _publish(self, sequence: SequenceState) -> None:
        full = min(len(sequence.keys), sequence.length // PAGE)
        for number in range(sequence.published, full):
            self.blocks.publish(sequence.pages[number], sequence.keys[number])
        sequence.published = max(sequence.published, full)
