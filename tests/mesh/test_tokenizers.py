"""Tokenizers in a client: kept while there is room, not fetched again when they are none, each with few threads."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from dataclasses import replace

import pytest

from mesh.client import tokenizers
from mesh.client.catalog import Offer
from mesh.client.text_threads import AT_ONCE, TextThreads
from mesh.client.tokenizers import MAX_KEPT, Tokenizers
from mesh.errors import PeerFailed
from shards.errors import TokenizerError, TokenizerLimit
from tests.mesh.sample_record import sample_record
from tests.shards.hostile.tokenizers import tokenizer as files_of

GOOD = {"tokenizer.json": files_of()}


def offer(digest: str = "ab" * 32) -> Offer:
    return Offer("m", digest, (replace(sample_record("peer"), digest=digest),))


class Fetch:
    """Gives the files, and counts how often it was asked."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked = 0
        self.failure: Exception | None = None

    async def __call__(self, wanted: Offer) -> dict[str, bytes]:
        self.asked += 1
        await asyncio.sleep(0.01)
        if self.failure is not None:
            raise self.failure
        return self.files


async def test_many_who_ask_at_once_share_one_fetch() -> None:
    fetch = Fetch(GOOD)
    kept = Tokenizers(fetch, TextThreads())
    found = await asyncio.gather(*(kept.get(offer()) for _ in range(10)))
    assert fetch.asked == 1 and all(each is found[0] for each in found)


async def test_another_digest_is_another_tokenizer() -> None:
    fetch = Fetch(GOOD)
    kept = Tokenizers(fetch, TextThreads())
    first, second = await kept.get(offer("12" * 32)), await kept.get(offer("34" * 32))
    assert first is not second and fetch.asked == 2


async def test_files_that_are_no_tokenizer_are_not_fetched_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = Fetch({"tokenizer.json": b"{"})
    kept = Tokenizers(fetch, TextThreads())
    with pytest.raises(TokenizerError):
        await kept.get(offer())
    for _ in range(3):
        with pytest.raises(TokenizerLimit) as caught:
            await kept.get(offer())
        assert 0 < caught.value.retry_after <= tokenizers.FIRST_WAIT
    assert fetch.asked == 1
    assert await _good(kept, fetch, "other")

    ahead = 0.0
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + ahead)
    waits = []
    fetch.files = {"tokenizer.json": b"{"}
    for _ in range(6):
        ahead += tokenizers.LAST_WAIT + 1
        with pytest.raises(TokenizerError):
            await kept.get(offer())
        with pytest.raises(TokenizerLimit) as caught:
            await kept.get(offer())
        waits.append(round(caught.value.retry_after))
    assert waits == [120, 240, 480, 900, 900, 900]
    ahead += tokenizers.LAST_WAIT + 1
    fetch.files = GOOD
    assert (await kept.get(offer())).vocab_size


async def test_a_provider_that_fails_is_not_the_models_fault() -> None:
    fetch = Fetch(GOOD)
    kept = Tokenizers(fetch, TextThreads())
    fetch.failure = PeerFailed("gone", peer="p")
    with pytest.raises(PeerFailed):
        await kept.get(offer())
    fetch.failure = None
    assert (await kept.get(offer())).vocab_size


async def test_few_are_kept_and_the_longest_unused_goes_first() -> None:
    fetch = Fetch(GOOD)
    kept = Tokenizers(fetch, TextThreads())
    first = await kept.get(offer("00" * 32))
    for number in range(1, MAX_KEPT):
        await kept.get(offer(f"{number:064x}"))
    assert await kept.get(offer("00" * 32)) is first
    await kept.get(offer("ff" * 32))
    asked = fetch.asked
    assert await kept.get(offer("00" * 32)) is first and fetch.asked == asked
    await kept.get(offer(f"{1:064x}"))
    assert fetch.asked == asked + 1
    gc.collect()


async def _good(kept: Tokenizers, fetch: Fetch, name: str) -> bool:
    fetch.files = GOOD
    return (await kept.get(offer(name))).vocab_size > 0


class Slow:
    """A tokenizer whose calls last until they are let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.running = self.most = 0
        self._lock = threading.Lock()

    def call(self) -> str:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.go.wait(20)
        with self._lock:
            self.running -= 1
        return "done"


async def test_a_slow_tokenizer_holds_few_threads_also_when_its_callers_leave() -> None:
    threads, slow = TextThreads(), Slow()
    calls = [asyncio.create_task(threads.run(slow, slow.call)) for _ in range(200)]
    await asyncio.sleep(0.1)
    for call in calls[:100]:
        call.cancel()
    await asyncio.sleep(0.1)
    calls += [asyncio.create_task(threads.run(slow, slow.call)) for _ in range(100)]
    others = [Slow() for _ in range(20)]
    async with asyncio.timeout(5):
        assert await asyncio.gather(*(threads.run(each, lambda: 1) for each in others)) == [1] * 20
    assert slow.running == slow.most == AT_ONCE
    slow.go.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert answers.count("done") == 200 and slow.most == AT_ONCE
    assert await threads.run(slow, slow.call) == "done", "no turn was lost"


async def test_a_callers_context_and_error_are_its_own() -> None:
    threads = TextThreads()
    with pytest.raises(TokenizerError, match="no"):
        await threads.run(threads, _refuse)
    assert await threads.run(threads, lambda: asyncio.current_task is not None)


def _refuse() -> None:
    raise TokenizerError("no")
