"""Calls to the embedded chain from its own process: no connection, and web3.py need not be imported to start it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from chain.client.answers import match, refusal
from chain.devnet.server import Server
from chain.errors import RpcRefused


class Direct:
    """`Rpc`'s calls, answered by `server` itself."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def call(self, method: str, *params: Any) -> Any:
        """The result of one method. Raises `RpcRefused`."""
        answer = (await self.batch([(method, params)]))[0]
        if isinstance(answer, RpcRefused):
            raise answer
        return answer

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """The results of many, in order; one that was refused is its `RpcRefused`, not raised."""
        requests = [
            {"jsonrpc": "2.0", "id": index, "method": method, "params": list(params)}
            for index, (method, params) in enumerate(calls)
        ]
        answers = list(await asyncio.gather(*(self._server.answer(each) for each in requests)))
        return [
            refusal(each["error"]) if "error" in each else each["result"]
            for each in match(requests, answers, "the embedded chain")
        ]
