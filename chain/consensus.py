"""Crynux's consensus task: a drawn fraction of whole-model tasks runs on three nodes, and their results are compared.

Two that agree win and the odd one is slashed; three different results abort. The relay only stores data: it is judged
by what the nodes committed to on the chain, so its failure delays a result but never makes an honest node a cheat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import Final, TypeVar

from chain.primitives import BPS, Bytes32, keccak256, word
from chain.quality import RANK_SCORES

GROUP: Final = 3
Id = TypeVar("Id")


class Missing(Enum):
    """Why there is no result: the node's own timeout, or a relay that could not be reached."""

    TIMEOUT = "timeout"
    RELAY_DOWN = "relay down"


class Fate(Enum):
    """What a consensus task means for one of its nodes."""

    VALIDATED = "validated"
    SLASHED = "slashed"
    TIMED_OUT = "timed out"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Verdict:
    """By node, in the order given: its fate, and its rank points (None: this validation does not count)."""

    fates: tuple[Fate, ...]
    points: tuple[int | None, ...]

    @property
    def aborted(self) -> bool:
        return Fate.VALIDATED not in self.fates


def is_drawn(vrf_output: Bytes32, fraction_bps: int) -> bool:
    """Whether the task with this VRF output runs on three nodes. Unbiased: 2^256 against the fraction of it.

    Raises:
        ValueError: the fraction is not within 0 … 10000 basis points.
    """
    if not 0 <= fraction_bps <= BPS:
        raise ValueError("a fraction is 0 … 10000 basis points")
    return int.from_bytes(vrf_output) * BPS < fraction_bps << 256


def draw_nodes(seed: Bytes32, weights: Mapping[Id, int], count: int = GROUP) -> tuple[Id, ...]:
    """Draws different nodes with chances proportional to their weights (stake × quality), in the mapping's order.

    Raises:
        ValueError: fewer than `count` nodes have a positive weight.
    """
    left = {node: weight for node, weight in weights.items() if weight > 0}
    if len(left) < count:
        raise ValueError(f"{count} nodes wanted, {len(left)} can be drawn")
    drawn: list[Id] = []
    for i in range(count):
        at = int.from_bytes(keccak256(seed + word(i))) % sum(left.values())
        ends = accumulate(left.values())
        node = next(node for node, end in zip(left, ends, strict=True) if at < end)
        drawn.append(node)
        del left[node]
    return tuple(drawn)


def judge(results: Sequence[bytes | Missing]) -> Verdict:
    """Judges the three results of a consensus task, given in order of submission (missing ones anywhere).

    Two equal results win; a different third is slashed. A node that missed its own deadline is penalised by quality
    only. Where no two agree the task aborts and no validation counts, save that timeouts stay the nodes' own; where the
    relay is down for a node, nothing is held against that node.

    Raises:
        ValueError: not three results.
    """
    if len(results) != GROUP:
        raise ValueError(f"a consensus task has {GROUP} results, not {len(results)}")
    given = [result for result in results if isinstance(result, bytes)]
    winner = next((result for result in given if given.count(result) * 2 > GROUP), None)
    fates: list[Fate] = []
    points: list[int | None] = []
    rank = 0
    for result in results:
        if result is Missing.TIMEOUT:
            fates.append(Fate.TIMED_OUT)
            points.append(0 if winner is not None else None)
        elif winner is None or result is Missing.RELAY_DOWN:
            fates.append(Fate.ABORTED)
            points.append(None)
        elif result == winner:
            fates.append(Fate.VALIDATED)
            points.append(RANK_SCORES[rank])
            rank += 1
        else:
            fates.append(Fate.SLASHED)
            points.append(0)
    return Verdict(tuple(fates), tuple(points))


def share_fee(fee: int, verdict: Verdict) -> tuple[int, ...]:
    """A task's fee shared by rank points among the validated nodes, floored; the remainder goes to the first of them.

    An aborted task pays nobody: the whole fee goes back to its creator.
    """
    weights = [
        points or 0 if fate is Fate.VALIDATED else 0 for fate, points in zip(verdict.fates, verdict.points, strict=True)
    ]
    everyone = sum(weights)
    if not everyone:
        return (0,) * len(weights)
    shares = [fee * weight // everyone for weight in weights]
    first = next(i for i, weight in enumerate(weights) if weight)
    shares[first] += fee - sum(shares)
    return tuple(shares)
