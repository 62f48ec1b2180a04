"""The staking client for code without asyncio: the same calls, blocking, over a loop on a thread of its own.

    with SyncStakingClient(url, deployment, account=account) as client:
        result = client.providers.stake_for_provider("my-id")

Every method has the arguments of its async twin, and returns what awaiting that gives. What the async client gives as
an action to be awaited is carried out at once; `client.dry_run(lambda c: c.escrow.deposit(5))` estimates instead.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from chain.client.actions import Action, DryRun
from chain.client.staking import StakingClient
from chain.errors import ChainConfigError

T = TypeVar("T")
PARTS = (
    "token", "epochs", "models", "providers", "gateways", "escrow", "settlement", "slashing", "disputes", "rewards",
    "owner",
)  # fmt: skip


class SyncPart:
    """One part of a client (`client.providers`), blocking."""

    def __init__(self, client: SyncStakingClient, part: Any) -> None:
        self._client = client
        self._part = part

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._part, name)
        if not callable(method):
            return method

        def call(*arguments: Any, **options: Any) -> Any:
            return self._client.run(_finish(method, arguments, options))

        call.__name__, call.__doc__ = name, method.__doc__
        return call

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._part) if not name.startswith("_")]


class SyncStakingClient:
    """A blocking `StakingClient`; the arguments are the same."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._make: Callable[[], StakingClient] = lambda: StakingClient(*arguments, **options)
        self._client: StakingClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> SyncStakingClient:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="staking-client", daemon=True)
        self._thread.start()
        try:
            self._client = self.run(self._enter())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        client = self._client
        try:
            if client is not None:
                self.run(client.__aexit__(kind, error, traceback))
        finally:
            self._client = None
            self._stop()

    def __getattr__(self, name: str) -> Any:
        if name not in PARTS:
            raise AttributeError(name)
        return SyncPart(self, getattr(self._entered(), name))

    @property
    def address(self) -> str:
        return self._entered().address

    def dry_run(self, choose: Callable[[StakingClient], Action]) -> DryRun:
        """What the chosen action would cost; nothing is sent."""
        client = self._entered()

        async def work() -> DryRun:
            return await choose(client).dry_run()

        return self.run(work())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work` on the client's loop; Ctrl-C cancels it."""
        if self._loop is None:
            work.close()
            raise ChainConfigError("use the client as `with SyncStakingClient(…) as client:`")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _enter(self) -> StakingClient:
        return await self._make().__aenter__()

    def _entered(self) -> StakingClient:
        if self._client is None:
            raise ChainConfigError("use the client as `with SyncStakingClient(…) as client:`")
        return self._client

    def _stop(self) -> None:
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _finish(method: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    answer = method(*arguments, **options)
    if isinstance(answer, Action):
        return await answer
    return await answer if inspect.isawaitable(answer) else answer
