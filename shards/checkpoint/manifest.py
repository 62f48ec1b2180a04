"""mesh.manifest.json: the sha256 of each file of a checkpoint, checked before use.

Its creator writes it, or we do: from what a hub says of the files that were not downloaded, or by hashing those of a
folder. What it says of the files that a model is made of is the model's identity.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shards.checkpoint.file_hashes import file_sha256
from shards.checkpoint.model_folder import exists, find, opened, write
from shards.checkpoint.packed.config import BESIDE
from shards.errors import CheckpointError
from shards.progress import Progress, silent
from shards.shown import shown

MANIFEST_NAME = "mesh.manifest.json"
MAX_MANIFEST_BYTES = 4 << 20
_MAX_WEIGHTS = 100
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
    weights: str = ""
    """What the weights are made into as they are loaded; nothing where they stay as they are."""

    def check(self, path: Path, *, progress: Progress = silent) -> None:
        """Hash `path` and compare. Raises `CheckpointError` when it is not listed or differs."""
        with opened(path) as file:
            self.check_open(file, path.name, progress=progress)

    def check_bytes(self, name: str, data: bytes) -> None:
        """`check` on what was read of a file."""
        self._compare(name, digest_of(data))

    def check_open(self, file: BinaryIO, name: str, *, progress: Progress = silent) -> None:
        """`check` on an open file, from its start; leaves it somewhere."""
        self._compare(name, hash_file(file, name, progress, most=self.entry(name).size))

    def entry(self, name: str) -> FileDigest:
        """What is listed of a file. Raises `CheckpointError` where nothing is."""
        expected = self.files.get(name)
        if expected is None:
            raise CheckpointError(f"{name} is not listed in {MANIFEST_NAME}: remove it or write the manifest anew")
        return expected

    def only(self, names: Iterable[str]) -> Manifest:
        """What it says of these files. Raises `CheckpointError` where one is not listed."""
        return Manifest({name: self.entry(name) for name in names})

    def to_bytes(self) -> bytes:
        """As a file that is the same wherever the files are."""
        listed = {name: {"sha256": each.sha256, "size": each.size} for name, each in self.files.items()}
        said = {"files": listed} | ({"weights": self.weights} if self.weights else {})
        return (json.dumps(said, indent=2, sort_keys=True) + "\n").encode()

    def _compare(self, name: str, found: FileDigest) -> None:
        expected = self.entry(name)
        if found != expected:
            raise CheckpointError(
                f"{name} is not the file that {MANIFEST_NAME} lists (sha256 {found.sha256[:12]}… of "
                f"{found.size} bytes, not {expected.sha256[:12]}… of {expected.size}): download it again"
            )


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest, or None where there is none. Raises `CheckpointError` when it is malformed."""
    path = folder / MANIFEST_NAME
    data = find(path, MAX_MANIFEST_BYTES)
    return None if data is None else parse_manifest(data, str(path))


def parse_manifest(data: bytes, path: str = MANIFEST_NAME) -> Manifest:
    """A manifest from its bytes; `path` is for messages. Raises `CheckpointError` when it is malformed."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    listed = raw.get("files") if isinstance(raw, dict) else None
    if not isinstance(listed, dict):
        raise CheckpointError(f"{path} lists no files")
    weights = raw.get("weights", "")
    if not isinstance(weights, str) or not weights.isprintable() or len(weights) > _MAX_WEIGHTS:
        raise CheckpointError(f"{path}: {shown(weights)} says nothing of weights")
    return Manifest({name: _digest(name, entry, path) for name, entry in listed.items()}, weights)


def write_manifest(
    folder: Path, weights: Mapping[str, FileDigest] | None = None, *, progress: Progress = silent
) -> Path:
    """Hash the checkpoint's config, index, tokenizer and safetensors files into `mesh.manifest.json`.

    With `weights` the weight files are those, as somebody else describes them, whether they are here or not. Returns
    the manifest's path. Raises `CheckpointError` when the folder has no config.json or a file cannot be read.
    """
    if not exists(folder / "config.json"):
        raise CheckpointError(f"{folder} has no config.json: it is not a checkpoint")
    paths = [folder / name for name in _LISTED if exists(folder / name)]
    if weights is None:
        paths += sorted(folder.glob("*.safetensors"))
    files = dict(weights or {})
    for path in paths:
        with opened(path) as file:
            files[path.name] = hash_file(file, path.name, progress)
    manifest = folder / MANIFEST_NAME
    write(manifest, Manifest(files).to_bytes())
    return manifest


def model_digest(name: str, manifest_sha256: str) -> str:
    """A model's identity: sha256 in hex over its name and that of its manifest, as `Manifest.to_bytes` has it."""
    hasher = hashlib.sha256(b"inference-mesh model 3\0")
    for part in (name.encode(), manifest_sha256.encode()):
        hasher.update(len(part).to_bytes(8, "little") + part)
    return hasher.hexdigest()


def digest_of(data: bytes) -> FileDigest:
    """What a file of these bytes must be."""
    return FileDigest(hashlib.sha256(data).hexdigest(), len(data))


def hash_file(file: BinaryIO, name: str, progress: Progress, *, most: int | None = None) -> FileDigest:
    """What an open file is; `most` is as `file_sha256` has it."""
    total = os.fstat(file.fileno()).st_size if most is None else most
    return FileDigest(*file_sha256(file, lambda done: progress(min(done, total), total, f"checking {name}"), most=most))


def _digest(name: str, entry: object, path: str) -> FileDigest:
    if isinstance(entry, dict):
        sha256, size = entry.get("sha256"), entry.get("size")
        if isinstance(sha256, str) and _HEX.fullmatch(sha256) and type(size) is int and size >= 0:
            return FileDigest(sha256, size)
    raise CheckpointError(f"{path}: the entry of {name[:200]!r} needs a sha256 in hex and a size in bytes")
