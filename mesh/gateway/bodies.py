"""Reading request bodies: with a deadline, a size, and a bound on what all that are under way take of the memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from starlette.types import Receive, Scope

from mesh.gateway.edge import ClientLeft
from mesh.gateway.errors import ApiError, ApiFailure, from_http, retry_after


@dataclass(slots=True)
class BodyMemory:
    """Bytes of the bodies that are being received. The first `free` bytes of each are not counted, so that a short
    request arrives whatever others send; connections bound how many there are."""

    total: int = 256 << 20
    share: int = 64 << 20
    """Most for one owner: an account, or where nobody pays an address."""
    free: int = 64 << 10
    taken: Counter[Hashable] = field(default_factory=Counter)

    def take(self, owner: Hashable, size: int) -> bool:
        """Count `size` bytes more; False, and nothing changes, where they are not to be had."""
        if self.taken[owner] + size > self.share or self.taken.total() + size > self.total:
            if not self.taken[owner]:
                del self.taken[owner]
            return False
        self.taken[owner] += size
        return True

    def give_back(self, owner: Hashable, size: int) -> None:
        self.taken[owner] -= size
        if not self.taken[owner]:
            del self.taken[owner]


async def read_body(
    scope: Scope,
    receive: Receive,
    *,
    limit: int,
    timeout: float,
    memory: BodyMemory | None = None,
    owner: Hashable = None,
) -> bytes:
    """The body. Raises `ApiFailure` (413 over `limit` bytes, 408 after `timeout`, 503 without memory), `ClientLeft`."""
    too_large = ApiFailure(from_http(413, f"The body is larger than {limit} bytes.", {"Connection": "close"}))
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise too_large
    body = bytearray()
    counted = 0
    more = True
    try:
        async with asyncio.timeout(timeout):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > limit:
                    raise too_large
                if memory is not None and len(body) - memory.free > counted:
                    grown = len(body) - memory.free - counted
                    if not memory.take(owner, grown):
                        raise _no_memory()
                    counted += grown
    except TimeoutError:
        headers = {"Connection": "close"}
        raise ApiFailure(from_http(408, "The body did not arrive in time.", headers)) from None
    finally:
        if memory is not None and counted:
            memory.give_back(owner, counted)
    return bytes(body)


def _no_memory() -> ApiFailure:
    message = "The gateway receives as many large bodies as it can: come again."
    headers = {**retry_after(2.0), "Connection": "close"}
    return ApiFailure(ApiError(503, message, "server_error", code="busy", headers=headers))
