"""Which way a session goes: the cheapest chain of different providers that covers every block once (pure).

`RouteTable` holds what a look at the swarm told, as arrays; a route is chosen from it for every session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mesh.errors import NoRoute, Refused
from mesh.swarm.search import Floats, Ints, Search
from mesh.swarm.view import ProviderView, gaps
from mesh.swarm.walk import Walker
from shards.model.span import Span

DEFAULT_HOP_SECONDS = 0.002
MAX_EXPANSIONS = 20_000
"""Labels that a search may look at; honest swarms need about one per block of the model."""
LOADING_RETRY_SECONDS = 5.0
FAILED_RETRY_SECONDS = 2.0
GAP_RETRY_SECONDS = 30.0
"""When to try again where blocks are missing: somebody loads them, those who serve them just failed, nobody."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One stage of a route: this peer runs these blocks."""

    peer: str
    span: Span


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds for one hand-over, never negative: what was measured, and `default` for all the rest."""

    default: float = DEFAULT_HOP_SECONDS
    to_first: Mapping[str, float] = field(default_factory=dict)
    """From the client to a peer."""
    between: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """From a peer to a peer."""


def choose_route(
    n_blocks: int,
    providers: Sequence[ProviderView],
    *,
    latencies: Latencies | None = None,
    excluded: Iterable[str] = (),
    max_expansions: int = MAX_EXPANSIONS,
) -> tuple[Hop, ...]:
    """The chain with the least expected seconds per token, from a view that is used once; see `RouteTable.choose`."""
    return RouteTable(n_blocks, providers, latencies).choose(excluded=excluded, max_expansions=max_expansions)


class RouteTable:
    """The providers of one model and what hand-overs take. Holds its place until the view or a measurement changes.

    Building it takes time in proportion to the number of providers; choosing from it a few milliseconds for ten
    thousand.
    """

    def __init__(self, n_blocks: int, providers: Sequence[ProviderView], latencies: Latencies | None = None) -> None:
        self.n_blocks = n_blocks
        self._providers = tuple(providers)
        self._latencies = latencies or Latencies()
        usable = [provider for provider in providers if provider.serving and provider.span.end <= n_blocks]
        self._peers = [provider.peer for provider in usable]
        self._index = {peer: index for index, peer in enumerate(self._peers)}
        self._loads: Floats = np.array([provider.load for provider in usable], dtype=np.float64)
        self._rates: Floats = np.array([1 / provider.block_seconds for provider in usable], dtype=np.float64)
        self._starts: Ints = np.array([provider.span.start for provider in usable], dtype=np.int64)
        self._ends: Ints = np.array([provider.span.end for provider in usable], dtype=np.int64)
        known = self._index
        first = {known[peer]: seconds for peer, seconds in self._latencies.to_first.items() if peer in known}
        self._to_first = {index: seconds for index, seconds in first.items() if self._starts[index] == 0}
        self._measured: dict[int, dict[int, float]] = {}
        for (sender, receiver), seconds in self._latencies.between.items():
            if sender in known and receiver in known and sender != receiver:
                self._measured.setdefault(known[sender], {})[known[receiver]] = seconds
        self._walker = Walker(
            n_blocks, self._starts, self._ends, self._latencies.default, self._to_first, self._measured
        )
        self._active: list[Ints] = []

    def choose(
        self,
        *,
        excluded: Iterable[str] = (),
        busy: Mapping[str, float] | None = None,
        loads: Mapping[str, int] | None = None,
        factors: Mapping[str, float] | None = None,
        noise: Floats | None = None,
        max_expansions: int = MAX_EXPANSIONS,
    ) -> tuple[Hop, ...]:
        """The chain with the least expected seconds per token.

        `loads` are sessions at peers that the view may not know of yet, and `factors` how many times slower than they
        say peers count (a penalty). `busy` peers have no room for as many seconds. `noise` (`providers` values of at
        least 0, aligned to the view) makes providers that much slower, so that many clients with one view spread over
        near-equals.

        A provider may serve any part of its span, but no peer comes twice. A stage's time is its blocks over its
        rate, and its part of what the provider's link takes, stretched by the sessions that it already works on. The
        cheapest walk, which may visit a peer twice, is found over spans rather than providers; as it nearly always
        visits nobody twice, it is the answer. Otherwise `Search` finds the cheapest chain; a swarm made to defeat that
        gets, after `max_expansions`, the cheapest chain whose stages all run to the end of their provider's span.

        Raises `NoRoute`, naming the gap, or `Refused` where only busy peers could fill it; both say when to try again.
        """
        out = frozenset(excluded)
        full = {peer: wait for peer, wait in (busy or {}).items() if wait > 0}
        seconds = self._block_seconds(loads or {}, factors or {}, noise)
        self._rule_out(seconds, (*out, *full))
        if not self._peers:
            self._give_up(out, full)
        stages, total = self._walker.walk(seconds)
        if not np.isfinite(total):
            self._give_up(out, full)
        if len({index for index, _ in stages}) < len(stages):
            search = Search(
                seconds=seconds,
                ends=self._ends,
                active=[here[np.isfinite(seconds[here])] for here in self._holders()],
                default=self._latencies.default,
                to_first=self._to_first,
                measured=self._measured,
            )
            stages = list(search.cheapest(max_expansions) or search.to_the_ends())
        return tuple(Hop(self._peers[index], span) for index, span in stages)

    def seconds(
        self,
        hops: Sequence[Hop],
        *,
        excluded: Iterable[str] = (),
        busy: Mapping[str, float] | None = None,
        loads: Mapping[str, int] | None = None,
        factors: Mapping[str, float] | None = None,
    ) -> float:
        """What a chain costs, as `choose` counts it: expected seconds per token; infinite where it cannot be had."""
        each = self._block_seconds(loads or {}, factors or {}, None)
        self._rule_out(each, (*excluded, *(peer for peer, wait in (busy or {}).items() if wait > 0)))
        total, sender = 0.0, None
        for hop in hops:
            index = self._index.get(hop.peer)
            if index is None or not self._starts[index] <= hop.span.start < hop.span.end <= self._ends[index]:
                return float("inf")
            known = self._to_first if sender is None else self._measured.get(sender, {})
            total += known.get(index, self._latencies.default) + len(hop.span) * float(each[index])
            sender = index
        return total

    def _rule_out(self, seconds: Floats, peers: Iterable[str]) -> None:
        for peer in peers:
            index = self._index.get(peer)
            if index is not None:
                seconds[index] = np.inf

    def _block_seconds(self, loads: Mapping[str, int], factors: Mapping[str, float], noise: Floats | None) -> Floats:
        seconds: Floats = (1 + self._loads) / self._rates
        for peer, load in loads.items():
            index = self._index.get(peer)
            if index is not None and load > self._loads[index]:
                seconds[index] = (1 + load) / self._rates[index]
        for peer, factor in factors.items():
            index = self._index.get(peer)
            if index is not None:
                seconds[index] *= factor
        if noise is not None:
            seconds *= 1 + noise[: len(seconds)]
        return seconds

    def _holders(self) -> list[Ints]:
        if not self._active:
            self._active = [
                np.flatnonzero((self._starts <= block) & (self._ends > block)) for block in range(self.n_blocks)
            ]
        return self._active

    def _give_up(self, out: frozenset[str], full: Mapping[str, float]) -> None:
        """Raise what is the matter: blocks without anybody, or only with peers that failed or have no room."""
        n_blocks = self.n_blocks
        serving = [p for p in self._providers if p.serving and p.span.end <= n_blocks]
        left = [p for p in serving if p.peer not in out]
        missing = gaps(n_blocks, left)
        if not missing:
            wait = seconds_until_room(n_blocks, left, full)
            raise Refused(f"every route is full: no room for another session for about {wait:.1f} s", retry_after=wait)
        shunned = any(p.peer in out and p.span.overlaps(gap) for p in self._providers for gap in missing)
        if shunned:
            wait = FAILED_RETRY_SECONDS
        else:
            loading = [p for p in self._providers if not p.serving]
            wait = GAP_RETRY_SECONDS if gaps(n_blocks, [*left, *loading]) else LOADING_RETRY_SECONDS
        raise NoRoute(_explain(n_blocks, missing, shunned), retry_after=wait)


def seconds_until_room(n_blocks: int, providers: Sequence[ProviderView], busy: Mapping[str, float]) -> float:
    """Seconds until each block is held by somebody who is not busy (who holds none of it does not count).

    Infinite where nobody holds a block.
    """
    soonest = [float("inf")] * n_blocks
    for provider in providers:
        wait = busy.get(provider.peer, 0.0)
        for block in range(provider.span.start, min(provider.span.end, n_blocks)):
            soonest[block] = min(soonest[block], wait)
    return max(soonest, default=0.0)


def route_seconds(
    hops: Sequence[Hop], providers: Sequence[ProviderView], *, latencies: Latencies | None = None
) -> float:
    """What a chain costs: expected seconds per token."""
    known = latencies or Latencies()
    views = {provider.peer: provider for provider in providers}
    total = 0.0
    sender: str | None = None
    for hop in hops:
        if sender is None:
            total += known.to_first.get(hop.peer, known.default)
        else:
            total += known.between.get((sender, hop.peer), known.default)
        provider = views[hop.peer]
        total += len(hop.span) * provider.block_seconds * (1 + provider.load)
        sender = hop.peer
    return total


def _explain(n_blocks: int, missing: Sequence[Span], some_excluded: bool) -> str:
    listed = ", ".join(str(gap) for gap in missing)
    which = "are served only by peers that just failed" if some_excluded else "are not served by anybody right now"
    return f"blocks {listed} of {n_blocks} {which}: start a provider for them with `mesh join`, or try again shortly"
