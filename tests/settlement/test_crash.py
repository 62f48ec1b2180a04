"""kill -9 of each party at each moment of settlement, then a new start: nothing is lost, nothing is paid twice."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chain.devnet.accounts import faucet
from chain.primitives import FUNC
from tests.profile import LONG
from tests.settlement import crash_child
from tests.settlement.town import GATEWAY, OWNERS, Town
from tests.warm import CONTEXT

logger = logging.getLogger(__name__)
CHILD_SECONDS = 60
MOST_MOMENTS = 60
STRIDE = 4
"""Of the moments that a sample tries."""

Scene = Callable[[Town], Awaitable[tuple[str, bool]]]
"""Brings a town to the eve of something; who is to act, and whether leaves are hidden from it."""


async def posting(town: Town) -> tuple[str, bool]:
    epoch = await town.epoch()
    town.work("ann", epoch, 40_000)
    town.work("bob", epoch, 20_000)
    town.pay(await town.fee(epoch, 50_000))
    await town.enter(epoch + 1)
    return GATEWAY, False


async def answering(town: Town) -> tuple[str, bool]:
    epoch = await town.epoch()
    town.work("ann", epoch, 40_000)
    town.withheld.add(GATEWAY)
    await town.enter(epoch + 1)
    await (await town.gateway()).round()
    await town.enter(epoch + 2)
    assert await (await town.provider("ann")).round() == 1
    return GATEWAY, False


async def sharing(town: Town) -> tuple[str, bool]:
    epoch = await town.epoch()
    town.work("ann", epoch, 40_000)
    await town.enter(epoch + 1)
    await (await town.gateway()).round()
    await town.enter(epoch + await town.delay())
    return GATEWAY, False


async def challenging(town: Town) -> tuple[str, bool]:
    epoch = await town.epoch()
    town.work("ann", epoch, 40_000, leaf=15_000)
    await town.enter(epoch + 1)
    await (await town.gateway()).round()
    return "ann", False


async def opening(town: Town) -> tuple[str, bool]:
    epoch = await town.epoch()
    town.work("ann", epoch, 40_000)
    await town.enter(epoch + 1)
    await (await town.gateway()).round()
    await town.enter(epoch + 2)
    return "ann", True


async def resolving(town: Town) -> tuple[str, bool]:
    epoch = await town.epoch()
    town.work("ann", epoch, 40_000, leaf=0)
    town.work("bob", epoch, 20_000)
    await town.enter(epoch + 1)
    await (await town.gateway()).round()
    assert await (await town.provider("ann")).round() == 1
    await town.enter(epoch + await town.delay() + 1)
    return "ann", False


async def claiming(town: Town) -> tuple[str, bool]:
    epoch = await town.epoch()
    for each in (epoch, epoch + 1):
        town.work("ann", each, 40_000)
        town.work("bob", each, 20_000)
        await town.enter(each + 1)
        await (await town.gateway()).round()
    await town.enter(epoch + 1 + await town.delay())
    return "ann", False


async def funding(town: Town) -> tuple[str, bool]:
    """Of lines: the chain would take this step twice."""
    epoch = await town.epoch()
    town.work("ann", epoch, 400_000)
    town.work("bob", epoch, 320_000)
    town.journal(GATEWAY).note(GATEWAY, "ann")
    return GATEWAY, False


async def collecting(town: Town) -> tuple[str, bool]:
    """Of a debt, from credit that comes late."""
    epoch = await town.epoch()
    town.work("ann", epoch, 5_000_000)
    await town.enter(epoch + 2)
    assert await (await town.provider("ann")).round() == 2
    assert await town.reader.settlement.debt_units(GATEWAY, "ann", epoch)
    await town.enter(epoch + await town.delay() + 1)
    town.pay(1000 * FUNC)
    assert await (await town.gateway()).round() == 1
    return "ann", False


SCENES: tuple[Scene, ...] = (
    posting,
    answering,
    sharing,
    challenging,
    opening,
    resolving,
    claiming,
    funding,
    collecting,
)


class Stage:
    """A town on the eve of something, to which every run returns: its chain by a snapshot, its files by copies."""

    def __init__(self, town: Town, name: str, hidden: bool) -> None:
        self.town = town
        self.name = name
        self.hidden = hidden

    async def run(self, folder: Path, kill: Callable[[Any], Awaitable[None]] | None, moments: list[int | None]) -> int:
        """Children one after the other, each dying at its moment or by `kill`; how many were killed."""
        net = self.town.net
        vouchers = list(self.town.vouchers.all.values())
        arguments = (net.url, net.chain.deployment_file, folder, self.name, OWNERS[self.name], vouchers, self.hidden)
        killed = 0
        for moment in moments:
            process = CONTEXT.Process(target=crash_child.main, args=(moment, *arguments), daemon=True)
            process.start()
            if kill is not None and moment is not None:
                await kill(process)
            await asyncio.to_thread(process.join, CHILD_SECONDS)
            assert process.exitcode in (0, -signal.SIGKILL), f"the child ended with {process.exitcode}"
            killed += process.exitcode != 0
        assert process.exitcode == 0, "the last child should live"
        return killed

    def files(self, folder: Path) -> Path:
        """Copies of all sqlite files."""
        folder.mkdir()
        for file in self.town.folder.glob("*.sqlite"):
            with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(folder / file.name)) as target:
                source.backup(target)
        return folder

    async def outcome(self) -> dict[str, int]:
        """All balances, and how many transactions the party has sent."""
        address = faucet(OWNERS[self.name]).address
        nonce = int(await self.town.net.rpc.call("eth_getTransactionCount", address, "latest"), 16)
        return await self.town.balances() | {"nonce": nonce}


async def set_up(town: Town, scene: Scene, tmp_path: Path) -> tuple[Stage, dict[str, int]]:
    """The stage, and what an undisturbed run makes of it."""
    stage = Stage(town, *await scene(town))
    before = await stage.outcome()
    snapshot = await town.net.snapshot()
    assert await stage.run(stage.files(tmp_path / "undisturbed"), None, [None]) == 0
    expected = await stage.outcome()
    await town.net.revert(snapshot)
    assert expected != before and await stage.outcome() == before
    return stage, expected


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
async def test_killed_at_any_moment_a_party_ends_where_an_undisturbed_one_does(
    town: Town, tmp_path: Path, scene: Scene
) -> None:
    stage, expected = await set_up(town, scene, tmp_path)
    chosen = (
        range(MOST_MOMENTS) if LONG else range(random.Random(scene.__name__).randrange(STRIDE), MOST_MOMENTS, STRIDE)
    )
    for moment in chosen:
        snapshot = await town.net.snapshot()
        killed = await stage.run(stage.files(tmp_path / str(moment)), None, [moment, None])
        assert await stage.outcome() == expected, f"killed at moment {moment}"
        await town.net.revert(snapshot)
        if not killed:
            break
    else:
        pytest.fail("the child always died: there are more moments than we tried")
    assert moment >= 6
    logger.info("%s: killed at %d moments", scene.__name__, moment)


@pytest.mark.parametrize("scene", [posting, claiming], ids=lambda scene: scene.__name__)
async def test_killed_three_times_at_random_a_party_ends_where_an_undisturbed_one_does(
    town: Town, tmp_path: Path, scene: Scene
) -> None:
    stage, expected = await set_up(town, scene, tmp_path)
    chosen = random.Random(scene.__name__)

    async def kill(process: Any) -> None:
        await asyncio.to_thread(process.join, chosen.uniform(0.05, 1.2))
        process.kill()

    # A moment that never comes: these children end by the clock.
    await stage.run(stage.files(tmp_path / "random"), kill, [10**6, 10**6, 10**6, None])
    assert await stage.outcome() == expected
