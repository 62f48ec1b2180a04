"""What the chain said, and how long that stands: answers with an age, renewed behind (stale-while-revalidate).

A fact that is fresh is given at once. One that is older is asked for anew, and nobody waits for a chain that does not
answer: while it is silent, or slow, the older answer stands until it is `STALE_SECONDS` old. That is what money can
bear: what backs a voucher can be withdrawn no sooner than an epoch after it was thawed, and a party that may no longer
be served is served two minutes longer, against a line or a deposit that is still there.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from chain.errors import ChainError

logger = logging.getLogger(__name__)

STALE_SECONDS: Final = 120.0
"""So old a fact may get while the chain does not answer."""
PATIENCE_SECONDS: Final = 0.5
"""So long is waited for a newer answer where an older one would do."""
FIRST_SECONDS: Final = 10.0
"""So long is waited for an answer where there is none; where the chain is known to be silent, `PATIENCE_SECONDS`."""

SILENT_SECONDS: Final = 4.0
"""A chain that was asked in vain for so long is known to be silent: nobody waits long for it any more."""

FORGOTTEN_SECONDS: Final = 60.0
"""A chain that nobody has asked for so long is not known to be silent any more."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Unanswered(Exception):
    """The chain does not answer, and what it said before is too old, or nothing."""


class Silence:
    """For how long a chain has been asked in vain, and whether it is slow; shared by all that ask it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None
        self._last = -math.inf
        self._waiting = 0
        self._took = 0.0

    @property
    def seconds(self) -> float:
        """0 where every question has been answered."""
        return 0.0 if self._since is None else self._clock() - self._since

    @property
    def is_slow(self) -> bool:
        """Its last answer took longer than anybody waits for a newer one, or one is waited for so long.

        A request needs several facts: to wait `PATIENCE_SECONDS` for each, since the chain answered something in
        between, would add up.
        """
        return max(self._took, self.seconds) > PATIENCE_SECONDS

    def asked(self) -> float:
        """The time, which `ended` is to be told."""
        now = self._clock()
        if self._since is None or now - self._last > FORGOTTEN_SECONDS:
            self._since = now
        if now - self._last > FORGOTTEN_SECONDS:
            self._took = 0.0
        self._last = now
        self._waiting += 1
        return now

    def ended(self, asked: float, *, answered: bool) -> None:
        """A question has come to its end."""
        self._waiting -= 1
        if answered:
            self._took = self._clock() - asked
            self._since = self._clock() if self._waiting else None


@dataclass(frozen=True, slots=True)
class Fact(Generic[V]):
    """An answer, when it was asked for (of the clock), and in which epoch."""

    asked: float
    epoch: int
    value: V


@dataclass(frozen=True, slots=True)
class _Question(Generic[V]):
    asked: float
    epoch: int
    task: asyncio.Task[V]


class Facts(Generic[K, V]):
    """Answers by key, at most `most` of them; each is asked for by one task at a time, until `close`.

    `stale` in seconds.
    """

    def __init__(
        self,
        *,
        stale: float = STALE_SECONDS,
        most: int,
        clock: Callable[[], float] | None = None,
        silence: Silence | None = None,
    ) -> None:
        self._stale = stale
        self._most = most
        self._clock = clock or (lambda: time.monotonic())  # looked up at each call: tests replace it
        self._silence = silence or Silence(self._clock)
        self._known: dict[K, Fact[V]] = {}
        self._asking: dict[K, _Question[V]] = {}

    def __len__(self) -> int:
        return len(self._known)

    async def get(
        self,
        key: K,
        ask: Callable[[], Awaitable[V]],
        *,
        fresh: Callable[[V], float],
        since: float = -math.inf,
        epoch: int = 0,
        fixed: bool = False,
        lax: float = 1.0,
    ) -> V:
        """A fact of this epoch, at most `fresh` seconds old and asked for after `since`; any, if it is `fixed`.

        Up to `lax` times as old it is given at once while a newer one is on its way. Raises `Unanswered`.
        """
        known, now = self._known.get(key), self._clock()
        if known is not None and (fixed or self._is_fresh(known, fresh(known.value), since, epoch, now)):
            return known.value
        question = self._asking.get(key)
        if question is None or question.asked < since or question.epoch != epoch:
            question = self._question(key, ask, epoch)
        if known is not None and self._is_fresh(known, lax * fresh(known.value), since, epoch, now):
            return known.value
        usable = known is not None and now - known.asked <= self._stale and known.asked >= since
        if usable:
            wait = 0.0 if self._silence.is_slow else PATIENCE_SECONDS
        else:
            wait = PATIENCE_SECONDS if self._silence.seconds > SILENT_SECONDS else FIRST_SECONDS
        if not question.task.done():
            await asyncio.wait({question.task}, timeout=wait)
        error: BaseException | str = f"nothing came within {wait:g} s"
        if question.task.done():
            if question.task.cancelled():
                raise asyncio.CancelledError
            if (failure := question.task.exception()) is None:
                return question.task.result()
            if not isinstance(failure, ChainError | Unanswered):
                raise failure
            error = failure
        if usable and known is not None:
            return known.value
        raise Unanswered(str(error)) from (error if isinstance(error, BaseException) else None)

    def ask_ahead(self, key: K, ask: Callable[[], Awaitable[V]]) -> None:
        """Ask for what is not known, unless somebody does."""
        if key not in self._known and key not in self._asking:
            self._question(key, ask, 0)

    async def close(self) -> None:
        """Stop asking."""
        tasks = [question.task for question in self._asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_fresh(self, fact: Fact[V], most: float, since: float, epoch: int, now: float) -> bool:
        return fact.epoch == epoch and now - fact.asked < most and fact.asked >= since

    def _question(self, key: K, ask: Callable[[], Awaitable[V]], epoch: int) -> _Question[V]:
        asked = self._clock()
        question = _Question(asked, epoch, asyncio.ensure_future(self._renew(key, ask, asked, epoch)))
        self._asking[key] = question
        question.task.add_done_callback(lambda done: self._asked(key, question))
        return question

    async def _renew(self, key: K, ask: Callable[[], Awaitable[V]], asked: float, epoch: int) -> V:
        began, answered = self._silence.asked(), False
        try:
            value = await ask()
            answered = True
        finally:
            self._silence.ended(began, answered=answered)
        known = self._known.get(key)
        if known is None or known.asked <= asked:
            self._known.pop(key, None)
            while len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[key] = Fact(asked, epoch, value)
        return value

    def _asked(self, key: K, question: _Question[Any]) -> None:
        if self._asking.get(key) is question:
            del self._asking[key]
        if not question.task.cancelled() and (error := question.task.exception()) is not None:
            logger.debug("the chain was asked in vain: %s", error)


class Cached(Generic[K, V]):
    """Answers of one kind of question, each given at once for `fresh` seconds, and again as long while a newer one is
    on its way, so that a stream does not wait for the node every few seconds."""

    def __init__(
        self,
        ask: Callable[[K], Awaitable[V]],
        *,
        fresh: float,
        stale: float = STALE_SECONDS,
        most: int = 10_000,
        clock: Callable[[], float] | None = None,
        silence: Silence | None = None,
    ) -> None:
        self._ask = ask
        self._fresh = fresh
        self._facts: Facts[K, V] = Facts(stale=stale, most=most, clock=clock, silence=silence)

    def __len__(self) -> int:
        return len(self._facts)

    async def get(self, key: K) -> V:
        """Raises `Unanswered`."""
        return await self._facts.get(key, lambda: self._ask(key), fresh=lambda value: self._fresh, lax=2.0)

    def ask_ahead(self, key: K) -> None:
        """Have this answered by when it is needed; nobody waits for it."""
        self._facts.ask_ahead(key, lambda: self._ask(key))

    async def close(self) -> None:
        """Stop asking."""
        await self._facts.close()
