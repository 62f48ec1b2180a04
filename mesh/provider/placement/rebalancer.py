"""When a running provider leaves its blocks for others: looks at the swarm, announces, asks, drains (shell)."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from mesh.errors import MeshError, PeerError
from mesh.swarm.rebalance import may_leave, rebalance
from mesh.swarm.view import ProviderView, gaps
from mesh.transport.port import Transport
from mesh.wire.messages import CONTROL_PROTOCOL
from shards.errors import ShardError
from shards.model.span import Span

logger = logging.getLogger(__name__)

PEERS_PER_INTERVAL = 100
"""In larger swarms nodes look less often, so that looking costs the same altogether."""
GROWING_SECONDS = 3.0
"""How often a node looks whether the model is complete, until it has been once."""
VISIBLE_SECONDS = 2.0
"""After this time everybody can see what was announced."""
DRAIN_SECONDS = 30.0
ANSWER_SECONDS = 3.0
MAX_ASKED = 32
"""Replicas that a node asks whether they are there before it leaves its blocks to them."""


class Rebalancer:
    """Decides for one provider; what it needs of it comes as functions.

    `look` gives everybody's view, with ourselves as we serve the given span; `announce` tells others how we stand
    (`going` says where to); `fetch` downloads what a span needs; `transport` is for asking others whether they live.
    """

    def __init__(
        self,
        n_blocks: int,
        *,
        share: int,
        interval: float,
        transport: Transport,
        look: Callable[[Span], Awaitable[list[ProviderView]]],
        announce: Callable[[], Awaitable[None]],
        fetch: Callable[[Span], Awaitable[None]],
    ) -> None:
        self._n = n_blocks
        self._share = share
        self._interval = interval
        self._transport = transport
        self._look = look
        self._announce = announce
        self._fetch = fetch
        self.going: Span | None = None
        """Where we are about to move to: from now on we take no new sessions."""
        self.was_complete = False
        """We have seen the whole model served: only then a gap is a loss, and not a swarm that is still growing."""

    async def needed_elsewhere(self, span: Span, sessions: Callable[[], int]) -> Span:
        """Look at the swarm from time to time until `span` may be left for another, and return that one."""
        me = self._transport.peer_id
        wanted: Span | None = None
        due = time.monotonic() + self._interval * random.uniform(0.7, 1.3)
        while True:
            wait = max(0.0, due - time.monotonic())
            await asyncio.sleep(wait if self.was_complete else min(wait, GROWING_SECONDS))
            try:
                views = await self._look(span)
                self.was_complete = self.was_complete or not gaps(self._n, [view for view in views if view.serving])
                if time.monotonic() < due:
                    continue
                pause = self._interval * max(1.0, len(views) / PEERS_PER_INTERVAL)
                due = time.monotonic() + pause * random.uniform(0.7, 1.3)
                before, wanted = wanted, rebalance(self._n, views, me, share=self._share)
                # Twice the same answer: a peer whose record is late is not a peer that is gone.
                if wanted is not None and wanted == before and await self._leave(span, wanted, sessions):
                    return wanted
            except (MeshError, ShardError) as error:
                due = max(due, time.monotonic() + GROWING_SECONDS)
                logger.warning("could not look whether we are needed elsewhere: %s", error)

    async def _leave(self, span: Span, target: Span, sessions: Callable[[], int]) -> bool:
        """Give up `span` for `target` if that opens no gap; False when we had better stay."""
        logger.info("blocks %s need us more than %s", target, span)
        await self._fetch(target)  # what is to be downloaded comes while we still serve
        self.going = target
        try:
            await self._announce()
            # Others may have decided the same at the same time: once everybody can see who goes, look again.
            await asyncio.sleep(VISIBLE_SECONDS)
            views = await self._look(span)
            dead = await self._dead(span, views)
            if await self._drained(span, target, sessions, dead):
                return True
        except BaseException:
            self.going = None
            raise
        self.going = None
        logger.info("blocks %s need us after all", span)
        await self._announce()
        return False

    async def _drained(self, span: Span, target: Span, sessions: Callable[[], int], dead: set[str]) -> bool:
        """Wait for our sessions to end; False as soon as somebody on whom we rely is gone."""
        me = self._transport.peer_id
        deadline: float | None = None
        while True:
            views = [view for view in await self._look(span) if view.peer not in dead]
            if deadline is None:
                if rebalance(self._n, views, me, share=self._share) != target:
                    return False
                # Where blocks are missing no session can go on: nothing to wait for.
                deadline = time.monotonic() + (0.0 if gaps(self._n, views) else DRAIN_SECONDS)
            if not may_leave(self._n, views, me, span):
                return False
            if not sessions() or time.monotonic() > deadline:
                return True
            await asyncio.sleep(1.0)

    async def _dead(self, span: Span, views: Sequence[ProviderView]) -> set[str]:
        """Of those that would serve our blocks without us: who does not answer, or has not been asked."""
        me = self._transport.peer_id
        replicas = [view.peer for view in views if view.serving and view.peer != me and view.span.overlaps(span)]

        async def answers(peer: str) -> bool:
            try:
                channel = await self._transport.open(peer, CONTROL_PROTOCOL, timeout=ANSWER_SECONDS)
            except PeerError:
                return False
            await channel.aclose()
            return True

        asked = random.sample(replicas, min(len(replicas), MAX_ASKED))
        found = await asyncio.gather(*(answers(peer) for peer in asked))
        return set(replicas) - {peer for peer, there in zip(asked, found, strict=True) if there}
