"""Answers on `/mesh/audit/1`: hands a client the rows of its own sessions, runs blocks again for who audits others."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence

from mesh.errors import BadTensor, ProtocolViolation
from mesh.provider.stage.admission import StageFacts
from mesh.transport.port import Channel
from mesh.transport.quotas import Rates
from mesh.verification.ledger import WorkLedger
from mesh.verification.replay import ReplayRun
from mesh.wire.audit import (
    MAX_ROWS_BYTES,
    AskProfile,
    FetchWork,
    ProfileSaid,
    Replay,
    Replayed,
    WorkData,
    decode,
    encode,
)
from mesh.wire.frame import Frame
from mesh.wire.messages import MAX_REASON
from shards.engine.engine import Engine
from shards.engine.sequence import SequenceState
from shards.engine.step import StepInput, StepOutput
from shards.errors import InvalidSampling, ShardError
from shards.model.spec import ModelSpec

PATIENCE_SECONDS = 30.0
"""Between two questions on a channel, and for an engine that has other work."""
REPLAYS = (0.5, 8.0)
"""Of one peer: a second in the long run, and at once."""
FETCHES = (2.0, 32.0)
MOST_WAITING = 4
"""Replays that wait for the one that runs."""


class AuditService:
    """Use as a handler of the protocol. Blocks are run again on `engine`, as one more client's session among others."""

    def __init__(
        self,
        facts: StageFacts,
        spec: ModelSpec,
        ledger: WorkLedger | None,
        engine: Callable[[], Engine | None],
        profile: ProfileSaid | None,
        *,
        replays: bool,
    ) -> None:
        """`replays` False: nobody's work is run again here, as where work is paid for."""
        self._facts = facts
        self._spec = spec
        self._ledger = ledger
        self._engine = engine
        self._profile = profile
        self._replays = replays
        self._fetched, self._replayed = Rates(*FETCHES), Rates(*REPLAYS)
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._running: tuple[SequenceState, asyncio.Queue[StepOutput]] | None = None

    async def __call__(self, channel: Channel) -> None:
        while True:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    frame = await channel.receive()
            except TimeoutError:
                return
            if frame is None:
                return
            await channel.send(await self._answer(channel.peer, frame))

    async def _answer(self, peer: str, frame: Frame) -> Frame:
        now = time.monotonic()
        match decode(frame):
            case AskProfile() if self._profile is not None:
                return encode(self._profile)
            case FetchWork() as question:
                if self._fetched.of(peer).refusal(now):
                    return encode(WorkData("you ask for much: wait a while"))
                return self._fetch(peer, question)
            case Replay() as question:
                if not self._replays:
                    return encode(Replayed("work is not run again here"))
                if self._replayed.of(peer).refusal(now) or self._waiting >= MOST_WAITING:
                    return encode(Replayed("too many audits: wait a while"))
                return await self._replay(question, frame)
            case _:
                raise ProtocolViolation("this is no question", peer=peer)

    def _fetch(self, peer: str, question: FetchWork) -> Frame:
        if self._ledger is None:
            return encode(WorkData("no rows are kept here"))
        rows = self._ledger.kept.rows(question.session, peer, question.side, question.end, MAX_ROWS_BYTES)
        return encode(WorkData(rows)) if isinstance(rows, str) else encode(WorkData(), b"".join(rows))

    async def _replay(self, question: Replay, frame: Frame) -> Frame:
        self._waiting += 1
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self._turn:
                return await self._run(question, frame)
        except TimeoutError:
            return encode(Replayed("other work came first"))
        except (ShardError, BadTensor, InvalidSampling, RuntimeError) as error:
            return encode(Replayed(str(error)[:MAX_REASON] or "it cannot be run"))
        finally:
            self._waiting -= 1

    async def _run(self, question: Replay, frame: Frame) -> Frame:
        engine, facts = self._engine(), self._facts
        if question.digest != facts.digest or question.wire_dtype != facts.wire_dtype:
            return encode(Replayed("this stage serves another model"))
        if engine is None or not facts.span.start <= question.start < question.end <= facts.span.end:
            return encode(Replayed(f"this stage serves blocks {facts.span}"))
        run = ReplayRun(question, frame.payload, self._spec)
        outputs: asyncio.Queue[StepOutput] = asyncio.Queue()  # bounded by the parts of one input
        sequence = engine.add(
            b"audit" + secrets.token_bytes(11),
            run.span,
            run.count + 1,
            client="audits",
            reserve=run.count,
            sampler=run.sampler,
            wire_dtype=run.wire_dtype,
        )
        self._running = sequence, outputs
        try:
            work: StepInput | None = run.begin(sequence)
            while work is not None:
                engine.submit([work])
                complete = False
                while not complete:
                    output = await outputs.get()
                    work, complete = run.follow(output), output.complete
            return encode(*run.answer())
        finally:
            self._running = None
            engine.free(sequence)

    def take(self, outputs: Sequence[StepOutput]) -> Sequence[StepOutput]:
        """Of what a pass gave, what is not an audit's."""
        if self._running is None:
            return outputs
        sequence, queue = self._running
        rest = []
        for output in outputs:
            if output.sequence is sequence:
                queue.put_nowait(output)
            else:
                rest.append(output)
        return rest
