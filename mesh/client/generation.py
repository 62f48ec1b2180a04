"""One generation: a session on a route, and another on a different route when a hop fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType

from mesh.client.refusals import HopRefused, NoForms, SessionPreempted
from mesh.client.ring_session import RingSession
from mesh.client.session_plan import SessionPlan
from mesh.client.text import AnswerText
from mesh.client.types import Completion, FinishReason, GenerateRequest, HopReport, TextDelta, TokenLogprob
from mesh.errors import Cancelled, InternalError, NoRoute, PeerError, ProtocolViolation, Refused
from mesh.swarm.route import Hop
from mesh.wire.messages import NewToken, PromptScores
from shards.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

FIRST_WAIT = 0.25
LAST_WAIT = 2.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a route may fail without a token in between, and how long one is looked for (seconds)."""

    attempts: int = 8
    route_seconds: float = 15.0
    """For a session that has not begun: somebody waits to hear whether there is room for it."""
    resume_seconds: float = 45.0
    """For one that has: longer than it takes to start a provider again, or to notice a new one."""


class MeshGeneration:
    """Use as `async with`; iterate for deltas. Leaving early cancels the session on every hop.

    `route` finds hops without the excluded peers, `session` opens a session on them; `blame` is told of peers that
    failed, `refused` of those that had no room.
    """

    def __init__(
        self,
        request: GenerateRequest,
        plan: SessionPlan,
        tokenizer: Tokenizer,
        route: Callable[[frozenset[str]], Awaitable[Sequence[Hop]]],
        session: Callable[[Sequence[Hop], SessionPlan], RingSession],
        blame: Callable[[str], None],
        patience: Patience,
        refused: Callable[[HopRefused], None] = lambda refusal: None,
        *,
        hopeful: bool = False,
    ) -> None:
        """`hopeful`: there was a route a moment ago, so a gap may close again."""
        self.completion: Completion | None = None
        self.hops: tuple[Hop, ...] = ()
        self._request = request
        self._plan = plan
        self._text = AnswerText(tokenizer, request.stop, request.shown)
        self._route = route
        self._new_session = session
        self._blame = blame
        self._patience = patience
        self._refused = refused
        self._stack = AsyncExitStack()
        self._session: RingSession | None = None
        self._generated: list[int] = list(request.resumed)
        self._scores: list[TokenLogprob] = []
        self._work: dict[Hop, HopReport] = {}
        self._arrived = 0
        """Tokens that reached us on earlier routes."""
        self._trips = self._drafted = 0
        self._cached: int | None = None
        """Prompt tokens that the route had already on which the first token came."""
        self._left = False
        self._hopeful = hopeful
        self._begun = False
        """A route has been found once."""
        self._began = time.perf_counter()
        self._first_token_at: float | None = None

    async def __aenter__(self) -> MeshGeneration:
        self._text.resume(self._request.resumed)
        if self._resumed_to is None:
            await self._connect()
        return self

    @property
    def arrived(self) -> int:
        """Generated tokens that have reached us, on all routes, whether they were read or not."""
        return self._arrived + (self._session.arrived if self._session is not None else 0)

    @property
    def cached(self) -> int:
        """Prompt tokens that were not run, because the route that gave the first token had them already."""
        if self._cached is None and self._session is not None and self._session.arrived:
            return self._session.cached
        return self._cached or 0

    @property
    def _resumed_to(self) -> FinishReason | None:
        """How the answer has ended already with the tokens that it resumes from; None where there is more to come."""
        resumed = self._request.resumed
        if self._text.stopped or (resumed and resumed[-1] in self._plan.eos):
            return "stop"
        return "length" if len(resumed) >= self._request.max_tokens else None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        await self._disconnect()

    async def __aiter__(self) -> AsyncIterator[TextDelta]:
        attempts_left = self._patience.attempts
        waiting_since: float | None = None
        """When the session lost its place first since there was a token."""
        while True:
            before = len(self._generated)
            try:
                async for delta in self._read():
                    yield delta
                return
            except SessionPreempted as error:
                # Nobody's fault, and no attempt that failed: our turn comes again. But not for ever without a token.
                if len(self._generated) > before or waiting_since is None:
                    waiting_since = time.monotonic()
                if time.monotonic() - waiting_since > self._patience.resume_seconds:
                    raise
                logger.info("the session lost its place after %d tokens: %s", len(self._generated), error)
                await self._disconnect()
                self._refused(error)
                await self._connect()
            except PeerError as error:
                # A route that brought us further has not failed in vain.
                attempts_left = self._patience.attempts if len(self._generated) > before else attempts_left - 1
                if attempts_left <= 0:
                    raise
                logger.warning("the route failed after %d tokens: %s", len(self._generated), error)
                silent: tuple[str, ...] = ()
                if self._session is not None:
                    self._session.expect_nothing_of(error.peer)
                    silent = self._session.silent
                await self._disconnect()
                self._note(error)
                for peer in silent:
                    self._blame(peer)
                await self._connect()

    async def _connect(self) -> None:
        """Open a session that goes on where the last one stopped.

        Every peer that fails is passed over until all ways are tried; then, after a pause, all of them are tried again:
        the gap may have closed meanwhile. Raises what stood in the way when the time is over.
        """
        excluded: set[str] = set()
        obstacle: PeerError | None = None
        most = 0  # the capacity that a hop has offered which has no room for all
        wait = FIRST_WAIT
        patience = self._patience.resume_seconds if self._begun else self._patience.route_seconds
        give_up = time.monotonic() + patience
        while True:
            await self._end_if_left()
            try:
                hops = await self._route(frozenset(excluded))
                session = self._new_session(hops, self._resumed_plan())
                self._session = await self._stack.enter_async_context(session)
            except NoRoute as error:
                if self._shrink(most):
                    excluded.clear()
                    continue
                if isinstance(obstacle, NoForms):
                    raise obstacle from error
                if obstacle is None and not (self._begun or self._hopeful):  # there has been a gap from the start
                    raise
                if time.monotonic() > give_up:
                    raise (obstacle if isinstance(obstacle, HopRefused) else error) from error
                excluded.clear()
            except PeerError as error:
                if time.monotonic() > give_up:
                    raise
                obstacle = error
                if isinstance(error, HopRefused):
                    most = error.most or most
                    self._refused(error)
                else:
                    self._note(error)
                if error.peer is not None and error.peer not in excluded:
                    excluded.add(error.peer)
                    continue
            except Refused as error:
                if self._shrink(most):
                    excluded.clear()
                    continue
                # Every route is full. Who is under way waits his turn; who begins is told when to come again, if that
                # is longer than he would wait.
                late = time.monotonic() + error.retry_after > give_up
                if time.monotonic() > give_up or (late and not self._generated):
                    raise (obstacle or error) from error
                excluded.clear()
                wait = min(max(wait, error.retry_after), LAST_WAIT)
            else:
                self.hops = tuple(hops)
                self._begun = True
                await self._end_if_left()
                return
            await asyncio.sleep(wait)
            wait = min(2 * wait, LAST_WAIT)

    def _shrink(self, most: int) -> bool:
        """No way has room for the whole answer: give it the capacity that one offers, where it need not be so long."""
        fed = len(self._plan.fed) + len(self._generated)
        if not self._request.shrinks or not fed < most < self._plan.capacity:
            return False
        self._plan = replace(self._plan, capacity=most)
        return True

    async def _end_if_left(self) -> None:
        """Another task may leave the generation while this one is busy connecting."""
        if self._left:
            await self._disconnect()
            raise Cancelled("the generation was left")

    async def _disconnect(self) -> None:
        await self._stack.aclose()
        if self._session is not None:
            if self._session.arrived:
                self._cached = self.cached
            self._arrived += self._session.arrived
            self._trips += self._session.trips
            self._drafted += self._session.drafted
            for report in self._session.reports:
                hop = Hop(report.peer, report.span)
                before = self._work.pop(hop, HopReport(report.peer, report.span, 0, 0.0))
                self._work[hop] = replace(
                    report,
                    tokens=before.tokens + report.tokens,
                    busy_seconds=before.busy_seconds + report.busy_seconds,
                )
            self._session = None

    def _resumed_plan(self) -> SessionPlan:
        done = tuple(self._generated)
        scored = len(self._scores) >= self._plan.prompt_tokens
        return replace(
            self._plan,
            fed=self._plan.fed + done,
            prompt_scores=self._plan.prompt_scores and not scored,
        )

    def _note(self, error: PeerError) -> None:
        """Where nobody can be named, all of the route are to be avoided where there is a choice."""
        for peer in [hop.peer for hop in self.hops] if error.peer is None else [error.peer]:
            self._blame(peer)

    async def _read(self) -> AsyncIterator[TextDelta]:
        ended = self._resumed_to
        if ended is not None:
            tail = self._text.finish()
            self._complete("stop" if self._text.stopped else ended)
            if tail is not None:
                yield tail
            return
        if self._session is None:
            raise InternalError("a generation must be entered before it is iterated")
        async for message in self._session.tokens():
            if isinstance(message, PromptScores):
                self._keep_scores(message)
                continue
            self._check_scores()
            if self._first_token_at is None:
                self._first_token_at = time.perf_counter()
            self._generated.append(message.token)
            delta = self._delta(message)
            if self._text.stopped or message.finish is not None:
                await self._disconnect()
                tail = self._text.finish()
                self._complete("stop" if self._text.stopped or message.finish == "stop" else "length")
                if delta is not None:
                    yield delta
                if tail is not None:
                    yield tail
                return
            if delta is not None:
                yield delta

    def _delta(self, message: NewToken) -> TextDelta | None:
        if message.finish == "stop":  # the end-of-text token is counted but is no text
            return None
        logprob = None
        if message.logprob is not None and self._request.sampling.logprobs is not None:
            logprob = TokenLogprob(message.token, message.logprob, message.top)
        return self._text.push(message.token, logprob)

    def _keep_scores(self, message: PromptScores) -> None:
        prompt = self._request.prompt
        if not self._scores:
            self._scores.append(TokenLogprob(prompt[0], None))
        for offset, (logprob, top) in enumerate(message.scores):
            position = message.position + offset
            if position == len(self._scores) and position < len(prompt):
                self._scores.append(TokenLogprob(prompt[position], logprob, top))

    def _check_scores(self) -> None:
        """Raises `ProtocolViolation` when the first token comes before every prompt token has its score."""
        wanted = len(self._request.prompt) if self._request.prompt_logprobs else 0
        if wanted > 1 and len(self._scores) < wanted:
            last = self.hops[-1].peer
            raise ProtocolViolation(f"{last} scored {len(self._scores)} of {wanted} prompt tokens", peer=last)

    def _complete(self, reason: FinishReason) -> None:
        now = time.perf_counter()
        if self._request.prompt_logprobs and not self._scores:  # a prompt of one token, which nothing predicts
            self._scores.append(TokenLogprob(self._request.prompt[0], None))
        self.completion = Completion(
            finish_reason=reason,
            prompt_tokens=len(self._request.prompt),
            completion_tokens=len(self._generated) - len(self._request.resumed),
            cached_tokens=self.cached,
            route=tuple(self._work.values()),
            prompt_logprobs=tuple(self._scores),
            time_to_first_token=(self._first_token_at or now) - self._began,
            seconds=now - self._began,
            trips=self._trips,
            drafted_tokens=self._drafted,
            accepted_tokens=self._arrived - self._trips,
        )
