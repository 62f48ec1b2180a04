"""The exact search for a route over (block, provider), for when the simple way would visit somebody twice (pure)."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from shards.model.span import Span

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Stage = tuple[int, Span]
"""A provider's index, and what it runs."""


@dataclass(frozen=True, slots=True)
class _Label:
    """The provider of index `at` is about to run `block`, in a stage that began at `begin`."""

    cost: float
    """Seconds so far, the hand-over to this provider included."""
    block: int
    at: int
    begin: int
    before: tuple[Stage, ...]
    visited: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Ways:
    """To whom a session may go at a block, cheapest first."""

    totals: Floats
    """Hand-over and all that is left to pay after it; ascending."""
    order: Ints
    """The providers' indices."""
    hand_overs: Floats


@dataclass(frozen=True, slots=True)
class _Switch:
    """The ways out of `parent` (None: from the client) to another provider at `block`, of which `place` is next."""

    parent: _Label | None
    block: int
    cost: float
    """Seconds before the hand-over."""
    place: int = 0


class Search:
    """One search. Providers are known by their index; `active[b]` are those that hold block `b`, ascending.

    It is A* (Hart, Nilsson and Raphael, 1968). What is left to pay is bounded by the cheapest way on that may visit
    a provider twice, which one pass over the blocks, last to first, gives for all providers at once. Of two labels in
    one place the dearer is dropped if it has also used up all the providers that the other has (as Feillet et al.,
    2004).
    """

    def __init__(
        self,
        *,
        seconds: Floats,
        ends: Ints,
        active: Sequence[Ints],
        default: float,
        to_first: Mapping[int, float],
        measured: Mapping[int, Mapping[int, float]],
    ) -> None:
        """`seconds` a block and provider, infinite for one that is not to be used; seconds of a hand-over: `to_first`
        from the client, `measured` from a provider to another, `default` for all the rest."""
        self._n = len(active)
        self._seconds = seconds
        self._ends = ends
        self._active = active
        self._default = default
        self._to_first = to_first
        self._measured = measured
        self._left: list[Floats] = []
        """Per block and active provider: least seconds from the moment it begins the block to the end."""
        self._bound()
        self._ways_known: dict[tuple[int, int | None], _Ways] = {}

    def cheapest(self, max_expansions: int) -> tuple[Stage, ...] | None:
        """The best chain, or None when the search was cut off."""
        queue: list[tuple[float, int, _Label | _Switch]] = []
        pushed = 0

        def push(item: _Label | _Switch, total: float) -> None:
            nonlocal pushed
            pushed += 1
            heapq.heappush(queue, (total, pushed, item))

        push(_Switch(None, 0, 0.0), 0.0)
        seen: dict[tuple[int, int], list[frozenset[int]]] = {}
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

    def to_the_ends(self) -> tuple[Stage, ...]:
        """The cheapest chain whose stages run to the end of their provider's span: so nobody can come twice."""
        best = np.zeros(self._n + 1)
        choice = [0] * self._n
        for block in range(self._n - 1, -1, -1):
            here = self._active[block]
            costs = self._seconds[here] * (self._ends[here] - block) + best[self._ends[here]]
            place = int(costs.argmin())
            best[block] = costs[place] + self._default
            choice[block] = int(here[place])
        hops: list[Stage] = []
        block = 0
        while block < self._n:
            index = choice[block]
            end = int(self._ends[index])
            hops.append((index, Span(block, end)))
            block = end
        return tuple(hops)

    def _bound(self) -> None:
        self._left = [np.empty(0)] * self._n
        self._least = [0.0] * self._n
        after: Floats = np.full(len(self._seconds), np.inf)
        following: Floats | None = None
        for block in range(self._n - 1, -1, -1):
            here = self._active[block]
            if following is None:
                rest = np.zeros(len(here))
            else:
                rest = np.minimum(after[here], following.min() + self._default)
                for place, index in self._with_measurements(here):
                    hand_overs = self._hand_overs(index, block + 1)
                    rest[place] = min(after[index], float((hand_overs + following).min()))
            following = self._seconds[here] + rest
            self._left[block] = following
            self._least[block] = float(following.min())
            after.fill(np.inf)
            after[here] = following

    def _with_measurements(self, here: Ints) -> list[tuple[int, int]]:
        if not self._measured:
            return []
        return [(place, index) for place, index in enumerate(here.tolist()) if index in self._measured]

    def _hand_overs(self, index: int, block: int) -> Floats:
        """Seconds to hand over from provider `index` to each that is active at `block`."""
        there = self._active[block]
        seconds = np.full(len(there), self._default)
        for receiver, measured in self._measured.get(index, {}).items():
            place = int(np.searchsorted(there, receiver))
            if place < len(there) and there[place] == receiver:
                seconds[place] = measured
        return seconds

    def _remaining(self, block: int, index: int) -> float:
        return float(self._left[block][np.searchsorted(self._active[block], index)])

    def _least_hand_over(self, index: int) -> float:
        return min((self._default, *self._measured.get(index, {}).values()))

    def _ways(self, switch: _Switch) -> _Ways:
        block, parent = switch.block, switch.parent
        sender = parent.at if parent is not None and parent.at in self._measured else None
        known = self._ways_known.get((block, sender))
        if known is not None:
            return known
        default = self._default
        if parent is None:
            seconds = np.array([self._to_first.get(index, default) for index in self._active[block].tolist()])
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
        parent = switch.parent
        cost = switch.cost + float(ways.hand_overs[switch.place])
        if parent is None:
            return _Label(cost, switch.block, index, switch.block, (), frozenset((index,)))
        if index in parent.visited:
            return None
        done = (parent.at, Span(parent.begin, switch.block))
        return _Label(cost, switch.block, index, switch.block, (*parent.before, done), parent.visited | {index})

    def _is_dominated(self, label: _Label, seen: dict[tuple[int, int], list[frozenset[int]]]) -> bool:
        spent = frozenset(index for index in label.visited if self._ends[index] > label.block)
        others = seen.setdefault((label.block, label.at), [])
        if any(other <= spent for other in others):
            return True
        others.append(spent)
        return False

    def _hops(self, label: _Label) -> tuple[Stage, ...]:
        return (*label.before, (label.at, Span(label.begin, self._n)))
