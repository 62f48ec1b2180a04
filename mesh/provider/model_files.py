"""What a provider tells about its model without its weights: the small files, their hashes, the model's digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shards.checkpoint.gguf_header import is_gguf
from shards.checkpoint.index import weight_files
from shards.checkpoint.manifest import (
    MANIFEST_NAME,
    FileDigest,
    Manifest,
    digest_of,
    hash_file,
    model_digest,
    read_manifest,
)
from shards.checkpoint.model_folder import exists, find, opened
from shards.checkpoint.packed.config import beside
from shards.errors import CheckpointError
from shards.model.precision import Precision
from shards.model.served import served_form
from shards.model.spec import ModelSpec, parse_config
from shards.progress import Progress, silent
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
WEIGHTS_OF_GGUF = "weights.gguf"
"""In the manifest, whatever the file is called."""
MAX_FILE_BYTES = 48 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's shape, identity, and the small files that clients fetch from its providers."""

    name: str
    spec: ModelSpec
    digest: str
    """sha256 in hex by name and manifest, and so by all small files and weights: equal on every node that has the
    same model, whichever of its weights it has downloaded."""
    contents: dict[str, bytes]
    """The manifest is one of them."""
    bits: int = 0
    """Of a weight in a folder of quantised ones; 0 where they are floats, or the file says of each what it is."""

    @property
    def manifest(self) -> FileDigest:
        """What the manifest is: all that others need to know to check the other files."""
        return digest_of(self.contents[MANIFEST_NAME])


def model_name(asked: str, folder: Path, precision: Precision | None = None) -> str:
    """A folder is known by its last name, a file by its own without the end, any other model as it was asked for.

    A model that is quantised as it is loaded is another one, and says so: clients hold a name to one digest.
    """
    if is_gguf(folder):
        return folder.stem
    name = folder.resolve().name if Path(asked).expanduser().is_dir() else asked
    return name if precision is None else f"{name}-{precision}"


def read_model_files(
    name: str, folder: Path, precision: Precision | None = None, *, progress: Progress = silent
) -> ModelFiles:
    """Read and check them; weights that nobody has hashed for us yet are hashed. `precision` is what the weights are
    quantised to as they are loaded.

    Raises `CheckpointError`, `UnsupportedModel`, or `TokenizerError` on a wrong tokenizer. What of a quantised model
    can be refused without its weights is refused here, before anything is joined or loaded.
    """
    contents = _small_of_gguf(folder) if is_gguf(folder) else _small_of_folder(folder)
    spec = parse_config(contents["config.json"])
    form = None if is_gguf(folder) else served_form(folder, spec)
    check_tokenizer(tokenizer_from_files(contents), spec)
    SANDBOX.rest()  # a provider reads no texts
    listed = {file: digest_of(data) for file, data in contents.items()}
    if form is not None and form.source != "config.json":
        listed[form.source] = digest_of(beside(folder)[form.source])
    listed |= _weights(folder, progress)
    manifest = Manifest(listed, "" if precision is None else precision.identity)
    contents[MANIFEST_NAME] = manifest.to_bytes()
    digest = model_digest(name, digest_of(contents[MANIFEST_NAME]).sha256)
    return ModelFiles(name, spec, digest, contents, 0 if form is None else form.bits)


def _small_of_folder(folder: Path) -> dict[str, bytes]:
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
    return contents


def _weights(path: Path, progress: Progress) -> dict[str, FileDigest]:
    """What the files of the weights are."""
    if is_gguf(path):
        return {WEIGHTS_OF_GGUF: _hash(path, progress)}
    manifest = read_manifest(path)
    names = weight_files(path, manifest)
    return (
        manifest.only(names).files if manifest is not None else {name: _hash(path / name, progress) for name in names}
    )


def _hash(path: Path, progress: Progress) -> FileDigest:
    if not exists(path):
        raise CheckpointError(
            f"{path.parent} has only some of the weights ({path.name} is missing), and no {MANIFEST_NAME} says what "
            "the others are: put in all of them, or the manifest of somebody who has them"
        )
    with opened(path) as file:
        return hash_file(file, path.name, progress)


def _small_of_gguf(path: Path) -> dict[str, bytes]:
    from shards.checkpoint.gguf import GgufCheckpoint  # imports torch

    contents = GgufCheckpoint.open(path).small_files()
    for file, data in contents.items():
        if len(data) > MAX_FILE_BYTES:
            raise CheckpointError(f"{path}: its {file} would have more than {MAX_FILE_BYTES} bytes")
    return contents
