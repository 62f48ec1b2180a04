"""The cheapest walk through the blocks that may visit a provider twice: nearly always the route (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mesh.swarm.search import Floats, Ints, Stage
from shards.model.span import Span


class _Step(NamedTuple):
    """The end of a stage that runs from some block by anybody who can, and seconds from its start to the end."""

    end: int
    seconds: float


class _Pairs(NamedTuple):
    """Measured hand-overs at one block, by sender: those of `senders[i]` begin at `first[i]`."""

    senders: Ints
    first: Ints
    receivers: Ints
    hand_overs: Floats


class Walker:
    """Cheapest walks over one table: chains that may visit a provider twice, in time of blocks squared.

    Providers for which no hand-over to or from another has been measured (here: plain) differ, where they are entered
    at a block and left at another, by speed alone: so only the fastest for each pair of blocks counts. Those for which
    some has been measured (here: special) are looked at one by one.
    """

    def __init__(
        self,
        n_blocks: int,
        starts: Ints,
        ends: Ints,
        default: float,
        to_first: Mapping[int, float],
        measured: Mapping[int, Mapping[int, float]],
    ) -> None:
        self._n = n_blocks
        self._starts = starts
        self._ends = ends
        self._default = default
        self._is_plain = np.ones(len(starts), dtype=np.bool_)
        special = sorted(measured.keys() | {receiver for row in measured.values() for receiver in row})
        self._is_plain[special] = False
        self._special: Ints = np.array(special, dtype=np.int64)
        place = {index: number for number, index in enumerate(special)}
        self._rows = [
            {place[receiver]: seconds for receiver, seconds in measured.get(index, {}).items()} for index in special
        ]
        """Per special sender: seconds to special receivers, both as places in `special`."""
        self._slower: dict[int, list[int]] = {}
        """Per special receiver: the senders from which a hand-over to it takes longer than `default`."""
        for sender, row in enumerate(self._rows):
            for receiver, seconds in row.items():
                if seconds > default:
                    self._slower.setdefault(receiver, []).append(sender)
        starts_here, ends_here = starts[self._special], ends[self._special]
        self._here: list[Ints] = [
            np.flatnonzero((starts_here <= block) & (ends_here > block)) for block in range(n_blocks)
        ]
        """Per block: places in `special` of those that hold it."""
        pairs = sorted((sender, receiver) for sender, row in enumerate(self._rows) for receiver in row)
        senders: Ints = np.array([sender for sender, _ in pairs], dtype=np.int64)
        receivers: Ints = np.array([receiver for _, receiver in pairs], dtype=np.int64)
        hand_overs: Floats = np.array([self._rows[sender][receiver] for sender, receiver in pairs], dtype=np.float64)
        self._pairs: list[_Pairs | None] = [None]
        """Per block: measured hand-overs that are possible there."""
        for block in range(1, n_blocks):
            there = np.flatnonzero(
                (starts_here[senders] < block)
                & (ends_here[senders] >= block)
                & (starts_here[receivers] <= block)
                & (ends_here[receivers] > block)
            )
            if not len(there):
                self._pairs.append(None)
                continue
            who, first = np.unique(senders[there], return_index=True)
            self._pairs.append(_Pairs(who, first, receivers[there], hand_overs[there]))
        apart = np.zeros(len(starts), dtype=np.bool_)
        apart[[*to_first, *(index for index in special if starts[index] == 0)]] = True
        self._apart: Ints = np.flatnonzero(apart)
        """Those to start with that are looked at one by one: special, or with a measured way from the client."""
        self._apart_plain = self._is_plain[self._apart]
        self._apart_hand_overs: Floats = np.array([to_first.get(index, default) for index in self._apart.tolist()])
        self._alike: Ints = np.flatnonzero((starts == 0) & ~apart)
        self._can_reach = np.arange(1, n_blocks + 1) <= ends[self._apart][:, None]
        self._cells: Ints = starts * (n_blocks + 1) + ends

    def walk(self, seconds: Floats) -> tuple[list[Stage], float]:
        """The stages of the cheapest walk and what it costs; infinite where there is none, and then no stages.

        `seconds` a block and provider.
        """
        n = self._n
        best = self._fastest(seconds)
        special_seconds = seconds[self._special]
        enter = np.zeros(n + 1)
        """Least seconds from the end of somebody's stage there to the end, if he is plain; 0 at the end."""
        plain: list[_Step] = [_Step(n, 0.0)] * n
        left: Floats = np.full((n + 1, len(special_seconds)), np.inf)
        """Per block and special provider: least seconds from the moment it begins the block to the end."""
        left[n] = 0.0
        lengths = np.arange(1, n + 1)
        for block in range(n - 1, -1, -1):
            costs = best[block, block + 1 :] * lengths[: n - block]
            costs += enter[block + 1 :]
            end = int(costs.argmin())
            plain[block] = _Step(block + 1 + end, float(costs[end]))
            least = plain[block].seconds
            here = self._here[block]
            if len(here):
                left[block, here] = special_seconds[here] + self._after(block + 1, left, plain)[here]
                least = min(least, float(left[block, here].min()))
            enter[block] = least + self._default
        return self._trace(seconds, best, enter, plain, left)

    def _fastest(self, seconds: Floats) -> Floats:
        """Per begin and end: least seconds a block of a plain provider that can run from the one to the other."""
        n = self._n
        cells: Floats = np.full(n * (n + 1), np.inf)
        np.minimum.at(cells, self._cells, np.where(self._is_plain, seconds, np.inf))
        table = np.minimum.accumulate(cells.reshape(n, n + 1), axis=0)
        fastest: Floats = np.minimum.accumulate(table[:, ::-1], axis=1)[:, ::-1]
        return fastest

    def _after(self, block: int, left: Floats, plain: Sequence[_Step]) -> Floats:
        """What is left to pay for special providers that have run up to `block`: to stay, or to hand over."""
        if block == self._n:
            return np.zeros(len(self._special))
        stay: Floats = left[block]  # infinite for those that end here
        nearest = int(stay.argmin())
        anybody = plain[block].seconds
        rest: Floats = np.minimum(stay, self._default + min(anybody, float(stay[nearest])))
        slower = self._slower.get(nearest, ()) if stay[nearest] < anybody else ()
        if slower:
            nearer = np.flatnonzero(stay < anybody)
            order = nearer[stay[nearer].argsort()].tolist()
            for sender in slower:
                row = self._rows[sender]
                unhindered = next((float(stay[r]) for r in order if row.get(r, 0.0) <= self._default), anybody)
                rest[sender] = min(float(stay[sender]), self._default + unhindered)
        pairs = self._pairs[block]
        if pairs is not None:
            ways = pairs.hand_overs + stay[pairs.receivers]
            rest[pairs.senders] = np.minimum(rest[pairs.senders], np.minimum.reduceat(ways, pairs.first))
        return rest

    def _onward(self, sender: int, block: int, left: Floats) -> Floats:
        """What is left to pay for a special sender that hands over at `block`, for every special receiver."""
        onward: Floats = self._default + left[block]
        for receiver, seconds in self._rows[sender].items():
            onward[receiver] = seconds + left[block, receiver]
        return onward

    def _trace(
        self, seconds: Floats, best: Floats, enter: Floats, plain: Sequence[_Step], left: Floats
    ) -> tuple[list[Stage], float]:
        """Follow the cheapest choices from the client on."""
        at, total = self._begin(seconds, enter, left)
        if not np.isfinite(total):
            return [], float("inf")
        stages: list[Stage] = []
        block = 0
        while True:
            if self._is_plain[at]:
                reach = int(self._ends[at])
                ends = np.arange(block + 1, reach + 1)
                costs = seconds[at] * (ends - block) + enter[block + 1 : reach + 1]
                end = int(ends[costs.argmin()])
            else:
                end = self._special_end(at, block, left, plain)
            stages.append((at, Span(block, end)))
            if end == self._n:
                return stages, total
            at = self._next(at, end, seconds, best, plain, left)
            block = end

    def _begin(self, seconds: Floats, enter: Floats, left: Floats) -> tuple[int, float]:
        """With whom to start, and what the whole walk costs."""
        n = self._n
        lengths = np.arange(1, n + 1)
        reached: Floats = np.full(n + 1, np.inf)
        np.minimum.at(reached, self._ends[self._alike], seconds[self._alike])
        fastest = np.minimum.accumulate(reached[::-1])[::-1][1:]
        costs = fastest * lengths + enter[1:]
        end = int(costs.argmin())
        total = self._default + float(costs[end])
        at = -1
        if np.isfinite(total):
            can = (self._ends[self._alike] > end) & (seconds[self._alike] == fastest[end])
            at = int(self._alike[np.flatnonzero(can)[0]])
        if len(self._apart):
            ways = np.where(self._can_reach, np.multiply.outer(seconds[self._apart], lengths) + enter[1:], np.inf)
            each = ways.min(axis=1)
            for number, index in enumerate(self._apart.tolist()):
                if not self._apart_plain[number]:
                    each[number] = left[0, np.searchsorted(self._special, index)]
            each += self._apart_hand_overs
            number = int(each.argmin())
            if each[number] < total:
                return int(self._apart[number]), float(each[number])
        return at, total

    def _special_end(self, at: int, block: int, left: Floats, plain: Sequence[_Step]) -> int:
        """Where a special provider that begins `block` had best hand over."""
        place = int(np.searchsorted(self._special, at))
        for end in range(block + 1, int(self._ends[at])):
            onward = min(self._default + plain[end].seconds, float(self._onward(place, end, left).min()))
            if onward < left[end, place]:
                return end
        return int(self._ends[at])

    def _next(self, at: int, block: int, seconds: Floats, best: Floats, plain: Sequence[_Step], left: Floats) -> int:
        """To whom to hand over at `block`."""
        if len(self._special):
            if self._is_plain[at]:
                onward = self._default + left[block]
            else:
                onward = self._onward(int(np.searchsorted(self._special, at)), block, left)
            receiver = int(onward.argmin())
            if onward[receiver] <= self._default + plain[block].seconds and np.isfinite(onward[receiver]):
                return int(self._special[receiver])
        end = plain[block].end
        can = self._is_plain & (self._starts <= block) & (self._ends >= end) & (seconds == best[block, end])
        return int(np.flatnonzero(can)[0])
