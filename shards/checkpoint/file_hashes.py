"""sha256 of large files, hashed once: what was found is remembered with all by which a changed file is told.

A model's weights are gigabytes, and every start of a provider needs to know that they are the ones that are meant.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

REMEMBERED_FROM: Final = 16 << 20
"""Bytes from which on a file is worth remembering."""
_HEX = re.compile(r"[0-9a-f]{64}")
_CHUNK = 4 << 20
_MAX_ENTRY = 4096


def file_sha256(file: BinaryIO, report: Callable[[int], None], *, most: int | None = None) -> tuple[str, int]:
    """sha256 in hex and size of an open file, from its start; the file is left at its end.

    `report` is told how many bytes are done. Nothing is read beyond `most` bytes and one chunk: a file that is larger
    than it should be is the wrong one however it goes on.
    """
    status = os.fstat(file.fileno())
    facts = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    large = status.st_size >= REMEMBERED_FROM and (most is None or status.st_size <= most)
    entry = _folder() / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.json" if large else None
    if entry is not None and (known := _recall(entry, facts)) is not None:
        report(status.st_size)
        return known, status.st_size
    hasher, done = hashlib.sha256(), 0
    file.seek(0)
    while (most is None or done <= most) and (chunk := file.read(_CHUNK)):
        hasher.update(chunk)
        done += len(chunk)
        report(done)
    found = hasher.hexdigest()
    if entry is not None and done == status.st_size:
        _remember(entry, facts, found)
    return found, done


def _folder() -> Path:
    """Where hashes are kept (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "inference-mesh" / "hashes"


def _recall(entry: Path, facts: list[int]) -> str | None:
    """The hash of a file of which all this is so; None where nothing is known, or others could have written it."""
    try:
        with entry.open("rb") as file:
            status = os.fstat(file.fileno())
            if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
                return None
            kept = json.loads(file.read(_MAX_ENTRY))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(kept, dict) or kept.get("file") != facts:
        return None
    found = kept.get("sha256")
    return found if isinstance(found, str) and _HEX.fullmatch(found) else None


def _remember(entry: Path, facts: list[int], sha256: str) -> None:
    """Without room for it the file is hashed again next time."""
    partial = entry.with_name(f".{entry.name}.{secrets.token_hex(8)}")
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.write_text(json.dumps({"file": facts, "sha256": sha256}))
        partial.chmod(0o600)
        partial.replace(entry)
