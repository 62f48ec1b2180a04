"""One look at the swarm serves all viewers, none is made while nobody looks, and who falls behind starts anew."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mesh.dashboard import feed as feeds
from mesh.dashboard.feed import Feed, Viewer
from mesh.dashboard.snapshot import Snapshot
from tests.mesh.dashboard.sample_swarm import record, request, seen


class Swarm:
    """One whose queue grows by one at every look, unless it stands still."""

    def __init__(self) -> None:
        self.looks = 0
        self.still = False
        self.requests = {"r": request(1)}

    async def look(self) -> Snapshot:
        self.looks += not self.still
        await asyncio.sleep(0)
        return seen(record("a", 0, 12 - self.looks % 2), requests={"r": request(self.looks)})


def read(events: bytes | None) -> list[tuple[str, str, Any]]:
    """Id, kind and data of each event."""
    assert events is not None
    blocks = [dict(line.split(": ", 1) for line in block.split("\n")) for block in events.decode().split("\n\n")[:-1]]
    return [(block["id"], block["event"], json.loads(block["data"])) for block in blocks]


@pytest.fixture
def swarm() -> Swarm:
    return Swarm()


@pytest.fixture
def feed(swarm: Swarm) -> Feed:
    return Feed(swarm.look, interval=0.01)


async def test_a_viewer_gets_a_snapshot_and_then_numbered_changes(feed: Feed) -> None:
    viewer = feed.viewer("", private=True)
    ((first, kind, tables),) = read(await feed.next(viewer))
    assert (kind, set(tables)) == ("snapshot", {"about", "models", "providers", "pairs", "requests"})
    numbers = [int(first.split("-")[1])]
    for _ in range(3):
        for identifier, kind, change in read(await feed.next(viewer)):
            assert (kind, set(change)) == ("delta", {"models", "providers", "requests"})
            numbers.append(int(identifier.split("-")[1]))
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_one_look_serves_all_viewers(feed: Feed, swarm: Swarm) -> None:
    viewers = [feed.viewer("", private=True) for _ in range(20)]
    for _ in range(4):
        await asyncio.gather(*(feed.next(viewer) for viewer in viewers))
    assert swarm.looks <= 6


async def test_nothing_is_looked_at_while_nobody_looks(feed: Feed, swarm: Swarm) -> None:
    viewer = feed.viewer("", private=True)
    await feed.next(viewer)
    before = swarm.looks
    await asyncio.sleep(0.05)
    assert swarm.looks == before
    assert len(asyncio.all_tasks()) == 1


async def test_a_viewer_that_comes_back_goes_on_after_its_last_event(feed: Feed) -> None:
    viewer = feed.viewer("", private=True)
    ((identifier, *_),) = read(await feed.next(viewer))
    await feed.next(viewer)
    number = int(identifier.split("-")[1])
    back = read(await feed.next(feed.viewer(identifier, private=True)))
    assert (back[0][1], int(back[0][0].split("-")[1])) == ("delta", number + 1)


@pytest.mark.parametrize("identifier", ["", "00000000-1", "nonsense", "\x00", "0" * 5000])
async def test_one_that_comes_with_an_id_of_another_process_gets_a_snapshot(feed: Feed, identifier: str) -> None:
    await feed.next(feed.viewer("", private=True))
    assert [kind for _, kind, _ in read(await feed.next(feed.viewer(identifier, private=True)))] == ["snapshot"]


async def test_one_that_claims_the_future_gets_a_snapshot(feed: Feed) -> None:
    ((identifier, *_),) = read(await feed.next(feed.viewer("", private=True)))
    future = identifier.split("-")[0] + "-999"
    assert [kind for _, kind, _ in read(await feed.next(feed.viewer(future, private=True)))] == ["snapshot"]


@pytest.mark.parametrize(("limit", "value"), [("KEPT_CHANGES", 3), ("KEPT_BYTES", 2000)])
async def test_one_that_falls_behind_the_ring_gets_a_snapshot(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(feeds, limit, value)
    slow, fast = feed.viewer("", private=True), feed.viewer("", private=True)
    await feed.next(slow)
    for _ in range(8):
        await feed.next(fast)
    assert [kind for _, kind, _ in read(await feed.next(slow))] == ["snapshot"]
    assert [kind for _, kind, _ in read(await feed.next(slow))] == ["delta"]


async def test_who_may_not_see_requests_is_told_of_none(feed: Feed) -> None:
    viewer = feed.viewer("", private=False)
    ((_, _, tables),) = read(await feed.next(viewer))
    assert tables["requests"] == {}
    assert tables["about"]["self"]["requests"] is False
    for _, _, change in read(await feed.next(viewer)):
        assert set(change) == {"models", "providers"}


async def test_where_nothing_changes_a_comment_keeps_the_line_open(
    feed: Feed, swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "HEARTBEAT_SECONDS", 0.05)
    swarm.still = True
    viewer = feed.viewer("", private=True)
    await feed.next(viewer)
    assert await feed.next(viewer) == b": nothing new\n\n"


async def test_streams_end_when_the_feed_stops(feed: Feed, swarm: Swarm) -> None:
    swarm.still = True
    viewer = Viewer(private=True)
    await feed.next(viewer)
    waiting = asyncio.create_task(feed.next(viewer))
    await asyncio.sleep(0)
    feed.stop()
    assert await waiting is None


async def test_a_viewer_that_leaves_in_the_midst_of_a_look_does_not_stop_the_others(feed: Feed) -> None:
    first, second = feed.viewer("", private=True), feed.viewer("", private=True)
    await asyncio.gather(feed.next(first), feed.next(second))
    leaving, staying = asyncio.create_task(feed.next(first)), asyncio.create_task(feed.next(second))
    await asyncio.sleep(0.001)
    leaving.cancel()
    assert [kind for _, kind, _ in read(await staying)] == ["delta"]
