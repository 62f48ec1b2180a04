"""The staking client for code without asyncio: the same calls, blocking, over a loop on a thread of its own.

    with SyncStakingClient(url, deployment, account=account) as client:
        result = client.providers.stake_for_provider("my-id")

Every method has the arguments of its async twin, and returns what awaiting that gives. What the async client gives as
an action to be awaited is carried out at once; `client.dry_run(lambda c: c.escrow.deposit(5))` estimates instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

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
        self._arguments = arguments
        self._options = options
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._client: StakingClient | None = None

    def __enter__(self) -> SyncStakingClient:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal(name="staking-client"))
            client = StakingClient(*self._arguments, **self._options)
            self._client = stack.enter_context(portal.wrap_async_context_manager(client))
            self._portal = portal
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client = self._portal = None
        self._stack.__exit__(kind, error, traceback)

    def __getattr__(self, name: str) -> Any:
        if name not in PARTS:
            raise AttributeError(name)
        return SyncPart(self, getattr(self._entered(), name))

    @property
    def address(self) -> str:
        return self._entered().address

    def dry_run(self, choose: Callable[[StakingClient], Action]) -> DryRun:
        """What the chosen action would cost; nothing is sent."""
        return self.run(choose(self._entered()).dry_run())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work` on the client's loop; Ctrl-C cancels it."""
        if self._portal is None:
            work.close()
            raise ChainConfigError("use the client as `with SyncStakingClient(…) as client:`")
        future: Future[T] = self._portal.start_task_soon(_awaited, work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _entered(self) -> StakingClient:
        if self._client is None:
            raise ChainConfigError("use the client as `with SyncStakingClient(…) as client:`")
        return self._client


async def _awaited(work: Coroutine[Any, Any, T]) -> T:
    return await work


async def _finish(method: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    answer = method(*arguments, **options)
    if isinstance(answer, Action):
        return await answer
    return await answer if inspect.isawaitable(answer) else answer
