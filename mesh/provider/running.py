"""The live sessions of a stage: their work on its way through the engine, and how each of them ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence

from mesh.errors import MeshError
from mesh.payment.credit.collector import VoucherCollector
from mesh.provider.control import ControlChannel
from mesh.provider.live import LiveSession
from mesh.provider.payment_gate import PaymentGate
from mesh.provider.sessions import SessionTable
from mesh.transport.port import PeerId
from mesh.wire.messages import MAX_REASON, PREEMPTED, SessionFailed
from shards.engine.engine import Engine
from shards.engine.step import StepInput, StepOutput
from shards.errors import BadActivation, CapacityExceeded, InvalidSampling, Preempted, ShardError

logger = logging.getLogger(__name__)

FULL_QUEUE_PAUSE = 0.005


class LiveSessions:
    """The sessions that a stage has admitted, by id. With a `collector` their work is paid for."""

    def __init__(self, table: SessionTable, collector: VoucherCollector | None) -> None:
        self.table = table
        self.payment_gate = PaymentGate(collector, self._try_submit, self.fail) if collector is not None else None
        self.engine: Engine | None = None
        """What runs their work; None while the stage does not run."""
        self._live: dict[bytes, LiveSession] = {}
        self._done: dict[int, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[LiveSession]:
        return iter(tuple(self._live.values()))

    @property
    def awaited(self) -> int:
        """Pieces of prompts that somebody waits for."""
        return len(self._done)

    def get(self, session: bytes) -> LiveSession | None:
        return self._live.get(session)

    def owned(self, session: bytes, owner: ControlChannel) -> LiveSession | None:
        """The session if it was opened over this channel: the same None for one that is gone and somebody else's."""
        live = self._live.get(session)
        return live if live is not None and live.owner is owner else None

    def add(self, live: LiveSession) -> None:
        """Take in a session that has been admitted."""
        self._live[live.entry.id] = live

    # Work.

    async def complete(self, live: LiveSession, work: StepInput) -> None:
        """Run work and return when the engine is through with it."""
        done = asyncio.get_running_loop().create_future()
        self._done[id(work)] = done
        try:
            live.begin(work)
            await self.submit([(live, work)])
            await done
        finally:
            self._done.pop(id(work), None)

    async def submit(self, works: Sequence[tuple[LiveSession, StepInput]]) -> None:
        """Hand work that has begun to the engine, all of it at once, when that takes it; but where work is paid for,
        only that of sessions for which what came before has been paid."""
        gate = self.payment_gate
        ready = [work for live, work in works if gate is None or gate.may_run(live, work)]
        while not self._try_submit(ready):  # noqa: ASYNC110
            await asyncio.sleep(FULL_QUEUE_PAUSE)

    def _try_submit(self, works: Sequence[StepInput]) -> bool:
        """False when the engine's queue is full."""
        left = [work for work in works if not work.cancelled]
        if self.engine is not None and left:
            try:
                self.engine.submit(left)
            except CapacityExceeded:
                return False
        return True

    def conclude(self, outcome: StepOutput) -> LiveSession | None:
        """Book what the engine did; None when its session is gone, or has failed through it."""
        work = outcome.input if outcome.complete else None
        done = self._done.pop(id(work), None) if work is not None else None
        if done is not None and not done.done():
            done.set_result(None)
        live = self._live.get(outcome.sequence.session)
        if live is None or live.sequence is not outcome.sequence:
            return None
        if work is not None:
            live.end(work)
            if self.payment_gate is not None:
                self.payment_gate.done(live, work, ok=outcome.error is None)
        live.entry.tokens += outcome.count
        live.entry.busy_seconds += outcome.seconds
        if outcome.error is not None:
            self._fail_for(live, outcome.error)
            return None
        return live

    # Endings.

    def ring_closed(self, peer: PeerId) -> None:
        """It needs the channel no more; sessions in which it has not spoken yet may still come on another."""
        for entry in self.table.neighbours(peer):
            if entry.previous == peer and entry.expected > 0 and (live := self._live.get(entry.id)) is not None:
                self.fail(live, "peer_lost", f"neighbour {peer} closed the ring", blamed=peer)

    def lost(self, peer: PeerId, error: MeshError, *, code: str = "peer_lost") -> None:
        """A neighbour cannot be reached, or broke the protocol: its sessions end."""
        for entry in self.table.neighbours(peer):
            if (live := self._live.get(entry.id)) is not None:
                self.fail(live, code, f"neighbour {peer}: {error}", blamed=peer)

    def _fail_for(self, live: LiveSession, error: ShardError) -> None:
        match error:
            case BadActivation():
                self.fail(live, "bad_input", str(error), blamed=live.entry.previous)
            case InvalidSampling():
                self.fail(live, "bad_request", str(error))
            case Preempted():
                self.fail(live, PREEMPTED, str(error))
            case _:
                self.fail(live, "failed", str(error))

    def fail_all(self, reason: str) -> int:
        """End every session because we go; how many there were."""
        there = list(self._live.values())
        for live in there:
            self.fail(live, "closing", reason)
        return len(there)

    def fail_idle(self) -> None:
        """End the sessions in which nothing has happened for too long."""
        for entry in self.table.idle(time.monotonic()):
            if (live := self._live.get(entry.id)) is not None:
                self.lapse(live, "nothing happened in it for too long")

    def lapse(self, live: LiveSession, reason: str) -> None:
        """End a session because nothing happens in it."""
        self.table.lapse(live.entry, time.monotonic())
        self.fail(live, "idle", reason)

    def fail(self, live: LiveSession, code: str, reason: str, *, blamed: str | None = None) -> None:
        """Tell the client that its session ends here and why, and free what it held."""
        logger.info("session %s failed (%s): %s", live.entry.id.hex()[:8], code, reason)
        live.owner.tell(SessionFailed(live.entry.id, code, reason[:MAX_REASON], blamed))
        self.free(live)

    def free(self, live: LiveSession, received: int | None = None) -> None:
        """Give back what a session held; `received` is how far its client says it got."""
        self._live.pop(live.entry.id, None)
        if self.engine is not None:
            self.engine.free(live.sequence)
        if self.payment_gate is not None:
            self.payment_gate.close(live, received)
        self.table.close(live.entry.id, live.entry.client)
        for work in live.pending.values():
            work.cancelled = True
            done = self._done.pop(id(work), None)
            if done is not None:
                done.cancel()
        if live.feeder is not None:
            live.feeder.cancel()
