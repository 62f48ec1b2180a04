"""Keeps Python's recursion limit while libraries are imported that raise it for the whole process.

`py_ecc` sets it to 100,000 when it is imported, and both web3.py and eth_keyfile import it (for keystores that we do
not use). With such a limit a deeply nested document, refused otherwise, overflows the C stack of a serving process.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """The limit after the block is the one before it."""
    before = sys.getrecursionlimit()
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
