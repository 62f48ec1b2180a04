"""A stage in service: admits the sessions that clients open, and runs their work until it drains or is cancelled."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TypeVar

import torch

from mesh.errors import InternalError, MeshError, ProtocolViolation
from mesh.identity import Identity
from mesh.payment.credit.collector import VoucherCollector
from mesh.payment.credit.customers import Customer
from mesh.provider.config import ServiceConfig
from mesh.provider.stage import events
from mesh.provider.stage.admission import SessionTable, StageFacts
from mesh.provider.stage.audits import AuditService
from mesh.provider.stage.control import ControlChannel, unwrap
from mesh.provider.stage.core import StageCore
from mesh.provider.stage.credit import StageCredit
from mesh.provider.stage.forms import StageForms
from mesh.provider.stage.frames import WIRE_DTYPES
from mesh.provider.stage.links import Links
from mesh.provider.stage.payment_gate import PaymentGate
from mesh.provider.stage.proving import Proving
from mesh.provider.stage.ring import RingServer
from mesh.transport.port import Channel, PeerId, Transport
from mesh.transport.quotas import Rates
from mesh.verification.ledger import WorkLedger
from mesh.verification.profile import golden_root, profile_hash, profile_text
from mesh.version import VERSION
from mesh.wire.audit import AUDIT_PROTOCOL, ProfileSaid
from mesh.wire.frame import Frame
from mesh.wire.messages import (
    CONTROL_PROTOCOL,
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
)
from mesh.wire.paying import Compare, Hello, Unwelcome, Voucher
from shards.engine.engine import Engine
from shards.engine.step import StepOutput
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
        identity: Identity | None = None,
    ) -> None:
        """With a `collector` work is paid for: only gateways that have introduced themselves may open sessions.

        With an `identity`, which signs them, there are records of work (`mesh.verification`).
        """
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
        self._collector = collector
        self.payment_gate = PaymentGate(collector) if collector is not None else None
        self.engine: Engine | None = None
        """What computes; None while the stage does not run."""
        self._strangers = Rates(*self.config.stranger_requests)
        self._clients = Rates(*self.config.client_requests)
        self._crash: asyncio.Future[None] | None = None
        self._identity = identity
        self._proving: Proving | None = None
        self._closing = False
        self._room = asyncio.Event()
        """Set while the engine takes more work."""
        self.draining = False

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled. Raises `InternalError` when the engine stops through a bug of ours."""
        loop = asyncio.get_running_loop()
        self._crash = loop.create_future()
        profile = await asyncio.to_thread(self._test_ourselves)
        ledger: WorkLedger | None = None
        if self._identity is not None:
            ledger = WorkLedger(self._identity, profile.profile, self.config.kept_bytes)
            self._proving = Proving(ledger, self.table)
        self.audits = AuditService(
            self.table.facts,
            self.model.spec,
            ledger,
            lambda: self.engine,
            profile,
            replays=self._collector is None,
        )
        engine = Engine(
            self.model,
            lambda outcomes: _soon(loop, self._deliver, outcomes),
            lambda error: _soon(loop, self._crashed, error),
            pages=self.table.pages,
            limits=replace(self.config.batch, client_share=self.config.admission.client_share),
            threads=self.config.threads,
            whole=self.table.facts.is_whole,
        )
        self.core = StageCore(
            self.table,
            engine,
            StageCredit(self._collector),
            me=self._transport.peer_id,
            spec=self.model.spec,
            numerics=self.model.numerics,
            prefill_chunk=self.config.prefill_chunk,
        )
        self.ring = RingServer(self._handle, lambda peer: bool(self.table.neighbours(peer)), self._room.wait)
        if self._collector is not None:
            self._collector.release, self._collector.drop = self._paid, self._unpaid
        with ExitStack() as stack, engine:
            self.engine = engine
            try:
                async with asyncio.TaskGroup() as tasks:
                    self.links = Links(self._transport, tasks, self._lost, self._filled)
                    self._forms = stack.enter_context(closing(self._new_forms(tasks)))
                    tasks.create_task(self._tick())
                    if self.payment_gate is not None:
                        tasks.create_task(self.payment_gate.run())
                    await self._transport.serve(CONTROL_PROTOCOL, self._serve_control)
                    await self._transport.serve(RING_PROTOCOL, self.ring.serve)
                    await self._transport.serve(AUDIT_PROTOCOL, self.audits)
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
                self._handle(events.Withdrawn())
                self._handle(events.StageEnded("the provider is shutting down"))
                self.engine = None

    def withdraw(self) -> None:
        """Admit no session any more."""
        self.draining = True
        self._handle(events.Withdrawn())

    async def drain(self, seconds: float, hurry: asyncio.Event | None = None) -> int:
        """Admit no session any more and let those that run end, at most `seconds`; the others go on elsewhere.

        Once `hurry` is set they are not waited for any longer. Returns how many had to go: their clients have been
        told, and open them on another route.
        """
        self.withdraw()
        deadline = time.monotonic() + seconds
        while len(self.table) and time.monotonic() < deadline and not (hurry and hurry.is_set()):  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_PAUSE)
        handed_over = len(self.table)
        self._handle(events.StageEnded("the provider is leaving"))
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
        control.busy = lambda: any(session.owner is control for session in self.table)
        try:
            await control.run(lambda message, frame: self._asked(control, message, frame))
        except BaseExceptionGroup as group:
            error = unwrap(group)
            if error is None:
                raise
            raise error from group
        finally:
            self._forms.cancel(control)
            self._handle(events.OwnerGone(control))
            if self.payment_gate is not None:
                self.payment_gate.leave(control)

    def _pause(self, peer: PeerId, size: int) -> float:
        """Count a request of a peer with so many bytes of payload; for how long no more of its are read."""
        now, amount = time.monotonic(), 1 + size / REQUEST_BYTES
        seconds = self._strangers.of(peer).wait(now, amount)
        return self._clients.of(peer).wait(now, amount) if seconds and self.table.of_client(peer) else seconds

    def _asked(self, control: ControlChannel, message: Message, frame: Frame) -> None:
        match message:
            case OpenSession(form=(_, _, _)) if not self._closing:
                self._forms.open(control, message, frame.payload)
            case CloseSession(session=session) if self._forms.cancel(control, session):
                control.tell(SessionClosed(session, 0, 0))
            case OpenSession() | Prompt() | ExtendSession() | CloseSession():
                if isinstance(message, CloseSession) and self._proving is not None:
                    for work in self._proving.close(message.session, control, message.received):
                        control.tell(work)
                self._handle(events.Asked(control, message, frame.payload))
            case FetchFile(request=request, digest=digest, name=name):
                data = self._files.get(name) if digest == self.table.facts.digest else None
                error = None if data is not None else f"no file {name!r} of model {digest[:12]} here"
                control.tell(FileData(request, error), data or b"")
            case Ping(nonce=nonce):
                control.tell(Pong(nonce))
            case Hello() | Voucher() | Compare() if self._closing:
                pass  # what would take it has ended; the channel is about to
            case Hello() | Voucher() | Compare() if self.payment_gate is not None:
                self.payment_gate.hear(control, message, frame)
            case Hello():
                control.tell(Unwelcome("free", "nobody pays here: this provider serves without a chain", 0))
            case _:
                raise ProtocolViolation(f"a {message.kind!r} message makes no sense here", peer=control.peer)

    def _new_forms(self, tasks: asyncio.TaskGroup) -> StageForms:
        return StageForms(
            self.model.spec,
            self._files,
            tasks,
            lambda owner, message, payload, form: self._handle(events.Asked(owner, message, payload, form)),
        )

    # What the core decides.

    def _handle(self, event: events.Event) -> Sequence[events.Action]:
        """Carry out what an event asks for, which is returned. Raises what `StageCore.handle` does."""
        actions = self.core.handle(event, time.monotonic())
        for action in actions:
            match action:
                case events.Tell(owner=owner, message=message):
                    owner.tell(message)
                case events.HandOver(peer=peer, frame=frame):
                    self.links.push(peer, frame)
                case events.OpenLink(peer=peer):
                    self.links.prepare(peer)
        if self.core.congested:
            self._room.clear()
        else:
            self._room.set()
        return actions

    def _paid(self, customer: Customer) -> None:
        self._handle(events.CustomerPaid(customer))

    def _unpaid(self, customer: Customer) -> None:
        self._handle(events.CustomerOwes(customer))

    def _lost(self, peer: PeerId, error: MeshError) -> None:
        self._handle(events.PeerLost(peer, str(error)))

    def _filled(self, peer: PeerId, full: bool) -> None:
        self._handle(events.LinkFilled(peer) if full else events.LinkCleared(peer))

    def _deliver(self, outputs: Sequence[StepOutput]) -> None:
        try:
            if not self._closing:
                outputs = self.audits.take(outputs)
                self._handle(events.Computed(outputs))
                if self._proving is not None:  # once the next hop has its frame: it need not wait for hashes
                    for owner, work in self._proving.ran(outputs):
                        owner.tell(work)
            if self.engine is not None and self.table.facts.is_whole:
                self.engine.next_fed()
        except BaseException as error:  # sessions would wait for ever for what is lost here: end the stage instead
            self._crashed(error)
            raise

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_SECONDS)
            self._handle(events.Ticked())
            if self._proving is not None:
                self._proving.tidy()
            self.links.close_unused(lambda peer: bool(self.table.neighbours(peer)))

    def _test_ourselves(self) -> ProfileSaid:
        """How we compute, and what our blocks make of rows that everybody knows."""
        facts = self.table.facts
        text = profile_text(VERSION, self.model.numerics, facts.wire_dtype)
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        golden = golden_root(self.model, WIRE_DTYPES[facts.wire_dtype])
        return ProfileSaid(text, profile_hash(text), facts.span.start, facts.span.end, golden)

    def _crashed(self, error: BaseException) -> None:
        if self._crash is not None and not self._crash.done():
            self._crash.set_exception(InternalError(f"the stage engine stopped: {error!r}"))


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[T], None], argument: T) -> None:
    """Call on the loop from another thread; a loop that has ended needs nothing any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, argument)
