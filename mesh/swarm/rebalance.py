"""When a node that serves takes other blocks: to close a gap, or to help where the swarm is clearly weaker (pure).

Every node decides by itself, from what it sees of the others. A move never opens a gap: a node leaves blocks only where
others serve them already, or where the model cannot run anyway and more of it is covered afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mesh.swarm.placement import Totals, expected, piece_of_gap, weakest_window
from mesh.swarm.view import ProviderView
from shards.model.span import Span

GAIN = 1.1
"""The weakest block that a move touches must be this much faster afterwards: less is not worth loading for."""
UNCOVERED = 1000.0
"""In moves: what leaving a block uncovered costs a repair."""


def rebalance(
    n_blocks: int, providers: Sequence[ProviderView], me: str, *, share: int | None = None, gain: float = GAIN
) -> Span | None:
    """The span to which node `me` had best move now, None to stay where it is.

    `providers` includes `me`; its `max_blocks` bounds what it takes to close a gap, and `share` (None: the same) what
    it takes to help others. Where blocks are missing all nodes work out the same `repair` and each does its part.
    Otherwise a node moves to the weakest window if the slowest of the blocks that it leaves and takes is `gain` times
    as fast afterwards as it was before. So every such move lifts the lowest rates and none is undone: nodes that move
    one at a time come to rest.
    """
    mine = next((provider for provider in providers if provider.peer == me), None)
    if mine is None or not mine.serving or mine.max_blocks < 1 or mine.span.end > n_blocks:
        return None
    totals = Totals(n_blocks, providers)
    if (totals.replicas == 0).any():
        return repair(n_blocks, providers).get(me)
    if (totals.serving[mine.span.start : mine.span.end] < 2).any():
        return None
    able = replace(mine, max_blocks=min(mine.max_blocks, share or n_blocks))
    return better_window(Totals(n_blocks, expected(providers)), able, gain=gain)


def better_window(totals: Totals, mine: ProviderView, *, gain: float = GAIN) -> Span | None:
    """Where a replica that nobody needs where it is helps clearly more; `totals` count it, and are as before after."""
    before = totals.rates.copy()
    totals.add(mine, -1)
    target = weakest_window(totals, max(1, min(mine.max_blocks, totals.n_blocks)))
    moved = replace(mine, span=target)
    after = totals.rates.copy()
    after[target.start : target.end] += moved.tokens_per_second
    totals.add(mine)
    touched = np.r_[mine.span.start : mine.span.end, target.start : target.end]
    if target == mine.span or after[touched].min() < gain * before[touched].min():
        return None
    return target


def may_leave(n_blocks: int, providers: Sequence[ProviderView], me: str, span: Span) -> bool:
    """True when `me` may stop serving `span` now: others serve all of it, or the model has a gap even with `me`.

    Asked right before a move, of a fresh view, because others may have moved at the same time.
    """
    others = Totals(n_blocks, [p for p in providers if p.serving and p.peer != me]).replicas
    if (others[span.start : span.end] > 0).all():
        return True
    others[span.start : span.end] += 1
    return bool((others == 0).any())


def repair(n_blocks: int, providers: Sequence[ProviderView]) -> dict[str, Span]:
    """Moves after which as few blocks as possible are missing; nobody moves where nobody need.

    First nodes that are not needed where they are fill gaps. If that is not enough, the rest are laid out again in the
    order in which they lie, with the fewest moves and the least to load; within that order no layout covers more.
    """
    views = {provider.peer: provider for provider in providers}
    moves: dict[str, Span] = {}
    totals = Totals(n_blocks, providers)
    spare = sorted(
        (p for p in providers if p.serving and p.max_blocks > 0 and p.span.end <= n_blocks and _is_spare(totals, p)),
        key=lambda p: (-p.max_blocks, -p.block_rate, p.peer),
    )
    for provider in spare:
        missing = totals.gaps()
        if not missing:
            break
        if not _is_spare(totals, provider):
            continue
        moved = replace(provider, span=piece_of_gap(missing, min(provider.max_blocks, n_blocks)))
        totals.add(provider, -1)
        totals.add(moved)
        views[provider.peer] = moved
        moves[provider.peer] = moved.span
    if totals.gaps():
        moves.update(_relay(n_blocks, list(views.values())))
    return moves


def _is_spare(totals: Totals, provider: ProviderView) -> bool:
    return bool((totals.replicas[provider.span.start : provider.span.end] > 1).all())


@dataclass(frozen=True, slots=True)
class _Layout:
    """The cheapest way to have dealt with all blocks before some block; linked to what it extends."""

    cost: float
    before: _Layout | None = None
    move: tuple[str, Span] | None = None


def _relay(n_blocks: int, providers: Sequence[ProviderView]) -> Mapping[str, Span]:
    """New spans for nodes in the order in which they lie, so that as few blocks as possible are missing.

    Dynamic programming over (node, blocks dealt with so far): each node stays, moves, or is not counted on.
    """
    movable = [p for p in providers if p.serving and p.max_blocks > 0 and p.span.end <= n_blocks]
    fixed = Totals(n_blocks, [p for p in providers if p not in movable]).replicas > 0
    layouts: list[_Layout | None] = [None] * (n_blocks + 1)
    layouts[0] = _Layout(0.0)
    for provider in sorted(movable, key=lambda p: (p.span.start, p.span.end, p.peer)):
        _skip(layouts, fixed)
        following = list(layouts)
        for block, layout in enumerate(layouts[:-1]):
            if layout is None:
                continue
            own = provider.span
            if own.start <= block < own.end:
                _offer(following, own.end, _Layout(layout.cost, layout))
            for end in range(block + 1, min(block + provider.max_blocks, n_blocks) + 1):
                span = Span(block, end)
                to_load = sum(1 for each in span if not own.start <= each < own.end)
                _offer(following, end, _Layout(layout.cost + 1 + to_load / n_blocks, layout, (provider.peer, span)))
        layouts = following
    _skip(layouts, fixed)
    moves: dict[str, Span] = {}
    layout = layouts[n_blocks]
    while layout is not None:
        if layout.move is not None:
            moves[layout.move[0]] = layout.move[1]
        layout = layout.before
    return moves


def _skip(layouts: list[_Layout | None], fixed: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
    """Blocks that those who stay hold cost nothing; the others may be left out, which costs a lot."""
    for block, held in enumerate(fixed.tolist()):
        layout = layouts[block]
        if layout is not None:
            _offer(layouts, block + 1, _Layout(layout.cost + (0.0 if held else UNCOVERED), layout))


def _offer(layouts: list[_Layout | None], block: int, layout: _Layout) -> None:
    known = layouts[block]
    if known is None or layout.cost < known.cost - 1e-9:
        layouts[block] = layout
