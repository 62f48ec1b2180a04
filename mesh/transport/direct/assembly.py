"""Puts frames together from whatever pieces arrive, with one copy of small frames and none of large payloads (pure).

What arrives goes to a small staging buffer, from which `next` takes frames; while a large part of a frame is
incomplete, the next bytes are to be written into that part itself.
"""

from __future__ import annotations

from typing import Final

import numpy

from mesh.wire.frame import GOODBYE, PREFIX, Frame, FrameLimits, decode_prefix

STAGING: Final = 64 * 1024
LOW_ROOM: Final = 4 * 1024
"""With less room than this in the staging buffer it counts as full."""
IN_PLACE: Final = 32 * 1024
"""A part that misses more than this is written in place."""


class _Part:
    """A header or payload that is arriving."""

    __slots__ = ("_small", "filled", "view")

    def __init__(self, size: int) -> None:
        # Large memory is only reserved here: the system hands out its pages as they are written, so what a peer
        # merely promises costs nothing.
        self._small = bytearray(size) if size <= STAGING else None
        self.view = numpy.empty(size, numpy.uint8).data if self._small is None else memoryview(self._small)
        self.filled = 0

    @property
    def missing(self) -> int:
        return len(self.view) - self.filled

    def take(self, data: memoryview) -> int:
        count = min(self.missing, len(data))
        self.view[self.filled : self.filled + count] = data[:count]
        self.filled += count
        return count

    @property
    def value(self) -> bytearray | memoryview:
        return self.view if self._small is None else self._small


class FrameAssembly:
    """`buffer` says where the next bytes go, `filled` that they are there, `next` takes a frame out."""

    def __init__(self) -> None:
        self._view = memoryview(bytearray(STAGING))
        self._start = self._end = 0
        self._in_place: _Part | None = None  # where the next bytes go, if not to the staging buffer
        self._parts: tuple[_Part, _Part] | None = None  # header and payload of the frame that is arriving
        self.ended = False
        """True once a goodbye was taken out."""

    @property
    def begun(self) -> bool:
        """True while a frame is incomplete of which something has come."""
        return self._parts is not None or self._end > self._start

    @property
    def expected(self) -> int:
        """Bytes that the incomplete frame has, as far as is known."""
        return sum(len(part.view) for part in self._parts) if self._parts else 0

    @property
    def payload_filled(self) -> int:
        """Bytes of the incomplete frame's payload that have come."""
        return self._parts[1].filled if self._parts else 0

    @property
    def full(self) -> bool:
        """True when nothing more should be read until `next` was called."""
        return STAGING - self._end + self._start < LOW_ROOM

    def buffer(self) -> memoryview:
        """Where to write the next bytes; never empty while the assembly is not full."""
        self._in_place = self._unfinished()
        if self._in_place is not None:
            return self._in_place.view[self._in_place.filled :]
        if STAGING - self._end < LOW_ROOM:
            count = self._end - self._start
            self._view[:count] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, count
        return self._view[self._end :]

    def filled(self, count: int) -> bool:
        """`count` bytes were written to `buffer`; False when `next` would still find nothing."""
        part = self._in_place
        if part is None:
            self._end += count
            return True
        part.filled += count
        return not part.missing

    def next(self, limits: FrameLimits) -> Frame | None:
        """The next frame if it is whole. Raises `ProtocolViolation` or `FrameTooLarge`."""
        if self._parts is None:
            if self._end - self._start < PREFIX.size:
                return None
            prefix = bytes(self._view[self._start : self._start + PREFIX.size])
            self._start += PREFIX.size
            if prefix == GOODBYE:
                self.ended = True
                return None
            header_size, payload_size = decode_prefix(prefix, limits)
            self._parts = _Part(header_size), _Part(payload_size)
        for part in self._parts:
            if part.missing:
                self._start += part.take(self._view[self._start : self._end])
            if self._start == self._end:
                self._start = self._end = 0
            if part.missing:
                return None
        header, payload = self._parts
        self._parts = None
        return Frame(bytes(header.value), payload.value)

    def discard(self) -> None:
        """Forget everything that has come."""
        self._start = self._end = 0
        self._parts = self._in_place = None

    def _unfinished(self) -> _Part | None:
        """The part that the next bytes belong to, if they shall go there at once."""
        if self._parts is not None and self._start == self._end:
            for part in self._parts:
                if part.missing:
                    return part if part.missing > IN_PLACE else None
        return None
