"""A folder for the decoders that read files."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

_kept: list[tempfile.TemporaryDirectory[str]] = []


@cache
def scratch() -> Path:
    """The folder, made when it is first asked for."""
    _kept.append(tempfile.TemporaryDirectory(prefix="fuzz-"))
    return Path(_kept[-1].name)


def close() -> None:
    """Remove it."""
    while _kept:
        _kept.pop().cleanup()
    scratch.cache_clear()
