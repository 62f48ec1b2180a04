"""Which way a session goes: the cheapest chain of providers that covers every block once (pure)."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mesh.errors import NoRoute
from mesh.swarm.view import ProviderView, gaps
from shards.span import Span

DEFAULT_HOP_SECONDS = 0.002
UNMEASURED_BLOCK_RATE = 100.0


@dataclass(frozen=True, slots=True)
class Hop:
    """One stage of a route: this peer runs these blocks."""

    peer: str
    span: Span


Latency = Callable[[str | None, str], float]
"""Seconds for one hand-over from a peer (None: the client) to a peer."""


def uniform_latency(_sender: str | None, _receiver: str) -> float:
    """Every hand-over costs the same: what is assumed before anything is measured."""
    return DEFAULT_HOP_SECONDS


def choose_route(
    n_blocks: int,
    providers: Sequence[ProviderView],
    *,
    latency: Latency = uniform_latency,
    excluded: Iterable[str] = (),
) -> tuple[Hop, ...]:
    """The chain with the least expected seconds per token. Raises `NoRoute` naming the gap.

    A provider may serve any part of its span. The search is Dijkstra's over (first uncovered block, last peer);
    a stage's time is its blocks over its rate, stretched by the sessions that it already works on.
    """
    out = frozenset(excluded)
    usable = [p for p in providers if p.serving and p.peer not in out and p.span.end <= n_blocks]
    missing = gaps(n_blocks, usable)
    if missing:
        raise NoRoute(_explain(n_blocks, missing, any(p.peer in out for p in providers)))
    starts: dict[int, list[ProviderView]] = {}
    for provider in usable:
        for block in provider.span:
            starts.setdefault(block, []).append(provider)
    queue: list[tuple[float, int, str, tuple[Hop, ...]]] = [(0.0, 0, "", ())]
    settled: set[tuple[int, str]] = set()
    while queue:
        cost, block, peer, hops = heapq.heappop(queue)
        if block == n_blocks:
            return hops
        if (block, peer) in settled:
            continue
        settled.add((block, peer))
        for provider in starts[block]:
            if any(hop.peer == provider.peer for hop in hops):
                continue
            for end in range(block + 1, provider.span.end + 1):
                seconds = latency(hops[-1].peer if hops else None, provider.peer)
                seconds += _stage_seconds(provider, end - block)
                hop = Hop(provider.peer, Span(block, end))
                heapq.heappush(queue, (cost + seconds, end, provider.peer, (*hops, hop)))
    raise NoRoute(f"no chain of different providers covers all {n_blocks} blocks")


def _stage_seconds(provider: ProviderView, blocks: int) -> float:
    rate = provider.block_rate if provider.block_rate > 0 else UNMEASURED_BLOCK_RATE
    return blocks / rate * (1 + provider.load)


def _explain(n_blocks: int, missing: Sequence[Span], some_excluded: bool) -> str:
    listed = ", ".join(str(gap) for gap in missing)
    which = "are served only by peers that just failed" if some_excluded else "are not served by anybody right now"
    return f"blocks {listed} of {n_blocks} {which}: start a provider for them with `mesh join`, or try again shortly"
