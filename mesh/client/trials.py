"""A gateway's trials: before a provider is routed to and paid, one session of our own through it is run again here.

What a provider that computes anything else could gain is so what one trial's work is worth, which is never signed for;
what an honest one loses by a gateway's doubt is the wait for the next trial. Its later sessions are audited at a rate
(`mesh.client.audits`); one that is found to differ puts the provider back among those that have not passed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from mesh.client.audit_hop import Replayer, Verdict
from mesh.client.audits import SessionAudits
from mesh.client.catalog import Offer
from mesh.client.hop_link import HopLinks
from mesh.client.inbox import together
from mesh.client.ring_session import RingSession
from mesh.client.session_plan import SessionPlan
from mesh.client.trial_book import History, Subject, TrialBook, pause_after
from mesh.discovery.records import ProviderRecord
from mesh.errors import MeshError, NoRoute, Refused
from mesh.payment.credit.issuer import VoucherIssuer
from mesh.payment.credit.units import W_GENERATED, weighted_tokens
from mesh.swarm.route import Hop, RouteTable
from mesh.verification.evidence import CAP, SHUNNED
from shards.engine.sampling_params import SamplingParams

logger = logging.getLogger(__name__)

TRIAL_SECONDS: Final = 60.0
WAIT_SECONDS: Final = 120.0
"""So long a request waits for trials where there is no route without them."""
PAUSE_SECONDS: Final = 1.0
"""Between two rounds of trials of a model."""
MOST_OFFERS: Final = 64
COUNTED_SECONDS: Final = 86_400.0
"""A provider that shows up with other blocks is tried after a pause that doubles with each trial in this time: trials
are work that it is paid for."""
PROMPT, ANSWER = 48, 24
"""Tokens of a trial, where a provider's credit is enough for them twice."""


@dataclass(frozen=True, slots=True)
class Verification:
    """How a gateway sees to it that what it pays for is the model's work."""

    book: TrialBook
    replayers: Mapping[str, Replayer] = field(default_factory=dict)
    """By a model's digest, what runs its blocks again."""
    serve_others: bool = False
    """Whether providers of models that nothing here can run are routed to and paid all the same."""

    def covers(self, digest: str) -> bool:
        """Whether providers of a model must pass a trial."""
        return digest in self.replayers or not self.serve_others


def trial_size(credit: int) -> tuple[int, int]:
    """Tokens of prompt and answer that cost at most half of a credit (in prompt tokens), and at least one each."""
    share = min(1.0, credit / 2 / (PROMPT + W_GENERATED * ANSWER))
    return max(1, int(PROMPT * share)), max(1, int(ANSWER * share))


@dataclass(slots=True)
class TrialCost:
    """What the trials of one model have come to since we started."""

    sessions: int = 0
    units: dict[str, int] = field(default_factory=dict)
    """By provider: what it did in them, and is owed like any other work once it has passed."""


class ProviderTrials:
    """Which providers of a gateway have shown their work."""

    def __init__(
        self,
        verification: Verification,
        issuer: VoucherIssuer,
        audits: SessionAudits,
        tasks: asyncio.TaskGroup,
        links: HopLinks,
        table: Callable[[Offer], RouteTable],
        session: Callable[[Sequence[Hop], SessionPlan], RingSession],
    ) -> None:
        """From now on the issuer signs for nobody who has not passed, and vets nobody who is barred."""
        self._verification = verification
        self._book = verification.book
        self._issuer = issuer
        self._audits = audits
        self._tasks = tasks
        self._links = links
        self._table = table
        self._session = session
        self._running: dict[str, asyncio.Task[None]] = {}
        self._ended: dict[str, float] = {}
        self._tried: dict[str, tuple[float, int]] = {}
        """When a provider was tried last, and how often in the last day or so."""
        self._left_out: dict[str, tuple[Offer, int, frozenset[str]]] = {}
        """What `untried` said of an offer, and at which version of the book."""
        self.spent: dict[str, TrialCost] = {}
        """By a model's digest."""
        issuer.holds, issuer.vetting.barred = self._holds, self._book.bar
        audits.is_young, audits.on_verdict = self.is_young, self.judged

    def untried(self, offer: Offer) -> frozenset[str]:
        """Peers that are not to be routed to: they have not shown their work, or it was not their model's."""
        known = self._left_out.get(offer.digest)
        if known is not None and known[0] is offer and known[1] == self._book.version:
            return known[2]
        out: frozenset[str] = frozenset()
        if self._verification.covers(offer.digest):
            subjects = {record.peer: self._subject(record) for record in offer.records}
            passed = {peer for peer, subject in subjects.items() if subject and self._book.of(subject).has_passed}
            out = frozenset(subjects.keys() - passed)
        if len(self._left_out) >= MOST_OFFERS:
            self._left_out.clear()
        self._left_out[offer.digest] = offer, self._book.version, out
        return out

    def begin(self, offer: Offer) -> None:
        """Have those tried whose turn it is, unless that is being done."""
        late = time.monotonic() - self._ended.get(offer.digest, -math.inf)
        if offer.digest in self._running or late < PAUSE_SECONDS or offer.digest not in self._verification.replayers:
            return
        if not self._due(offer.records):
            return
        task = self._tasks.create_task(self._try_all(offer), name="trials of providers")
        self._running[offer.digest] = task
        task.add_done_callback(lambda done: self._end(offer.digest))

    async def settled(self, offer: Offer) -> None:
        """Wait for the trials of a model that run, or are due."""
        self.begin(offer)
        if (task := self._running.get(offer.digest)) is not None:
            await asyncio.wait({task}, timeout=WAIT_SECONDS)

    def why_not(self, offer: Offer) -> str:
        """Why there is no route through those that are left out; empty where nobody is."""
        out = self.untried(offer)
        if not out:
            return ""
        if offer.digest not in self._verification.replayers:
            return "nothing here can verify the work of its providers: this gateway has not its weights"
        said = {record.peer: self._why(record) for record in offer.records if record.peer in out}
        return "; ".join(f"{peer} has not shown its work{why}" for peer, why in list(said.items())[:3])

    def judged(self, hop: Hop, digest: str, verdict: Verdict) -> None:
        """A session in service was audited."""
        subject = self._subject_of(hop.peer, digest)
        if subject is None:
            return
        if verdict.ratio is not None:
            self._tasks.create_task(self._weigh(subject, verdict.ratio, verdict.text, in_trial=False))
        elif verdict.outcome.startswith("withheld"):
            self._tasks.create_task(self._note_vain(hop, subject, verdict.text, in_trial=False))

    def is_young(self, peer: str, digest: str) -> bool:
        """Whether all that a provider does for us is to be audited."""
        subject = self._subject_of(peer, digest)
        return subject is not None and self._verification.covers(digest) and self._book.of(subject).is_young

    def histories(self) -> dict[Subject, History]:
        """What is known of everybody."""
        return self._book.all()

    def close(self) -> None:
        """Try nobody any more."""
        for task in self._running.values():
            task.cancel()

    def _holds(self, provider: str, digest: str) -> bool:
        return self._verification.covers(digest) and not self._book.may_be_paid(provider)

    def _subject(self, record: ProviderRecord) -> Subject | None:
        provider = self._issuer.vetting.ids.get(record.peer)
        return None if provider is None else Subject(provider, record.digest, record.span.start, record.span.end)

    def _subject_of(self, peer: str, digest: str) -> Subject | None:
        record = self._audits.records.get(peer)
        return self._subject(record) if record is not None and record.digest == digest else None

    def _why(self, record: ProviderRecord) -> str:
        subject = self._subject(record)
        why = "" if subject is None else self._book.of(subject).why
        return f": {why}" if why else ""

    def _due(self, records: Iterable[ProviderRecord]) -> frozenset[str]:
        now, at = time.time(), time.monotonic()
        due = set()
        for record in records:
            subject = self._subject(record)
            if subject is None or record.state != "serving":
                continue
            history = self._book.of(subject)
            fresh = not history.audits and not history.failed  # of other blocks it may have been tried just now
            last, times = self._tried.get(subject.provider, (-math.inf, 0))
            rested = not fresh or at - last >= pause_after(times)
            if not history.has_passed and now >= history.again_at and rested:
                due.add(record.peer)
        return frozenset(due)

    def _end(self, digest: str) -> None:
        self._running.pop(digest, None)
        self._ended[digest] = time.monotonic()

    async def _try_all(self, offer: Offer) -> None:
        """One session after another, each through as many as there is a route through."""
        due = self._due(offer.records)
        while due:
            try:
                others = {record.peer: SHUNNED for record in offer.records if record.peer not in due}
                hops = self._table(offer).choose(excluded=self.untried(offer) - due, factors=others)
            except (NoRoute, Refused) as error:
                logger.info("%d providers of %s cannot be tried now: %s", len(due), offer.name, error)
                return
            tested = [hop for hop in hops if hop.peer in due]
            if not tested:
                return
            due -= {hop.peer for hop in tested}
            await self._try(offer, hops, tested)

    async def _try(self, offer: Offer, hops: Sequence[Hop], tested: Sequence[Hop]) -> None:
        subjects = {record.peer: self._subject(record) for record in offer.records}
        under = {hop: subject for hop in tested if (subject := subjects[hop.peer]) is not None}
        for provider in {subject.provider for subject in under.values()}:
            last, times = self._tried.get(provider, (-math.inf, 0))
            at = time.monotonic()
            self._tried[provider] = at, 1 + (times if at - last < COUNTED_SECONDS else 0)
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                session = await self._run(offer, hops)
        except (MeshError, TimeoutError) as error:  # what a provider says may be taken for a fault of our request
            for hop, subject in under.items():
                await self._note_vain(hop, subject, f"its trial failed: {error or 'it took too long'}")
            return
        answer = list(session.answer)
        broken = await asyncio.to_thread(session.proof.broken, session.plan.fed, answer)
        for hop, subject in under.items():
            links = [link for link in broken if hop.peer in link.peers]
            if alone := [link for link in links if len(link.peers) == 1]:
                await self._weigh(subject, CAP, alone[0].why)
            elif links:
                await self._note_vain(hop, subject, links[0].why)
            else:
                await self._judge(session, hop, subject, answer)

    async def _judge(self, session: RingSession, hop: Hop, subject: Subject, answer: Sequence[int]) -> None:
        replayer = self._verification.replayers[subject.digest]
        verdict = await self._audits.examine(session, hop, answer, replayer)
        if verdict is None or verdict.ratio is None:
            await self._note_vain(hop, subject, "nobody could look at it" if verdict is None else verdict.text)
        else:
            await self._weigh(subject, verdict.ratio, verdict.text)

    async def _run(self, offer: Offer, hops: Sequence[Hop]) -> RingSession:
        """A session of our own, to its end. Raises `MeshError`s."""
        links = await together(self._links.get(hop.peer) for hop in hops)
        session = self._session(hops, self._plan(offer, min(self._issuer.credit_of(link.peer) for link in links)))
        cost = self.spent.setdefault(offer.digest, TrialCost())
        try:
            async with session:
                async for _ in session.tokens():
                    pass
        finally:
            cost.sessions += 1
            weighted = weighted_tokens(session.plan.prompt_tokens, session.arrived) if session.arrived else 0
            for hop in hops:
                provider = self._issuer.vetting.ids.get(hop.peer, hop.peer)
                cost.units[provider] = cost.units.get(provider, 0) + weighted * len(hop.span)
        return session

    @staticmethod
    def _plan(offer: Offer, credit: int) -> SessionPlan:
        sample = offer.sample
        prompt, answer = trial_size(credit)
        fed = tuple(secrets.randbelow(sample.vocab_size) for _ in range(prompt))
        return SessionPlan(
            digest=offer.digest,
            wire_dtype=sample.wire_dtype,
            vocab_size=sample.vocab_size,
            fed=fed,
            prompt_tokens=prompt,
            capacity=min(prompt + answer, sample.context_length),
            eos=(),
            sampling=SamplingParams(),
            prompt_scores=False,
        )

    async def _weigh(self, subject: Subject, ratio: float, why: str, *, in_trial: bool = True) -> None:
        found = await asyncio.to_thread(partial(self._book.weigh, subject, ratio, why, time.time(), in_trial=in_trial))
        if found.has_passed:
            logger.info("provider %s has shown its work: %s", subject.provider, why)
            self._issuer.released(subject.provider)
        elif found.is_barred:
            logger.warning("provider %s is barred for good: %s", subject.provider, why)
        else:
            logger.warning("nothing is signed for provider %s, its work is not its model's: %s", subject.provider, why)

    async def _note_vain(self, hop: Hop, subject: Subject, why: str, *, in_trial: bool = True) -> None:
        logger.warning("provider %s (%s) has not shown its work: %s", subject.provider, hop.peer, why)
        await asyncio.to_thread(partial(self._book.note_vain, subject, why, time.time(), in_trial=in_trial))
