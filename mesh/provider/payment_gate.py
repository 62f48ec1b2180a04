"""Where a stage's sessions meet the collector: what may run now, what waits for money, what has been done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from mesh.errors import MeshError, ProtocolViolation
from mesh.payment.credit.collector import VoucherCollector
from mesh.payment.credit.customers import Bill, Customer
from mesh.payment.credit.terms import NotAccepted
from mesh.payment.credit.units import W_PROMPT
from mesh.provider.control import ControlChannel
from mesh.provider.live import LiveSession
from mesh.provider.sessions import HopSession, NotAdmitted
from mesh.wire.frame import Frame
from mesh.wire.paying import Hello, Voucher
from shards.engine.step import StepInput

logger = logging.getLogger(__name__)

MAX_TASKS_PER_PEER = 64
BUSY_SECONDS = 0.01
FLUSH_SECONDS = 1.0
BARRED_SECONDS = 5.0


class PaymentGate:
    """The service's side of the collector.

    `submit` gives work to the engine, False when its queue is full; `fail` ends a session with a code and a reason.
    """

    def __init__(
        self,
        collector: VoucherCollector,
        submit: Callable[[Sequence[StepInput]], bool],
        fail: Callable[[LiveSession, str, str], None],
    ) -> None:
        self._collector = collector
        self._submit = submit
        self._fail = fail
        self._waiting: dict[bytes, LiveSession] = {}
        """Sessions with work that waits for a voucher, the longest waiting first."""
        self._working: dict[str, int] = {}
        collector.release = self._release
        collector.drop = self._drop

    @property
    def chunk(self) -> int:
        """Prompt tokens that fit into half of the credit, so that one chunk can run while the one before is paid."""
        return max(1, self._collector.terms.tokens // (2 * W_PROMPT))

    async def run(self) -> None:
        """Receipts and deadlines, and what clients said about money, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            await self._collector.run()

    async def flush(self) -> None:
        """We are about to leave: claim what was done, and give the gateways a moment to sign for it."""
        await self._collector.flush(FLUSH_SECONDS)

    # --- what a control channel says ---

    def hear(self, control: ControlChannel, message: Hello | Voucher, frame: Frame) -> None:
        """Take an introduction or a voucher; the answer comes later."""
        peer = control.peer
        if self._working.get(peer, 0) >= MAX_TASKS_PER_PEER:
            raise ProtocolViolation("too many introductions and vouchers at once", peer=peer)
        self._working[peer] = self._working.get(peer, 0) + 1
        self._tasks.create_task(self._answer(control, message, bytes(frame.payload)))

    async def _answer(self, control: ControlChannel, message: Hello | Voucher, payload: bytes) -> None:
        try:
            if isinstance(message, Hello):
                await self._collector.greet(control.peer, payload, control.tell)
            else:
                await self._collector.voucher(control.peer, message)
        except MeshError as error:
            logger.warning("%s: %s", control.peer, error)
        finally:
            self._working[control.peer] -= 1
            if not self._working[control.peer]:
                del self._working[control.peer]

    def leave(self, control: ControlChannel) -> None:
        """The control channel has ended."""
        self._collector.leave(control.peer, control.tell)

    # --- sessions ---

    def check(self, peer: str) -> Customer:
        """The gateway behind a client. Raises `NotAdmitted` for one that has not introduced itself as one that pays."""
        customer = self._collector.customer(peer)
        if customer is None:
            raise NotAdmitted("payment_required", "introduce yourself as a staked gateway before you open sessions")
        if customer.barred is not None:
            raise NotAdmitted("not_accepted", customer.barred, BARRED_SECONDS)
        return customer

    def bill(self, entry: HopSession) -> Bill:
        """The bill of a session that is being opened. Raises `NotAdmitted`."""
        customer = self.check(entry.client)
        try:
            return self._collector.open(customer, entry.prompt_tokens, entry.fed_tokens, len(entry.span))
        except NotAccepted as error:
            raise NotAdmitted("unpaid", str(error), 1.0) from error

    def may_run(self, live: LiveSession, work: StepInput) -> bool:
        """True when the work may go to the engine; else it is kept until a voucher makes room."""
        bill = live.bill
        if bill is None:
            return True
        end = work.start + work.count
        if not live.held and bill.has_room(end):
            live.begun[id(work)] = bill.begin(end)
            return True
        live.held.append(work)
        self._waiting[live.entry.id] = live
        self._collector.wait(bill.customer)
        return False

    def done(self, live: LiveSession, work: StepInput, *, ok: bool) -> None:
        """The engine is through with work that it was given."""
        units = live.begun.pop(id(work), None)
        if units is not None and live.bill is not None:
            self._collector.finish(live.bill, units, units if ok else 0)

    def close(self, live: LiveSession, received: int | None) -> None:
        """The session is freed; `received` is what its client says it knows of, None where it did not say."""
        self._waiting.pop(live.entry.id, None)
        if live.bill is None:
            return
        for units in live.begun.values():
            self._collector.finish(live.bill, units, 0)
        live.begun.clear()
        live.held.clear()
        live.bill.close(live.bill.meter.fed if received is None else received)

    def _release(self, customer: Customer) -> None:
        """Run what waits, in the order of waiting, as far as the customer's credit goes."""
        for live in list(self._waiting.values()):
            bill = live.bill
            if bill is None or bill.customer is not customer:
                continue
            while live.held:
                work = live.held[0]
                end = work.start + work.count
                if not bill.has_room(end):
                    self._collector.wait(customer)
                    return
                if not self._submit([work]):
                    asyncio.get_running_loop().call_later(BUSY_SECONDS, self._release, customer)
                    return
                live.held.popleft()
                live.begun[id(work)] = bill.begin(end)
            self._waiting.pop(live.entry.id, None)

    def _drop(self, customer: Customer) -> None:
        """End the sessions that wait."""
        code, reason = "unpaid", f"what was done is not paid for: {customer.owes}"
        if customer.barred is not None:
            code, reason = "not_accepted", customer.barred
        for live in list(self._waiting.values()):
            if live.bill is not None and live.bill.customer is customer:
                self._fail(live, code, reason)
