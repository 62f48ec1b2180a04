"""Which faults befall a simulation, and when: a plan made from the seed alone (pure).

Each seed draws which kinds of fault it has at all (swarm testing, Groce et al., 2012): with everything at once most
bugs would hide behind something else that fails first.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final, Literal

Kind = Literal[
    "break_channel",
    "break_pair",
    "delay",
    "partition_pair",
    "partition_one_way",
    "partition_node",
    "partition_groups",
    "stall",
    "slow_node",
    "kill_provider",
    "power_loss_provider",
    "kill_gateway",
    "drain_provider",
    "clock_jump",
    "directory_outage",
    "records_disturbed",
    "epoch_turn",
    "seal_epoch",
]

WEIGHTS: Final[dict[Kind, float]] = {
    "break_channel": 6,
    "break_pair": 2,
    "delay": 3,
    "partition_pair": 2,
    "partition_one_way": 2,
    "partition_node": 1,
    "partition_groups": 0.5,
    "stall": 2,
    "slow_node": 2,
    "kill_provider": 2,
    "power_loss_provider": 1,
    "kill_gateway": 1,
    "drain_provider": 0.7,
    "clock_jump": 1,
    "directory_outage": 1,
    "records_disturbed": 1.5,
    "epoch_turn": 1,
    "seal_epoch": 0.5,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong at `at` (virtual seconds), for `seconds` where that means something.

    `one`, `other` and `number` are drawn from [0, 1): who or what it hits is settled by what is there at the time.
    """

    at: float
    kind: Kind
    seconds: float
    one: float
    other: float
    number: float


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a seed decides beforehand."""

    faults: tuple[Fault, ...]
    skews: tuple[float, ...]
    """How far each machine's wall clock is off at first (seconds)."""
    rates: tuple[float, ...]
    """How fast each runs."""
    hostile: bool
    """Some lines double, swap and swallow frames."""
    until: float
    """When the faults are over."""


def draw_plan(random: Random, *, nodes: int, hostile: bool, most: int = 40) -> Plan:
    """A plan for `nodes` machines."""
    until = random.uniform(10.0, 30.0)
    kinds = [kind for kind in WEIGHTS if random.random() < 0.45] or ["break_channel"]
    count = random.randint(8, most)
    faults = sorted((_fault(random, kinds, until) for _ in range(count)), key=lambda fault: fault.at)
    off = random.random() < 0.5
    return Plan(
        faults=tuple(faults),
        skews=tuple(random.uniform(-8.0, 8.0) if off else 0.0 for _ in range(nodes)),
        rates=tuple(random.uniform(0.99, 1.01) if off else 1.0 for _ in range(nodes)),
        hostile=hostile,
        until=until,
    )


def _fault(random: Random, kinds: list[Kind], until: float) -> Fault:
    kind = random.choices(kinds, [WEIGHTS[each] for each in kinds])[0]
    longest = random.choice((0.3, 2.0, 12.0))
    return Fault(
        at=random.uniform(0.5, until),
        kind=kind,
        seconds=random.uniform(0.05, longest),
        one=random.random(),
        other=random.random(),
        number=random.random(),
    )
