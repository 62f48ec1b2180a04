"""A stage in service: admits the sessions that clients open, and runs their work until it drains or is cancelled."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from mesh.errors import BadTensor, InternalError, ProtocolViolation
from mesh.payment.credit.collector import VoucherCollector
from mesh.payment.credit.customers import Bill
from mesh.provider.config import ServiceConfig
from mesh.provider.stage.admission import HopSession, NotAdmitted, SessionTable, StageFacts
from mesh.provider.stage.control import ControlChannel, unwrap
from mesh.provider.stage.frames import WIRE_DTYPES
from mesh.provider.stage.manager import SessionManager
from mesh.provider.stage.ring import Ring
from mesh.provider.stage.session import StageSession, sampler_for
from mesh.transport.port import Channel, PeerId, Transport
from mesh.transport.quotas import Rates
from mesh.wire.frame import Frame
from mesh.wire.messages import (
    CONTROL_PROTOCOL,
    KEY_BYTES,
    MAX_REASON,
    PREEMPTED,
    RING_PROTOCOL,
    CloseSession,
    ExtendSession,
    FetchFile,
    FileData,
    Message,
    OpenSession,
    Ping,
    Pong,
    Prompt,
    SessionClosed,
    SessionFailed,
    SessionOpened,
    SessionRefused,
)
from mesh.wire.paying import Hello, Unwelcome, Voucher
from mesh.wire.tokens import read_tokens
from shards.engine.blocks import chain_root, keys_under
from shards.engine.engine import Engine
from shards.engine.step import StepInput, StepOutput
from shards.errors import CapacityExceeded, ShardError
from shards.model.stage import StageModel

logger = logging.getLogger(__name__)

T = TypeVar("T")

EXPIRY_SECONDS = 5.0
DRAIN_PAUSE = 0.1
REQUEST_BYTES = 16 * 1024
"""A request with more payload counts as several."""


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
        collector: VoucherCollector | None = None,
    ) -> None:
        """With a `collector` work is paid for: only gateways that have introduced themselves may open sessions."""
        self.config = config or ServiceConfig()
        self.model = model
        self._transport = transport
        self._files = files
        facts = StageFacts(
            digest=digest,
            span=model.span,
            n_blocks=model.spec.n_blocks,
            vocab_size=model.spec.vocab_size,
            context_length=min(model.spec.context_length, model.longest),
            wire_dtype=wire_dtype,
            page_bytes=model.page_bytes,
        )
        self.table = SessionTable(facts, self.config.admission)
        self._wire_dtype = WIRE_DTYPES[wire_dtype]
        self.sessions = SessionManager(self.table, collector)
        self.payment_gate = self.sessions.payment_gate
        self._strangers = Rates(*self.config.stranger_requests)
        self._clients = Rates(*self.config.client_requests)
        self._crash: asyncio.Future[None] | None = None
        self._closing = False
        self.draining = False
        """No session is admitted any more."""

    @property
    def engine(self) -> Engine | None:
        """What computes; None while the stage does not run."""
        return self.sessions.engine

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled. Raises `InternalError` when the engine stops through a bug of ours."""
        loop = asyncio.get_running_loop()
        self._crash = loop.create_future()
        engine = Engine(
            self.model,
            lambda outcomes: _soon(loop, self._deliver, outcomes),
            lambda error: _soon(loop, self._crashed, error),
            pages=self.table.pages,
            limits=replace(self.config.batch, client_share=self.config.admission.client_share),
            threads=self.config.threads,
        )
        with engine:
            self.sessions.engine = engine
            try:
                async with asyncio.TaskGroup() as tasks:
                    self._tasks = tasks
                    self.ring = Ring(self._transport, self.model.spec, self._wire_dtype, self.sessions, tasks)
                    tasks.create_task(self._expire())
                    if self.payment_gate is not None:
                        tasks.create_task(self.payment_gate.run())
                    await self._transport.serve(CONTROL_PROTOCOL, self._serve_control)
                    await self._transport.serve(RING_PROTOCOL, self.ring.serve)
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
                self.sessions.fail_all("the provider is shutting down")
                self.sessions.engine = None

    async def drain(self, seconds: float, hurry: asyncio.Event | None = None) -> int:
        """Admit no session any more and let those that run end, at most `seconds`; the others go on elsewhere.

        Once `hurry` is set they are not waited for any longer. Returns how many had to go: their clients have been
        told, and open them on another route.
        """
        self.draining = True
        deadline = time.monotonic() + seconds
        while self.sessions and time.monotonic() < deadline and not (hurry and hurry.is_set()):  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_PAUSE)
        handed_over = self.sessions.fail_all("the provider is leaving")
        if handed_over:
            await asyncio.sleep(DRAIN_PAUSE)  # for their clients to be told
        if self.payment_gate is not None:
            await self.payment_gate.flush()
        return handed_over

    # What clients ask for.

    async def _serve_control(self, channel: Channel) -> None:
        control = ControlChannel(
            channel, lambda size: self._pause(channel.peer, size), idle_seconds=self.config.channel_seconds
        )
        control.busy = lambda: any(live.owner is control for live in self.sessions)
        try:
            await control.run(lambda message, frame: self._handle(control, message, frame))
        except BaseExceptionGroup as group:
            error = unwrap(group)
            if error is None:
                raise
            raise error from group
        finally:
            for live in self.sessions:
                if live.owner is control:
                    self.sessions.free(live)
            if self.payment_gate is not None:
                self.payment_gate.leave(control)

    def _pause(self, peer: PeerId, size: int) -> float:
        """Count a request of a peer with so many bytes of payload; for how long no more of its are read."""
        now, amount = time.monotonic(), 1 + size / REQUEST_BYTES
        seconds = self._strangers.of(peer).wait(now, amount)
        return self._clients.of(peer).wait(now, amount) if seconds and self.table.of_client(peer) else seconds

    def _handle(self, control: ControlChannel, message: Message, frame: Frame) -> None:
        match message:
            case OpenSession():
                self._open(control, message, frame)
            case Prompt() | ExtendSession() | Hello() | Voucher() if self._closing:
                pass  # what would do it has ended; the channel is about to
            case Prompt():
                self._prompt(control, message, frame)
            case ExtendSession(session=session, limit=limit):
                self.ring.extend(session, control.peer, limit)
            case CloseSession(session=session, received=received):
                live = self.sessions.owned(session, control)
                if live is not None:
                    entry = live.entry
                    self.sessions.free(live, received)
                    control.tell(SessionClosed(session, entry.tokens, int(entry.busy_seconds * 1e6)))
                else:
                    control.tell(SessionClosed(session, 0, 0))
            case FetchFile(request=request, digest=digest, name=name):
                data = self._files.get(name) if digest == self.table.facts.digest else None
                error = None if data is not None else f"no file {name!r} of model {digest[:12]} here"
                control.tell(FileData(request, error), data or b"")
            case Ping(nonce=nonce):
                control.tell(Pong(nonce))
            case Hello() | Voucher() if self.payment_gate is not None:
                self.payment_gate.hear(control, message, frame)
            case Hello():
                control.tell(Unwelcome("free", "nobody pays here: this provider serves without a chain", 0))
            case _:
                raise ProtocolViolation(f"a {message.kind!r} message makes no sense here", peer=control.peer)

    def _open(self, control: ControlChannel, request: OpenSession, frame: Frame) -> None:
        try:
            if self.engine is None or self._closing or self.draining:
                raise NotAdmitted("closing", "the provider is shutting down")
            if self.payment_gate is not None:
                self.payment_gate.check(control.peer)
            self._make_room(request, control.peer, self.engine)
            entry = self.table.admit(request, control.peer, time.monotonic(), self.engine.free_pages)
        except NotAdmitted as refusal:
            self._refuse(control, request, refusal)
            return
        bill = None
        try:
            bill = self.payment_gate.bill(entry) if self.payment_gate is not None else None
            sequence = self.engine.add(
                entry.id,
                entry.span,
                entry.capacity,
                client=entry.client,
                reserve=entry.fed_tokens,
                sampler=sampler_for(request, frame.payload, self.model.spec) if entry.is_last else None,
                wire_dtype=self._wire_dtype,
                keys=self._keys(request, entry, bill),
            )
        except NotAdmitted as refusal:
            self.table.close(entry.id, control.peer)
            self._refuse(control, request, refusal)
            return
        except (ShardError, BadTensor, RuntimeError) as error:
            self.table.close(entry.id, control.peer)
            if bill is not None:
                bill.close(0)
            busy = isinstance(error, CapacityExceeded | RuntimeError)
            self._refuse(control, request, NotAdmitted("busy" if busy else "bad_request", str(error), 1.0 * busy))
            return
        entry.held = sequence.length
        self.sessions.add(StageSession(entry, control, sequence, bill=bill))
        control.tell(SessionOpened(entry.id, entry.held))
        self.ring.prepare(entry.following)

    def _keys(self, request: OpenSession, entry: HopSession, bill: Bill | None) -> Sequence[bytes]:
        """Under which keys full pages are found: the client's, under a root that only its sessions after the same
        previous hop have. A prompt that is larger than the credit runs whole, as the credit's rules foresee."""
        if bill is not None and bill.price_of(entry.fed_tokens) > bill.customer.line.credit:
            return ()
        root = chain_root(self.table.facts.digest, self.model.numerics, str(entry.span), entry.client, entry.previous)
        return keys_under(root, [request.keys[at : at + KEY_BYTES] for at in range(0, len(request.keys), KEY_BYTES)])

    def _make_room(self, request: OpenSession, client: PeerId, engine: Engine) -> None:
        """End sessions that do nothing, or have grown beyond what is their client's, where that lets another in."""
        for idle in self.table.in_the_way(request, client, time.monotonic(), engine.free_pages):
            if (live := self.sessions.get(idle.id)) is not None:
                self.sessions.lapse(live, "nothing happened in it, and others need its place")
        for large in self.table.beyond_share(request, client, engine.free_pages):
            if (live := self.sessions.get(large.id)) is not None:
                self.sessions.fail(live, PREEMPTED, "its client holds more than its share, and others need it")

    @staticmethod
    def _refuse(control: ControlChannel, request: OpenSession, refusal: NotAdmitted) -> None:
        retry = int(refusal.retry_after * 1000)
        control.tell(SessionRefused(request.session, refusal.code, refusal.reason[:MAX_REASON], retry, refusal.most))

    def _prompt(self, control: ControlChannel, message: Prompt, frame: Frame) -> None:
        live = self.sessions.owned(message.session, control)
        if live is None:
            control.tell(SessionFailed(message.session, "unknown_session", "you have no such session here", None))
            return
        try:
            count = max(0, live.entry.fed_tokens - message.start)
            ids = read_tokens(frame.payload, count, self.model.spec.vocab_size)
            self.table.prompt(message.session, control.peer, len(ids), time.monotonic(), message.start)
        except (BadTensor, ProtocolViolation) as error:
            self.sessions.fail(live, "bad_prompt", str(error), blamed=control.peer)
            return
        live.feeder = self._tasks.create_task(self._feed(live, message.start, torch.tensor(ids, dtype=torch.int64)))

    async def _feed(self, live: StageSession, first: int, ids: torch.Tensor) -> None:
        """Run the prompt chunk by chunk: the next hop works on one while we work on the following."""
        entry = live.entry
        size = (
            self.config.prefill_chunk
            if self.payment_gate is None
            else min(self.config.prefill_chunk, self.payment_gate.chunk)
        )
        for start in range(0, len(ids), size):
            chunk = ids[start : start + size]
            work = StepInput(live.sequence, first + start, len(chunk), tokens=chunk)
            await self.sessions.complete(live, work)
            entry.last_active = time.monotonic()
            await self.ring.links.wait_for_room(entry.following)

    # The engine.

    def _deliver(self, outcomes: Sequence[StepOutput]) -> None:
        try:
            if not self._closing:
                self.ring.conclude(outcomes)
        except BaseException as error:  # sessions would wait for ever for what is lost here: end the stage instead
            self._crashed(error)
            raise

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_SECONDS)
            self.sessions.fail_idle()
            self.ring.close_unused()

    def _crashed(self, error: BaseException) -> None:
        if self._crash is not None and not self._crash.done():
            self._crash.set_exception(InternalError(f"the stage engine stopped: {error!r}"))


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[T], None], argument: T) -> None:
    """Call on the loop from another thread; a loop that has ended needs nothing any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, argument)
