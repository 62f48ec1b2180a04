"""Two helpers of a session: a queue whose events are seen as they arrive, and work done together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from mesh.client.hop_link import Event

T = TypeVar("T")


class Inbox(asyncio.Queue[Event]):
    """A queue that shows every event to somebody as it arrives."""

    def __init__(self, maxsize: int, seen: Callable[[Event], None]) -> None:
        super().__init__(maxsize)
        self._seen = seen

    def put_nowait(self, item: Event) -> None:
        super().put_nowait(item)
        self._seen(item)


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all of it; when one fails, nothing of the rest goes on unattended."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
