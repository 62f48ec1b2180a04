"""Limits that strangers share out among themselves: buckets by key, and a short queue for costly checks."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from mesh.gateway.errors import ApiError, ApiFailure, retry_after
from mesh.payment.accounts.limits import TokenBucket

K = TypeVar("K", bound=Hashable)

MAX_BUCKETS = 10_000


class Buckets(Generic[K]):
    """A token bucket for each key, at most `most` of them: the one that was used longest ago goes first."""

    def __init__(self, per_minute: float, most: int = MAX_BUCKETS) -> None:
        self._per_minute = per_minute
        self._most = most
        self._known: OrderedDict[K, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, key: K) -> TokenBucket:
        bucket = self._known.get(key)
        if bucket is None:
            bucket = self._known[key] = TokenBucket(self._per_minute)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return bucket


class CheckQueue:
    """`at_once` checks run and `waiting` more wait; at most `per_source` of them all are one source's.

    Waiting and check together take at most `seconds`.
    """

    def __init__(self, *, at_once: int = 8, waiting: int = 64, per_source: int = 4, seconds: float = 5.0) -> None:
        self._running = asyncio.Semaphore(at_once)
        self._most = at_once + waiting
        self._per_source = per_source
        self._seconds = seconds
        self._by_source: Counter[str] = Counter()

    @asynccontextmanager
    async def turn(self, source: str) -> AsyncIterator[None]:
        """Wait for a turn. Raises `ApiFailure` (503 with Retry-After) when there is none, or it takes too long."""
        if self._by_source.total() >= self._most or self._by_source[source] >= self._per_source:
            raise _busy(self._seconds)
        self._by_source[source] += 1
        try:
            async with asyncio.timeout(self._seconds), self._running:
                yield
        except TimeoutError:
            raise _busy(self._seconds) from None
        finally:
            self._by_source[source] -= 1
            if not self._by_source[source]:
                del self._by_source[source]


def _busy(seconds: float) -> ApiFailure:
    message = "The gateway checks as many requests as it can: come again."
    return ApiFailure(ApiError(503, message, "server_error", code="busy", headers=retry_after(seconds)))
