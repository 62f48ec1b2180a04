"""The disk has no room at each single write of a gateway's, a provider's and a payer's books: nothing lost or doubled.

The writes of an undisturbed run are counted first; then each of them in turn is the first that finds no room.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mesh.client.payer import Payer
from mesh.errors import ConfigError, PaymentRefused, PeerUnreachable, StorageUnavailable
from mesh.gateway.billing import BillingConfig
from mesh.payment.accounts.store import AccountStore
from mesh.payment.credit.terms import NotAccepted
from mesh.payment.database import Database
from tests.full_disk import no_room
from tests.mesh.gateway.paid import ANN, GATEWAY, PRICE, serving_paid
from tests.mesh.payment.credit.restored import Sides

FULL_SECONDS = 0.4
"""For so long there is no room; the bounds of what waits are longer."""
AGAIN_SECONDS = 15.0
SLOW_SECONDS = 0.05
REQUESTS, TOKENS = 2, 40
CONFIG = BillingConfig(increment_tokens=32, pause_seconds=8.0)


class Writes:
    """Counts the transactions of all stores; the `fatal`th one begins a time without room."""

    def __init__(self, fatal: int | None = None, pause: float = 0.0) -> None:
        self.count = 0
        self._fatal = fatal
        self._pause = pause
        self._lock = threading.Lock()
        self._waiting: list[threading.Thread] = []

    def begins(self) -> None:
        time.sleep(self._pause)
        with self._lock:
            self.count += 1
            if self.count - 1 != self._fatal:
                return
            entered = threading.Event()
            thread = threading.Thread(target=self._full, args=(entered,))
            self._waiting.append(thread)
            thread.start()
            entered.wait()

    def _full(self, entered: threading.Event) -> None:
        with no_room_from_any_thread():
            entered.set()
            time.sleep(FULL_SECONDS)

    def join(self) -> None:
        for thread in self._waiting:
            thread.join()


@contextmanager
def no_room_from_any_thread() -> Iterator[None]:
    """As `no_room`, whose signal is ignored already."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def watching(writes: Writes) -> Iterator[None]:
    """Every write of every store is seen by `writes`."""
    honest = Database._transaction

    @contextmanager
    def seen(self: Database) -> Iterator[sqlite3.Connection]:
        writes.begins()
        with honest(self) as db:
            yield db

    with no_room():
        pass  # the signal that comes with it is ignored from now on
    Database._transaction = seen  # type: ignore[method-assign]
    try:
        yield
    finally:
        Database._transaction = honest  # type: ignore[method-assign]
        writes.join()


async def earn(folder: Path, writes: Writes) -> None:
    """A gateway has work done and signs for all of it, the books of both in files."""
    async with Sides(folder) as sides:
        with watching(writes):
            for _ in range(3):
                left = 10
                async with asyncio.timeout(20):
                    while left:
                        with suppress(NotAccepted):  # no session is opened while there is no room
                            left -= sides.work(1)
                        await asyncio.sleep(0.02)
                await sides.paid()  # or nothing moves for a while
        done = sum(sides.done.values())
        async with asyncio.timeout(AGAIN_SECONDS):
            while sum(sides.held().values()) < done:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert sum(sides.held().values()) == sum(sides.issued().values()) == done


async def spend(folder: Path, writes: Writes) -> None:
    """A developer's requests, paid by an agent: all answered, each charged once, all that was charged is signed for."""
    path = folder / "accounts.sqlite"
    with serving_paid(path, CONFIG) as paid:
        key, name = await asyncio.to_thread(paid.key), next(iter(paid.chain.prices))

        def ask() -> Any:
            with paid.http(key) as http:
                body = {"model": name, "prompt": "one two", "max_tokens": TOKENS, "temperature": 0}
                for _ in range(40):
                    answer = http.post("/v1/completions", json=body)
                    if answer.status_code == 200:
                        return answer.json()
                    assert answer.status_code in (402, 503), answer.text
                    assert "retry-after" in answer.headers or answer.status_code == 402, answer.headers
                    time.sleep(0.2)
                raise AssertionError(answer.text)

        with watching(writes):
            for _ in range(20):
                try:
                    async with Payer(
                        paid.url, key, ANN, budget=10**6 * PRICE, store=folder / "promises.sqlite", beside=True
                    ):
                        answers = [await asyncio.to_thread(ask) for _ in range(REQUESTS)]
                    break
                except (
                    ConfigError,
                    StorageUnavailable,
                    PeerUnreachable,
                    PaymentRefused,
                ):  # when it starts, it says so and ends
                    await asyncio.sleep(0.2)
        charged = sum(int(answer["usage"]["cost"]["wei"]) for answer in answers)
        for _ in range(50):
            account = await asyncio.to_thread(paid.account, key)
            if int(account["charged"]) == charged:
                break
            await asyncio.sleep(0.1)
        assert int(account["charged"]) == charged <= int(account["signed"])
        assert len({answer["choices"][0]["text"] for answer in answers}) == 1
    with AccountStore(path, GATEWAY) as store:
        assert store.charged_total() == charged == sum(each.amount for each in store.charges())
        assert all(each.done for each in store.charges())


STORIES = pytest.mark.parametrize("story", [earn, spend])


@STORIES
async def test_a_disk_that_is_slow_at_every_write_loses_nothing(story: Any, tmp_path: Path) -> None:
    writes = Writes(pause=SLOW_SECONDS)
    await story(tmp_path, writes)
    assert writes.count


@pytest.mark.parametrize(
    ("story", "part"), [(earn, "some"), (spend, "some"), pytest.param(earn, "all", marks=pytest.mark.slow)]
)
@pytest.mark.timeout(600)
async def test_whichever_write_is_the_first_without_room_nothing_is_lost_or_doubled(
    story: Any, part: str, tmp_path: Path
) -> None:
    counted = Writes()
    (tmp_path / "counted").mkdir()
    await story(tmp_path / "counted", counted)
    assert counted.count > 5
    moments = range(counted.count) if part == "all" else {0, 1, counted.count // 2}
    for moment in moments:
        folder = tmp_path / str(moment)
        folder.mkdir()
        await story(folder, Writes(fatal=moment))
