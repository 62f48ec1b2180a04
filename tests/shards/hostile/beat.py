"""How long an event loop stands still while something else happens in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mesh.client.text_threads import TextThreads

BEAT_SECONDS = 0.005


@dataclass(frozen=True)
class Outcome:
    """What a call returned or raised, how long it took, and the longest stall of the event loop (seconds)."""

    result: Any
    error: Exception | None
    seconds: float
    stall: float


def beside_a_loop(call: Callable[[], Any]) -> Outcome:
    """Make the call as the gateway does, in a thread beside its event loop.

    What counts as a stall is what this process itself computed meanwhile: on a busy machine a loop also waits for
    others.
    """
    return asyncio.run(_beside(call))


async def _beside(call: Callable[[], Any]) -> Outcome:
    worst = 0.0

    async def beat() -> None:
        nonlocal worst
        last, used = time.monotonic(), time.process_time()
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            now, spent = time.monotonic(), time.process_time()
            worst = max(worst, min(now - last, spent - used))
            last, used = now, spent

    beating = asyncio.create_task(beat())
    started = time.monotonic()
    result, error = None, None
    try:
        result = await TextThreads().run(beating, call)
    except Exception as failure:  # noqa: BLE001 - it is the outcome
        error = failure
    seconds = time.monotonic() - started
    beating.cancel()
    return Outcome(result, error, seconds, worst)
