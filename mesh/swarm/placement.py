"""Which span a node should serve, when it joins and later (pure).

First fill gaps: in pieces as even as the node's capacity allows, so that three equal nodes cut a model in three equal
parts, or with all the memory that its operator gave. Where every block is covered, add a replica to the part with the
lowest throughput, because a pipeline is as fast as its slowest stage. `mesh.swarm.rebalance` decides when a node that
serves moves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from mesh.swarm.view import ProviderView, gaps, runs
from shards.model.span import Span

DEFAULT_STAGES = 3
RATE_BITS = 30
"""Rates count as equal when these leading bits are: a sum's last bits depend on the order in which it was added up."""

Rates = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Claim:
    """A joining node's provisional choice, before it has begun to load."""

    peer: str
    span: Span


class Totals:
    """What a swarm adds up to, block by block; providers may be added and taken out one by one."""

    def __init__(self, n_blocks: int, providers: Iterable[ProviderView] = ()) -> None:
        self.n_blocks = n_blocks
        self.rates: Rates = np.zeros(n_blocks)
        """Tokens per second that all of them together push through each block."""
        self.replicas: npt.NDArray[np.int64] = np.zeros(n_blocks, dtype=np.int64)
        self.serving: npt.NDArray[np.int64] = np.zeros(n_blocks, dtype=np.int64)
        """How many hold each block, and how many of those serve it already."""
        self.spans: Counter[Span] = Counter()
        for provider in providers:
            self.add(provider)

    def add(self, provider: ProviderView, times: int = 1) -> None:
        """Count a provider; `times` -1 takes it out again."""
        span = provider.span
        here = slice(span.start, min(span.end, self.n_blocks))
        self.rates[here] += times * provider.tokens_per_second
        self.replicas[here] += times
        if times < 0:
            self.rates[here][self.replicas[here] == 0] = 0.0  # nothing is left of what rounding leaves behind
        if provider.serving:
            self.serving[here] += times
        self.spans[span] += times
        if not self.spans[span]:
            del self.spans[span]

    def gaps(self) -> tuple[Span, ...]:
        """Maximal runs of blocks that nobody holds."""
        return runs((self.replicas == 0).tolist())


def default_max_blocks(n_blocks: int) -> int:
    """How many blocks a node takes when its operator did not say: an even share of `DEFAULT_STAGES` stages."""
    return -(-n_blocks // DEFAULT_STAGES)


def choose_span(
    n_blocks: int, providers: Sequence[ProviderView], max_blocks: int, *, stages: int = 1, fill: bool = False
) -> Span:
    """The span that a node with room for `max_blocks` blocks is most needed for.

    `stages` is in how many even parts a model is to be cut at least that has enough blocks: a node takes one such part
    of a gap that begins with it. With `fill` it takes as many blocks as it has room for, with as many of those as are
    missing: what it holds beside the gap is there when a neighbour goes.
    """
    capacity = max(1, min(max_blocks, n_blocks))
    missing = gaps(n_blocks, providers)
    if missing and not fill:
        return piece_of_gap(missing, capacity, even_cuts(n_blocks, stages))
    in_order = sorted(expected(providers), key=lambda provider: provider.peer)  # all nodes add up alike
    return weakest_window(Totals(n_blocks, in_order), capacity)


def settle(
    n_blocks: int,
    committed: Sequence[ProviderView],
    claims: Sequence[Claim],
    me: str,
    max_blocks: int,
    *,
    stages: int = 1,
    fill: bool = False,
) -> Span:
    """The span to claim while others claim at the same time.

    Nodes that load or serve are fixed; of the nodes that are still choosing, those with a smaller peer id go
    first. Everybody applies the same rule to the same claims, so two nodes that start together end up apart, once
    each has seen what those before it claim.
    """
    ahead = [ProviderView(claim.peer, claim.span, block_rate=1.0, serving=False) for claim in claims if claim.peer < me]
    return choose_span(n_blocks, [*committed, *ahead], max_blocks, stages=stages, fill=fill)


def even_cuts(n_blocks: int, stages: int) -> tuple[int, ...]:
    """The blocks at which `stages` even parts begin and the last one ends, larger parts first."""
    parts = max(1, min(stages, n_blocks))
    small, larger = divmod(n_blocks, parts)
    return tuple(accumulate((small + (part < larger) for part in range(parts)), initial=0))


def piece_of_gap(missing: Collection[Span], capacity: int, cuts: Sequence[int] = ()) -> Span:
    """The piece of the largest gap that a node takes: the gap is cut evenly among as many as it needs."""
    largest = max(missing, key=lambda gap: (len(gap), -gap.start))
    pieces = -(-len(largest) // capacity)
    end = largest.start + -(-len(largest) // pieces)
    if largest.start in cuts:
        end = min(end, next((cut for cut in cuts if cut > largest.start), end))
    return Span(largest.start, end)


def expected(providers: Sequence[ProviderView]) -> list[ProviderView]:
    """The providers once all of them serve: one that has not measured itself yet will be as fast as the median.

    Otherwise all who join a complete swarm at the same time would see no use in each other, and replicate the same
    part.
    """
    typical = float(np.median([p.block_rate for p in providers if p.serving] or [1.0]))
    return [p if p.serving else replace(p, block_rate=typical) for p in providers]


def weakest_window(totals: Totals, capacity: int) -> Span:
    """Where a replica helps most: spans that others serve (a whole stage) and windows of full capacity compete.

    Each is judged by its blocks' rates, lowest first: the lowest decides, then the second lowest, and so on, as Petals
    does it (Borzunov et al., 2023); of equals the longest and then the leftmost is taken. Rates are equal here when
    they differ by rounding only.
    """
    n_blocks = totals.n_blocks
    rates = _without_rounding(totals.rates)
    weak = rates == rates.min()
    before = [0, *np.cumsum(weak).tolist()]
    starts_by_length: dict[int, set[int]] = {}
    for span in (*totals.spans, *(Span(start, start + capacity) for start in range(n_blocks - capacity + 1))):
        # Only what holds a weakest block can be best.
        if span.end <= n_blocks and len(span) <= capacity and before[span.end] > before[span.start]:
            starts_by_length.setdefault(len(span), set()).add(span.start)
    best: tuple[list[float], int, int] | None = None
    for length, starts in starts_by_length.items():
        begin = np.array(sorted(starts), dtype=np.int64)
        windows = np.sort(np.lib.stride_tricks.sliding_window_view(rates, length)[begin], axis=1)
        first = int(np.lexsort((begin, *windows.T[::-1]))[0])
        # A shorter one that is equal as far as it goes loses against a longer one.
        key = ([*windows[first].tolist(), math.inf], -length, int(begin[first]))
        best = key if best is None else min(best, key)
    if best is None:  # a window of full capacity holds the weakest block
        raise ValueError("a model without blocks")
    return Span(best[2], best[2] - best[1])


def _without_rounding(rates: Rates) -> Rates:
    """The rates with `RATE_BITS` bits each."""
    mantissas, exponents = np.frexp(rates)
    rounded: Rates = np.ldexp(np.round(np.ldexp(mantissas, RATE_BITS)), exponents - RATE_BITS)
    return rounded
