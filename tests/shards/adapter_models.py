"""Small random checkpoints of the adapter's families, written with transformers, for tests of any level.

Run as a program it writes one: `python -m tests.shards.adapter_models FOLDER gemma3`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.shards.models import BOS, EOS, VOCAB_SIZE, write_tokenizer

N_BLOCKS = 5
CONTEXT = 160
WINDOW = 24
IDS = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": None, "vocab_size": VOCAB_SIZE}
_LLAMA_LIKE: dict[str, Any] = {
    **IDS,
    "hidden_size": 36,
    "intermediate_size": 52,
    "num_hidden_layers": N_BLOCKS,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": CONTEXT,
}
_LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
_FALCON: dict[str, Any] = {
    **IDS,
    "hidden_size": 36,
    "num_hidden_layers": N_BLOCKS,
    "num_attention_heads": 6,
    "max_position_embeddings": CONTEXT,
}
_GEMMA3_TEXT: dict[str, Any] = {
    **_LLAMA_LIKE,
    "sliding_window": WINDOW,
    "layer_types": _LAYER_TYPES,
    "query_pre_attn_scalar": 10,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _LLAMA_LIKE),
    "qwen3": ("Qwen3Config", {**_LLAMA_LIKE, "tie_word_embeddings": True}),
    "gemma3": ("Gemma3TextConfig", _GEMMA3_TEXT),
    "mixtral": (
        "MixtralConfig",
        {**_LLAMA_LIKE, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": None},
    ),
    "mixtral-window": (
        "MixtralConfig",
        {**_LLAMA_LIKE, "num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": WINDOW},
    ),
    "phi3": ("Phi3Config", {**{k: v for k, v in _LLAMA_LIKE.items() if k != "head_dim"}, "sliding_window": WINDOW}),
    "gpt2": ("GPT2Config", {**IDS, "n_embd": 36, "n_layer": N_BLOCKS, "n_head": 6, "n_positions": CONTEXT}),
    "gpt2-scaled": (
        "GPT2Config",
        {
            **IDS,
            "n_embd": 36,
            "n_layer": N_BLOCKS,
            "n_head": 6,
            "n_positions": CONTEXT,
            "scale_attn_by_inverse_layer_idx": True,
            "tie_word_embeddings": False,
        },
    ),
    "bloom": ("BloomConfig", {**IDS, "hidden_size": 36, "n_layer": N_BLOCKS, "n_head": 6}),
    "falcon-rotary": ("FalconConfig", {**_FALCON, "alibi": False, "multi_query": True, "bias": False}),
    "falcon-new": (
        "FalconConfig",
        {**_FALCON, "alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "falcon-alibi": ("FalconConfig", {**_FALCON, "alibi": True, "multi_query": False, "bias": True}),
}
FAMILIES = tuple(CONFIGS)


def make_adapter_checkpoint(
    folder: Path, family: str, seed: int = 0, *, max_shard_size: str = "10GB", **overrides: Any
) -> Path:
    """Write a random float32 checkpoint of one of `FAMILIES` (5 blocks) with a tokenizer; returns `folder`.

    `overrides` go to the config class. The same arguments give the same weights.
    """
    class_name, settings = CONFIGS[family]
    config = getattr(transformers, class_name)(**{**settings, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        scatter(model)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    write_tokenizer(folder)
    return folder


def make_composite(folder: Path, text: Path, *, nested: bool) -> Path:
    """Dress the Gemma 3 text checkpoint `text` as one that also sees: a config around it, names before its names.

    `nested` says which of the two customs its tensor names follow: `model.language_model.layers…`, or the
    older `language_model.model.layers…`.
    """
    from safetensors.torch import load_file, save_file

    config = json.loads((text / "config.json").read_text())
    outer = {"model_type": "gemma3", "text_config": config, "eos_token_id": config["eos_token_id"]}
    tensors = load_file(text / "model.safetensors")
    renamed = {
        f"model.language_model.{name.removeprefix('model.')}" if nested else f"language_model.{name}": tensor
        for name, tensor in tensors.items()
    }
    renamed["vision_tower.vision_model.embeddings.patch_embedding.weight"] = torch.zeros(3, 3)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(renamed, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(outer))
    write_tokenizer(folder)
    return folder


def reference(folder: Path) -> transformers.PreTrainedModel:
    """The checkpoint as transformers runs it, in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def scatter(model: transformers.PreTrainedModel) -> None:
    """Weights large enough that every part changes what is said, and that tied models do not just echo."""
    tied = model.config.tie_word_embeddings
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("embed", "wte", "wpe", "lm_head")):
            if parameter.ndim == 2:
                parameter.normal_(std=0.2 if tied else 0.7)
        elif parameter.ndim >= 2:
            parameter.normal_(std=(4.0 if tied else 1.4) / parameter.shape[-1] ** 0.5)
        elif name.endswith("bias"):
            parameter.normal_(std=0.3)
        else:
            parameter.uniform_(0.6, 1.4)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("family", nargs="?", default="gemma3", choices=FAMILIES)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_adapter_checkpoint(arguments.folder, arguments.family, arguments.seed)
