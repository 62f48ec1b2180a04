"""What of a stage's work may run now, and what waits for money; where nothing is paid for, all of it may (pure)."""

from __future__ import annotations

from mesh.payment.credit.customers import Customer
from mesh.payment.credit.terms import NotAccepted
from mesh.payment.credit.units import W_PROMPT
from mesh.provider.stage.admission import NotAdmitted
from mesh.provider.stage.ports import Collector
from mesh.provider.stage.session import StageSession
from shards.engine.step import StepInput

BARRED_SECONDS = 5.0


class StageCredit:
    """The bills of a stage's sessions. Without a `collector` nobody pays."""

    def __init__(self, collector: Collector | None) -> None:
        self._collector = collector
        self._waiting: dict[bytes, StageSession] = {}
        """Sessions with work that waits for a voucher, the longest waiting first."""

    @property
    def waiting(self) -> int:
        """Sessions with work that waits for a voucher."""
        return len(self._waiting)

    def chunk(self, most: int) -> int:
        """Prompt tokens that fit into half of the credit, so that one chunk can run while the one before is paid."""
        return most if self._collector is None else min(most, max(1, self._collector.terms.tokens // (2 * W_PROMPT)))

    def check(self, peer: str) -> Customer | None:
        """The gateway behind a client. Raises `NotAdmitted` for one that has not introduced itself as one that pays."""
        if self._collector is None:
            return None
        customer = self._collector.customer(peer)
        if customer is None:
            raise NotAdmitted("payment_required", "introduce yourself as a staked gateway before you open sessions")
        if customer.barred is not None:
            raise NotAdmitted("not_accepted", customer.barred, BARRED_SECONDS)
        return customer

    def open(self, session: StageSession, customer: Customer | None) -> None:
        """Give a session that is being opened the bill of its customer. Raises `NotAdmitted`."""
        if self._collector is None or customer is None:
            return
        try:
            session.bill = self._collector.open(customer, session.prompt_tokens, session.fed_tokens, len(session.span))
        except NotAccepted as error:
            raise NotAdmitted("unpaid", str(error), 1.0) from error

    def begin(self, session: StageSession, work: StepInput) -> bool:
        """Count work that has come as under way; True when it may go to the engine, else it is kept until a voucher
        makes room."""
        session.begin(work)
        bill = session.bill
        if bill is None or self._collector is None:
            return True
        end = _counted(work)
        bill.skip(work.start)
        if not session.unpaid and bill.has_room(end):
            session.running[work] = bill.begin(end)
            return True
        session.unpaid.append(work)
        self._waiting[session.id] = session
        self._collector.wait(bill.customer)
        return False

    def end(self, session: StageSession, work: StepInput, *, ok: bool) -> None:
        """The engine is through with work."""
        self._finish(session, session.end(work), ok=ok)

    def _finish(self, session: StageSession, units: int | None, *, ok: bool) -> None:
        if units is not None and session.bill is not None and self._collector is not None:
            self._collector.finish(session.bill, units, units if ok else 0)

    def close(self, session: StageSession, received: int | None) -> None:
        """The session ends; `received` is what its client says it knows of, None where it did not say.

        Guesses of the last trip that were right are counted only now, where its client says that they were, and as far
        as there is credit for them.
        """
        self._waiting.pop(session.id, None)
        for units in session.running.values():
            self._finish(session, units, ok=False)
        bill = session.bill
        if bill is None:
            return
        known = min(received or 0, session.ran)
        if bill.meter.processed < known and bill.has_room(known):
            self._finish(session, bill.begin(known), ok=True)
        bill.close(bill.meter.fed if received is None else received)

    def resume(self, customer: Customer) -> list[StepInput]:
        """What a customer's vouchers let run now, in the order of waiting."""
        ready: list[StepInput] = []
        for session in list(self._waiting.values()):
            bill = session.bill
            if bill is None or bill.customer is not customer:
                continue
            while session.unpaid:
                work = session.unpaid[0]
                end = _counted(work)
                if not bill.has_room(end):
                    if self._collector is not None:
                        self._collector.wait(customer)
                    return ready
                session.running[session.unpaid.popleft()] = bill.begin(end)
                ready.append(work)
            del self._waiting[session.id]
        return ready

    def waiting_of(self, customer: Customer) -> list[StageSession]:
        """A customer's sessions with work that waits."""
        return [each for each in self._waiting.values() if each.bill is not None and each.bill.customer is customer]


def _counted(work: StepInput) -> int:
    """The positions below are paid for once the work is done. Guesses are not: those that turn out right are counted
    with what comes after them, or at the end; the others are this hop's own cost."""
    return work.start + (1 if work.verifies else work.count)
