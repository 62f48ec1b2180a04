"""The tokenizers of the swarm's models: fetched from a provider and read once, kept while there is room."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from mesh.client.catalog import Offer
from mesh.client.text_threads import TextThreads
from shards.errors import TokenizerError, TokenizerLimit
from shards.text.fast import FastTokenizer, tokenizer_from_files

MAX_KEPT = 32
MAX_BYTES = 512 << 20
"""Tokenizers that are kept, and bytes of memory that they may take together."""
MAX_FAILURES = 1024
FIRST_WAIT, LAST_WAIT = 60.0, 900.0
"""Seconds after which files that were no tokenizer are looked at again: a provider may have another version."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """Files that could not be read: why, until when they are not fetched again, and how long that was."""

    reason: str
    until: float
    wait: float


class Tokenizers:
    """Keeps them by the model's digest, which is of their files."""

    def __init__(self, fetch: Callable[[Offer], Awaitable[dict[str, bytes]]], threads: TextThreads) -> None:
        """`fetch` gets an offer's files by name."""
        self._fetch = fetch
        self._threads = threads
        self._kept: OrderedDict[Hashable, FastTokenizer] = OrderedDict()
        self._failures: OrderedDict[Hashable, _Failure] = OrderedDict()
        self._fetching: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    async def get(self, offer: Offer) -> FastTokenizer:
        """An offer's tokenizer. Raises `TokenizerError` when its files are none, and what `fetch` raises."""
        key = offer.digest
        lock = self._fetching.get(key)
        if lock is None:
            lock = self._fetching[key] = asyncio.Lock()
        async with lock:
            known = self._kept.get(key)
            if known is None:
                known = await self._load(key, offer)
                self._keep(key, known)
            self._kept.move_to_end(key)
        return known

    async def _load(self, key: Hashable, offer: Offer) -> FastTokenizer:
        failed = self._failures.get(key)
        if failed is not None and (left := failed.until - time.monotonic()) > 0:
            raise TokenizerLimit(failed.reason, left)
        files = await self._fetch(offer)
        try:
            # Few at once: strangers' files must not take all the memory that there is for calls.
            tokenizer = await self._threads.run(self, tokenizer_from_files, files)
        except TokenizerError as error:
            wait = FIRST_WAIT if failed is None else min(2 * failed.wait, LAST_WAIT)
            self._failures[key] = _Failure(str(error), time.monotonic() + wait, wait)
            if len(self._failures) > MAX_FAILURES:
                self._failures.popitem(last=False)
            raise
        self._failures.pop(key, None)
        return tokenizer

    def _keep(self, key: Hashable, tokenizer: FastTokenizer) -> None:
        self._kept[key] = tokenizer
        size = sum(each.held_bytes for each in self._kept.values())
        while len(self._kept) > 1 and (len(self._kept) > MAX_KEPT or size > MAX_BYTES):
            _, dropped = self._kept.popitem(last=False)
            size -= dropped.held_bytes
