"""What happened, in order: its hash tells two runs apart, and it is written out for whoever looks for a bug."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from mesh.errors import ProtocolViolation
from mesh.wire.frame import Frame
from mesh.wire.messages import decode


class Trace:
    """Events with their times. Frames are kept as they are and read only when somebody wants to see them."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._events: list[tuple[float, str, tuple[Any, ...]]] = []
        self.names: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._events)

    def note(self, kind: str, *what: Any) -> None:
        self._events.append((self._now(), kind, what))

    def digest(self) -> str:
        """sha256 over all of it, every byte of every frame included."""
        hasher = hashlib.sha256()
        for at, kind, what in self._events:
            hasher.update(f"{at!r} {kind}".encode())
            for each in what:
                if isinstance(each, Frame):
                    hasher.update(each.header)
                    hasher.update(each.payload)
                else:
                    hasher.update(repr(each).encode())
        return hasher.hexdigest()

    def lines(self) -> Iterator[str]:
        for at, kind, what in self._events:
            if kind == "frame":
                sender, receiver, _, frame = what
                yield f"{at:9.4f}  {self._name(sender):>11} -> {self._name(receiver):<11} {_read(frame)}"
            else:
                yield f"{at:9.4f}  {kind}: " + " ".join(str(each) for each in what)

    def _name(self, peer: str) -> str:
        return self.names.get(peer, peer[-6:])


def _read(frame: Frame) -> str:
    try:
        message = decode(frame)
    except ProtocolViolation as error:
        return f"unreadable: {error}"
    return f"{message!r:.220}" + (f" + {len(frame.payload)} bytes" if frame.payload else "")
