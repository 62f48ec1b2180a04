"""Threads in which texts are read: a tokenizer may take seconds, and must not keep another model's text waiting."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
        """What `call` returns or raises; `tokenizer` is the one that it uses."""
        turn = self._turns.get(tokenizer)
        if turn is None:
            turn = self._turns[tokenizer] = asyncio.Semaphore(AT_ONCE)
        async with turn:
            context = contextvars.copy_context()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(_THREADS, partial(context.run, call, *args, **kwargs))
