"""How a long read or download tells its caller how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called from the thread that does the work; must return quickly and must not raise."""

    def __call__(self, done_bytes: int, total_bytes: int, what: str) -> None:
        """`done_bytes` of `total_bytes` of `what` (a file name or a phrase) are done."""


def silent(done_bytes: int, total_bytes: int, what: str) -> None:
    """A `Progress` that shows nothing."""
