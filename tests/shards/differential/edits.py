"""Every field of a config.json changed, one at a time: another value, null, removed, under an older name (pure)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

Path = tuple[str | int, ...]
REMOVED: Final = object()
_OLDER: Final = ("torch_dtype", "rope_theta", "rope_scaling", "partial_rotary_factor")
IGNORED: Final = frozenset({"transformers_version", "model_type", "id2label", "label2id"})
"""Of no use here: the first does nothing, another model_type is another family, labels are of classifiers."""

_ACTIVATIONS: Final = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "relu2")
_STRINGS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("hidden_act", "hidden_activation", "activation_function"), _ACTIVATIONS),
    "rope_type": ("default", "linear", "dynamic", "yarn", "longrope", "llama3"),
    "type": ("default", "linear", "dynamic", "yarn", "su"),
    "dtype": ("float16", "bfloat16", "float64", "float8_e4m3fn"),
    "position_embedding_type": ("rope", "alibi", "absolute", "nope"),
    "topk_method": ("greedy", "group_limited_greedy", "noaux_tc"),
    "scoring_func": ("softmax", "sigmoid"),
}
_KINDS: Final = ("full_attention", "sliding_attention", "chunked_attention", "linear_attention")
_NULLS: Final[Mapping[str, tuple[Any, ...]]] = {
    "sliding_window": (4, 0),
    "num_key_value_heads": (1, 4),
    "head_dim": (16,),
    "rope_parameters": ({"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},),
    "use_bidirectional_attention": (True, "all"),
    "problem_type": ("regression",),
}
"""What a field may be that is null."""
GENERIC: Final[tuple[tuple[str, Any], ...]] = (
    ("is_causal", False),
    ("use_bidirectional_attention", True),
    ("is_decoder", False),
    ("is_decoder", True),
    ("is_encoder_decoder", True),
    ("add_cross_attention", True),
    ("cross_attention_hidden_size", 32),
    ("tie_word_embeddings", True),
    ("tie_word_embeddings", False),
    ("tie_word_embeddings", None),
    ("tie_encoder_decoder", True),
    ("architectures", None),
    ("architectures", []),
    ("architectures", ["LlamaBidirectionalModel"]),
    ("architectures", ["SomebodysForCausalLM"]),
    ("auto_map", {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}),
    ("per_layer_config", {"1": {"intermediate_size": 24}}),
    ("per_layer_config", {"1": {"rms_norm_eps": 0.5, "layer_norm_eps": 0.5, "sliding_window": 3}}),
    ("per_layer_config", {"1": {"skip": ["mlp"]}}),
    ("transformers_weights", "other.safetensors"),
    ("configuration_files", ["config.4.0.0.json"]),
    ("torch_dtype", "float16"),
    ("torch_dtype", "torch.bfloat16"),
    ("rope_theta", 500.0),
    ("rope_scaling", {"type": "linear", "factor": 4.0}),
    ("rope_scaling", {"rope_type": "linear", "factor": 4.0, "rope_theta": 300.0}),
    ("rope_scaling", {"type": "dynamic", "factor": 4.0}),
    ("rope_scaling", {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}),
    ("rope_scaling", {"type": "mrope", "mrope_section": [1, 1, 2]}),
    ("rope_scaling", {}),
    ("rope_scaling", None),
    ("rope_local_base_freq", 300.0),
    ("rope_interleaved", True),
    ("rotary_pct", 0.5),
    ("rotary_dim", 2),
    ("partial_rotary_factor", 0.5),
    ("original_max_position_embeddings", 8),
    ("sliding_window", 4),
    ("use_sliding_window", False),
    ("use_sliding_window", True),
    ("sliding_window_pattern", 2),
    ("max_window_layers", 1),
    ("attention_chunk_size", 4),
    ("layer_types", ["full_attention", "sliding_attention", "full_attention"]),
    ("layer_types", ["sliding_attention"] * 3),
    ("layer_types", ["full_attention"] * 2),
    ("layer_types", ["attention"] * 3),
    ("no_rope_layers", [0, 1, 0]),
    ("head_dim", 16),
    ("num_key_value_heads", 1),
    ("num_hidden_layers", 2),
    ("hidden_size", 16),
    ("n_embed", 16),
    ("num_attention_heads", 2),
    ("attention_bias", True),
    ("mlp_bias", True),
    ("qkv_bias", False),
    ("use_qk_norm", True),
    ("qk_layernorm", True),
    ("attn_logit_softcapping", 1.0),
    ("final_logit_softcapping", 1.0),
    ("logit_scale", 0.5),
    ("logits_scaling", 3.0),
    ("query_pre_attn_scalar", 64),
    ("attention_multiplier", 0.1),
    ("embedding_multiplier", 3.0),
    ("residual_multiplier", 0.3),
    ("scale_embedding", True),
    ("hidden_activation", "relu"),
    ("num_local_experts", 2),
    ("chunk_size_feed_forward", 4),
    ("pretraining_tp", 2),
    ("pruned_heads", {"0": [1]}),
    ("num_labels", 3),
    ("use_cache", False),
    ("output_attentions", True),
    ("output_hidden_states", True),
    ("return_dict", False),
    ("tie_last_hidden_states", False),
    ("torchscript", True),
    ("attn_implementation", "eager"),
    ("_attn_implementation", "eager"),
    ("_attn_implementation_internal", "flash_attention_2"),
    ("text_config", {"hidden_size": 16}),
    ("quantization_config", {"quant_method": "gptq", "bits": 4}),
    ("compression_config", {"quant_method": "somebodys_own"}),
    ("_remove_final_layer_norm", True),
    ("num_kv_shared_layers", 1),
    ("hidden_size_per_layer_input", 4),
    ("hidden_size", {"__float__": "Infinity"}),
    ("initializer_range", {"__float__": "Infinity"}),
    ("max_position_embeddings", 16),
    ("max_position_embeddings", None),
    ("bos_token_id", 99_999),
    ("eos_token_id", [1, 2]),
    ("eos_token_id", -1),
    ("pad_token_id", 5),
    ("pad_token_id", -1),
    ("vocab_size", 80),
)
"""What may stand in any config, whether its class knows it or not."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One change: `value` at `path` (all of it at the empty one), or `REMOVED`; `to`: `path` gets that name instead."""

    path: Path
    value: Any = REMOVED
    to: str | None = None

    def __str__(self) -> str:
        if not self.path:
            return f"as an older file: { {key: self.value[key] for key in _OLDER if key in self.value} }"
        name = ".".join(map(str, self.path))
        if self.to is not None:
            return f"{name} named {self.to}"
        return f"{name} removed" if self.value is REMOVED else f"{name} = {self.value!r}"

    @property
    def field(self) -> str:
        """The field's own name."""
        return str(next((part for part in reversed(self.path) if isinstance(part, str)), ""))

    def apply(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A changed copy."""
        if not self.path:
            return copy.deepcopy(dict(self.value))
        changed: Any = copy.deepcopy(dict(config))
        place = changed
        for part in self.path[:-1]:
            place = place[part]
        last = self.path[-1]
        if self.to is not None:
            place[self.to] = place.pop(last)
        elif self.value is REMOVED:
            del place[last]
        else:
            place[last] = self.value
        return changed


def edits_of(config: Mapping[str, Any], aliases: Mapping[str, str]) -> list[Edit]:
    """All edits of a config whose class knows some fields also by other names (`aliases`: other to own)."""
    edits = list(_fields((), config))
    edits += [Edit((name,), value) for name, value in GENERIC if name not in config or config[name] != value]
    for other, own in aliases.items():
        if own in config:
            edits += [Edit((own,), to=other), Edit((other,), config[own])]
            if isinstance(config[own], int):
                edits.append(Edit((other,), config[own] - 1))
    edits += [Edit((), value) for value in _older(config)]
    return list({str(edit): edit for edit in edits}.values())


def _fields(path: Path, config: Mapping[str, Any]) -> Iterator[Edit]:
    for name, value in config.items():
        if name in IGNORED or name.startswith("_"):
            continue
        here = (*path, name)
        yield Edit(here)
        for other in _others(name, value):
            yield Edit(here, other)
        if isinstance(value, dict) and "__float__" not in value:
            yield from _fields(here, value)


def _others(name: str, value: Any) -> list[Any]:
    match value:
        case None:
            return list(_NULLS.get(name, (True, 2, 0.5)))
        case bool():
            return [not value, None]
        case int():
            return [value + 1, value * 2 or 2, max(1, value // 2), None]
        case float():
            return [value * 2 + 0.25, value / 2, None]
        case str():
            return [*(each for each in _STRINGS.get(name, ()) if each != value), f"no-such-{name}", None]
        case list():
            kinds = [[kind, *value[1:]] for kind in _KINDS] if name == "layer_types" else []
            return [value[:-1], value[::-1], [*value, *value[-1:]], *kinds, [], None]
        case _:
            return [{}, None]


def _older(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The whole config as older files have it."""
    if "dtype" in config:
        older = dict(config)
        older["torch_dtype"] = older.pop("dtype")
        yield older
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_type" in rope:
        older = {name: value for name, value in config.items() if name != "rope_parameters"}
        older["rope_theta"] = rope.get("rope_theta", 10_000.0)
        if "partial_rotary_factor" in rope:
            older["partial_rotary_factor"] = rope["partial_rotary_factor"]
        scaling = {name: value for name, value in rope.items() if name not in ("rope_theta", "partial_rotary_factor")}
        yield older | {"rope_scaling": None if rope["rope_type"] == "default" else scaling}
        scaling["type"] = scaling.pop("rope_type")
        yield older | {"rope_scaling": None if rope["rope_type"] == "default" else scaling}
        yield {**config, "rope_theta": 300.0}
