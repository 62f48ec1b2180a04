"""Writes small checkpoints as GGUF files with the format's own library, and beside each the weights it stands for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map, quants

from tests.shards.models import make_checkpoint, write_tokenizer

WIDE = {"hidden_size": 256, "intermediate_size": 256, "n_heads": 8, "n_kv_heads": 4}
"""A shape in whole blocks of the K types."""
NARROW = {"hidden_size": 64, "intermediate_size": 96, "n_heads": 4, "n_kv_heads": 2}
"""A shape in whole blocks of the others, whose layers fill no whole panel."""
_SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Where the float16 numbers of a block lie, of the types that the library cannot write."""


def make_gguf(
    folder: Path,
    family: str = "llama",
    types: str | Callable[[str], str] = "Q8_0",
    *,
    metadata: Mapping[str, Any] | None = None,
    **shape: Any,
) -> tuple[Path, Path]:
    """A random model as a GGUF file, matrices in blocks of `types` (by transformers' name).

    Returns the file and a folder with the weights that it stands for. `metadata` is added, or taken out where None.
    """
    source = make_checkpoint(folder / "source", family, **shape)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    config = model.config
    arch = {"mistral": "llama", "mixtral": "llama", "gemma3_text": "gemma3", "qwen3_moe": "qwen3moe"}.get(
        config.model_type, config.model_type
    )
    path = folder / "model.gguf"
    writer = GGUFWriter(path, arch)
    names = get_tensor_name_map(next(k for k, v in MODEL_ARCH_NAMES.items() if v == arch), config.num_hidden_layers)
    for key, value in {**_facts(config, arch), **_tokenizer(source), **(metadata or {})}.items():
        _add(writer, key, value)
    widened: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        heads = heads if arch == "llama" else None  # which is stored for rotation of neighbours, not of halves
        turned = _neighbours(tensor, heads) if heads else tensor
        shift = 1.0 if arch.startswith("gemma") and name.endswith("norm.weight") else 0.0
        chosen = types if isinstance(types, str) else types(name)
        kind = GGMLQuantizationType[chosen if tensor.ndim >= 2 and "mlp.gate." not in name else "F32"]
        wides = []
        for stored_as, part in _parts(name, turned + shift, names.get_name):
            raw = _stored(part.numpy(), kind)
            writer.add_tensor(stored_as, raw, raw_dtype=kind)
            wides.append(torch.from_numpy(quants.dequantize(raw, kind).reshape(part.shape).copy()) - shift)
        wide = torch.cat(wides, dim=1) if len(wides) > 1 else wides[0]
        widened[name] = _halves(wide, heads) if heads else wide
    scaling = _rope(config)
    if scaling["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _factors(scaling, config.head_dim))
    if scaling["rope_type"] == "longrope":
        for length in ("short", "long"):
            factors = np.asarray(scaling[f"{length}_factor"], dtype=np.float32)
            writer.add_tensor(f"rope_factors_{length}.weight", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model.load_state_dict(widened, strict=not config.tie_word_embeddings)
    model.save_pretrained(folder / "widened")
    write_tokenizer(folder / "widened")
    return path, folder / "widened"


def _parts(name: str, tensor: torch.Tensor, known: Callable[[str], str | None]) -> list[tuple[str, torch.Tensor]]:
    """A tensor under its name in such files; gate and up of experts are two there."""
    if name.endswith(".mlp.experts.gate_up_proj"):
        stem = name.removesuffix("gate_up_proj")
        gate, up = (f"{known(f'{stem}{part}_proj')}.weight" for part in ("gate", "up"))
        return list(zip((gate, up), tensor.chunk(2, dim=1), strict=True))
    stem, end = name.rsplit(".", 1) if name.endswith((".weight", ".bias")) else (name, "weight")
    return [(f"{known(stem)}.{end}", tensor)]


def _facts(config: Any, arch: str) -> dict[str, Any]:
    facts = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(_rope(config)["rope_theta"]),
        "vocab_size": config.vocab_size,
    }
    if getattr(config, "head_dim", None) and arch != "qwen2":
        facts |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if _rope(config)["rope_type"] == "linear":
        facts |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(_rope(config)["factor"])}
    if arch in ("gemma2", "gemma3", "phi3"):
        facts["attention.sliding_window"] = config.sliding_window or 0
    if arch == "gemma2":
        facts["attn_logit_softcapping"] = config.attn_logit_softcapping
        facts["final_logit_softcapping"] = config.final_logit_softcapping
    if arch == "gemma3":
        facts["attention.sliding_window_pattern"] = config.layer_types.index("full_attention") + 1
    if arch == "phi3":
        head_dim, part = config.hidden_size // config.num_attention_heads, _rope(config)["partial_rotary_factor"]
        facts["rope.dimension_count"] = int(head_dim * part)
        facts["rope.scaling.original_context_length"] = config.original_max_position_embeddings
    if _rope(config)["rope_type"] == "longrope":
        original = config.original_max_position_embeddings
        scale = config.max_position_embeddings / original
        facts["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(scale) / math.log(original))
    if config.model_type in ("mixtral", "qwen3_moe"):
        facts |= {"expert_count": config.num_local_experts, "expert_used_count": config.num_experts_per_tok}
    if config.model_type == "qwen3_moe":
        facts |= {"expert_feed_forward_length": config.moe_intermediate_size}
    return {f"{arch}.{key}": value for key, value in facts.items()}


def _rope(config: Any) -> Mapping[str, Any]:
    rope: Mapping[str, Any] = config.rope_parameters
    return rope.get("full_attention", rope)


def _tokenizer(folder: Path) -> dict[str, Any]:
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in ("<s>", "</s>") else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": model["vocab"]["<s>"],
        "tokenizer.ggml.eos_token_id": model["vocab"]["</s>"],
        "tokenizer.chat_template": settings["chat_template"],
    }


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    match value:
        case None:
            return
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def _stored(values: np.ndarray[Any, Any], kind: GGMLQuantizationType) -> np.ndarray[Any, Any]:
    if kind.name not in _SCALES:
        return np.asarray(quants.quantize(values.astype(np.float32), kind))
    *rows, width = quants.quant_shape_to_byte_shape(values.shape, kind)
    block = quants.GGML_QUANT_SIZES[kind][1]
    raw = np.random.default_rng(values.size).integers(0, 256, (*rows, width // block, block), dtype=np.uint8)
    for at in _SCALES[kind.name]:
        raw[..., at : at + 2] = np.frombuffer(np.float16(0.0003).tobytes(), dtype=np.uint8)
    return raw.reshape(*rows, width)


def _neighbours(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """From rows of which halves are rotated together to those of which neighbours are."""
    return tensor.view(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape).contiguous()


def _halves(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    return tensor.view(heads, -1, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape).contiguous()


def _factors(scaling: Mapping[str, Any], head_dim: int) -> np.ndarray[Any, Any]:
    """What llama.cpp divides each frequency by."""
    frequencies = scaling["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim)
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - kept) / scaling["factor"] + kept)).astype(np.float32)
