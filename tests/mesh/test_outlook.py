"""What the client knows of the directory: never waits long for it while it knows something that may still do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mesh.client.catalog import Offer
from mesh.client.outlook import LOOKS_AT_ONCE, LookConfig, Outlook
from mesh.errors import PeerTimeout

ONE, TWO = Offer("one", "d1", ()), Offer("two", "d2", ())
QUICK = LookConfig(renewed_after=0.02, stale_after=0.1, wait=0.05, worthless_after=5.0)


class Directory:
    """Answers when it is let; counts the questions."""

    def __init__(self) -> None:
        self.answer: list[Offer] | PeerTimeout = [ONE]
        self.free = asyncio.Event()
        self.free.set()
        self.asked = 0
        self.changed = asyncio.Event()

    async def ask(self, name: str) -> list[Offer]:
        self.asked += 1
        self.changed.set()
        await self.free.wait()
        if isinstance(self.answer, PeerTimeout):
            raise self.answer
        return self.answer


@pytest.fixture
def directory() -> Directory:
    return Directory()


@pytest.fixture
async def outlook(directory: Directory) -> AsyncIterator[Outlook]:
    async with asyncio.TaskGroup() as tasks:
        made = Outlook(QUICK, tasks, directory.ask)
        yield made
        made.close()


async def test_a_look_is_used_again_for_a_while(directory: Directory, outlook: Outlook) -> None:
    assert await outlook.offers("m") == [ONE]
    assert await outlook.offers("m") == [ONE]
    assert directory.asked == 1


async def test_an_old_look_is_used_when_a_new_one_takes_long(directory: Directory, outlook: Outlook) -> None:
    await outlook.offers("m")
    await asyncio.sleep(2 * QUICK.stale_after)
    directory.free.clear()
    directory.answer = [TWO]
    async with asyncio.timeout(2.0):
        assert await outlook.offers("m") == [ONE]
    directory.free.set()
    await asyncio.sleep(0.01)
    assert await outlook.offers("m") == [TWO]
    assert directory.asked == 2


async def test_a_new_look_is_waited_for_when_it_comes_soon(directory: Directory, outlook: Outlook) -> None:
    await outlook.offers("m")
    await asyncio.sleep(2 * QUICK.stale_after)
    directory.answer = [TWO]
    assert await outlook.offers("m") == [TWO]


async def test_an_old_look_is_used_when_the_directory_fails_and_a_fresh_one_is_never_made_up(
    directory: Directory, outlook: Outlook
) -> None:
    await outlook.offers("m")
    await asyncio.sleep(2 * QUICK.stale_after)
    directory.answer = PeerTimeout("no answer")
    assert await outlook.offers("m") == [ONE]
    with pytest.raises(PeerTimeout):
        await outlook.offers("m", fresh=True)


async def test_a_worthless_look_is_not_used(directory: Directory) -> None:
    async with asyncio.TaskGroup() as tasks:
        outlook = Outlook(LookConfig(0.0, 0.0, 0.0, worthless_after=0.05), tasks, directory.ask)
        await outlook.offers("m")
        await asyncio.sleep(0.1)
        directory.answer = PeerTimeout("no answer")
        with pytest.raises(PeerTimeout):
            await outlook.offers("m")


async def test_while_an_answer_takes_its_time_the_look_stays_young(directory: Directory, outlook: Outlook) -> None:
    await outlook.offers("m")
    async with outlook.kept("m"), asyncio.timeout(5.0):
        while directory.asked < 3:
            directory.changed.clear()
            await directory.changed.wait()
    asked = directory.asked
    await asyncio.sleep(2 * QUICK.stale_after)
    assert directory.asked == asked


async def test_closing_does_not_wait_for_an_answer_that_nobody_reads(directory: Directory) -> None:
    async with asyncio.timeout(5.0), asyncio.TaskGroup() as tasks:
        outlook = Outlook(QUICK, tasks, directory.ask)
        await outlook.kept("m").__aenter__()
        outlook.close()


async def test_a_list_of_many_models_looks_at_few_at_a_time(directory: Directory, outlook: Outlook) -> None:
    directory.free.clear()
    asked = [asyncio.create_task(outlook.listed(f"m{number}")) for number in range(100)]
    await asyncio.sleep(0.05)
    assert directory.asked == LOOKS_AT_ONCE
    directory.free.set()
    assert await asyncio.gather(*asked) == [[ONE]] * 100
    await asyncio.sleep(2 * QUICK.renewed_after)
    directory.free.clear()
    for number in range(100):
        assert await outlook.listed(f"m{number}") == [ONE], "what is known is told meanwhile"
    await asyncio.sleep(0.01)
    assert directory.asked == 100 + LOOKS_AT_ONCE
    directory.free.set()


async def test_that_a_listed_model_has_no_offer_is_kept_for_a_list_and_not_for_a_request(
    directory: Directory, outlook: Outlook
) -> None:
    directory.answer = []
    for _ in range(5):
        assert await outlook.listed("m") == []
    assert directory.asked == 1
    directory.answer = [ONE]
    assert await outlook.offers("m") == [ONE]
    assert directory.asked == 2 and await outlook.listed("m") == [ONE]


async def test_a_list_sees_a_model_that_had_no_offer_soon(directory: Directory, outlook: Outlook) -> None:
    directory.answer = []
    assert await outlook.listed("m") == []
    directory.answer = [ONE]
    async with asyncio.timeout(5):
        while await outlook.listed("m") != [ONE]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
