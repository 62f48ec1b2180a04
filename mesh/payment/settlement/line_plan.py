"""Which lines a gateway funds, thaws and releases: what of its stake it guarantees to each provider (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from mesh.payment.settlement.windows import Clock

MOST_ITEMS: Final = 50
"""Lines that one transaction funds."""
MOST_ROUTED: Final = 64
"""Providers that get a line only because we may send them work."""


@dataclass(frozen=True, slots=True)
class FundLines:
    """Add these amounts (wei) to lines, all in one transaction."""

    items: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ThawLine:
    """Begin to take `amount` wei back that nobody needs."""

    provider: str
    amount: int


@dataclass(frozen=True, slots=True)
class ReleaseLine:
    """Take back what has thawed."""

    provider: str
    thaw_end: int


@dataclass(frozen=True, slots=True)
class LinesShort:
    """Nothing to send: the stake cannot guarantee `wanted` wei more to providers that we owe; they will pause."""

    wanted: int


LineStep: TypeAlias = FundLines | ThawLine | ReleaseLine | LinesShort


@dataclass(frozen=True, slots=True)
class LineView:
    """Our line for one provider, and what it is for. Amounts in wei."""

    provider: str
    amount: int = 0
    thawing: int = 0
    thaw_end: int = 0
    held: int = 0
    fees: tuple[int, ...] = ()
    """What we signed for in each of the last three epochs (this one included) that had work."""
    short: bool = False
    """The provider says that the line is too short for what we owe it."""
    routed: bool = False
    """We send it work now, or may."""
    used_in: int = 0
    """Last epoch in which we signed for it, sent it work, or funded the line."""
    ours: bool = True
    """Funded by this software, which alone takes it back; others are the operator's."""

    @property
    def guaranteed(self) -> int:
        return self.amount - self.thawing

    def wanted(self, least: int) -> int:
        """Twice the busiest epoch of late: one is being settled while one runs. All of them if it is too short."""
        if not self.fees and not self.routed:
            return 0
        return max(least, 2 * (sum(self.fees) if self.short else max(self.fees, default=0)))


def plan_lines(
    clock: Clock, lines: Sequence[LineView], *, spare: int, least: int, winding_down: bool
) -> list[LineStep]:
    """What is due. `spare`: wei of the stake that lines may take; `least`: wei of a line before there is work.

    A line is funded again only when it is a quarter too short, so that work that grows does not send something in
    every round. When the stake does not suffice, those come first whom we owe most.
    """
    steps: list[LineStep] = [
        ReleaseLine(each.provider, each.thaw_end)
        for each in lines
        if 0 < each.thaw_end <= clock.now and min(each.thawing, each.amount - each.held) > 0
    ]
    steps += [
        ThawLine(each.provider, each.guaranteed)
        for each in lines
        if each.ours and each.guaranteed > 0 and (winding_down or _is_idle(clock, each))
    ]
    if not winding_down:
        steps += _fund(lines, max(0, spare), least)
    return steps


def _fund(lines: Sequence[LineView], spare: int, least: int) -> list[LineStep]:
    owed = sorted((each for each in lines if each.fees), key=lambda each: (-sum(each.fees), each.provider))
    routed = sorted(
        (each for each in lines if each.routed and not each.fees), key=lambda each: (-each.guaranteed, each.provider)
    )
    chosen = [*owed, *routed[:MOST_ROUTED]]
    # A stake that is small is divided, or the first providers that we hear of would take all of it.
    budget = spare + sum(each.guaranteed for each in chosen)
    base = min(least, budget // max(1, len(chosen)))
    enough = max(1, min(least, budget) // 8)
    items: list[tuple[str, int]] = []
    short = 0
    for each in chosen:
        wanted = each.wanted(base)
        missing = wanted - each.guaranteed
        if missing * (16 if each.short else 4) < max(1, wanted):
            continue
        grant = min(missing, spare)
        if grant >= min(missing, enough) and len(items) < MOST_ITEMS:
            items.append((each.provider, grant))
            spare -= grant
            missing -= grant
        short += missing if each.fees else 0
    steps: list[LineStep] = [FundLines(tuple(items))] if items else []
    if short:
        steps.append(LinesShort(short))
    return steps


def _is_idle(clock: Clock, line: LineView) -> bool:
    return not line.fees and not line.routed and line.used_in + 2 * clock.delay < clock.now
