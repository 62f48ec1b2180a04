"""From what the user typed after --model to a local checkpoint, downloading as little as possible."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from shards.checkpoint.forms import ADAPTER_CONFIG, check_form
from shards.checkpoint.gguf_header import is_gguf
from shards.checkpoint.index import CONFIG_NAME, INDEX_NAME, SINGLE_NAME, read_spec, read_weight_map
from shards.checkpoint.manifest import MANIFEST_NAME, read_manifest, write_manifest
from shards.checkpoint.model_folder import exists, names_in
from shards.checkpoint.names import tensors_of
from shards.checkpoint.packed.config import BESIDE
from shards.errors import CheckpointError
from shards.model.span import Span
from shards.progress import Progress, silent

if TYPE_CHECKING:
    from shards.checkpoint.hub import HubModel

SHIPPED = Path(__file__).parents[1] / "models"
TOKENIZER = "tokenizer.json"
TOKENIZER_FILES = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
OLDER_TOKENIZER_FILES = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "added_tokens.json",
    "tiktoken.model",
)
"""What tokenizer.json can be made of, where there is none (see `shards.text.convert`)."""
_SHIPPED_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


def resolve(
    name_or_path: str,
    *,
    span: Span | None = None,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Path:
    """The checkpoint for a local folder or GGUF file, a model that ships with the package, or a hub name.

    From the hub (HF_ENDPOINT, by default huggingface.co) it fetches config, tokenizer and index, then of the
    weights only the files that hold tensors of `span` (None: no weights), all from one commit, into
    `cache` (None: huggingface_hub's own). Raises `CheckpointError` with what to do about it: no such
    model, no safetensors, offline; `UnsupportedModel` when config.json lacks a shape.
    """
    local = Path(name_or_path).expanduser()
    if name_or_path and local.is_dir():
        check_form(str(local), names_in(local))
        return local
    if name_or_path and is_gguf(local) and local.exists():
        return local
    if _SHIPPED_NAME.fullmatch(name_or_path) and (SHIPPED / name_or_path / "config.json").is_file():
        return SHIPPED / name_or_path
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") != 1:
        shipped = ", ".join(shipped_models()) or "none"
        raise CheckpointError(
            f"{name_or_path!r} is not a folder, not a GGUF file, not a model that ships with the mesh ({shipped}), "
            "and not a hub name (owner/model)"
        )
    return _from_hub(name_or_path, span, cache, progress)


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))


def _from_hub(name: str, span: Span | None, cache: Path | None, progress: Progress) -> Path:
    from shards.checkpoint.hub import HubModel  # imports huggingface_hub, which local models do without

    model = HubModel(name, cache=cache, progress=progress)
    if model.fetch(ADAPTER_CONFIG):
        check_form(name, {ADAPTER_CONFIG})
    for filename in ("generation_config.json", *TOKENIZER_FILES, MANIFEST_NAME, *BESIDE):
        model.fetch(filename)
    if not exists(model.folder / TOKENIZER):
        for filename in OLDER_TOKENIZER_FILES:
            model.fetch(filename)
    indexed = model.fetch(INDEX_NAME)
    if not exists(model.folder / MANIFEST_NAME):
        _write_pins(model, indexed=indexed, progress=progress)
    if span is None:
        if not indexed and not model.has(SINGLE_NAME):
            raise _no_weights(model, name, SINGLE_NAME)
        return model.folder
    manifest, missing = read_manifest(model.folder), None
    indexed = indexed and (manifest is None or SINGLE_NAME not in manifest.files)
    for filename in _files_of(model.folder, span) if indexed else ():
        if not model.fetch(filename):  # an old index, whose files are gone
            missing = filename
            break
    if missing is None and indexed:
        return model.folder
    if not model.fetch(SINGLE_NAME):
        raise _no_weights(model, name, missing or SINGLE_NAME)
    return model.folder


def _write_pins(model: HubModel, *, indexed: bool, progress: Progress) -> None:
    """A manifest by what the hub says of files that we may never download, so that all who have some agree on it."""
    weights = model.pins([SINGLE_NAME])
    if weights is None and indexed:
        weights = model.pins(set(read_weight_map(model.folder).values()))
    if weights is not None:
        write_manifest(model.folder, weights, progress=progress)


def _no_weights(model: HubModel, name: str, missing: str) -> CheckpointError:
    """Raises `UnsupportedModel` where the hub has the weights in another form."""
    names = model.names()
    if names and INDEX_NAME not in names:
        check_form(name, {*names, CONFIG_NAME})
    return CheckpointError(
        f"{name} has no {missing}: only safetensors are read, so convert its weights "
        "(transformers' save_pretrained does) or choose another copy of the model"
    )


def _files_of(folder: Path, span: Span) -> list[str]:
    """The weight files that hold tensors of `span`, by config.json and the index."""
    spec = read_spec(folder)
    weight_map = read_weight_map(folder)
    return sorted({weight_map[name] for name in tensors_of(weight_map, span, spec.n_blocks)})
