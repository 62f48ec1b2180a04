"""Decoders of a model's files: safetensors and GGUF headers, index, config, manifest."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from mesh.provider.namesakes import describe, differing_keys
from shards.checkpoint.gguf_config import config_of
from shards.checkpoint.gguf_header import GgufHead, read_head
from shards.checkpoint.gguf_names import tensor_name
from shards.checkpoint.gguf_tokenizer import ends_of, settings_of, tokenizer_of
from shards.checkpoint.index import read_spec, read_weight_map
from shards.checkpoint.manifest import Manifest, parse_manifest, read_manifest
from shards.checkpoint.safetensors_header import ITEM_BYTES, TensorEntry, read_header
from shards.checkpoint.source import SHIPPED
from shards.errors import CheckpointError, UnsupportedModel
from shards.model.native_config import NativeConfig, parse_native
from shards.model.span import Span
from shards.model.spec import ModelSpec
from tests.fuzz.decoder import Decoder
from tests.fuzz.mutate import mutate_bytes, mutate_json
from tests.fuzz.scratch import scratch
from tests.shards.gguf_bytes import small_model

MODEL = SHIPPED / "tiny-python"


# --- safetensors ---


def _weights() -> list[bytes]:
    tensors = [("a", "F32", [2, 3]), ("b.weight", "BF16", [4]), ("scalar", "I64", []), ("empty", "U8", [0, 7])]
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, shape in tensors:
        size = math.prod(shape) * ITEM_BYTES[dtype]
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(table).encode()
    spaced = header + b" " * (-len(header) % 8)
    return [len(each).to_bytes(8, "little") + each + bytes(at) for each in (header, spaced)]


def _mutate_weights(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Mostly the table, with a length that fits it."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng, others)
    size = int.from_bytes(data[:8], "little")
    header = mutate_json(data[8 : 8 + size].rstrip(), rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def _header(data: bytes) -> dict[str, TensorEntry]:
    return read_header(io.BytesIO(data), len(data), "model.safetensors")


def _header_wrong(sample: bytes, data: bytes, entries: dict[str, TensorEntry]) -> str | None:
    position = 8 + int.from_bytes(data[:8], "little")
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position or entry.nbytes != math.prod(entry.shape) * ITEM_BYTES[entry.dtype]:
            return f"{name[:40]!r} is at {entry.begin}:{entry.end}, {position} was due"
        position = entry.end
    return None if position == len(data) else f"{len(data) - position} bytes belong to nobody"


# --- GGUF ---


def _gguf(data: bytes) -> tuple[GgufHead, dict[str, Any]]:
    head = read_head(io.BytesIO(data), len(data), "model.gguf")
    config = config_of(head, {})
    for name in head.tensors:
        tensor_name(name, head.metadata["general.architecture"])
    tokenizer_of(head.metadata), settings_of(head.metadata), ends_of(head.metadata)
    return head, config


def _gguf_wrong(sample: bytes, data: bytes, found: tuple[GgufHead, dict[str, Any]]) -> str | None:
    head, config = found
    end = head.size
    for name, tensor in sorted(head.tensors.items(), key=lambda item: item[1].begin):
        if tensor.begin < end or tensor.nbytes != math.prod(tensor.shape) * tensor.type.nbytes // tensor.type.items:
            return f"{name[:40]!r} is at {tensor.begin}, where {end} is taken"
        end = tensor.begin + tensor.nbytes
    if end > len(data):
        return f"tensors end at {end} of {len(data)} bytes"
    sizes = [value for name, value in config.items() if name.endswith("_size") or name.startswith("num_")]
    return None if all(type(size) is int and 0 < size < 1 << 31 for size in sizes) else f"sizes {sizes}"


# --- config, index, manifest ---

CONFIGS: tuple[dict[str, Any], ...] = (
    json.loads((MODEL / "config.json").read_bytes()),
    {
        "model_type": "llama", "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2,
        "num_hidden_layers": 5, "intermediate_size": 80, "max_position_embeddings": 512, "vocab_size": 300,
        "rms_norm_eps": 1e-5, "eos_token_id": [1, 2], "torch_dtype": "bfloat16", "attention_bias": True,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 128}, "rope_theta": 500000.0,
    },
    {
        "model_type": "qwen2", "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2,
        "num_hidden_layers": 5, "vocab_size": 300, "intermediate_size": 80,
        "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2,
        "rope_scaling": {"type": "linear", "factor": 2.0}, "tie_word_embeddings": False,
    },
    {
        "model_type": "gemma3", "eos_token_id": 1, "text_config": {
            "model_type": "gemma3_text", "hidden_size": 48, "num_hidden_layers": 7, "intermediate_size": 80,
            "head_dim": 16, "query_pre_attn_scalar": 20, "sliding_window": 24, "sliding_window_pattern": 3,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_local_base_freq": 10000.0,
            "final_logit_softcapping": 30.0,
        },
    },
    {
        "model_type": "phi3", "hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 5,
        "intermediate_size": 80, "partial_rotary_factor": 0.75, "original_max_position_embeddings": 64,
        "max_position_embeddings": 512, "sliding_window": 32,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.5, 2.0], "long_factor": [1.0, 3.0, 9.0]},
    },
    {
        "model_type": "qwen3_moe", "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2,
        "num_hidden_layers": 5, "vocab_size": 300, "intermediate_size": 80, "moe_intermediate_size": 40,
        "num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": True, "mlp_only_layers": [1],
        "decoder_sparse_step": 2, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 20, "mscale": 0.7,
                                                   "mscale_all_dim": 0.9, "original_max_position_embeddings": 128},
    },
    {
        "model_type": "gpt_oss", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "num_hidden_layers": 4, "vocab_size": 300, "intermediate_size": 64, "num_local_experts": 4,
        "num_experts_per_tok": 2, "swiglu_limit": 7.0, "sliding_window": 16,
        "quantization_config": {"quant_method": "mxfp4"},
    },
)  # fmt: skip


def _config(data: bytes) -> tuple[ModelSpec, NativeConfig | None]:
    folder = scratch()
    (folder / "config.json").write_bytes(data)
    spec = read_spec(folder)
    try:
        return spec, parse_native(spec)
    except UnsupportedModel:
        return spec, None


def _config_wrong(sample: bytes, data: bytes, found: tuple[ModelSpec, NativeConfig | None]) -> str | None:
    spec, native = found
    numbers = (spec.n_blocks, spec.hidden_size, spec.vocab_size, spec.context_length)
    if not all(type(number) is int and 0 < number < 1 << 31 for number in numbers):
        return f"sizes {numbers}"
    if not all(type(token) is int and 0 <= token < 1 << 31 for token in spec.eos_token_ids):
        return f"end tokens {str(spec.eos_token_ids)[:80]}"
    if native is None:
        return None
    if len(native.windows) != spec.n_blocks or native.n_heads % native.n_kv_heads or not 0 < native.rms_eps < math.inf:
        return f"{native}"
    experts, yarn = native.experts, native.rope.yarn
    if experts is not None and not (0 < experts.chosen <= experts.count and len(experts.blocks) == spec.n_blocks):
        return f"{experts}"
    if yarn is not None and not all(map(math.isfinite, (*yarn.ramp(native.rope.theta, 64), yarn.attention_factor))):
        return f"{yarn}"
    return None if 0 < native.rope.theta < math.inf else f"{native.rope}"


def _index() -> list[bytes]:
    names = [f"model.layers.{block}.mlp.weight" for block in range(5)]
    table = {name: f"model-0000{1 + at // 3}-of-00002.safetensors" for at, name in enumerate(names)}
    return [json.dumps({"metadata": {"total_size": 1000}, "weight_map": table}).encode()]


def _weight_map(data: bytes) -> dict[str, str]:
    (scratch() / "model.safetensors.index.json").write_bytes(data)
    return read_weight_map(scratch())


def _map_wrong(sample: bytes, data: bytes, table: dict[str, str]) -> str | None:
    for name, file in table.items():
        path = Path("/model") / file
        if path.parent != Path("/model") or path.suffix != ".safetensors" or not name.isprintable():
            return f"{name[:40]!r} is in {file[:80]!r}"
    return None


def _manifest(data: bytes) -> Manifest | None:
    (scratch() / "mesh.manifest.json").write_bytes(data)
    return read_manifest(scratch())


def _compared(data: bytes) -> list[str]:
    ours = (MODEL / "config.json").read_bytes()
    assert all(isinstance(key, str) for key in differing_keys(ours, data))
    theirs = parse_manifest(data)
    return describe(parse_manifest((MODEL / "mesh.manifest.json").read_bytes()), theirs, {}, {})


def _manifest_wrong(sample: bytes, data: bytes, manifest: Manifest) -> str | None:
    for name, entry in manifest.files.items():
        if len(entry.sha256) != 64 or set(entry.sha256) - set("0123456789abcdef") or type(entry.size) is not int:
            return f"{name[:40]!r}: {entry}"
    return None


def decoders() -> list[Decoder]:
    """All of this module."""
    bad_file = (CheckpointError, UnsupportedModel)
    return [
        Decoder(
            "safetensors headers",
            _weights,
            _header,
            (CheckpointError,),
            _header_wrong,
            ("shards.checkpoint.safetensors_header:read_header",),
            _mutate_weights,
        ),
        Decoder(
            "GGUF heads",
            lambda: [
                small_model(),
                small_model(rope__scaling__type="linear", rope__scaling__factor=2.0),
                small_model("gemma2", attention__sliding_window=32, attn_logit_softcapping=50.0),
                small_model("gemma3", attention__sliding_window=32, rope__freq_base_swa=10_000.0),
                small_model("phi3", attention__sliding_window=0, rope__dimension_count=12),
            ],
            _gguf,
            bad_file,
            _gguf_wrong,
            (
                "shards.checkpoint.gguf_header:read_head",
                "shards.checkpoint.gguf_header:_Reader._list",
                "shards.checkpoint.gguf_header:_Reader._number",
                "shards.checkpoint.gguf_config:config_of",
                "shards.checkpoint.gguf_tokenizer:tokenizer_of",
            ),
        ),
        Decoder(
            "config.json",
            lambda: [json.dumps(config).encode() for config in CONFIGS],
            _config,
            bad_file,
            _config_wrong,
            (
                "shards.model.spec:parse_config",
                "shards.model.native_config:parse_native",
                "shards.model.rope_config:parse_rope",
                "shards.model.experts_config:parse_experts",
                "shards.model.yarn:parse_yarn",
                "shards.checkpoint.index:read_spec",
            ),
            mutate_json,
        ),
        Decoder(
            "index of weight files",
            _index,
            _weight_map,
            (CheckpointError,),
            _map_wrong,
            ("shards.checkpoint.index:read_weight_map",),
            mutate_json,
        ),
        Decoder(
            "manifests",
            lambda: [(MODEL / "mesh.manifest.json").read_bytes()],
            _manifest,
            (CheckpointError,),
            _manifest_wrong,
            ("shards.checkpoint.manifest:read_manifest",),
            mutate_json,
        ),
        Decoder(
            "manifests of other models of one name",
            lambda: [(MODEL / "mesh.manifest.json").read_bytes()],
            _compared,
            (CheckpointError,),
            lambda sample, data, said: next((line for line in said if not line.isprintable() or len(line) > 200), None),
            (
                "shards.checkpoint.manifest:parse_manifest",
                "mesh.provider.namesakes:_parse",
                "mesh.provider.namesakes:differing_keys",
            ),
            mutate_json,
        ),
        Decoder(
            "spans",
            lambda: [b"0:5", b"12:34"],
            lambda data: Span.parse(data.decode("utf-8", "surrogateescape")),
            (ValueError,),
            lambda sample, data, span: None if 0 <= span.start < span.end else "no span",
            ("shards.model.span:Span.parse",),
        ),
    ]
