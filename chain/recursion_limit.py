"""Keeps Python's recursion limit while libraries are imported that raise it for the whole process.

`py_ecc` sets it to 100,000 when it is imported, and both web3.py and eth_keyfile import it (for keystores that we do
not use). With such a limit a deeply nested document, refused otherwise, overflows the C stack of a serving process.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

_raising = threading.Lock()
_raised: list[int] = []
_unraised = 0


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """The limit after the block is the one before it."""
    before = sys.getrecursionlimit()
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


@contextlib.contextmanager
def raised(limit: int) -> Iterator[None]:
    """Calls may be `limit` deep inside the block, for a thread whose stack holds them.

    The limit is the process's, so that blocks of several threads share it: it falls back when the last one has ended.
    """
    global _unraised
    with _raising:
        if not _raised:
            _unraised = sys.getrecursionlimit()
        _raised.append(limit)
        sys.setrecursionlimit(max(_raised))
    try:
        yield
    finally:
        with _raising:
            _raised.remove(limit)
            sys.setrecursionlimit(max(_raised, default=_unraised))
