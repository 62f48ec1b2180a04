"""Which spans a node with several devices should serve, chosen together so that they complement each other (pure).

Gaps come first: they are cut among the devices by speed, within what each has memory for, so that the slowest of the
new stages is as fast as it can be. Devices that the gaps do not need, or that help more where others are slow, become
replicas of the weakest part, as a single node would (`mesh.swarm.placement`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, combinations
from statistics import median

from mesh.swarm.placement import Totals, expected, weakest_window
from mesh.swarm.view import ProviderView, gaps
from shards.model.span import Span

EXACT_DEVICES = 8
"""Up to so many devices every way to deal them out to several gaps is tried."""
SAME = 1 + 1e-9
GAIN = 1.1
"""How many times faster the pipeline must get for a device to help others instead of filling a gap: rates are rough."""


@dataclass(frozen=True, slots=True)
class Device:
    """What one device can do: `capacity` blocks fit, of which it computes `block_rate` block-tokens per second."""

    capacity: int
    block_rate: float


def choose_spans(n_blocks: int, providers: Sequence[ProviderView], devices: Sequence[Device]) -> list[Span]:
    """One span per device, in their order; `providers` are the others, with those that only load or claim.

    No two are the same while a gap is left that one of them could fill. In a model that nobody serves the slowest stage
    is as fast as any cut allows.
    """
    able = [Device(max(1, min(d.capacity, n_blocks)), d.block_rate if d.block_rate > 0 else 1.0) for d in devices]
    if any(provider.serving for provider in providers):
        others = expected(providers)
    else:  # nobody has measured itself: they will be like us
        typical = median([device.block_rate for device in able] or [1.0])
        others = [replace(provider, block_rate=typical) for provider in providers]
    missing = gaps(n_blocks, providers)
    pieces = _pieces(n_blocks, others, missing, able) if missing else {}
    totals = Totals(n_blocks, [*others, *_views(pieces, able)])
    spans = {**pieces, **_replicas(totals, able, [index for index in range(len(able)) if index not in pieces])}
    return [spans[index] for index in range(len(able))]


def _pieces(
    n_blocks: int, others: Sequence[ProviderView], missing: Sequence[Span], devices: Sequence[Device]
) -> dict[int, Span]:
    """By device, the pieces that the gaps are cut into.

    As many devices take part as still make the whole pipeline faster: the rest is for where others are slow.
    """
    best: tuple[float, dict[int, Span]] | None = None
    order = _strongest(devices, range(len(devices)))
    for count in range(len(devices), 0, -1):
        found = _fill(missing, {index: devices[index] for index in order[:count]})
        if found is None:
            break
        slowest = min(devices[index].block_rate / len(span) for index, span in found.items())
        reached = min(slowest, _rest_of_pipeline(n_blocks, others, missing, devices, found))
        if best is None or reached > best[0] * GAIN:
            best = reached, found
    return best[1] if best is not None else _as_much_as_fits(missing, devices)


def _rest_of_pipeline(
    n_blocks: int,
    others: Sequence[ProviderView],
    missing: Sequence[Span],
    devices: Sequence[Device],
    pieces: Mapping[int, Span],
) -> float:
    """Tokens per second outside the gaps, once the devices that do not fill them help there."""
    totals = Totals(n_blocks, others)
    for gap in missing:
        totals.rates[gap.start : gap.end] = math.inf
    if not math.isinf(totals.rates.min()):
        _replicas(totals, devices, [index for index in range(len(devices)) if index not in pieces])
    return float(totals.rates.min())


def _replicas(totals: Totals, devices: Sequence[Device], indices: Iterable[int]) -> dict[int, Span]:
    """Each where the model is weakest then, the strongest first; `totals` count them afterwards."""
    spans: dict[int, Span] = {}
    for index in _strongest(devices, indices):
        spans[index] = weakest_window(totals, devices[index].capacity)
        for view in _views({index: spans[index]}, devices):
            totals.add(view)
    return spans


def _views(spans: Mapping[int, Span], devices: Sequence[Device]) -> Iterator[ProviderView]:
    for index, span in spans.items():
        yield ProviderView(f"device {index}", span, devices[index].block_rate, serving=True)


def _strongest(devices: Sequence[Device], indices: Iterable[int]) -> list[int]:
    return sorted(indices, key=lambda index: (-devices[index].block_rate, -devices[index].capacity, index))


def _fill(missing: Sequence[Span], devices: Mapping[int, Device]) -> dict[int, Span] | None:
    """All gaps cut among devices for the fastest slowest piece; None where the devices cannot hold them.

    A device too slow to help is left out.
    """
    lengths = tuple(len(gap) for gap in missing)
    rates = sorted({d.block_rate / blocks for d in devices.values() for blocks in range(1, d.capacity + 1)})

    def deal(rate: float) -> list[tuple[int, ...]] | None:
        offers = {i: min(d.capacity, math.floor(d.block_rate / rate * SAME)) for i, d in devices.items()}
        return _deal(lengths, offers)

    groups = deal(rates[0]) if rates else None
    if groups is None:
        return None
    low, high = 0, len(rates)  # `low` can be reached, `high` cannot
    while high - low > 1:
        middle = (low + high) // 2
        found = deal(rates[middle])
        if found is None:
            high = middle
        else:
            low, groups = middle, found
    members = _lend_a_hand(lengths, groups, devices)
    pieces: dict[int, Span] = {}
    for gap, group in zip(missing, members, strict=True):
        start = gap.start
        for index, blocks in sorted(_spread(len(gap), {each: devices[each] for each in group}).items()):
            pieces[index] = Span(start, start + blocks)
            start += blocks
    return pieces


def _deal(lengths: tuple[int, ...], offers: Mapping[int, int]) -> list[tuple[int, ...]] | None:
    """Disjoint groups of devices, one per length, that offer at least that many blocks; None if there are none.

    With more than `EXACT_DEVICES` it may miss groups that there are.
    """
    order = sorted((index for index in offers if offers[index] > 0), key=lambda index: (-offers[index], index))
    if sum(offers[index] for index in order) < sum(lengths) or len(order) < len(lengths):
        return None
    if len(lengths) == 1:
        return [tuple(order)]
    return _deal_greedily(lengths, offers, order) if len(order) > EXACT_DEVICES else _try_all(lengths, offers, order)


def _try_all(lengths: tuple[int, ...], offers: Mapping[int, int], order: Sequence[int]) -> list[tuple[int, ...]] | None:
    @cache
    def groups(which: int, free: int) -> tuple[tuple[int, ...], ...] | None:
        """Of the devices in the bits of `free`, for the lengths from `which` on."""
        if which == len(lengths):
            return ()
        left = [place for place in range(len(order)) if free >> place & 1]
        for size in range(1, len(left) + 1):
            for chosen in combinations(left, size):
                if sum(offers[order[place]] for place in chosen) >= lengths[which]:
                    rest = groups(which + 1, free & ~sum(1 << place for place in chosen))
                    if rest is not None:
                        return (tuple(order[place] for place in chosen), *rest)
        return None

    found = groups(0, (1 << len(order)) - 1)
    return None if found is None else list(found)


def _deal_greedily(
    lengths: tuple[int, ...], offers: Mapping[int, int], order: Sequence[int]
) -> list[tuple[int, ...]] | None:
    """The longest first: neighbours in size that offer just enough."""
    left = list(order)
    found: dict[int, tuple[int, ...]] = {}
    for which in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        sums = [0, *accumulate(offers[index] for index in left)]
        windows = [
            (sums[end] - sums[start], start, end)
            for start in range(len(left))
            for end in range(start + 1, len(left) + 1)
            if sums[end] - sums[start] >= lengths[which]
        ]
        if not windows:
            return None
        _, start, end = min(windows)
        found[which] = tuple(left[start:end])
        del left[start:end]
    return [found[which] for which in range(len(lengths))]


def _lend_a_hand(
    lengths: Sequence[int], groups: Sequence[tuple[int, ...]], devices: Mapping[int, Device]
) -> list[list[int]]:
    """The groups with the devices that none of them needs: each goes where the pieces are slowest."""
    members = [list(group) for group in groups]
    taken = {index for group in groups for index in group}
    for index in sorted(set(devices) - taken, key=lambda each: -devices[each].block_rate):
        slowest = [
            min(devices[i].block_rate / n for i, n in _spread(length, {i: devices[i] for i in group}).items())
            for length, group in zip(lengths, members, strict=True)
        ]
        members[min(range(len(slowest)), key=slowest.__getitem__)].append(index)
    return members


def _spread(length: int, devices: Mapping[int, Device]) -> dict[int, int]:
    """Blocks per device for the fastest slowest piece: each block goes to the one that is fastest with it.

    They can hold `length` together. Who had better take none is left out.
    """
    blocks: dict[int, int] = {}
    queue = [(-device.block_rate, index) for index, device in devices.items()]
    heapq.heapify(queue)
    for _ in range(length):
        _, index = heapq.heappop(queue)
        blocks[index] = blocks.get(index, 0) + 1
        if blocks[index] < devices[index].capacity:
            heapq.heappush(queue, (-devices[index].block_rate / (blocks[index] + 1), index))
    return blocks


def _as_much_as_fits(missing: Sequence[Span], devices: Sequence[Device]) -> dict[int, Span]:
    """The largest pieces that can be held, each of the largest gap that is left: not everything can be filled."""
    left = list(missing)
    pieces: dict[int, Span] = {}
    for index in sorted(range(len(devices)), key=lambda each: (-devices[each].capacity, each)):
        if not left:
            break
        gap = max(left, key=lambda each: (len(each), -each.start))
        left.remove(gap)
        end = min(gap.end, gap.start + devices[index].capacity)
        pieces[index] = Span(gap.start, end)
        if end < gap.end:
            left.append(Span(end, gap.end))
    return pieces
