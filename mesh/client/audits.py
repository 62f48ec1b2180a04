"""A client's audits of its own sessions: their links always, and for a share of them one hop's work, by a replica."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random, SystemRandom
from typing import Final

from mesh.client.audit_hop import Exhibit, Replayer, Replica, Verdict, ask_profile, exhibit, judge
from mesh.client.ring_session import RingSession
from mesh.discovery.records import ProviderRecord
from mesh.errors import PeerError
from mesh.swarm.route import Hop
from mesh.transport.port import Transport
from mesh.transport.quotas import Rates
from mesh.verification.evidence import Evidence
from shards.model.numerics import has_same_bits

logger = logging.getLogger(__name__)

SHARE: Final = 0.02
"""Of the sessions, how many are audited where nobody says otherwise …"""
PAID_SHARE: Final = 0.25
"""… and of those that are paid for, where the weights are here."""
MOST_RUNNING: Final = 4
MOST_AUDITORS: Final = 2
"""Whose replays are asked for before a provider is taken for a cheat, where there are so many."""
REMEMBERED: Final = 64
OFTEN: Final = (1.0, 16.0)
"""Audits of one hop, a second in the long run and at once: it hands out rows only so often."""


class SessionAudits:
    """Looks at sessions that have ended. What it finds is in `evidence`, and the last verdicts in `verdicts`.

    Nobody is told before the session has ended whether it will be audited: the draw is made then, by us alone.
    """

    def __init__(
        self,
        transport: Transport,
        records: Mapping[str, ProviderRecord],
        share: float,
        *,
        replayers: Mapping[str, Replayer] | None = None,
        random: Random | None = None,
    ) -> None:
        """`records` are those of all providers that we know; `share` 0 audits nobody.

        `replayers`, by a model's digest: what runs its blocks again here; other providers do where there is none.
        """
        self.evidence = Evidence()
        self.verdicts: deque[Verdict] = deque(maxlen=REMEMBERED)
        self.is_young: Callable[[str, str], bool] = lambda peer, digest: False
        """Whether all sessions of a peer that serves this model are to be audited."""
        self.on_verdict: Callable[[Hop, str, Verdict], None] = lambda hop, digest, verdict: None
        """Hears what came of audits, with the model's digest."""
        self.records = records
        self._transport = transport
        self._replayers = replayers or {}
        self._share = share
        self._random = random or SystemRandom()
        self.last: RingSession | None = None
        """The session that ended last."""
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False
        self._often = Rates(*OFTEN)
        self._unreliable: set[str] = set()
        """Auditors whom others have contradicted; asked where there is nobody else."""

    def consider(self, sessions: Iterable[RingSession]) -> None:
        """Sessions of a generation have ended."""
        for session in sessions:
            self.last = session
            # Where the weights are here, one that has signed nothing is not let off.
            worth = session.proof.records or (self._replayers and session.arrived)
            if worth and len(self._running) < MOST_RUNNING and not self._closed:
                task = asyncio.create_task(self._look(session), name="auditing a session")
                self._running.add(task)
                task.add_done_callback(self._ended)

    async def aclose(self) -> None:
        """End the audits that run, and begin no more."""
        self._closed = True
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    async def finished(self) -> None:
        """Wait for the audits that run now."""
        if self._running:
            await asyncio.wait(set(self._running))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("an audit failed: a bug of ours", exc_info=error)

    async def _look(self, session: RingSession) -> None:
        fed, answer = session.plan.fed, list(session.answer)
        broken = await asyncio.to_thread(session.proof.broken, fed, answer)
        for link in broken:
            logger.warning("the work of %s does not agree: %s", " and ".join(link.peers), link.why)
            self.evidence.link(link.peers, link.why, time.monotonic())
        if broken or not self._share:
            return
        digest = session.plan.digest
        suspects = [hop for hop in session.hops if self.evidence.suspected(hop.peer) or self.is_young(hop.peer, digest)]
        if not suspects and self._random.random() >= self._share:
            return
        here = digest in self._replayers
        hops = [hop for hop in suspects or session.hops if can_run_again(session, hop)]
        auditable = [hop for hop in hops if here or self._replicas(hop, digest)]
        if auditable:
            hop = self._random.choice(auditable)
            if not self._often.of(hop.peer).refusal(time.monotonic()):
                await self._audit(session, hop, answer)

    def _replicas(self, hop: Hop, digest: str) -> list[str]:
        """Who could run a hop's blocks again, those that were never contradicted first."""
        known = [
            record.peer
            for record in self.records.values()
            if record.digest == digest
            and record.state == "serving"
            and record.peer != hop.peer
            and record.span.covers(hop.span)
        ]
        self._random.shuffle(known)
        return sorted(known, key=lambda peer: (peer in self._unreliable, self.evidence.suspected(peer)))

    async def _audit(self, session: RingSession, hop: Hop, answer: list[int]) -> None:
        digest = session.plan.digest
        verdict = await self.examine(session, hop, answer, self._replayers.get(digest))
        if verdict is None:
            return
        self.verdicts.append(verdict)
        self.on_verdict(hop, digest, verdict)
        if verdict.ratio is None:
            logger.info("audit: %s", verdict.text)
            return
        now = time.monotonic()
        self.evidence.weigh(hop.peer, verdict.ratio, verdict.text, now, exact=verdict.outcome == "exact")
        level = logging.WARNING if verdict.outcome == "differs" else logging.INFO
        logger.log(level, "audit: %s", verdict.text)

    async def examine(
        self, session: RingSession, hop: Hop, answer: Sequence[int], replayer: Replayer | None = None
    ) -> Verdict | None:
        """What is to be said of a hop's work in a session that has ended: by `replayer`, or by replicas of its blocks.

        None where nobody could look at it.
        """
        if not can_run_again(session, hop):
            return None
        digest = session.plan.digest
        n_blocks = session.hops[-1].span.end
        try:
            by = replayer or Replica
            shown = await exhibit(
                self._transport,
                session.proof,
                hop,
                session.plan,
                answer,
                n_blocks,
                most=by.most,
                completes=by.completes,
            )
            if isinstance(shown, Verdict):
                return shown
            return await (self._judge(shown, hop, digest) if replayer is None else judge(shown, replayer, same=False))
        except PeerError as error:
            logger.info("an audit of %s came to nothing: %s", hop.peer, error)
            return None

    async def _same_bits(self, hop: Hop, peer: str) -> bool:
        """Whether a replica computes the same bits as a hop: kernels that do, and equal roots in the self-test."""
        ours = [self.records.get(each) for each in (hop.peer, peer)]
        numerics = {record.numerics if record is not None else "" for record in ours}
        if len(numerics) > 1 or not has_same_bits(*numerics):
            return False
        said = [await ask_profile(self._transport, each) for each in (hop.peer, peer)]
        return len({(each.profile, each.start, each.end, each.golden) for each in said}) == 1

    async def _judge(self, shown: Exhibit, hop: Hop, digest: str) -> Verdict | None:
        """What replicas say; where one says that work differs, another one has to say so too, if there is one."""
        against: list[Verdict] = []
        for peer in self._replicas(hop, digest):
            try:
                same = await self._same_bits(hop, peer)
                verdict = await judge(shown, Replica(self._transport, peer), same=same)
            except PeerError as error:
                logger.info("%s could not audit: %s", peer, error)
                continue
            if verdict.outcome != "differs":
                self._unreliable.update(each.auditor for each in against)
                return verdict
            against.append(verdict)
            if len(against) >= MOST_AUDITORS:
                break
        return against[0] if against else None


def can_run_again(session: RingSession, hop: Hop) -> bool:
    """False for the last hop of an answer that was held to a form, which no replay is told: others would choose tokens
    that it was not free to choose."""
    return session.plan.constraint is None or hop != session.hops[-1]
