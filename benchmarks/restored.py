"""What is lost when books come back older, or not at all, and how long until work is paid again.

    python -m benchmarks.restored [--hour 200] [--json FILE] [--smoke]

A gateway and a provider with their real books in files work and pay; a copy of one side's books is made, they go on for
an hour's work, a day's (24 times that) or over three epochs, and that side is started again with the copy, or with
nothing («newer» is the other side then). Lost is work that nobody holds a voucher for afterwards, in units (weighted
tokens times blocks), beside the bound that docs/settlement.md states: the credit. The exit code is 1 where more is
lost, or it takes more than 10 s.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.report import machine, print_report
from tests.mesh.payment.credit.restored import NAMES, Sides

SERVED_AGAIN_SECONDS = 10.0
AFTERWARDS = 20
"""Prompts that are run after a restore."""
WHO = {"gate": "gateway", "ann": "provider"}
AGES = ("an hour", "a day", "3 epochs", "lost")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one restore."""

    restored: str
    age: str
    done: int
    lost: int
    bound: int
    seconds: float

    @property
    def ok(self) -> bool:
        return 0 <= self.lost <= self.bound and self.seconds <= SERVED_AGAIN_SECONDS


async def measure(folder: Path, name: str, age: str, hour: int) -> Outcome:
    """Restore one side's books."""
    best: dict[int, int] = {}
    async with Sides(folder) as sides:

        def look() -> None:
            """Every voucher that either side holds counts: what the other knows is shown again."""
            for known in (sides.held(), sides.issued()):
                for epoch, units in known.items():
                    best[epoch] = max(best.get(epoch, 0), units)

        await sides.work_all(hour, seconds=60)
        await sides.paid()
        sides.copy(name)
        if age == "3 epochs":
            for _ in range(3):
                sides.money.chain.epoch += 1
                await sides.work_all(hour, seconds=60)
                await sides.paid()
        else:
            await sides.work_all(24 * hour if age == "a day" else hour, seconds=600)
        look()
        await sides.restore(name, None if age == "lost" else sides.copies[name][0])
        began = time.monotonic()
        await sides.work_all(1, seconds=60)
        await sides.work_all(AFTERWARDS, seconds=60)
        await sides.paid()
        seconds = time.monotonic() - began
        look()
        done = sum(sides.done.values())
        return Outcome(WHO[name], age, done, done - sum(best.values()), sides.credit, round(seconds, 2))


async def run(hour: int, ages: tuple[str, ...]) -> list[Outcome]:
    """Every age for either side, each with books of its own."""
    outcomes = []
    for name in NAMES:
        for age in ages:
            with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
                outcomes.append(await measure(Path(folder), name, age, hour))
    return outcomes


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.restored", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hour", type=int, default=200, help="prompts that count as an hour's work")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="little work: does it run?")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    facts = machine()
    outcomes = asyncio.run(run(8 if options.smoke else options.hour, AGES))
    report = {
        "title": "Books that come back older",
        "method": "real books of a gateway and a provider, one side replaced by a copy; units of work",
        "machine": facts,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    rows = [
        (each.restored, each.age, f"{each.done:,}", f"{each.lost:,}", f"{each.bound:,}", f"{each.seconds:.1f} s")
        for each in outcomes
    ]
    print_report(report, ("restored", "age", "done", "lost", "bound", "paid again after"), rows, options.json)
    sys.exit(0 if all(each.ok for each in outcomes) else 1)


if __name__ == "__main__":
    main()
