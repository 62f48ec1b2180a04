"""TCP ports that hand everything on later: a long line on one machine, without rights to its network."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK = 64 * 1024


class DelayedPorts:
    """Use as `async with`. Each port passes what comes on to another, `seconds` later, in both directions."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def open(self) -> tuple[int, int]:
        """A free port to listen on, and the one under which others reach it; the same where nothing is delayed."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            inner: int = probe.getsockname()[1]
        if not self._seconds:
            return inner, inner
        server = await asyncio.start_server(lambda *ends: self._serve(inner, *ends), "127.0.0.1", 0)
        self._servers.append(server)
        outer: int = server.sockets[0].getsockname()[1]
        return inner, outer

    async def _serve(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(OSError, asyncio.CancelledError):
            onward, back = await asyncio.open_connection("127.0.0.1", port)
            try:
                await asyncio.gather(self._pass(reader, back), self._pass(onward, writer))
            finally:
                back.close()
        writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data = await reader.read(CHUNK)
            loop.call_later(self._seconds, _write, writer, data)
            if not data:
                break
        await asyncio.sleep(self._seconds)


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if writer.is_closing():
        return
    if data:
        writer.write(data)
    else:
        with suppress(OSError):
            writer.write_eof()
