"""What a provider tells about its model without its weights: the small files, their hashes, the model's digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from shards.checkpoint.gguf_header import is_gguf
from shards.checkpoint.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, read_manifest
from shards.checkpoint.model_folder import exists, find, read
from shards.errors import CheckpointError
from shards.model.spec import ModelSpec, parse_config
from shards.text.chat_template import SANDBOX
from shards.text.convert import ensure_fast_tokenizer
from shards.text.fast import check_tokenizer, tokenizer_from_files

SERVED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
MAX_FILE_BYTES = 48 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's shape, identity, and the small files that clients fetch from its providers."""

    name: str
    spec: ModelSpec
    digest: str
    """sha256 in hex over name, config.json and the manifest, where there is one: equal on every node that has the
    same model, whichever of its weights it has downloaded. Only a manifest covers the weights' values. Of a GGUF file
    its head counts, with the types of all tensors, and its size."""
    contents: dict[str, bytes]

    @property
    def hashes(self) -> dict[str, tuple[str, int]]:
        """Per file: sha256 in hex and size in bytes."""
        return {name: (hashlib.sha256(data).hexdigest(), len(data)) for name, data in self.contents.items()}


def model_name(asked: str, folder: Path) -> str:
    """A folder is known by its last name, a file by its own without the end, any other model as it was asked for."""
    if is_gguf(folder):
        return folder.stem
    return folder.resolve().name if Path(asked).expanduser().is_dir() else asked


def read_model_files(name: str, folder: Path) -> ModelFiles:
    """Read and check them. Raises `CheckpointError`, `UnsupportedModel`, or `TokenizerError` on a wrong tokenizer."""
    contents, identity = _of_gguf(folder) if is_gguf(folder) else _of_folder(folder)
    spec = parse_config(contents["config.json"])
    check_tokenizer(tokenizer_from_files(contents), spec)
    SANDBOX.rest()  # a provider reads no texts
    hasher = hashlib.sha256(b"inference-mesh model 2\0")
    for part in (name.encode(), contents["config.json"], *identity):
        hasher.update(len(part).to_bytes(8, "little") + part)
    return ModelFiles(name, spec, hasher.hexdigest(), contents)


def _of_folder(folder: Path) -> tuple[dict[str, bytes], list[bytes]]:
    """The small files, and what else of the weights counts for the digest."""
    if not exists(folder / "config.json"):
        raise CheckpointError(f"{folder} has no config.json")
    ensure_fast_tokenizer(folder)
    manifest = read_manifest(folder)
    contents: dict[str, bytes] = {}
    for file in SERVED_FILES:
        data = find(folder / file, MAX_FILE_BYTES)
        if data is None:
            continue
        if manifest is not None and file in manifest.files:
            manifest.check_bytes(file, data)
        contents[file] = data
    return contents, [] if manifest is None else [read(folder / MANIFEST_NAME, MAX_MANIFEST_BYTES)]


def _of_gguf(path: Path) -> tuple[dict[str, bytes], list[bytes]]:
    from shards.checkpoint.gguf import GgufCheckpoint  # imports torch

    checkpoint = GgufCheckpoint.open(path)
    contents = checkpoint.small_files()
    for file, data in contents.items():
        if len(data) > MAX_FILE_BYTES:
            raise CheckpointError(f"{path}: its {file} would have more than {MAX_FILE_BYTES} bytes")
    return contents, [checkpoint.digest()]
