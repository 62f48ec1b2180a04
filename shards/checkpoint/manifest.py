"""mesh.manifest.json: the sha256 of each file of a checkpoint, written by its creator, checked before use."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shards.checkpoint.model_folder import exists, find, opened, write
from shards.checkpoint.packed.config import BESIDE
from shards.errors import CheckpointError
from shards.progress import Progress, silent

MANIFEST_NAME = "mesh.manifest.json"
MAX_MANIFEST_BYTES = 4 << 20
_CHUNK = 4 << 20
_HEX = re.compile(r"[0-9a-f]{64}")
_LISTED = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    *BESIDE,
)


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What one file must be: its sha256 in lower-case hex and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files that a checkpoint's creator vouches for, by name."""

    files: dict[str, FileDigest]

    def check(self, path: Path, *, progress: Progress = silent) -> None:
        """Hash `path` and compare. Raises `CheckpointError` when it is not listed or differs."""
        with opened(path) as file:
            self.check_open(file, path.name, progress=progress)

    def check_bytes(self, name: str, data: bytes) -> None:
        """`check` on what was read of a file."""
        self.check_open(io.BytesIO(data), name)

    def check_open(self, file: BinaryIO, name: str, *, progress: Progress = silent) -> None:
        """`check` on an open file, from its start; leaves it at its end, or a little after the size that is listed."""
        expected = self.files.get(name)
        if expected is None:
            raise CheckpointError(f"{name} is not listed in {MANIFEST_NAME}: remove it or write the manifest anew")
        found = _hash(file, name, expected.size, progress)
        if found != expected:
            raise CheckpointError(
                f"{name} is not the file that {MANIFEST_NAME} lists (sha256 {found.sha256[:12]}… of "
                f"{found.size} bytes, not {expected.sha256[:12]}… of {expected.size}): download it again"
            )


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest, or None where there is none. Raises `CheckpointError` when it is malformed."""
    path = folder / MANIFEST_NAME
    data = find(path, MAX_MANIFEST_BYTES)
    if data is None:
        return None
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    listed = raw.get("files") if isinstance(raw, dict) else None
    if not isinstance(listed, dict):
        raise CheckpointError(f"{path} lists no files")
    return Manifest({name: _digest(name, entry, path) for name, entry in listed.items()})


def write_manifest(folder: Path, *, progress: Progress = silent) -> Path:
    """Hash the checkpoint's config, index, tokenizer and safetensors files into `mesh.manifest.json`.

    Returns the manifest's path. Raises `CheckpointError` when the folder has no config.json or a file
    cannot be read.
    """
    if not exists(folder / "config.json"):
        raise CheckpointError(f"{folder} has no config.json: it is not a checkpoint")
    paths = [folder / name for name in _LISTED if exists(folder / name)]
    paths += sorted(folder.glob("*.safetensors"))
    files: dict[str, dict[str, str | int]] = {}
    for path in paths:
        with opened(path) as file:
            found = _hash(file, path.name, os.fstat(file.fileno()).st_size, progress)
        files[path.name] = {"sha256": found.sha256, "size": found.size}
    manifest = folder / MANIFEST_NAME
    write(manifest, (json.dumps({"files": files}, indent=2, sort_keys=True) + "\n").encode())
    return manifest


def _hash(file: BinaryIO, name: str, total: int, progress: Progress) -> FileDigest:
    hasher, done = hashlib.sha256(), 0
    file.seek(0)
    while done <= total and (chunk := file.read(_CHUNK)):  # one that is larger is none of ours however it goes on
        hasher.update(chunk)
        done += len(chunk)
        progress(min(done, total), total, f"checking {name}")
    return FileDigest(hasher.hexdigest(), done)


def _digest(name: str, entry: object, path: Path) -> FileDigest:
    if isinstance(entry, dict):
        sha256, size = entry.get("sha256"), entry.get("size")
        if isinstance(sha256, str) and _HEX.fullmatch(sha256) and type(size) is int and size >= 0:
            return FileDigest(sha256, size)
    raise CheckpointError(f"{path}: the entry of {name[:200]!r} needs a sha256 in hex and a size in bytes")
