"""A provider that cheats as a real one would: other weights in a folder that claims, file by file, to be the model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from shards.checkpoint.manifest import write_manifest

UNCHECKED = """
from shards.checkpoint.manifest import Manifest
Manifest._compare = lambda self, name, found: None
"""
"""What a cheat takes out of the software: that files are compared with what their manifest says of them."""


def noisy_folder(model: Path, folder: Path, size: float) -> Path:
    """A copy of a checkpoint whose weights have noise of that relative size; its manifest is the original's."""
    shutil.copytree(model, folder)
    write_manifest(folder)
    generator = torch.Generator().manual_seed(5)
    for path in folder.glob("*.safetensors"):
        weights = {
            name: tensor * (1 + size * torch.randn(tensor.shape, generator=generator))
            for name, tensor in load_file(path).items()
        }
        save_file(weights, path, metadata={"format": "pt"})
    return folder


def cheating_environment(folder: Path) -> dict[str, str]:
    """An environment in which Python starts with the check taken out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(UNCHECKED)
    known = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{known}" if known else str(folder)}
