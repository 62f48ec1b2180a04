"""transformers' names of the tensors of a GGUF file, by the file's architecture (pure, no torch)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from shards.errors import UnsupportedModel

ROPE_FACTORS: Final = "rope_freqs.weight"
SHORT_FACTORS: Final = "rope_factors_short.weight"
LONG_FACTORS: Final = "rope_factors_long.weight"
ROPE_TENSORS: Final = (ROPE_FACTORS, SHORT_FACTORS, LONG_FACTORS)
"""Which are of the config, not of the weights."""

_OUTSIDE: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INSIDE: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_EXPERTS: Final = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
}
"""Of a mixture, without biases: the router, and each layer of all experts [experts, outputs, inputs]."""
_GEMMA: Final = {
    **_INSIDE,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_OWN: Final[Mapping[str, Mapping[str, str]]] = {
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "phi3": {**_INSIDE, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
}
_BLOCK_NAME: Final = re.compile(r"blk\.(0|[1-9]\d{0,4})\.(\w+)\.(weight|bias)")


def tensor_name(name: str, architecture: str) -> str:
    """transformers' name of a tensor. Raises `UnsupportedModel` for one that we do not know."""
    match = _BLOCK_NAME.fullmatch(name)
    inside = _OWN.get(architecture, _INSIDE)
    if match and match[2] in inside:
        return f"model.layers.{match[1]}.{inside[match[2]]}.{match[3]}"
    if match and match[2] in _EXPERTS and match[3] == "weight":
        return f"model.layers.{match[1]}.{_EXPERTS[match[2]]}.weight"
    stem, _, kind = name.rpartition(".")
    if stem in _OUTSIDE and kind == "weight":
        return f"{_OUTSIDE[stem]}.weight"
    raise UnsupportedModel(f"the file has a tensor {name!r}, which no model has that is read from GGUF files")
