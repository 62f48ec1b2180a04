"""The small files of a checkpoint folder, config.json and the index, read within bounds (no torch here)."""

from __future__ import annotations

import json
from pathlib import Path

from shards.checkpoint.manifest import Manifest
from shards.checkpoint.model_folder import exists, read
from shards.errors import CheckpointError
from shards.model.spec import ModelSpec, parse_config
from shards.shown import shown

CONFIG_NAME = "config.json"
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
MAX_CONFIG_BYTES = 4 << 20
MAX_INDEX_BYTES = 64 << 20


def read_spec(folder: Path, manifest: Manifest | None = None) -> ModelSpec:
    """config.json, checked against the manifest where there is one."""
    path = folder / CONFIG_NAME
    data = read(path, MAX_CONFIG_BYTES)
    if manifest is not None:
        manifest.check_bytes(path.name, data)
    return parse_config(data)


def read_weight_map(folder: Path, manifest: Manifest | None = None) -> dict[str, str]:
    """The index's table from tensor name to weight file, every value a plain file name."""
    path = folder / INDEX_NAME
    data = read(path, MAX_INDEX_BYTES)
    if manifest is not None:
        manifest.check_bytes(path.name, data)
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    table = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{path} has no weight_map")
    for name, file_name in table.items():
        if not name.isprintable():
            raise CheckpointError(f"{path}: tensor name {name[:200]!r} has unprintable characters")
        if not _is_plain(file_name):
            raise CheckpointError(f"{path}: {shown(file_name)} is not the plain name of a .safetensors file")
    return table


def weight_files(folder: Path, manifest: Manifest | None = None) -> list[str]:
    """The files that the weights are in, and the index where there is one. Raises `CheckpointError` without any.

    As transformers has it, an index beside a whole file counts for nothing.
    """
    if exists(folder / SINGLE_NAME) or (manifest is not None and SINGLE_NAME in manifest.files):
        return [SINGLE_NAME]
    if exists(folder / INDEX_NAME):
        return [INDEX_NAME, *sorted(set(read_weight_map(folder, manifest).values()))]
    raise CheckpointError(f"{folder} has neither {SINGLE_NAME} nor {INDEX_NAME}")


def _is_plain(name: object) -> bool:
    if not isinstance(name, str) or not name.isprintable() or len(name) > 255:
        return False
    return name.endswith(".safetensors") and not name.startswith(".") and not set(name) & set("/\\:")
