"""Runs a request's sessions concurrently and gives their pieces out as one ordered, bounded stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from mesh.client.types import Backend, Completion, GenerateRequest, Generation, TextDelta
from mesh.errors import InternalError
from mesh.gateway.errors import first_cause
from mesh.gateway.metrics import Metrics
from mesh.swarm.route import Hop

_QUEUE_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Piece:
    """Session `index` gave a delta, over these hops."""

    index: int
    delta: TextDelta
    hops: Sequence[Hop] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """Session `index` ended as it should."""

    index: int
    completion: Completion


@dataclass(frozen=True, slots=True)
class Failed:
    """Session `index` failed; no further event follows."""

    index: int
    error: BaseException


Event = Piece | Ended | Failed


@asynccontextmanager
async def open_sessions(
    backend: Backend,
    requests: Sequence[GenerateRequest],
    *,
    at_once: int,
    metrics: Metrics,
    arrived: list[int],
    cached: list[int],
) -> AsyncIterator[AsyncIterator[list[Event]]]:
    """Run one session per request, at most `at_once` at a time; yields batches of what they give.

    A batch holds all events that are ready, at least one. The stream ends after every session's `Ended`, or
    after a `Failed`. Leaving the context cancels the sessions that still run, each in the task that opened
    it. When a session has ended, however it did, `arrived` has the number of its tokens that reached us; from its first
    token on, `cached` has how many of its prompt were not run.
    """
    queue: asyncio.Queue[Event] = asyncio.Queue(_QUEUE_LENGTH)
    gate = asyncio.Semaphore(at_once)

    async def session(index: int, request: GenerateRequest) -> None:
        error: BaseException | None = None
        generation: Generation | None = None
        try:
            async with gate:
                try:
                    async with backend.generate(request) as generation:
                        with metrics.active.track_inprogress():
                            async for delta in generation:
                                cached[index] = generation.cached
                                await queue.put(Piece(index, delta, generation.hops))
                            completion = generation.completion
                finally:  # only now: what is left while its prompt runs is closed with its first token
                    if generation is not None:
                        arrived[index], cached[index] = generation.arrived, generation.cached
            if completion is None:
                raise InternalError("a generation ended without saying why")
            await queue.put(Ended(index, completion))
        except* Exception as group:  # noqa: BLE001 - told in order, after what came before it; who reads it raises it
            error = first_cause(group)
        if error is not None:
            await queue.put(Failed(index, error))

    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(session(i, request)) for i, request in enumerate(requests)]
            try:
                async with aclosing(_batches(queue, len(requests))) as batches:
                    yield batches
            finally:
                for task in running:
                    task.cancel()
    except BaseExceptionGroup as group:
        raise first_cause(group) from None


async def _batches(queue: asyncio.Queue[Event], sessions: int) -> AsyncGenerator[list[Event], None]:
    left = sessions
    while left:
        batch = [await queue.get()]
        while not queue.empty():
            batch.append(queue.get_nowait())
        left -= sum(isinstance(event, Ended) for event in batch)
        batch.sort(key=lambda event: isinstance(event, Failed))  # what others gave comes before a failure
        yield batch
        if any(isinstance(event, Failed) for event in batch):
            return
