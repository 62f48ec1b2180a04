"""The client library for code without asyncio: the same calls, blocking, over a loop on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from mesh.client.client import Answer, Client, Messages, Options, TextGeneration, TransportName
from mesh.client.types import Completion, ModelInfo, TextDelta
from mesh.errors import InternalError
from mesh.identity import Identity

T = TypeVar("T")

_END_SECONDS = 2.0


class SyncGeneration:
    """`for delta in client.stream(…)`; as `with`, leaving the block early cancels the session."""

    def __init__(self, client: SyncClient, generation: TextGeneration) -> None:
        self._client = client
        self._generation = generation

    @property
    def completion(self) -> Completion | None:
        return self._generation.completion

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[TextDelta]:
        deltas = aiter(self._generation)
        try:
            while True:
                try:
                    yield self._client.run(_next(deltas))
                except StopAsyncIteration:
                    return
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop generating and free the session on every hop."""
        self._client.run(self._generation.cancel())


class SyncClient:
    """A blocking `Client`: `with SyncClient(peers=[…]) as client: client.generate(…)`."""

    def __init__(
        self,
        peers: Sequence[str],
        *,
        identity: Identity | None = None,
        runtime_root: Path | None = None,
        transport: TransportName = "hivemind",
    ) -> None:
        self._client = Client(peers, identity=identity, runtime_root=runtime_root, transport=transport)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._context: AbstractAsyncContextManager[Client] = self._client

    def __enter__(self) -> Self:
        loop = asyncio.new_event_loop()
        self._loop = loop
        self._thread = threading.Thread(target=loop.run_forever, name="mesh-client", daemon=True)
        self._thread.start()
        self._owner = _Owner()
        try:
            self.run(self._owner.start(self._client))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.run(self._owner.stop())
        finally:
            self._stop()

    def models(self) -> Sequence[ModelInfo]:
        """The models that the swarm serves now."""
        return self.run(self._client.models())

    def generate(self, model: str, prompt: str | Sequence[int], **options: Unpack[Options]) -> Answer:
        """Continue `prompt` and return the whole answer."""
        return self.run(self._client.generate(model, prompt, **options))

    def stream(self, model: str, prompt: str | Sequence[int], **options: Unpack[Options]) -> SyncGeneration:
        """Continue `prompt` as a stream of deltas."""
        return SyncGeneration(self, self._client.stream(model, prompt, **options))

    def chat(self, model: str, messages: Messages, **options: Unpack[Options]) -> Answer:
        """Answer a conversation."""
        return self.run(self._client.chat(model, messages, **options))

    def stream_chat(self, model: str, messages: Messages, **options: Unpack[Options]) -> SyncGeneration:
        """Answer a conversation as a stream of deltas."""
        return SyncGeneration(self, self._client.stream_chat(model, messages, **options))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work` on the client's loop; Ctrl-C cancels it."""
        if self._loop is None:
            work.close()
            raise InternalError("use the client as `with SyncClient(…) as client:`")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _stop(self) -> None:
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(_end_rest(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _end_rest() -> None:
    """Cancel what is left on the loop: hivemind leaves a timer of its DHT behind."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    if rest:
        await asyncio.wait(rest, timeout=_END_SECONDS)


class _Owner:
    """Enters and leaves the client in one and the same task, as task groups require."""

    def __init__(self) -> None:
        self._leave = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, client: Client) -> None:
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(client, entered))
        await asyncio.wait({self._task, entered}, return_when=asyncio.FIRST_COMPLETED)
        if not entered.done():
            await self._task

    async def stop(self) -> None:
        self._leave.set()
        if self._task is not None:
            await self._task

    async def _hold(self, client: Client, entered: asyncio.Future[None]) -> None:
        async with client:
            entered.set_result(None)
            await self._leave.wait()


async def _next(deltas: Any) -> TextDelta:
    delta: TextDelta = await anext(deltas)
    return delta
