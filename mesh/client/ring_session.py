"""One session along one route: opened on all hops at once, then a stream of tokens, then closed on all."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from mesh.client.hop_link import Event, HopLink, HopLinks
from mesh.client.types import HopReport
from mesh.errors import (
    InvalidRequest,
    PeerError,
    PeerFailed,
    PeerTimeout,
    ProtocolViolation,
    Refused,
)
from mesh.swarm.route import Hop
from mesh.wire.messages import (
    SESSION_BYTES,
    CloseSession,
    NewToken,
    OpenSession,
    Prompt,
    PromptScores,
    SessionClosed,
    SessionFailed,
    SessionOpened,
    SessionRefused,
)
from mesh.wire.sampling import to_wire
from mesh.wire.tokens import token_payload
from shards.sampling_params import SamplingParams

CLOSE_SECONDS = 2.0
RETRYABLE = frozenset({"busy", "quota", "wrong_blocks", "wrong_model", "wrong_dtype", "duplicate"})


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """What all hops are told: ids already known (`fed`, of which `prompt_tokens` are the prompt) and the bounds."""

    digest: str
    wire_dtype: str
    fed: tuple[int, ...]
    prompt_tokens: int
    capacity: int
    eos: tuple[int, ...]
    sampling: SamplingParams
    prompt_scores: bool


class RingSession:
    """Use as `async with`: entering opens it on every hop, leaving closes it on every hop."""

    def __init__(
        self, links: HopLinks, hops: Sequence[Hop], plan: SessionPlan, *, admit_seconds: float, token_seconds: float
    ) -> None:
        self.id = secrets.token_bytes(SESSION_BYTES)
        self.hops = tuple(hops)
        self.reports: tuple[HopReport, ...] = ()
        self._links = links
        self._plan = plan
        self._admit_seconds = admit_seconds
        self._token_seconds = token_seconds
        self._open: list[HopLink] = []
        # Every token is one message; scores come some hundred to a message; a few more for opening and closing.
        self._events: asyncio.Queue[Event] = asyncio.Queue(plan.capacity + 16 * len(hops) + 64)

    async def __aenter__(self) -> RingSession:
        try:
            async with asyncio.timeout(self._admit_seconds):
                links = await asyncio.gather(*(self._links.get(hop.peer) for hop in self.hops))
                for link in links:
                    link.join(self.id, self._events)
                    self._open.append(link)
                await asyncio.gather(*(self._request(index, link) for index, link in enumerate(links)))
                await self._admission()
        except TimeoutError as error:
            await self._close()
            raise PeerTimeout(f"not every hop answered within {self._admit_seconds:g} s") from error
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def tokens(self) -> AsyncIterator[NewToken | PromptScores]:
        """Hand the first hop the tokens and yield what the last one answers, in order.

        Raises `PeerFailed`, `PeerTimeout`, `PeerUnreachable` or `ProtocolViolation`, naming the peer to avoid.
        """
        await self._open[0].send(Prompt(self.id), token_payload(self._plan.fed))
        expected = len(self._plan.fed)
        last = self.hops[-1].peer
        while True:
            peer, message = await self._next()
            match message:
                case PeerError():
                    raise message
                case SessionFailed(code=code, reason=reason, blamed=blamed):
                    raise PeerFailed(f"{peer} gave up the session ({code}): {reason}", peer=blamed or peer)
                case NewToken(position=position) if peer == last and position == expected:
                    expected += 1
                    yield message
                    if message.finish is not None:
                        return
                case PromptScores() if peer == last and self._plan.prompt_scores:
                    yield message
                case _:
                    raise ProtocolViolation(f"{peer} sent {message.kind!r} out of turn", peer=peer)

    async def _next(self) -> Event:
        try:
            async with asyncio.timeout(self._token_seconds):
                return await self._events.get()
        except TimeoutError as error:
            raise PeerTimeout(f"no token came for {self._token_seconds:g} s") from error

    async def _request(self, index: int, link: HopLink) -> None:
        plan, hop = self._plan, self.hops[index]
        sampling, logit_bias = to_wire(plan.sampling)
        is_last = index == len(self.hops) - 1
        needs_ids = is_last and (plan.sampling.needs_prompt or plan.prompt_scores or len(plan.fed) > plan.prompt_tokens)
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
            eos=plan.eos,
            prompt_scores=plan.prompt_scores,
            wire_dtype=plan.wire_dtype,
            sampling=sampling,
            logit_bias=logit_bias,
        )
        await link.send(message, token_payload(plan.fed) if needs_ids else b"")

    async def _admission(self) -> None:
        waiting = {hop.peer for hop in self.hops}
        while waiting:
            peer, message = await self._events.get()
            match message:
                case SessionOpened():
                    waiting.discard(peer)
                case SessionRefused(code=code, reason=reason, retry_after_ms=retry):
                    if code in RETRYABLE:
                        raise HopRefused(f"{peer} refused: {reason}", peer=peer, retry_after=retry / 1000)
                    raise InvalidRequest(f"{peer} refused: {reason}")
                case PeerError():
                    raise message
                case SessionFailed(reason=reason):
                    raise PeerFailed(f"{peer} gave up the session: {reason}", peer=peer)
                case _:
                    raise ProtocolViolation(f"{peer} sent {message.kind!r} before admitting", peer=peer)

    async def _close(self) -> None:
        """Tell every hop, and gather what each did; a hop that does not answer in time is not waited for."""
        links, self._open = self._open, []
        closed: dict[str, SessionClosed] = {}
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    asked = await asyncio.gather(*(self._say_close(link) for link in links))
                    while len(closed) < sum(asked):
                        peer, message = await self._events.get()
                        if isinstance(message, SessionClosed):
                            closed[peer] = message
                        elif isinstance(message, PeerError):
                            break
        finally:
            for link in links:
                link.leave(self.id)
        self.reports = tuple(
            HopReport(hop.peer, hop.span, done.tokens, done.busy_us / 1e6)
            for hop in self.hops
            if (done := closed.get(hop.peer)) is not None
        )

    async def _say_close(self, link: HopLink) -> bool:
        try:
            await link.send(CloseSession(self.id))
        except PeerError:
            return False
        return True


class HopRefused(Refused, PeerError):
    """A hop had no room; another may."""

    def __init__(self, message: str, *, peer: str, retry_after: float) -> None:
        PeerError.__init__(self, message, peer=peer)
        self.retry_after = retry_after
