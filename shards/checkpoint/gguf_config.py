"""What a GGUF file's metadata says of its model, as the config.json and the tensor names of transformers (no torch).

Every key of the model's own section is used, is known to change nothing, or is refused: a value that nobody looks at
would be a wrong answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shards.checkpoint.gguf_header import GgufHead
from shards.errors import CheckpointError, UnsupportedModel
from shards.shown import shown

ARCHITECTURES: Final[Mapping[str, str]] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3moe": "Qwen3MoeForCausalLM",
}
"""What is read, by the file's `general.architecture`, which is also transformers' model_type if not in `_KINDS`."""

_KINDS: Final[Mapping[str, str]] = {"qwen3moe": "qwen3_moe"}
_MIXTRAL: Final = ("mixtral", "MixtralForCausalLM")
"""What a file of Llama's architecture is, where it has experts."""

ROPE_FACTORS: Final = "rope_freqs.weight"
INTERLEAVED: Final = frozenset({"llama", "mixtral"})
"""Model types whose queries and keys are stored for rotation of neighbours; transformers rotates halves."""

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
_BLOCK_NAME: Final = re.compile(r"blk\.(0|[1-9]\d{0,4})\.(\w+)\.(weight|bias)")
_SCALING_IGNORED: Final = frozenset({"rope.scaling.finetuned", "rope.scaling.original_context_length"})
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_feed_forward_length": (0,),
    "expert_shared_count": (0,),
    "expert_gating_func": (1,),  # softmax
    "expert_weights_norm": (True,),
    "expert_weights_scale": (1.0,),
    "use_parallel_residual": (False,),
    "attention.causal": (True,),
    "attention.max_alibi_bias": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "logit_scale": (1.0,),
    "rope.scaling.attn_factor": (1.0,),
    "attention.sliding_window": (0,),
}
"""Keys that are refused unless they say what would be so without them."""
_LLAMA3: Final = (1.0, 4.0, 8192)
"""Low and high frequency factor and old context of every Llama 3: the file has only what follows from them."""


def tensor_name(name: str) -> str:
    """transformers' name of a tensor. Raises `UnsupportedModel` for one that we do not know."""
    match = _BLOCK_NAME.fullmatch(name)
    if match and match[2] in _INSIDE:
        return f"model.layers.{match[1]}.{_INSIDE[match[2]]}.{match[3]}"
    if match and match[2] in _EXPERTS and match[3] == "weight":
        return f"model.layers.{match[1]}.{_EXPERTS[match[2]]}.weight"
    stem, _, kind = name.rpartition(".")
    if stem in _OUTSIDE and kind == "weight":
        return f"{_OUTSIDE[stem]}.weight"
    raise UnsupportedModel(f"the file has a tensor {name!r}, which no model has that is read from GGUF files")


def config_of(head: GgufHead, rope_factors: Sequence[float] | None) -> dict[str, Any]:
    """config.json of a file; `rope_factors` are the values of its `rope_freqs.weight`, where it has that tensor.

    Raises `UnsupportedModel` for an architecture or option that is not read, `CheckpointError` for a missing value.
    """
    kind = head.metadata.get("general.architecture")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedModel(
            f"the file is of architecture {shown(kind)}, and of GGUF files only {known} are read: "
            "take the model's safetensors instead"
        )
    if head.metadata.get("split.count", 1) not in (0, 1):
        raise UnsupportedModel("the file is one of several parts: put them together (`llama-gguf-split --merge`)")
    fields = _Fields(head.metadata, kind)
    heads = fields.count("attention.head_count")
    hidden = fields.count("embedding_length")
    head_dim = fields.count("attention.key_length", max(1, hidden // heads))
    if fields.count("attention.value_length", head_dim) != head_dim:
        raise UnsupportedModel("keys and values of different sizes are not read from GGUF files")
    if fields.count("rope.dimension_count", head_dim) != head_dim:
        raise UnsupportedModel("rotation of a part of each head is not read from GGUF files")
    tokens = head.metadata.get("tokenizer.ggml.tokens")
    inner = fields.count("feed_forward_length")
    vocab = fields.count("vocab_size", len(tokens) if isinstance(tokens, list) else None)
    model_type, class_name = _KINDS.get(kind, kind), ARCHITECTURES[kind]
    experts = _experts(fields, kind, head)
    if experts and kind == "llama":
        model_type, class_name = _MIXTRAL
    config: dict[str, Any] = {
        "architectures": [class_name],
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": fields.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.count("attention.head_count_kv", heads),
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": fields.count("context_length"),
        "vocab_size": vocab,
        "tie_word_embeddings": "output.weight" not in head.tensors,
        "rope_parameters": _rope(fields, rope_factors, head_dim),
        "dtype": "float32",
        **experts,
    }
    if model_type == "mixtral" and fields.count("expert_feed_forward_length", inner) != inner:
        raise UnsupportedModel("experts of another width than feed_forward_length are not read from such GGUF files")
    if kind != "qwen2":
        config["head_dim"] = head_dim
    if kind != "qwen2" and model_type != "mixtral":
        config["attention_bias"] = "blk.0.attn_q.bias" in head.tensors
    if model_type == "llama":
        config["mlp_bias"] = "blk.0.ffn_gate.bias" in head.tensors
    for name, key in (("bos", "bos_token_id"), ("eos", "eos_token_id"), ("pad", "padding_token_id")):
        value = head.metadata.get(f"tokenizer.ggml.{key}")
        if value is not None:
            config[f"{name}_token_id"] = value
    fields.finish()
    return config


def _experts(fields: _Fields, kind: str, head: GgufHead) -> dict[str, Any]:
    """What config.json says of a mixture; nothing for a dense model.

    Both architectures take the softmax over all experts and scale the weights of those chosen to a sum of 1, as
    llama.cpp computes them whatever the file says.
    """
    if kind != "qwen3moe" and not (kind == "llama" and fields.has("expert_count")):
        return {}
    if kind == "llama" and any(name.endswith(".bias") for name in head.tensors):
        raise UnsupportedModel("a mixture of Llama's architecture with biases is not read from GGUF files")
    counts = {"num_experts_per_tok": fields.count("expert_used_count")}
    if kind == "llama":
        return counts | {"num_local_experts": fields.count("expert_count")}
    return counts | {
        "num_experts": fields.count("expert_count"),
        "moe_intermediate_size": fields.count("expert_feed_forward_length"),
        "norm_topk_prob": True,
    }


def _rope(fields: _Fields, factors: Sequence[float] | None, head_dim: int) -> dict[str, Any]:
    theta = fields.number("rope.freq_base", 10_000.0)
    scaling = fields.text("rope.scaling.type", "none")
    if scaling == "linear" and factors is None:
        return {"rope_type": "linear", "rope_theta": theta, "factor": fields.number("rope.scaling.factor")}
    if scaling != "none":
        raise UnsupportedModel(f"rotary scaling {shown(scaling)} is not read from GGUF files: take the safetensors")
    fields.number("rope.scaling.factor", 1.0)  # counts only with a type
    if factors is None:
        return {"rope_type": "default", "rope_theta": theta}
    low, high, original = _LLAMA3
    if len(factors) != head_dim // 2:
        raise CheckpointError(f"{ROPE_FACTORS} has {len(factors)} factors for heads of {head_dim}")
    factor = max(factors)
    for index, found in enumerate(factors):
        turns = original * theta ** (-2 * index / head_dim) / (2 * math.pi)
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        if not math.isclose(found, 1 / ((1 - kept) / factor + kept), rel_tol=1e-4):
            raise UnsupportedModel(f"the factors in {ROPE_FACTORS} are not those of Llama 3: take the safetensors")
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


class _Fields:
    """The keys of one architecture, each asked for once; `finish` refuses what was not asked for."""

    def __init__(self, metadata: Mapping[str, Any], kind: str) -> None:
        prefix = f"{kind}."
        self._kind = kind
        self._left = {name.removeprefix(prefix): value for name, value in metadata.items() if name.startswith(prefix)}

    def has(self, name: str) -> bool:
        """Whether the file says anything of it but 0."""
        return bool(self._left.get(name))

    def count(self, name: str, default: int | None = None) -> int:
        value = self._left.pop(name, default)
        if isinstance(value, list) and value and all(each == value[0] for each in value):
            value = value[0]  # one for every block
        if isinstance(value, list):
            raise UnsupportedModel(f"{self._kind}.{name} differs between blocks, which is not read from GGUF files")
        if type(value) is not int or not 0 < value < 1 << 31:
            raise CheckpointError(f"the file's {self._kind}.{name} must be a positive integer, got {shown(value)}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self._left.pop(name, default)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise CheckpointError(f"the file's {self._kind}.{name} must be a positive number, got {shown(value)}")
        return float(value)

    def text(self, name: str, default: str) -> str:
        value = self._left.pop(name, default)
        if not isinstance(value, str):
            raise CheckpointError(f"the file's {self._kind}.{name} must be a text, got {shown(value)}")
        return value

    def finish(self) -> None:
        for name, value in self._left.items():
            if name in _SCALING_IGNORED or value in _NEUTRAL.get(name, ()):
                continue
            raise UnsupportedModel(
                f"the file says {self._kind}.{name} = {shown(value)}, which is not read from GGUF files: "
                "take the model's safetensors instead"
            )
