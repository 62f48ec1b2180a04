"""Writes the numbers that a quantised checkpoint stands for as a plain one."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import save_file

from shards.checkpoint.folder import Checkpoint
from shards.checkpoint.quantising import QuantisedCheckpoint
from shards.model.precision import Precision


def write_widened(source: Path, precision: Precision, target: Path) -> Path:
    """`source` quantised and widened to float32 again, with its small files; returns `target`."""
    checkpoint = QuantisedCheckpoint(Checkpoint.open(source), precision)
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, target / path.name)
    (target / "model.safetensors.index.json").unlink(missing_ok=True)
    tensors = {name: checkpoint.read(name).contiguous() for name in checkpoint.names()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target
