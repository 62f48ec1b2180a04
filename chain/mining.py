"""Crynux's half of the economics: how much node mining and task mining have released, and how a month's part is shared.

Amounts are wei, months may be fractions (numerator over denominator). The exponentials come from `chain.fixed`; a
cumulative amount is the floor of the true value, or one wei off where the true value lies within 2^−80 of a whole wei.
Source: the seeds, after Crynux, "Token Economy".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from chain.emission import TableSchedule
from chain.fixed import ONE, ONE_BITS, exp2_neg, exp_neg
from chain.primitives import FUNC

TOTAL_SUPPLY: Final = 8_617_333_262 * FUNC
MINING_TOTAL: Final = 3_446_933_305 * FUNC
"""T: two fifths of the supply, rounded up to a whole FUNC, for node mining; as much again for task mining."""
HALF_LIFE_MONTHS: Final = 60

Id = TypeVar("Id")


def node_mined(months: int, denominator: int = 1, total: int = MINING_TOTAL) -> int:
    """Cumulative wei of node mining after a = months ÷ denominator: T·(1 − e^(−a·ln 2 ÷ 60)).

    Raises:
        ValueError: months is negative, or the denominator not positive.
    """
    return total * (ONE - exp2_neg(months, HALF_LIFE_MONTHS * denominator)) >> ONE_BITS


def task_mined(months: int, denominator: int = 1, total: int = MINING_TOTAL) -> int:
    """Cumulative wei of task mining at the effective month a = months ÷ denominator (Avrami's equation).

    T·(1 − e^(−0.0003·(0.5·a + 0.8)²)) for a > 0. At a = 0 it is 0 by definition: the formula's 0.0192 % of T
    there would be paid for no work, so it is part of the first month instead.

    Raises:
        ValueError: months is negative, or the denominator not positive.
    """
    if months < 0 or denominator <= 0:
        raise ValueError("a month is not negative, and its denominator positive")
    if not months:
        return 0
    # 0.0003·(a/2 + 4/5)² = 3·(5a + 8)² ÷ 1 000 000, with a = months ÷ denominator.
    root = 5 * months + 8 * denominator
    return total * (ONE - exp_neg(3 * root * root, 1_000_000 * denominator * denominator)) >> ONE_BITS


def effective_months(tasks_done: int, targets: tuple[int, ...]) -> int:
    """How many monthly targets (cumulative numbers of tasks, ascending) the tasks done so far have reached.

    Task mining runs on this clock: a month in which the next target was missed releases nothing.
    """
    return sum(tasks_done >= target for target in targets)


def node_mining_schedule(months: int, epochs_per_month: int, total: int = MINING_TOTAL) -> TableSchedule:
    """Node mining as the `TableSchedule` contract takes it. Raises ValueError for months not in 1 … 1023."""
    return TableSchedule(tuple(node_mined(month, total=total) for month in range(months + 1)), epochs_per_month)


def task_mining_schedule(months: int, epochs_per_month: int, total: int = MINING_TOTAL) -> TableSchedule:
    """Task mining as a table, its clock taken as the calendar. Raises ValueError for months not in 1 … 1023."""
    return TableSchedule(tuple(task_mined(month, total=total) for month in range(months + 1)), epochs_per_month)


def share_by_quality(amount: int, work: Mapping[Id, tuple[int, int]]) -> tuple[dict[Id, int], int]:
    """Shares a month's wei by quality of service × seconds online, floored; returns the shares and what is left over.

    The remainder is less than one wei per node, or everything if nobody was online; it belongs to the next month.
    """
    weights = {node: quality * online for node, (quality, online) in work.items()}
    everyone = sum(weights.values())
    if not everyone:
        return dict.fromkeys(weights, 0), amount
    shares = {node: amount * weight // everyone for node, weight in weights.items()}
    return shares, amount - sum(shares.values())
