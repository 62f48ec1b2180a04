"""A proxy before a node that drops connections before or after the node has heard, as networks do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

Verdict = Literal["pass", "drop", "swallow", "slow down", "bad gateway"]
"""`drop`: the node never hears of it. `swallow`: it does, and the answer is lost."""


@dataclass
class Proxy:
    """`decide` is asked for every request, with its number and its parsed body."""

    url: str
    decide: Callable[[int, Any], Verdict]
    seen: list[Any] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    delay: float = 0.0
    """Seconds before each answer."""
    target: str = ""
    """Where questions go."""
    change: Callable[[bytes], bytes] | None = None
    """What becomes of each answer."""


def methods(body: Any) -> list[str]:
    """The methods in a request or batch."""
    return [each["method"] for each in (body if isinstance(body, list) else [body])]


@asynccontextmanager
async def proxy(target: str, decide: Callable[[int, Any], Verdict]) -> AsyncIterator[Proxy]:
    """A proxy on a port of its own."""
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(next(line for line in head.lower().split(b"\r\n") if b"content-length" in line).split()[1])
                raw = await reader.readexactly(length)
                body = json.loads(raw)
                between.seen.append(body)
                verdict = between.decide(len(between.seen), body)
                between.verdicts.append(verdict)
                if verdict == "drop":
                    return
                if verdict in ("slow down", "bad gateway"):
                    line = b"429 Too Many Requests" if verdict == "slow down" else b"502 Bad Gateway"
                    writer.write(b"HTTP/1.1 " + line + b"\r\ncontent-length: 0\r\n\r\n")
                    await writer.drain()
                    continue
                await asyncio.sleep(between.delay)
                answer = await http.post(between.target, content=raw, headers={"content-type": "application/json"})
                if verdict == "swallow":
                    return
                said = answer.content if between.change is None else between.change(answer.content)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(said) + said)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with httpx.AsyncClient(timeout=30) as http:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        between = Proxy(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", decide, target=target)
        async with server:
            yield between
            if tasks:
                await asyncio.wait(tasks, timeout=5)
            for task in tasks:
                task.cancel()
