"""What is known of the swarm's models is told at once, however long a new look takes."""

from __future__ import annotations

import asyncio
import time

import pytest

from mesh.client.types import ModelInfo
from mesh.errors import PeerUnreachable
from mesh.gateway.model_list import ModelList

pytestmark = pytest.mark.timeout(20)

PATIENCE = 0.05


def model(name: str) -> ModelInfo:
    return ModelInfo(name, "ab" * 32, 4, 512, 300, complete=True, gaps=())


class Swarm:
    """Answers as it is told to, and counts."""

    def __init__(self) -> None:
        self.looks = 0
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None

    async def __call__(self) -> list[ModelInfo]:
        self.looks += 1
        number = self.looks
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return [model(str(number))]


def listed(swarm: Swarm, *, fresh: float = 1e-9, stale: float = 60.0, timeout: float = 10.0) -> ModelList:
    return ModelList(swarm, fresh=fresh, stale=stale, patience=PATIENCE, timeout=timeout)


async def test_a_look_that_is_fresh_is_told_to_all() -> None:
    swarm = Swarm()
    models = listed(swarm, fresh=60.0)
    answers = await asyncio.gather(*(models.get() for _ in range(10)))
    assert swarm.looks == 1 and all(answer == [model("1")] for answer in answers)
    assert await models.at_hand() == [model("1")] and swarm.looks == 1


async def test_a_swarm_that_is_quick_is_always_told_as_it_is_now() -> None:
    models = listed(Swarm())
    assert [(await models.get())[0].name for _ in range(3)] == ["1", "2", "3"]


async def test_while_a_look_takes_its_time_the_last_one_is_told() -> None:
    swarm = Swarm()
    models = listed(swarm)
    await models.get()
    swarm.open.clear()
    for ask in (models.get, models.at_hand):
        began = time.monotonic()
        assert await ask() == [model("1")]
        assert time.monotonic() - began < 10 * PATIENCE
    assert swarm.looks == 2, "one look at a time"
    swarm.open.set()
    assert await models.now() == [model("2")]


async def test_what_is_asked_for_the_first_time_is_waited_for_but_not_by_who_asks_how_we_are() -> None:
    swarm = Swarm()
    swarm.open.clear()
    models = listed(swarm)
    assert await models.at_hand() == ()
    asked = asyncio.create_task(models.get())
    await asyncio.sleep(2 * PATIENCE)
    assert not asked.done() and swarm.looks == 1
    swarm.open.set()
    assert await asked == [model("1")]


async def test_a_look_that_fails_is_told_once_the_last_one_is_too_old() -> None:
    swarm = Swarm()
    models = listed(swarm, stale=0.3)
    await models.get()
    swarm.failure = PeerUnreachable("nobody there")
    assert await models.get() == await models.at_hand() == [model("1")]
    await asyncio.sleep(0.35)
    assert await models.at_hand() == ()
    with pytest.raises(PeerUnreachable):
        await models.get()


async def test_a_look_that_never_ends_ends() -> None:
    swarm = Swarm()
    swarm.open.clear()
    with pytest.raises(TimeoutError):
        await listed(swarm, timeout=0.1).get()


async def test_who_leaves_ends_nobody_elses_look() -> None:
    swarm = Swarm()
    swarm.open.clear()
    models = listed(swarm)
    leaving, staying = asyncio.create_task(models.get()), asyncio.create_task(models.get())
    await asyncio.sleep(2 * PATIENCE)
    leaving.cancel()
    await asyncio.wait({leaving})
    swarm.open.set()
    assert await staying == [model("1")] and swarm.looks == 1
