"""The same function by other weights: for checkpoints that were quantised once, and lie where a few bits put them.

A float32 checkpoint made from a 4-bit file is not changed by quantising it to those 4 bits again, which says nothing
of a method. Here the columns of every linear layer are multiplied by factors near 1 that what comes before divides by:
norms for queries, keys, values, gate and up; the rows of values for the output, and of up for down. No block of 32
weights lies on evenly spaced levels any more, and the model computes what it did, but for rounding.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from mesh.provider.model_files import SERVED_FILES
from shards.checkpoint.folder import Checkpoint
from shards.model.native_config import parse_native

SPREAD = 0.25
"""Factors lie between e^-SPREAD and e^SPREAD."""


def write_rescaled(source: Path, target: Path) -> Path:
    """Write a Llama-like checkpoint without biases in float32 with other scales; returns `target`."""
    checkpoint = Checkpoint.open(source)
    config = parse_native(checkpoint.spec)
    if config.qkv_bias or config.o_bias or config.mlp_bias:
        raise SystemExit("--rescale is for models without biases")
    tensors = {name: checkpoint.read(name).float() for name in checkpoint.names()}
    generator = torch.Generator().manual_seed(1)

    def factors(count: int) -> torch.Tensor:
        return ((torch.rand(count, generator=generator) * 2 - 1) * SPREAD).exp()

    for block in range(config.n_blocks):
        prefix = f"model.layers.{block}."
        attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
        for norm, readers in (
            (f"{prefix}input_layernorm", [f"{attention}{name}_proj" for name in "qkv"]),
            (f"{prefix}post_attention_layernorm", [f"{mlp}{name}_proj" for name in ("gate", "up")]),
        ):
            factor = factors(config.hidden_size)
            tensors[f"{norm}.weight"] /= factor
            for reader in readers:
                tensors[f"{reader}.weight"] *= factor
        factor = factors(config.n_kv_heads * config.head_dim)
        tensors[f"{attention}v_proj.weight"] /= factor.unsqueeze(1)
        shared = factor.view(config.n_kv_heads, -1).repeat_interleave(config.n_heads // config.n_kv_heads, dim=0)
        tensors[f"{attention}o_proj.weight"] *= shared.flatten()
        factor = factors(config.intermediate_size)
        tensors[f"{mlp}up_proj.weight"] /= factor.unsqueeze(1)
        tensors[f"{mlp}down_proj.weight"] *= factor
    target.mkdir(parents=True)
    for name in SERVED_FILES:
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target
