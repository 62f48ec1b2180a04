"""Lines from standard input for code on an event loop: waiting for one can be cancelled, unlike `input()`."""

from __future__ import annotations

import asyncio
import os
import sys

from mesh.errors import InvalidRequest

CHUNK = 4096
MAX_LINE_BYTES = 1 << 20


class InputLines:
    """Reads a terminal or a pipe through the event loop, and a regular file (always ready) at once.

    The terminal stays in its line mode: it does the editing, and Ctrl-C and Ctrl-D keep their meaning.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        self._buffer = bytearray()
        self._ended = False

    async def read(self) -> str | None:
        """The next line without its end; None at the end of the input.

        Raises `InvalidRequest` when the line is not UTF-8 or over 1 MiB.
        """
        while b"\n" not in self._buffer and not self._ended:
            if len(self._buffer) > MAX_LINE_BYTES:
                self._buffer.clear()
                raise InvalidRequest(f"the line is over {MAX_LINE_BYTES} bytes", param="prompt")
            data = await self._chunk()
            self._ended = not data
            self._buffer += data
        if not self._buffer:
            self._ended = False  # a terminal can go on after Ctrl-D
            return None
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        try:
            return line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"the line is not UTF-8: {error}", param="prompt") from error

    async def _chunk(self) -> bytes:
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not readable.done():
                readable.set_result(None)

        try:
            loop.add_reader(self._descriptor, wake)
        except PermissionError:  # epoll takes no regular files
            return os.read(self._descriptor, CHUNK)
        try:
            await readable
        finally:
            loop.remove_reader(self._descriptor)
        return os.read(self._descriptor, CHUNK)
