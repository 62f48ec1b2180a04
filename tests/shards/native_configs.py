"""Configs of small Llama-like models, for the native path."""

from __future__ import annotations

import json
from typing import Any

from shards.model.native_config import NativeConfig, parse_native
from shards.model.spec import parse_config

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "num_hidden_layers": 5,
    "vocab_size": 300,
    "max_position_embeddings": 512,
}


def native(**changes: object) -> NativeConfig:
    return parse_native(parse_config(json.dumps({**LLAMA, **changes})))


def gemma3(**changes: object) -> NativeConfig:
    return native(model_type="gemma3_text", num_hidden_layers=7, num_key_value_heads=2, **changes)
