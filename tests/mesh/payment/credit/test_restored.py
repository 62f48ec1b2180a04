"""Books that came back from a backup, or are lost: the two sides of a line agree again from what they hold signed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.mesh.payment.credit.restored import NAMES, Sides

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("name", NAMES)
async def test_a_side_whose_books_are_older_or_lost_goes_on_and_loses_nothing_that_the_other_holds(
    name: str, lost: bool, tmp_path: Path
) -> None:
    async with Sides(tmp_path) as sides:
        await sides.work_all(40)
        await sides.paid()
        sides.copy(name)
        await sides.work_all(200)
        await sides.paid()
        before = sum(sides.done.values())
        assert sum(sides.held().values()) == sum(sides.issued().values()) == before

        await sides.restore(name, None if lost else sides.copies[name][0])
        assert sum((sides.held() if name == "ann" else sides.issued()).values()) < before
        await sides.work_all(40)
        await sides.paid()
        assert sum(sides.held().values()) == sum(sides.issued().values()) == sum(sides.done.values())


@pytest.mark.parametrize("turns", [1, 2, 4])
@pytest.mark.parametrize("name", NAMES)
async def test_books_from_before_the_epoch_turned_do_not_block_it(name: str, turns: int, tmp_path: Path) -> None:
    async with Sides(tmp_path) as sides:
        await sides.work_all(40)
        await sides.paid()
        sides.copy(name)
        await sides.work_all(100)
        for _ in range(turns):
            sides.money.chain.epoch += 1
            await sides.work_all(40)
            await sides.paid()
        await sides.restore(name, sides.copies[name][0])
        await sides.work_all(100)
        await sides.paid()
        epoch = sides.money.chain.epoch
        assert sides.held()[epoch] == sides.issued()[epoch] == sides.done[epoch]
        assert sides.held()[epoch - 1] == sides.issued()[epoch - 1], "what may still be posted is agreed on too"


@pytest.mark.parametrize("seed", range(6))
async def test_restores_at_any_moment_cost_at_most_the_credit_each_and_pay_nothing_twice(
    seed: int, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    best: dict[int, int] = {}
    restores = 0
    async with Sides(tmp_path) as sides:

        def look() -> None:
            for known in (sides.held(), sides.issued()):
                for epoch, units in known.items():
                    best[epoch] = max(best.get(epoch, 0), units)

        for name in NAMES:
            sides.copy(name)
        for _ in range(12):
            look()
            match rng.choice(("work", "work", "copy", "turn", "restore", "restore")):
                case "work":
                    await sides.work_all(rng.randint(1, 80))
                    if rng.random() < 0.5:
                        await sides.paid()
                case "copy":
                    sides.copy(rng.choice(NAMES))
                case "turn":
                    sides.money.chain.epoch += 1
                case "restore":
                    name = rng.choice(NAMES)
                    look()
                    await sides.restore(name, rng.choice([None, *sides.copies[name]]))
                    restores += 1
                    await sides.work_all(30, seconds=10)
                    await sides.paid()
        await sides.work_all(10)
        await sides.paid()
        look()
        done, paid = sum(sides.done.values()), sum(best.values())
        assert paid <= done, "nothing is paid twice"
        assert paid >= done - (restores + 1) * sides.credit, f"{done - paid} lost in {restores} restores"
