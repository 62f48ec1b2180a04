"""JSON-RPC as the client asks it: results or typed errors, over the connection that web3.py uses as well."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

from chain.client.answers import data, quantity, refusal
from chain.client.retry import RetryPolicy
from chain.errors import RpcRefused

if TYPE_CHECKING:
    from web3 import AsyncWeb3
    from web3.types import RPCResponse

__all__ = ["Rpc", "data", "quantity"]


class Rpc:
    """One node. `async with Rpc(url) as rpc: await rpc.call("eth_chainId")`.

    Raises of every call: `NodeUnreachable`, `NodeTimeout`, `RateLimited`, `BadAnswer`, `WrongChain`, `RpcRefused`.
    """

    def __init__(self, url: str, policy: RetryPolicy | None = None):
        """Raises `ChainConfigError` for what is not an HTTP address.

        The first one of a process imports web3.py, which takes half a second: who only names the type does not.
        """
        from chain.client.provider import NodeProvider

        self.url = url
        self.provider = NodeProvider(url, policy)
        self.shown = self.provider.shown

    async def __aenter__(self) -> Rpc:
        await self.provider.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.provider.disconnect()

    @cached_property
    def w3(self) -> AsyncWeb3[Any]:
        """web3.py over this connection."""
        from web3 import AsyncWeb3

        return AsyncWeb3(self.provider)

    def pin(self, chain_id: int, anchor: tuple[int, str] | None = None) -> None:
        """From now on a node with another chain id, or without the block of this number and hash, is `WrongChain`."""
        self.provider.pinned = chain_id
        self.provider.anchor = anchor

    async def call(self, method: str, *params: Any, deadline: float | None = None) -> Any:
        """The result of one method."""
        result = _result(await self.provider.make_request(method, params, deadline=deadline))
        if isinstance(result, RpcRefused):
            raise result
        return result

    async def batch(
        self, calls: Sequence[tuple[str, Sequence[Any]]], *, deadline: float | None = None
    ) -> list[Any | RpcRefused]:
        """The results of many, in order; one that was refused is its `RpcRefused`, not raised."""
        return [_result(answer) for answer in await self.provider.make_batch_request(calls, deadline=deadline)]


def _result(answer: RPCResponse) -> Any | RpcRefused:
    if "error" in answer:
        return refusal(dict(answer["error"]))
    return answer["result"]
