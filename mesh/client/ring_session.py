"""One session along one route: opened on all hops at once, then a stream of tokens, then closed on all."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from itertools import takewhile

from mesh.client.deadlines import DeadlineBounds, StepTimes
from mesh.client.hop_link import Event, Events, HopLink, HopLinks
from mesh.client.inbox import Inbox, together
from mesh.client.refusals import OUR_FAULT, SessionPreempted, refusal
from mesh.client.session_plan import SessionPlan
from mesh.client.token_checks import TokenChecks
from mesh.client.types import HopReport
from mesh.errors import (
    Cancelled,
    InvalidRequest,
    PeerError,
    PeerFailed,
    PeerTimeout,
    PeerUnreachable,
    ProtocolViolation,
)
from mesh.payment.credit.units import SessionMeter
from mesh.swarm.route import Hop
from mesh.verification.proof import SessionProof
from mesh.wire.messages import (
    PREEMPTED,
    SESSION_BYTES,
    CloseSession,
    ExtendSession,
    NewToken,
    NewTokens,
    OpenSession,
    Prompt,
    PromptProgress,
    PromptScores,
    SessionClosed,
    SessionFailed,
    SessionOpened,
    SessionRefused,
)
from mesh.wire.sampling import to_wire
from mesh.wire.tokens import token_payload
from shards.model.paging import PAGE

CLOSE_SECONDS = 2.0
PROBE_SECONDS = 2.0
PREEMPTED_SECONDS = 0.5
"""So long a hop that has taken a session's place is not asked for another."""


class RingSession:
    """Use as `async with`: entering opens it on every hop, leaving closes it on every hop."""

    def __init__(
        self,
        links: HopLinks,
        hops: Sequence[Hop],
        plan: SessionPlan,
        *,
        admit_seconds: float,
        deadlines: DeadlineBounds,
        accrue: Callable[[str, int], None] | None = None,
        linger_seconds: float = 0.0,
    ) -> None:
        """`accrue(peer, units)` hears of the work that what reaches us bears out.

        A session that is left while its prompt runs is closed with its first token, at most `linger_seconds` later:
        else who leaves would have the hops work for nothing.
        """
        self._linger_seconds = linger_seconds
        self._prompted = False
        self._proved = asyncio.Event()
        """The first token is there, or never will be."""
        self._accrue = accrue
        self._meter = SessionMeter(plan.prompt_tokens, len(plan.fed))
        self.id = secrets.token_bytes(SESSION_BYTES)
        self.hops = tuple(hops)
        self.proof = SessionProof(self.id, plan.digest, self.hops, plan.capacity)
        self.reports: tuple[HopReport, ...] = ()
        self._links = links
        self._plan = plan
        self._checks = TokenChecks(plan, hops[-1].peer)
        self._admit_seconds = admit_seconds
        self._steps = StepTimes(deadlines)
        self._answering = False
        """The prompt has been run: from now on every step is one token."""
        self.silent: tuple[str, ...] = ()
        """Hops that did not answer when they were asked why no token came."""
        self._open: list[HopLink] = []
        self._unanswered = [hop.peer for hop in hops]
        self._held: dict[str, int] = {}  # tokens that each hop has from an earlier session
        self._closing: asyncio.Task[None] | None = None
        self._failed: set[str | None] = set()
        # Every token is one message; scores come some hundred to a message; a few more for opening and closing.
        self._events: Events = Inbox(plan.capacity + 16 * len(hops) + 64, self._arrived)
        self._limit = plan.limit_at(len(plan.fed))
        self._answer: list[int] = []  # tokens that have reached us
        self.trips = self.drafted = 0
        """Trips round the ring that brought tokens, and guesses that they checked."""
        self._spoilt_at: int | None = None
        """Position of a token that no honest last hop could have sent, or not yet: from there on nothing counts."""

    @property
    def plan(self) -> SessionPlan:
        """What all hops were told."""
        return self._plan

    @property
    def answer(self) -> Sequence[int]:
        """The tokens that have reached us."""
        return self._answer

    @property
    def arrived(self) -> int:
        """Tokens that have reached us, read or not."""
        return len(self._answer)

    @property
    def cached(self) -> int:
        """Prompt tokens that every hop had already."""
        return self._meter.cached if len(self._plan.fed) == self._plan.prompt_tokens else 0

    async def __aenter__(self) -> RingSession:
        try:
            async with asyncio.timeout(self._admit_seconds):
                links = await together(self._links.get(hop.peer) for hop in self.hops)
                for link in links:
                    link.join(self.id, self._events, self.proof.hear)
                    self._open.append(link)
                await together(self._request(index, link) for index, link in enumerate(links))
                await self._admission()
        except TimeoutError as error:
            peer = self._unanswered[0] if self._unanswered else None
            self._failed.update(self._unanswered)
            await self._close()
            raise PeerTimeout(f"{peer} did not answer within {self._admit_seconds:g} s", peer=peer) from error
        except BaseException as error:
            if isinstance(error, PeerError):
                self.expect_nothing_of(error.peer)
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def tokens(self) -> AsyncIterator[NewToken | PromptScores]:
        """Hand the first hop the tokens and yield what the last one answers, in order.

        Raises `PeerFailed`, `PeerTimeout`, `PeerUnreachable` or `ProtocolViolation`, naming the peer to avoid;
        `InvalidRequest` when the sampling parameters turn out to be impossible; `Cancelled` when it is closed.
        """
        plan = self._plan
        if self._closing is not None:
            raise Cancelled("the session was closed")
        start = min(self._held.values())  # of what it has beyond that, a hop lets go
        self._meter.cached = start
        await self._open[0].send(Prompt(self.id, start), token_payload(plan.fed[start:]))
        self._prompted = True
        expected = len(plan.fed)
        last = self.hops[-1].peer
        while True:
            peer, message = await self._next()
            match message:
                case PeerError():
                    raise message
                case SessionFailed():
                    raise self._failure(peer, message)
                case NewToken() | NewTokens() if peer == last and message.position == expected:
                    self._answering = True
                    for each in self._checks.trip(message):
                        if each.position == self._spoilt_at:
                            raise ProtocolViolation(f"{peer} sent tokens that it was not to compute yet", peer=peer)
                        expected += 1
                        yield each
                        if each.finish is not None:
                            return
                    await self._extend(expected)
                case PromptProgress() if peer == last and expected == len(plan.fed):
                    pass
                case PromptScores(scores=scores) if peer == last and plan.prompt_scores:
                    for _, top in scores:
                        self._checks.top(top)
                    yield message
                case _:
                    raise ProtocolViolation(f"{peer} sent {message.kind!r} out of turn", peer=peer)

    async def _extend(self, position: int) -> None:
        """Let the ring run on as the reader does, half a window at a time."""
        limit = self._plan.limit_at(position)
        if limit > self._limit and (limit == self._plan.capacity or 2 * (limit - self._limit) >= limit - position):
            self._limit = limit
            if self._open:
                await self._open[0].send(ExtendSession(self.id, limit))

    def _arrived(self, event: Event) -> None:
        """Count work when its result reaches us, not when it is read: who reads late must not look like a debtor.

        A prompt counts with the first token after it. Progress that a hop reports proves nothing: for a route that
        fails before its first token nothing is owed, however often another is tried.
        """
        peer, message = event
        if peer and isinstance(message, PeerError | SessionFailed):
            self._proved.set()
        if peer != self.hops[-1].peer or self._spoilt_at is not None:
            return
        if isinstance(message, NewToken | NewTokens) and message.position == len(self._plan.fed) + self.arrived:
            self.trips += 1
            self.drafted += message.drafted if isinstance(message, NewTokens) else 0
            try:
                for each in self._checks.trip(message):
                    if each.position > self._limit:
                        self._spoilt_at = each.position
                        return
                    self._answer.append(each.token)
                    self._count(each.position)
                    self._proved.set()
            except ProtocolViolation:  # raised when it is read
                self._spoilt_at = len(self._plan.fed) + self.arrived

    def _count(self, processed: int) -> None:
        """Positions below `processed` have run on every hop."""
        tokens = self._meter.advance(processed)
        if self._accrue is not None:
            for hop in self.hops:
                self._accrue(hop.peer, tokens * len(hop.span))

    def _failure(self, peer: str, message: SessionFailed) -> PeerError | InvalidRequest:
        if message.code in OUR_FAULT:
            return InvalidRequest(f"{peer} gave up the session: {message.reason}")
        ours = {hop.peer for hop in self.hops}
        if message.code == PREEMPTED:
            return SessionPreempted(
                f"{peer} gave up the session: {message.reason}", peer=peer, retry_after=PREEMPTED_SECONDS
            )
        blamed = message.blamed if message.blamed in ours else peer
        return PeerFailed(f"{peer} gave up the session ({message.code}): {message.reason}", peer=blamed)

    async def _next(self) -> Event:
        """The next event. Raises `PeerTimeout` when a hop is silent, or nothing comes for too long."""
        began = time.monotonic()
        patience = self._steps.suspect
        while True:
            if self._closing is not None:
                raise Cancelled("the session was closed")
            waited = time.monotonic() - began
            left = self._steps.lost - waited
            try:
                async with asyncio.timeout(max(0.0, min(patience, left))):
                    event = await self._events.get()
            except TimeoutError:
                await self._suspect(time.monotonic() - began)
                patience *= 2
                continue
            if self._closing is not None:
                raise Cancelled("the session was closed")
            if self._answering:
                self._steps.observe(time.monotonic() - began)
            return event

    async def _suspect(self, waited: float) -> None:
        """Nothing came for a while: ask the hops. Raises `PeerTimeout` when one is silent, or it took too long."""
        self.silent = await self._silent_hops()
        if not self._events.empty() or self._closing is not None:
            return
        if self.silent:
            self._failed.update(self.silent)
            silent = self.silent[0]
            raise PeerTimeout(f"no token came for {waited:.1f} s, and {silent} does not answer", peer=silent)
        if waited >= self._steps.lost:
            raise PeerTimeout(f"no token came for {waited:.1f} s, though every hop answers")

    async def _silent_hops(self) -> tuple[str, ...]:
        """The hops that do not answer a ping."""

        async def answers(link: HopLink) -> bool:
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    await link.ping()
            except (PeerError, TimeoutError):
                return False
            return True

        links = tuple(self._open)
        found = await asyncio.gather(*(answers(link) for link in links))
        return tuple(link.peer for link, answered in zip(links, found, strict=True) if not answered)

    async def _request(self, index: int, link: HopLink) -> None:
        plan, hop = self._plan, self.hops[index]
        sampling, logit_bias = to_wire(plan.sampling)
        is_last = index == len(self.hops) - 1
        needs_ids = is_last and plan.last_hop_needs_ids()
        message = OpenSession(
            session=self.id,
            digest=plan.digest,
            start=hop.span.start,
            end=hop.span.end,
            previous=self.hops[index - 1].peer,
            following=self.hops[(index + 1) % len(self.hops)].peer,
            prompt_tokens=plan.prompt_tokens,
            fed_tokens=len(plan.fed),
            capacity=plan.capacity,
            limit=self._limit,
            eos=plan.eos,
            prompt_scores=plan.prompt_scores,
            wire_dtype=plan.wire_dtype,
            sampling=sampling,
            logit_bias=logit_bias,
            keys=plan.keys_after(*self._before(link.peer)),
            drafts=plan.drafts,
            form=plan.form() if is_last else None,
        )
        await link.send(message, token_payload(plan.fed) if needs_ids else b"")

    async def _admission(self) -> None:
        while self._unanswered:
            peer, message = await self._events.get()
            match message:
                case SessionOpened(held=held):
                    if held % PAGE or held >= len(self._plan.fed):
                        raise ProtocolViolation(f"{peer} cannot hold {held} tokens already", peer=peer)
                    if peer in self._unanswered:
                        self._unanswered.remove(peer)
                        self._held[peer] = min(held, self._held.get(peer, held))
                case SessionRefused():
                    raise refusal(peer, message, self._plan)
                case PeerError():
                    raise message
                case SessionFailed():
                    raise self._failure(peer, message)
                case _:
                    raise ProtocolViolation(f"{peer} sent {message.kind!r} before admitting", peer=peer)

    def expect_nothing_of(self, peer: str | None) -> None:
        """Do not wait for this hop's last word when the session is closed: it has failed."""
        self._failed.add(peer)

    async def _close(self) -> None:
        """Tell every hop, and gather what each did; goes on when the caller is cancelled meanwhile."""
        if self._closing is None:
            if self._links.closed:  # the hops free the session because the channels have ended
                return
            self._closing = self._links.spawn(self._say_goodbye())
        await asyncio.shield(self._closing)

    async def _say_goodbye(self) -> None:
        if self._events.empty():  # whoever waits for a token waits in vain
            self._events.put_nowait(("", PeerUnreachable("the session was closed")))
        if self._prompted and not self.arrived and not self._failed and self._spoilt_at is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._linger_seconds):
                    await self._proved.wait()
        links, self._open = self._open, []
        farewell: Events = asyncio.Queue(self._events.maxsize)
        for link in links:
            link.join(self.id, farewell)
        closed: dict[str, SessionClosed] = {}
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    asked = await asyncio.gather(*(self._say_close(link) for link in links))
                    told = {link.peer for link, sent in zip(links, asked, strict=True) if sent}
                    outstanding = told - self._failed
                    while outstanding:
                        peer, message = await farewell.get()
                        if isinstance(message, SessionClosed):
                            closed[peer] = message
                        if isinstance(message, SessionClosed | PeerError):
                            outstanding.discard(peer)
        finally:
            for link in links:
                link.leave(self.id)
        self.reports = tuple(
            HopReport(hop.peer, hop.span, done.tokens, done.busy_us / 1e6)
            for hop in self.hops
            if (done := closed.get(hop.peer)) is not None
        )

    def _before(self, peer: str) -> list[str]:
        """The hops that come before a peer's on the way, as far as its pages depend on them."""
        return [f"{hop.peer} {hop.span}" for hop in takewhile(lambda hop: hop.peer != peer, self.hops)]

    async def _say_close(self, link: HopLink) -> bool:
        ran = self._answer[:-1]  # beyond what the opening has named
        keys = self._plan.keys_after(*self._before(link.peer), answer=ran) if ran else b""
        try:
            await link.send(CloseSession(self.id, self._meter.processed, keys))
        except PeerError:
            return False
        return True
