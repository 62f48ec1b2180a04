"""Hashes of large files: right the first time, remembered, and never taken from another file or another user."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from shards.checkpoint import file_hashes
from shards.checkpoint.file_hashes import file_sha256


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hashes, "REMEMBERED_FROM", 1000)
    return tmp_path / "cache" / "inference-mesh" / "hashes"


def hashed(path: Path, *, most: int | None = None) -> tuple[str, int, list[int]]:
    """Hash and size, and what was reported meanwhile."""
    seen: list[int] = []
    with path.open("rb", buffering=0) as file:
        return *file_sha256(file, seen.append, most=most), seen


def poison(cache: Path) -> Path:
    """Whatever is remembered is wrong now."""
    (entry,) = cache.glob("*.json")
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "sha256": "00" * 32}))
    return entry


@pytest.mark.parametrize("size", [0, 1, 999, 1000, (9 << 20) + 5])
def test_the_hash_is_sha256_whether_remembered_or_not(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert [hashed(path)[:2] for _ in range(3)] == [(right, size)] * 3


def test_a_large_file_is_read_once_and_a_small_one_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(bytes(5000))
    small.write_bytes(bytes(999))
    hashed(large), hashed(small)
    poison(cache)
    assert hashed(large) == ("00" * 32, 5000, [5000])
    assert hashed(small)[0] == hashlib.sha256(bytes(999)).hexdigest()


@pytest.mark.parametrize("how", ["written", "replaced", "backdated"])
def test_a_file_that_has_changed_is_hashed_again(tmp_path: Path, cache: Path, how: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5000))
    hashed(path)
    poison(cache)
    before = path.stat()
    other = path if how != "replaced" else tmp_path / "other"
    other.write_bytes(b"\1" * 5000)
    other.replace(path)
    if how == "backdated":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hashed(path)[0] == hashlib.sha256(b"\1" * 5000).hexdigest()


@pytest.mark.parametrize("kept", ["", "{", "[]", "[" * 4000, '{"file": 1}', "writable"])
def test_what_somebody_else_could_have_written_or_is_no_entry_counts_for_nothing(
    tmp_path: Path, cache: Path, kept: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5000))
    hashed(path)
    entry = poison(cache)
    if kept == "writable":
        entry.chmod(0o666)
    else:
        entry.write_text(kept)
    assert hashed(path)[0] == hashlib.sha256(bytes(5000)).hexdigest()


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way")
    path = tmp_path / "file"
    path.write_bytes(bytes(5000))
    assert hashed(path)[0] == hashed(path)[0] == hashlib.sha256(bytes(5000)).hexdigest()


def test_a_file_larger_than_it_should_be_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(20 << 20))
    digest, size, _ = hashed(path, most=1000)
    assert size < 20 << 20
    assert digest != hashlib.sha256(bytes(20 << 20)).hexdigest()
