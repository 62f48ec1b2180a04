"""Resuming an answer that failed: the ticket that goes with the failure, and what it is good for."""

from __future__ import annotations

from dataclasses import replace

from mesh.errors import StorageUnavailable
from mesh.gateway.billing import Billing, refused
from mesh.gateway.callers import Caller
from mesh.gateway.job import Answer, Job
from mesh.payment.accounts.resume_tickets import LIFETIME_SECONDS, MAX_TIMES, ResumeTicket, prefix_hash, read_ticket


class Resumptions:
    """The resume tickets of one gateway."""

    def __init__(self, billing: Billing) -> None:
        self._billing = billing
        self._key = billing.store.ticket_key()

    async def accept(self, caller: Caller, job: Job, text: str | None) -> tuple[Job, ResumeTicket | None]:
        """The job with what its ticket is good for. Raises `ApiFailure` (400) for one that is good for nothing here."""
        if text is None:
            return job, None
        ticket = read_ticket(text, self._key)
        (session, *others) = job.sessions
        now = int(self._billing.clock())
        fits = (
            ticket is not None
            and not others
            and now <= ticket.expires
            and (ticket.payer, ticket.model) == (caller.payer, bytes.fromhex(job.model.digest))
            and ticket.prefix == prefix_hash(session.prompt, session.resumed)
        )
        if ticket is None or not fits:
            raise _useless("is not of this gateway, account, model and tokens, or has expired")
        billing = self._billing
        if not await billing.write(billing.store.resume, ticket.request, expires=ticket.expires, now=now):
            raise _useless("was used before")
        return replace(job, sessions=(replace(session, resumed_paid=True),)), ticket

    async def give_back(self, ticket: ResumeTicket) -> None:
        """Nothing came of it: it may be used again."""
        billing = self._billing
        try:
            await billing.write(billing.store.not_resumed, ticket.request)
        except StorageUnavailable:
            billing.write_late(billing.store.not_resumed, ticket.request)

    def ticket(self, caller: Caller, job: Job, answer: Answer, charged: int, before: ResumeTicket | None) -> str | None:
        """For a request that failed after `answer` had come; None where it cannot be resumed for nothing."""
        times = 0 if before is None else before.times + 1
        if len(job.sessions) != 1 or times >= MAX_TIMES or job.discard_output or not answer.tokens:
            return None
        (session,) = job.sessions
        made = ResumeTicket(
            request=bytes.fromhex(job.id.rpartition("-")[2]),
            payer=caller.payer,
            model=bytes.fromhex(job.model.digest),
            prefix=prefix_hash(session.prompt, (*session.resumed, *answer.tokens)),
            charged=charged,
            expires=int(self._billing.clock()) + LIFETIME_SECONDS,
            times=times,
        )
        return made.sealed(self._key)


def _useless(why: str) -> Exception:
    message = f"The resume_ticket {why}. Without it the tokens that are resumed from are charged as prompt."
    return refused(400, "invalid_resume_ticket", message)
