"""Which way a session goes: the cheapest chain of different providers that covers every block once (pure)."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mesh.errors import NoRoute
from mesh.swarm.view import ProviderView, gaps
from shards.span import Span

DEFAULT_HOP_SECONDS = 0.002
UNMEASURED_BLOCK_RATE = 100.0
MAX_EXPANSIONS = 20_000
"""Labels that a search may look at; honest swarms need about one per block of the model."""

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


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
    """The chain with the least expected seconds per token. Raises `NoRoute` naming the gap.

    A provider may serve any part of its span, but no peer comes twice. A stage's time is its blocks over its rate,
    stretched by the sessions that it already works on.

    The search is A* (Hart, Nilsson and Raphael, 1968). What is left to pay is bounded by the cheapest way on that
    may visit a peer twice, which one pass over the blocks, last to first, gives for all providers at once; where
    that way visits nobody twice, as it nearly always does, the search walks straight along it. Of two labels in one
    place the dearer is dropped if it has also used up all the peers that the other has (as Feillet et al., 2004).
    A swarm made to defeat this gets, after `max_expansions`, the cheapest chain whose stages all run to the end of
    their provider's span.
    """
    out = frozenset(excluded)
    by_peer = {p.peer: p for p in providers if p.serving and p.peer not in out and p.span.end <= n_blocks}
    usable = list(by_peer.values())
    missing = gaps(n_blocks, usable)
    if missing:
        shunned = [p for p in providers if p.peer in out and any(p.span.overlaps(gap) for gap in missing)]
        raise NoRoute(_explain(n_blocks, missing, bool(shunned)))
    search = _Search(n_blocks, usable, latencies or Latencies())
    return search.cheapest(max_expansions) or search.to_the_ends()


@dataclass(frozen=True, slots=True)
class _Label:
    """The provider of index `at` is about to run `block`, in a stage that began at `begin`."""

    cost: float
    """Seconds so far, the hand-over to this provider included."""
    block: int
    at: int
    begin: int
    before: tuple[Hop, ...]
    visited: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Ways:
    """To whom a session may go at a block, cheapest first."""

    totals: _Floats
    """Hand-over and all that is left to pay after it; ascending."""
    order: _Ints
    """The providers' indices."""
    hand_overs: _Floats


@dataclass(frozen=True, slots=True)
class _Switch:
    """The ways out of `parent` (None: from the client) to another provider at `block`, of which `place` is next."""

    parent: _Label | None
    block: int
    cost: float
    """Seconds before the hand-over."""
    place: int = 0


class _Search:
    """The arrays of one search. Providers are known by their index; `active[b]` are those that hold block `b`."""

    def __init__(self, n_blocks: int, providers: Sequence[ProviderView], latencies: Latencies) -> None:
        self._n = n_blocks
        self._peers = [provider.peer for provider in providers]
        self._latencies = latencies
        self._seconds: _Floats = np.array([_block_seconds(provider) for provider in providers])
        starts: _Ints = np.array([provider.span.start for provider in providers])
        self._ends: _Ints = np.array([provider.span.end for provider in providers])
        self._active: list[_Ints] = [np.flatnonzero((starts <= b) & (self._ends > b)) for b in range(n_blocks)]
        self._index = {peer: index for index, peer in enumerate(self._peers)}
        self._measured: dict[int, list[tuple[int, float]]] = {}
        for (sender, receiver), seconds in latencies.between.items():
            if sender in self._index and receiver in self._index:
                self._measured.setdefault(self._index[sender], []).append((self._index[receiver], seconds))
        self._left: list[_Floats] = []
        """Per block and active provider: least seconds from the moment it begins the block to the end."""
        self._bound()
        self._ways_known: dict[tuple[int, int | None], _Ways] = {}

    def cheapest(self, max_expansions: int) -> tuple[Hop, ...] | None:
        """The best chain, or None when the search was cut off."""
        queue: list[tuple[float, int, _Label | _Switch]] = []
        pushed = 0

        def push(item: _Label | _Switch, total: float) -> None:
            nonlocal pushed
            pushed += 1
            heapq.heappush(queue, (total, pushed, item))

        push(_Switch(None, 0, 0.0), 0.0)
        seen: dict[tuple[int, int], list[frozenset[str]]] = {}
        for _ in range(max_expansions):
            _, _, item = heapq.heappop(queue)
            if isinstance(item, _Switch):
                ways = self._ways(item)
                place = item.place + 1
                if place < len(ways.order):
                    push(replace(item, place=place), item.cost + float(ways.totals[place]))
                label = self._enter(item, ways)
                if label is None:
                    continue
                exact = label.cost + self._remaining(label.block, label.at)
                if queue and exact > queue[0][0]:  # the bound under which the switch was pushed was a lower one
                    push(label, exact)
                    continue
            else:
                label = item
            if self._is_dominated(label, seen):
                continue
            if label.block == self._n - 1:
                return self._hops(label)
            after = label.block + 1
            cost = label.cost + float(self._seconds[label.at])
            if self._ends[label.at] > after:
                stay = _Label(cost, after, label.at, label.begin, label.before, label.visited)
                push(stay, cost + self._remaining(after, label.at))
            push(_Switch(label, after, cost), cost + self._least_hand_over(label.at) + self._least[after])
        return None

    def to_the_ends(self) -> tuple[Hop, ...]:
        """The cheapest chain whose stages run to the end of their provider's span: so nobody can come twice."""
        best = np.zeros(self._n + 1)
        choice = [0] * self._n
        for block in range(self._n - 1, -1, -1):
            here = self._active[block]
            costs = self._seconds[here] * (self._ends[here] - block) + best[self._ends[here]]
            place = int(costs.argmin())
            best[block] = costs[place] + self._latencies.default
            choice[block] = int(here[place])
        hops: list[Hop] = []
        block = 0
        while block < self._n:
            index = choice[block]
            end = int(self._ends[index])
            hops.append(Hop(self._peers[index], Span(block, end)))
            block = end
        return tuple(hops)

    def _bound(self) -> None:
        self._left = [np.empty(0)] * self._n
        self._least = [0.0] * self._n
        after: _Floats = np.full(len(self._seconds), np.inf)
        following: _Floats | None = None
        for block in range(self._n - 1, -1, -1):
            here = self._active[block]
            if following is None:
                rest = np.zeros(len(here))
            else:
                rest = np.minimum(after[here], following.min() + self._latencies.default)
                for place, index in self._with_measurements(here):
                    hand_overs = self._hand_overs(index, block + 1)
                    rest[place] = min(after[index], float((hand_overs + following).min()))
            following = self._seconds[here] + rest
            self._left[block] = following
            self._least[block] = float(following.min())
            after.fill(np.inf)
            after[here] = following

    def _with_measurements(self, here: _Ints) -> list[tuple[int, int]]:
        if not self._measured:
            return []
        return [(place, index) for place, index in enumerate(here.tolist()) if index in self._measured]

    def _hand_overs(self, index: int, block: int) -> _Floats:
        """Seconds to hand over from provider `index` to each that is active at `block`."""
        there = self._active[block]
        seconds = np.full(len(there), self._latencies.default)
        for receiver, measured in self._measured.get(index, ()):
            place = int(np.searchsorted(there, receiver))
            if place < len(there) and there[place] == receiver:
                seconds[place] = measured
        return seconds

    def _remaining(self, block: int, index: int) -> float:
        return float(self._left[block][np.searchsorted(self._active[block], index)])

    def _least_hand_over(self, index: int) -> float:
        measured = (seconds for _, seconds in self._measured.get(index, ()))
        return min((self._latencies.default, *measured))

    def _ways(self, switch: _Switch) -> _Ways:
        block, parent = switch.block, switch.parent
        sender = parent.at if parent is not None and parent.at in self._measured else None
        known = self._ways_known.get((block, sender))
        if known is not None:
            return known
        default = self._latencies.default
        if parent is None:
            to_first = self._latencies.to_first
            seconds = np.array([to_first.get(self._peers[i], default) for i in self._active[block].tolist()])
        elif sender is None:
            seconds = np.full(len(self._active[block]), default)
        else:
            seconds = self._hand_overs(sender, block)
        totals = seconds + self._left[block]
        order = np.argsort(totals, kind="stable")
        ways = _Ways(totals[order], self._active[block][order], seconds[order])
        self._ways_known[block, sender] = ways
        return ways

    def _enter(self, switch: _Switch, ways: _Ways) -> _Label | None:
        """The label behind the switch's next way out; None when that peer has been visited."""
        index = int(ways.order[switch.place])
        peer = self._peers[index]
        parent = switch.parent
        cost = switch.cost + float(ways.hand_overs[switch.place])
        if parent is None:
            return _Label(cost, switch.block, index, switch.block, (), frozenset((peer,)))
        if peer in parent.visited:
            return None
        done = Hop(self._peers[parent.at], Span(parent.begin, switch.block))
        return _Label(cost, switch.block, index, switch.block, (*parent.before, done), parent.visited | {peer})

    def _is_dominated(self, label: _Label, seen: dict[tuple[int, int], list[frozenset[str]]]) -> bool:
        spent = frozenset(peer for peer in label.visited if self._ends[self._index[peer]] > label.block)
        others = seen.setdefault((label.block, label.at), [])
        if any(other <= spent for other in others):
            return True
        others.append(spent)
        return False

    def _hops(self, label: _Label) -> tuple[Hop, ...]:
        return (*label.before, Hop(self._peers[label.at], Span(label.begin, self._n)))


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
        total += len(hop.span) * _block_seconds(views[hop.peer])
        sender = hop.peer
    return total


def _block_seconds(provider: ProviderView) -> float:
    rate = provider.block_rate if provider.block_rate > 0 else UNMEASURED_BLOCK_RATE
    return (1 + provider.load) / rate


def _explain(n_blocks: int, missing: Sequence[Span], some_excluded: bool) -> str:
    listed = ", ".join(str(gap) for gap in missing)
    which = "are served only by peers that just failed" if some_excluded else "are not served by anybody right now"
    return f"blocks {listed} of {n_blocks} {which}: start a provider for them with `mesh join`, or try again shortly"
