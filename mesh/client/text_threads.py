"""Threads in which texts are read: a tokenizer may take seconds, and must not keep another model's text waiting."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE = 2
"""Calls of one tokenizer: its child process takes one at a time, and the next can be made ready meanwhile."""
_THREADS = ThreadPoolExecutor(64, thread_name_prefix="text")


class TextThreads:
    """Runs calls of tokenizers off the event loop: few of one tokenizer at once, or a slow one would hold them all."""

    def __init__(self) -> None:
        self._turns: WeakKeyDictionary[object, asyncio.Semaphore] = WeakKeyDictionary()

    async def run(self, tokenizer: object, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `call` returns or raises; `tokenizer` is the one that it uses.

        A caller that is cancelled does not wait, but its turn lasts until the call has ended: those who come and go
        take no more threads than those who stay.
        """
        turn = self._turns.get(tokenizer)
        if turn is None:
            turn = self._turns[tokenizer] = asyncio.Semaphore(AT_ONCE)
        await turn.acquire()
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        to_begin = [turn]  # whoever takes it, the thread or the cancelled caller, has to release it

        def work() -> T:
            if not _took(to_begin):
                raise asyncio.CancelledError
            try:
                return context.run(call, *args, **kwargs)
            finally:
                with suppress(RuntimeError):  # the loop has been closed meanwhile
                    loop.call_soon_threadsafe(turn.release)

        try:
            return await loop.run_in_executor(_THREADS, work)
        finally:
            if _took(to_begin):
                turn.release()


def _took(ticket: list[asyncio.Semaphore]) -> bool:
    try:
        ticket.pop()
    except IndexError:
        return False
    return True
