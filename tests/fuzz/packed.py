"""Decoders of quantised checkpoints: what their settings say, and their layers' tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save

from shards.checkpoint.index import read_spec
from shards.checkpoint.opening import open_checkpoint
from shards.checkpoint.packed.config import BESIDE, read_packed
from shards.checkpoint.packed.numbers import BLOCKS
from shards.checkpoint.packed.scheme import PackedConfig
from shards.errors import CheckpointError, UnsupportedModel
from shards.model.spec import parse_config
from tests.fuzz.decoder import Decoder
from tests.fuzz.mutate import mutate_bytes, mutate_json
from tests.fuzz.scratch import scratch
from tests.shards.packed_files import FORMS

SHAPE = {
    "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1,
    "intermediate_size": 96, "vocab_size": 300,
}  # fmt: skip
NAMES = ("awq", "gptq v2", "gptq desc_act", "fp8 cut blocks", "fp8 tensor", "compressed int4 channels",
         "compressed int4 actorder", "compressed plain int8 asymmetric", "compressed fp8 channels")  # fmt: skip
"""Of the forms whose layers are mutated."""
LAYER = "model.layers.0.mlp.gate_proj"


def _folder(name: str) -> Path:
    folder = scratch() / name
    folder.mkdir(exist_ok=True)
    return folder


def _settings() -> list[bytes]:
    more: list[dict[str, Any]] = [
        {"quant_method": "gptq", "bits": 4, "dynamic": {"-:.*k_proj": {}, "+:.*down.*": {"bits": 8, "group_size": 64}}},
        {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["lm_head"]},
        {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]},
    ]
    each = [dict(form.settings) for form in FORMS.values()] + more
    inside = {"model_type": "llava", "text_config": {**SHAPE, "compression_config": each[0]}}
    return [json.dumps({**SHAPE, "quantization_config": one}).encode() for one in each] + [json.dumps(inside).encode()]


def _read_settings(data: bytes) -> PackedConfig | None:
    folder = _folder("settings")
    (folder / "config.json").write_bytes(data)
    return read_packed(folder, read_spec(folder))


def _read_beside(data: bytes) -> PackedConfig | None:
    folder = _folder("beside")
    for name in BESIDE:
        (folder / name).unlink(missing_ok=True)
    (folder / BESIDE[data[0] % len(BESIDE)]).write_bytes(data[1:])
    return read_packed(folder, parse_config(json.dumps(SHAPE)))


def _beside() -> list[bytes]:
    files: list[dict[str, Any]] = [
        {"bits": 4, "group_size": 128, "desc_act": True, "sym": True, "damp_percent": 0.01},
        {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"},
        {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}},
    ]
    return [bytes([place]) + json.dumps(file).encode() for place, file in enumerate(files)]


def _mutate_beside(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    return data[:1] + mutate_json(data[1:], rng, [each[1:] for each in others])


def _settings_wrong(sample: bytes, data: bytes, config: PackedConfig | None) -> str | None:
    if config is None:
        return None
    sizes = [size for scheme in config.schemes for size in (scheme.rows, scheme.columns) if size is not None]
    if not config.schemes or not all(type(size) is int and 0 < size <= 1 << 20 for size in sizes):
        return f"{config.schemes}"
    return None if {scheme.code for scheme in config.schemes} <= {"int4", "int8", "fp8"} else f"{config.schemes}"


@cache
def _layers() -> tuple[bytes, ...]:
    """One layer in each of some forms, as a safetensors file behind the form's number."""
    files = []
    for place, name in enumerate(NAMES):
        tensors, _ = FORMS[name].write(torch.Size((96, 64)), torch.Generator().manual_seed(1))
        named = {f"{LAYER}.{end}": tensor.contiguous() for end, tensor in tensors.items()}
        files.append(bytes([place]) + save({**named, "model.norm.weight": torch.ones(64)}))
    return tuple(files)


def _mutate_layers(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """The table, the numbers, or both, or under another form's settings."""
    size = int.from_bytes(data[1:9], "little")
    header, body = data[9 : 9 + size], data[9 + size :]
    form = bytes([rng.randrange(len(NAMES))]) if rng.random() < 0.1 else data[:1]
    if rng.random() < 0.7:
        table = json.loads(header)
        name = rng.choice([each for each in table if each != "__metadata__"])
        match rng.randrange(4):
            case 0:
                table[name]["shape"] = table[name]["shape"][::-1]
            case 1:
                table[name]["shape"] = [*table[name]["shape"], 1] if rng.random() < 0.5 else [*table[name]["shape"][1:]]
            case 2:
                table[name]["dtype"] = rng.choice(["F32", "F16", "BF16", "I32", "U32", "I8", "U8", "I64", "F8_E5M2"])
            case _:
                table[name.rpartition(".")[0] + "." + rng.choice(["g_idx", "scales", "weight", "x"])] = table.pop(name)
        header = json.dumps(table).encode()
    if rng.random() < 0.7:
        at = rng.randrange(len(body))
        body = (
            body[:at]
            + mutate_bytes(body[at : at + 8], rng)[: len(body[at : at + 8])].ljust(len(body[at : at + 8]), b"\xff")
            + body[at + 8 :]
        )
    return form + len(header).to_bytes(8, "little") + header + body


def _read_layers(data: bytes) -> dict[str, torch.Tensor]:
    folder = _folder("layers")
    settings = dict(FORMS[NAMES[data[0] % len(NAMES)]].settings)
    (folder / "config.json").write_text(json.dumps({**SHAPE, "quantization_config": settings}))
    (folder / "model.safetensors").write_bytes(data[1:])
    checkpoint = open_checkpoint(folder)
    read = {}
    for name in checkpoint.names():
        shape, kind = checkpoint.shape(name), checkpoint.blocks(name)
        read[name] = checkpoint.read(name)
        if tuple(read[name].shape) != shape:
            raise ValueError(f"{name} has shape {list(read[name].shape)}, it said {shape}")
        if kind is not None and kind.name in BLOCKS:
            rows = checkpoint.read_blocks(name)
            if tuple(rows.shape) != (shape[0], shape[1] // kind.items * kind.nbytes):
                raise ValueError(f"{name}: {list(rows.shape)} of blocks")
    return read


def _layers_wrong(sample: bytes, data: bytes, read: dict[str, torch.Tensor]) -> str | None:
    weight = read.get(f"{LAYER}.weight")
    if weight is None:
        return "there is no layer"
    return None if bool(torch.isfinite(weight).all()) else "numbers that are none"


def decoders() -> list[Decoder]:
    """All of this module."""
    bad = (CheckpointError, UnsupportedModel)
    return [
        Decoder(
            "settings of quantised weights",
            _settings,
            _read_settings,
            bad,
            _settings_wrong,
            (
                "shards.checkpoint.packed.config:read_packed",
                "shards.checkpoint.packed.config:_parse",
                "shards.checkpoint.packed.compressed:parse_compressed",
            ),
            mutate_json,
        ),
        Decoder(
            "settings beside config.json",
            _beside,
            _read_beside,
            bad,
            _settings_wrong,
            ("shards.checkpoint.packed.config:_beside",),
            _mutate_beside,
            0.5,
        ),
        Decoder(
            "quantised layers",
            lambda: list(_layers()),
            _read_layers,
            bad,
            _layers_wrong,
            ("shards.checkpoint.packed.layouts:layer_of",),
            _mutate_layers,
            0.15,
        ),
    ]
