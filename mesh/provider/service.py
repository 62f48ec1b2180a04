"""A stage in service: admits sessions, runs what arrives over the ring, hands the result to the next hop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch

from mesh.errors import BadTensor, InternalError, MeshError, PeerError, ProtocolViolation
from mesh.payment.collector import Collector
from mesh.provider.config import ServiceConfig
from mesh.provider.control import ControlChannel, unwrap
from mesh.provider.links import Links
from mesh.provider.live import LiveSession, activation_frames, answers, tail_for
from mesh.provider.sessions import NotAdmitted, SessionTable, StageFacts
from mesh.provider.tensors import WIRE_DTYPES, split_hidden
from mesh.provider.till import Till
from mesh.transport.port import Channel, PeerId, Transport
from mesh.wire.frame import Frame
from mesh.wire.messages import (
    CONTROL_PROTOCOL,
    MAX_REASON,
    RING_PROTOCOL,
    Activations,
    CloseSession,
    ExtendSession,
    FetchFile,
    FileData,
    Message,
    NextTokens,
    OpenSession,
    Ping,
    Pong,
    Prompt,
    PromptProgress,
    SessionClosed,
    SessionFailed,
    SessionOpened,
    SessionRefused,
    decode,
    encode,
)
from mesh.wire.paying import Hello, Unwelcome, Voucher
from mesh.wire.tokens import read_tokens
from shards.engine.engine import Engine
from shards.engine.work import Outcome, Work
from shards.errors import BadActivation, CapacityExceeded, InvalidSampling, ShardError
from shards.stage import StageModel

logger = logging.getLogger(__name__)

T = TypeVar("T")

FULL_QUEUE_PAUSE = 0.005
EXPIRY_SECONDS = 5.0
DRAIN_PAUSE = 0.1


class StageService:
    """Serves one stage over a transport until `run` is cancelled."""

    def __init__(
        self,
        model: StageModel,
        *,
        digest: str,
        transport: Transport,
        files: Mapping[str, bytes],
        wire_dtype: str,
        config: ServiceConfig | None = None,
        collector: Collector | None = None,
    ) -> None:
        """With a `collector` work is paid for: only gateways that have introduced themselves may open sessions."""
        self.till = Till(collector, self._try_submit, self._fail) if collector is not None else None
        self.config = config or ServiceConfig()
        self.model = model
        self._transport = transport
        self._files = files
        self._wire_dtype = WIRE_DTYPES[wire_dtype]
        facts = StageFacts(
            digest=digest,
            span=model.span,
            n_blocks=model.spec.n_blocks,
            vocab_size=model.spec.vocab_size,
            context_length=model.spec.context_length,
            wire_dtype=wire_dtype,
            kv_bytes_per_token=model.kv_bytes_per_token,
        )
        self.table = SessionTable(facts, self.config.admission)
        self._live: dict[bytes, LiveSession] = {}
        self._ring: dict[PeerId, Channel] = {}
        """Each neighbour's newest channel to us."""
        self._done: dict[int, asyncio.Future[None]] = {}
        self._crash: asyncio.Future[None] | None = None
        self._closing = False
        self.draining = False
        """No session is admitted any more."""
        self.engine: Engine | None = None

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled. Raises `InternalError` when the engine stops through a bug of ours."""
        loop = asyncio.get_running_loop()
        self._crash = loop.create_future()
        engine = Engine(
            self.model,
            lambda outcomes: _soon(loop, self._deliver, outcomes),
            lambda error: _soon(loop, self._crashed, error),
            limits=self.config.batch,
            threads=self.config.threads,
        )
        with engine:
            self.engine = engine
            try:
                async with asyncio.TaskGroup() as tasks:
                    self._tasks = tasks
                    self._links = Links(self._transport, tasks, self._link_broken)
                    tasks.create_task(self._expire())
                    if self.till is not None:
                        tasks.create_task(self.till.run())
                    await self._transport.serve(CONTROL_PROTOCOL, self._serve_control)
                    await self._transport.serve(RING_PROTOCOL, self._serve_ring)
                    ready()
                    try:
                        await self._crash
                    finally:
                        self._closing = True
            except BaseExceptionGroup as group:
                error = unwrap(group)
                if error is None:
                    raise
                raise error from group
            finally:
                self._closing = True
                for live in list(self._live.values()):
                    self._fail(live, "closing", "the provider is shutting down")
                self.engine = None

    async def drain(self, seconds: float) -> int:
        """Admit no session any more and let those that run end, at most `seconds`; the others go on elsewhere.

        Returns how many had to: their clients have been told, and open them on another route.
        """
        self.draining = True
        deadline = time.monotonic() + seconds
        while self._live and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_PAUSE)
        handed_over = list(self._live.values())
        for live in handed_over:
            self._fail(live, "closing", "the provider is leaving")
        if handed_over:
            await asyncio.sleep(DRAIN_PAUSE)  # for their clients to be told
        if self.till is not None:
            await self.till.flush()
        return len(handed_over)

    # What clients ask for.

    async def _serve_control(self, channel: Channel) -> None:
        control = ControlChannel(channel)
        try:
            await control.run(lambda message, frame: self._handle(control, message, frame))
        except BaseExceptionGroup as group:
            error = unwrap(group)
            if error is None:
                raise
            raise error from group
        finally:
            for live in [live for live in self._live.values() if live.owner is control]:
                self._free(live)
            if self.till is not None:
                self.till.leave(control)

    def _handle(self, control: ControlChannel, message: Message, frame: Frame) -> None:
        match message:
            case OpenSession():
                self._open(control, message, frame)
            case Prompt() | ExtendSession() | Hello() | Voucher() if self._closing:
                pass  # what would do it has ended; the channel is about to
            case Prompt():
                self._prompt(control, message, frame)
            case ExtendSession(session=session, limit=limit):
                self._extend(session, control.peer, limit)
            case CloseSession(session=session, received=received):
                live = self._live.get(session)
                if live is not None and live.owner is control:
                    entry = live.entry
                    self._free(live, received)
                    control.tell(SessionClosed(session, entry.tokens, int(entry.busy_seconds * 1e6)))
                else:
                    control.tell(SessionClosed(session, 0, 0))
            case FetchFile(request=request, digest=digest, name=name):
                data = self._files.get(name) if digest == self.table.facts.digest else None
                error = None if data is not None else f"no file {name!r} of model {digest[:12]} here"
                control.tell(FileData(request, error), data or b"")
            case Ping(nonce=nonce):
                control.tell(Pong(nonce))
            case Hello() | Voucher() if self.till is not None:
                self.till.hear(control, message, frame)
            case Hello():
                control.tell(Unwelcome("free", "nobody pays here: this provider serves without a chain", 0))
            case _:
                raise ProtocolViolation(f"a {message.kind!r} message makes no sense here", peer=control.peer)

    def _open(self, control: ControlChannel, request: OpenSession, frame: Frame) -> None:
        try:
            if self.engine is None or self._closing or self.draining:
                raise NotAdmitted("closing", "the provider is shutting down")
            if self.till is not None:
                self.till.check(control.peer)
            entry = self.table.admit(request, control.peer, time.monotonic())
        except NotAdmitted as refusal:
            self._refuse(control, request, refusal)
            return
        try:
            bill = self.till.bill(entry) if self.till is not None else None
            tail = tail_for(request, frame.payload, self.model.spec) if entry.is_last else None
            cache = self.model.new_cache(entry.span, entry.capacity)
        except NotAdmitted as refusal:
            self.table.close(entry.id, control.peer)
            self._refuse(control, request, refusal)
            return
        except (ShardError, BadTensor, RuntimeError) as error:
            self.table.close(entry.id, control.peer)
            busy = isinstance(error, CapacityExceeded | RuntimeError)
            self._refuse(control, request, NotAdmitted("busy" if busy else "bad_request", str(error), 1.0 * busy))
            return
        self._live[entry.id] = LiveSession(entry, control, cache, tail, bill=bill)
        control.tell(SessionOpened(entry.id))

    @staticmethod
    def _refuse(control: ControlChannel, request: OpenSession, refusal: NotAdmitted) -> None:
        retry = int(refusal.retry_after * 1000)
        control.tell(SessionRefused(request.session, refusal.code, refusal.reason[:MAX_REASON], retry))

    def _prompt(self, control: ControlChannel, message: Prompt, frame: Frame) -> None:
        live = self._live.get(message.session)
        if live is None or live.owner is not control:
            # The same answer for a session that is gone and for somebody else's.
            control.tell(SessionFailed(message.session, "unknown_session", "you have no such session here", None))
            return
        try:
            ids = read_tokens(frame.payload, live.entry.fed_tokens, self.model.spec.vocab_size)
            self.table.prompt(message.session, control.peer, len(ids), time.monotonic())
        except (BadTensor, ProtocolViolation) as error:
            self._fail(live, "bad_prompt", str(error), blamed=control.peer)
            return
        live.feeder = self._tasks.create_task(self._feed(live, torch.tensor(ids, dtype=torch.int64)))

    async def _feed(self, live: LiveSession, ids: torch.Tensor) -> None:
        """Run the prompt chunk by chunk: the next hop works on one while we work on the following."""
        entry = live.entry
        size = self.config.prefill_chunk if self.till is None else min(self.config.prefill_chunk, self.till.chunk)
        for start in range(0, len(ids), size):
            chunk = ids[start : start + size]
            work = Work(entry.id, live.cache, start, len(chunk), tokens=chunk)
            done = asyncio.get_running_loop().create_future()
            self._done[id(work)] = done
            try:
                await self._submit(live, work)
                await done
            finally:
                self._done.pop(id(work), None)
            entry.last_active = time.monotonic()
            await self._links.wait_for_room(entry.following)

    # What arrives over the ring.

    async def _serve_ring(self, channel: Channel) -> None:
        sender = channel.peer
        self._ring[sender] = channel
        try:
            while (frame := await channel.receive()) is not None:
                await self._take(sender, frame)
        except PeerError as error:
            if self._ring.get(sender) is channel:
                self._lost(sender, error, code="bad_input" if isinstance(error, ProtocolViolation) else "peer_lost")
            raise
        else:
            if self._ring.get(sender) is channel:
                self._ring_closed(sender)
        finally:
            if self._ring.get(sender) is channel:
                del self._ring[sender]

    async def _take(self, sender: PeerId, frame: Frame) -> None:
        match decode(frame):
            case Activations(parts=parts):
                await self._activations(sender, parts, frame)
            case NextTokens(parts=parts):
                await self._next_tokens(sender, parts)
            case other:
                raise ProtocolViolation(f"a {other.kind!r} message makes no sense on the ring", peer=sender)

    async def _activations(self, sender: PeerId, parts: Sequence[tuple[bytes, int, int]], frame: Frame) -> None:
        counts = [count for _, _, count in parts]
        hidden = split_hidden(frame.payload, counts, self.model.spec.hidden_size, self._wire_dtype)
        for (session, start, count), states in zip(parts, hidden, strict=True):
            await self._arrive(sender, session, start, count, hidden=states)

    async def _next_tokens(self, sender: PeerId, parts: Sequence[tuple[bytes, int, int]]) -> None:
        for session, position, token in parts:
            if token >= self.model.spec.vocab_size:
                raise BadTensor(f"token {token} is outside the vocabulary", peer=sender)
            live = self._live.get(session)
            if live is not None and live.entry.previous == sender and position >= live.entry.limit:
                live.parked = (position, token)
                continue
            await self._arrive(sender, session, position, 1, tokens=torch.tensor([token]))

    def _extend(self, session: bytes, client: PeerId, limit: int) -> None:
        entry = self.table.extend(session, client, limit, time.monotonic())
        live = self._live.get(session)
        if entry is None or live is None or live.parked is None or live.parked[0] >= entry.limit:
            return
        (position, token), live.parked = live.parked, None
        tokens = torch.tensor([token])
        self._tasks.create_task(self._arrive(entry.previous, session, position, 1, tokens=tokens))

    async def _arrive(
        self,
        sender: PeerId,
        session: bytes,
        start: int,
        count: int,
        *,
        tokens: torch.Tensor | None = None,
        hidden: torch.Tensor | None = None,
    ) -> None:
        live = self._live.get(session)
        try:
            entry = self.table.arrive(session, sender, start, count, time.monotonic())
        except ProtocolViolation as error:
            # Only a session's own neighbour can make it fail; a stranger's frame changes nothing.
            if live is not None and live.entry.previous == sender:
                self._fail(live, "bad_input", str(error), blamed=sender)
            else:
                logger.warning("refused a frame of %s: %s", sender, error)
            return
        if entry is None or live is None:
            return
        if entry.is_first != (tokens is not None):
            self._fail(live, "bad_input", "the first stage takes tokens, the others hidden states", blamed=sender)
            return
        if live.overrun_by(count):
            self._fail(live, "bad_input", "more came than the session can have under way", blamed=sender)
            return
        await self._submit(live, Work(session, live.cache, start, count, tokens=tokens, hidden=hidden))

    async def _submit(self, live: LiveSession, work: Work) -> None:
        work.tail = live.tail
        work.wire_dtype = self._wire_dtype
        live.begin(work)
        if self.till is not None and not self.till.may_run(live, work):
            return
        while True:
            if self._try_submit(work):
                return
            await asyncio.sleep(FULL_QUEUE_PAUSE)

    def _try_submit(self, work: Work) -> bool:
        """False when the engine's queue is full."""
        if self.engine is not None and not work.cancelled:
            try:
                self.engine.submit(work)
            except CapacityExceeded:
                return False
        return True

    # What the engine produces.

    def _deliver(self, outcomes: Sequence[Outcome]) -> None:
        try:
            self._conclude(outcomes)
        except BaseException as error:  # sessions would wait for ever for what is lost here: end the stage instead
            self._crashed(error)
            raise

    def _conclude(self, outcomes: Sequence[Outcome]) -> None:
        if self._closing:
            return
        onward: dict[PeerId, list[tuple[LiveSession, Outcome]]] = {}
        around: dict[PeerId, list[tuple[LiveSession, Outcome]]] = {}
        for outcome in outcomes:
            work = outcome.work
            done = self._done.pop(id(work), None)
            if done is not None and not done.done():
                done.set_result(None)
            live = self._live.get(work.session)
            if live is None or live.cache is not work.cache:
                continue
            live.end(work)
            if self.till is not None:
                self.till.done(live, work, ok=outcome.error is None)
            live.entry.tokens += work.count
            live.entry.busy_seconds += outcome.seconds
            if outcome.error is not None:
                self._fail_for(live, outcome.error)
            elif outcome.hidden is not None:
                onward.setdefault(live.entry.following, []).append((live, outcome))
            else:
                for answer in answers(outcome):
                    live.owner.tell(answer)
                if outcome.choice is None and work.start + work.count < live.entry.fed_tokens:
                    live.owner.tell(PromptProgress(work.session, work.start + work.count))
                if outcome.choice is not None and outcome.choice.finish is None:
                    around.setdefault(live.entry.following, []).append((live, outcome))
        for peer, items in onward.items():
            for frame in activation_frames(outcome for _, outcome in items):
                self._hand_over(peer, frame)
        for peer, items in around.items():
            parts = tuple(
                (o.work.session, o.choice.position, o.choice.sampled.token) for _, o in items if o.choice is not None
            )
            self._hand_over(peer, encode(NextTokens(parts)))

    def _hand_over(self, peer: PeerId, frame: Frame) -> None:
        if peer == self._transport.peer_id:  # a route of one hop: its ring is a call to itself
            self._tasks.create_task(self._take(peer, frame))
        else:
            self._links.push(peer, frame)

    # Endings.

    def _link_broken(self, peer: PeerId, error: MeshError) -> None:
        self._lost(peer, error, code="peer_lost")

    def _ring_closed(self, peer: PeerId) -> None:
        """It needs the channel no more; sessions in which it has not spoken yet may still come on another."""
        for entry in self.table.neighbours(peer):
            if entry.previous == peer and entry.expected > 0 and (live := self._live.get(entry.id)) is not None:
                self._fail(live, "peer_lost", f"neighbour {peer} closed the ring", blamed=peer)

    def _lost(self, peer: PeerId, error: MeshError, *, code: str) -> None:
        for entry in self.table.neighbours(peer):
            if (live := self._live.get(entry.id)) is not None:
                self._fail(live, code, f"neighbour {peer}: {error}", blamed=peer)

    def _fail_for(self, live: LiveSession, error: ShardError) -> None:
        match error:
            case BadActivation():
                self._fail(live, "bad_input", str(error), blamed=live.entry.previous)
            case InvalidSampling():
                self._fail(live, "bad_request", str(error))
            case _:
                self._fail(live, "failed", str(error))

    def _fail(self, live: LiveSession, code: str, reason: str, *, blamed: str | None = None) -> None:
        logger.info("session %s failed (%s): %s", live.entry.id.hex()[:8], code, reason)
        live.owner.tell(SessionFailed(live.entry.id, code, reason[:MAX_REASON], blamed))
        self._free(live)

    def _free(self, live: LiveSession, received: int | None = None) -> None:
        self._live.pop(live.entry.id, None)
        if self.till is not None:
            self.till.close(live, received)
        self.table.close(live.entry.id, live.entry.client)
        for work in live.pending.values():
            work.cancelled = True
            done = self._done.pop(id(work), None)
            if done is not None:
                done.cancel()
        if live.feeder is not None:
            live.feeder.cancel()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_SECONDS)
            self._drop_idle()  # a call of its own: a local here would keep the last one's cache alive
            self._links.close_unused(lambda peer: bool(self.table.neighbours(peer)))

    def _drop_idle(self) -> None:
        for entry in self.table.idle(time.monotonic()):
            if (live := self._live.get(entry.id)) is not None:
                self._fail(live, "idle", f"nothing happened for {self.table.limits.idle_seconds:g} s")

    def _crashed(self, error: BaseException) -> None:
        if self._crash is not None and not self._crash.done():
            self._crash.set_exception(InternalError(f"the stage engine stopped: {error!r}"))


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[T], None], argument: T) -> None:
    """Call on the loop from another thread; a loop that has ended needs nothing any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, argument)
