"""What a GGUF file's metadata says of its model, as the config.json and the tensor names of transformers (no torch).

Every key of the model's own section is used, is known to change nothing, or is refused: a value that nobody looks at
would be a wrong answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shards.checkpoint.gguf_header import GgufHead
from shards.checkpoint.gguf_names import LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS
from shards.errors import CheckpointError, UnsupportedModel
from shards.shown import shown

ARCHITECTURES: Final[Mapping[str, tuple[str, str]]] = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "qwen3moe": ("qwen3_moe", "Qwen3MoeForCausalLM"),
    "gemma2": ("gemma2", "Gemma2ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
    "phi3": ("phi3", "Phi3ForCausalLM"),
}
"""What is read, by the file's `general.architecture`: transformers' model_type and class."""

_MIXTRAL: Final = ("mixtral", "MixtralForCausalLM")
"""What a file of Llama's architecture is, where it has experts."""
INTERLEAVED: Final = frozenset({"llama", "mixtral"})
"""Model types whose queries and keys are stored for rotation of neighbours; transformers rotates halves."""
CENTRED: Final = frozenset({"gemma2", "gemma3_text"})
"""Model types whose norms are stored with the one that transformers adds to them."""

_GEMMAS: Final = ("gemma2", "gemma3")
_WIDE_HEADS: Final = {"gemma2": 46, "gemma3": 62}
"""Blocks of the models (of 27B) whose attention scores are divided by the root of hidden size over heads, not of the
head's size. Files do not say by which: llama.cpp goes by this, too."""
_FULL_EVERY: Final = {"gemma2": 2, "gemma3": 6}
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


def config_of(head: GgufHead, factors: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """config.json of a file; `factors` are the values of those `ROPE_TENSORS` that it has.

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
    turned = fields.count("rope.dimension_count", head_dim)
    if kind != "phi3" and turned != head_dim:
        raise UnsupportedModel("rotation of a part of each head is not read from GGUF files")
    tokens = head.metadata.get("tokenizer.ggml.tokens")
    inner = fields.count("feed_forward_length")
    vocab = fields.count("vocab_size", len(tokens) if isinstance(tokens, list) else None)
    model_type, class_name = ARCHITECTURES[kind]
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
        "dtype": "float32",
        **experts,
    }
    if model_type == "mixtral" and fields.count("expert_feed_forward_length", inner) != inner:
        raise UnsupportedModel("experts of another width than feed_forward_length are not read from such GGUF files")
    if kind != "qwen2":
        config["head_dim"] = head_dim
    if model_type in ("llama", "qwen3", "qwen3_moe") or kind in _GEMMAS:
        config["attention_bias"] = "blk.0.attn_q.bias" in head.tensors
    if model_type == "llama":
        config["mlp_bias"] = "blk.0.ffn_gate.bias" in head.tensors
    if kind == "phi3":
        config |= _phi3(fields, factors, head_dim, turned, config["max_position_embeddings"])
    elif set(factors) & {SHORT_FACTORS, LONG_FACTORS}:
        raise UnsupportedModel(f"the file has {SHORT_FACTORS}, which is read of phi3 only: take the safetensors")
    else:
        config["rope_parameters"] = _rope(fields, factors.get(ROPE_FACTORS), head_dim)
    if kind in _GEMMAS:
        config |= _gemma(fields, kind, config)
    for name, key in (("bos", "bos_token_id"), ("eos", "eos_token_id"), ("pad", "padding_token_id")):
        value = head.metadata.get(f"tokenizer.ggml.{key}")
        if value is not None:
            config[f"{name}_token_id"] = value
    fields.finish()
    return config


def _gemma(fields: _Fields, kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What Gemma 2 and 3 have beside what all have; where a file says nothing, llama.cpp's defaults."""
    wide = config["hidden_size"] // config["num_attention_heads"]
    every = fields.count("attention.sliding_window_pattern", _FULL_EVERY[kind])
    if kind == "gemma2" and every != _FULL_EVERY[kind]:
        raise UnsupportedModel(f"a gemma2 with a window in all but every {every} blocks is not read from GGUF files")
    theta = config["rope_parameters"]["rope_theta"]
    found: dict[str, Any] = {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": wide if config["num_hidden_layers"] == _WIDE_HEADS[kind] else config["head_dim"],
        "sliding_window": fields.count("attention.sliding_window", 4096 if kind == "gemma2" else None),
        "final_logit_softcapping": fields.number("final_logit_softcapping", 30.0) if kind == "gemma2" else None,
        "attn_logit_softcapping": fields.number("attn_logit_softcapping", 50.0) if kind == "gemma2" else None,
    }
    if kind == "gemma3":
        found["sliding_window_pattern"] = every
        if fields.has("final_logit_softcapping"):
            found["final_logit_softcapping"] = fields.number("final_logit_softcapping")
        local = {"rope_type": "default", "rope_theta": fields.number("rope.freq_base_swa", 10_000.0)}
        found["rope_parameters"] = {"full_attention": config["rope_parameters"], "sliding_attention": local}
    elif fields.number("rope.freq_base_swa", theta) != theta:
        raise UnsupportedModel("a gemma2 with two rotary bases is not read from GGUF files: take the safetensors")
    return found


def _phi3(
    fields: _Fields, factors: Mapping[str, Sequence[float]], head_dim: int, turned: int, context: int
) -> dict[str, Any]:
    part = turned / head_dim
    if not 0 < part <= 1 or int(head_dim * part) != turned:
        raise CheckpointError(f"the file's phi3.rope.dimension_count of {turned} does not fit heads of {head_dim}")
    rope: dict[str, Any] = {"rope_theta": fields.number("rope.freq_base", 10_000.0), "partial_rotary_factor": part}
    window = None
    if fields.has("attention.sliding_window") and not fields.drop("attention.sliding_window", 0):
        window = fields.count("attention.sliding_window")
    found: dict[str, Any] = {"sliding_window": window}
    if ROPE_FACTORS in factors:
        raise UnsupportedModel(f"a phi3 with {ROPE_FACTORS} is not read from GGUF files: take the safetensors")
    if not factors:
        return found | {"rope_parameters": {"rope_type": "default", **rope}}
    if set(factors) != {SHORT_FACTORS, LONG_FACTORS}:
        raise CheckpointError(f"the file has only one of {SHORT_FACTORS} and {LONG_FACTORS}")
    fields.drop("rope.scaling.type", "longrope")
    rope |= {
        "rope_type": "longrope",
        "short_factor": list(factors[SHORT_FACTORS]),
        "long_factor": list(factors[LONG_FACTORS]),
        "attention_factor": fields.number("rope.scaling.attn_factor", 1.0),
    }
    original = fields.count("rope.scaling.original_context_length", context)
    return found | {"rope_parameters": rope, "original_max_position_embeddings": original}


def _experts(fields: _Fields, kind: str, head: GgufHead) -> dict[str, Any]:
    """What config.json says of a mixture; nothing for a dense model.

    Both architectures take the softmax over all experts and scale the weights of those chosen to a sum of 1, as
    llama.cpp computes them whatever the file says.
    """
    if kind != "qwen3moe" and not (kind == "llama" and fields.says("expert_count")):
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
        return name in self._left

    def says(self, name: str) -> bool:
        """Whether the file says anything of it but 0."""
        return bool(self._left.get(name))

    def drop(self, name: str, value: object) -> bool:
        """True where the file says just this of `name`, which is then done with."""
        found = name in self._left and self._left[name] == value
        if found:
            del self._left[name]
        return found

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
