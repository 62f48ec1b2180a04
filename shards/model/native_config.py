"""What the native path must know of a Llama-like model, read from config.json (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from shards.checkpoint.packed.config import is_mxfp4, is_quantised
from shards.errors import CheckpointError, UnsupportedModel
from shards.model.config_fields import count, flag, number
from shards.model.experts_config import MIXTURES, ExpertsConfig, parse_experts
from shards.model.fields import check_class
from shards.model.rope_config import RopeConfig, parse_rope
from shards.model.spec import ModelSpec
from shards.shown import shown

LEAN_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", *MIXTURES)
"""And the text part of `gemma3`, which is of type `gemma3_text`."""
ACTIVATIONS: Final = ("silu", "gelu_pytorch_tanh")
_NAMES: Final = {
    "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma2": "Gemma2", "phi3": "Phi3",
    "mixtral": "Mixtral", "qwen3_moe": "Qwen3Moe", "gpt_oss": "GptOss",
}  # fmt: skip
_CLASSES: Final[Mapping[str, tuple[str, ...]]] = {
    **{kind: (f"{name}ForCausalLM", f"{name}Model") for kind, name in _NAMES.items()},
    "gemma3_text": ("Gemma3ForCausalLM", "Gemma3TextModel"),
    "gemma3": ("Gemma3ForConditionalGeneration", "Gemma3Model"),
}
"""What a config's `architectures` may say, by its model_type."""
MAX_BLOCKS = 4096
_DEFAULT_KV_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32, "mixtral": 8, "qwen3_moe": 4, "gpt_oss": 8}
_DEFAULT_HEAD_DIMS = {"qwen3": 128, "gpt_oss": 64}
_DEFAULT_WINDOW = 4096
_GEMMAS: Final = ("gemma2", "gemma3_text")
_GEMMA: Final[Mapping[str, Any]] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "tie_word_embeddings": True,
}
_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "gemma2": {**_GEMMA, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
    "gemma3_text": _GEMMA,
    "phi3": {"rms_norm_eps": 1e-5, "sliding_window": None},
    "mixtral": {"rms_norm_eps": 1e-5, "sliding_window": None},
    "gpt_oss": {"rms_norm_eps": 1e-5, "sliding_window": 128, "num_attention_heads": 64, "attention_bias": True},
}
"""What transformers' config classes say where a config leaves it out, beside what is common to most."""
_GEMMA2_PATTERN, _GEMMA3_PATTERN = 2, 6
"""Every so many blocks one has no window."""


@dataclass(frozen=True, slots=True)
class NativeConfig:
    """The shape and options of one Llama-like model; `windows` has a block's attention window, or None.

    The options of Gemma and Phi-3 are off unless a config says otherwise.
    """

    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    n_blocks: int
    rms_eps: float
    rope: RopeConfig
    windows: tuple[int | None, ...]
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied: bool
    """Whether the embedding is the head where the checkpoint has no head."""
    local_rope: RopeConfig | None = None
    """The rotary embedding of blocks with a window, where it is another one."""
    activation: str = "silu"
    """The gate's, one of `ACTIVATIONS`."""
    query_scalar: float | None = None
    """Attention scores are divided by its root; None: by that of `head_dim`."""
    score_cap: float | None = None
    """Attention scores s become cap * tanh(s / cap)."""
    logit_cap: float | None = None
    """So do logits."""
    embedding_scale: float = 1.0
    """Embeddings are multiplied by this, rounded to the compute dtype."""
    centred_norms: bool = False
    """Norms multiply by 1 + weight, in float32."""
    output_norms: bool = False
    """What attention and MLP give is normed before it is added; no family with experts does that."""
    fused_names: bool = False
    """The checkpoint holds queries, keys and values as one tensor, and gate and up."""
    experts: ExpertsConfig | None = None
    """Of a mixture; blocks without them have a dense MLP."""
    sinks: bool = False
    """Attention scores compete with a learned number of each head besides."""

    @property
    def attention_scale(self) -> float:
        """What attention scores are multiplied by."""
        return float((self.query_scalar or self.head_dim) ** -0.5)

    @property
    def longest(self) -> int | None:
        """Most tokens of a session for which positions are encoded the same way throughout; None: no limit."""
        return None if self.rope.long is None else self.rope.long.original_context

    def rope_of(self, block: int) -> RopeConfig:
        """A block's rotary embedding."""
        return self.rope if self.local_rope is None or self.windows[block] is None else self.local_rope


def parse_native(spec: ModelSpec) -> NativeConfig:
    """Read a config that the native path fully supports.

    Defaults are those of transformers' config classes. Raises `UnsupportedModel` for any other model or
    option (the adapter may serve it) and `CheckpointError` for values that make no sense.
    """
    kind, raw = _text_part(spec)
    if kind not in LEAN_MODEL_TYPES:
        raise UnsupportedModel(f"the native path has no {kind}")
    if spec.n_blocks > MAX_BLOCKS:
        raise UnsupportedModel(f"the native path serves at most {MAX_BLOCKS} blocks, not {spec.n_blocks}")
    # What is read quantised appears here without it (`packed.config.without`).
    if any(is_quantised(each) and not is_mxfp4(each, kind) for each in (raw, spec.raw)):
        raise UnsupportedModel("the native path has no quantised weights of this kind")
    check_class(spec.raw, _CLASSES[spec.model_type])
    if kind == "mistral" and "layer_types" in raw:
        raise UnsupportedModel("the native path has no mistral with layer_types")
    raw = {**_DEFAULTS.get(kind, {}), **raw}
    activation = raw.get("hidden_activation" if kind in _GEMMAS else "hidden_act", "silu")
    if activation not in ACTIVATIONS or (kind in MIXTURES and activation != "silu"):
        raise UnsupportedModel(f"the native path has no activation {shown(activation)}")
    n_heads = count(raw, "num_attention_heads", 32)
    n_kv_heads = count(raw, "num_key_value_heads", n_heads if _is_null(raw, kind) else _DEFAULT_KV_HEADS[kind])
    default_dim = max(1, spec.hidden_size // n_heads)
    if kind in _DEFAULT_HEAD_DIMS and not (kind == "gpt_oss" and "head_dim" in raw):  # null is not the same there
        default_dim = _DEFAULT_HEAD_DIMS[kind]
    head_dim = default_dim if kind == "qwen2" else count(raw, "head_dim", default_dim)
    if n_heads % n_kv_heads:
        raise CheckpointError(f"config.json: {n_heads} heads cannot share {n_kv_heads} key-value heads evenly")
    if head_dim % 2:
        raise CheckpointError(f"config.json: rotary embedding needs an even head_dim, got {head_dim}")
    if kind == "qwen2" and "head_dim" in raw and raw["head_dim"] not in (None, default_dim):
        raise UnsupportedModel("the native path has no qwen2 with a head_dim of its own")
    may_have_bias = kind in ("llama", "qwen3", "qwen3_moe", "gpt_oss", *_GEMMAS)
    attention_bias = may_have_bias and flag(raw, "attention_bias")
    rope, local_rope = parse_rope(raw, kind, head_dim=head_dim, context_length=spec.context_length)
    config = NativeConfig(
        hidden_size=spec.hidden_size,
        intermediate_size=count(raw, "intermediate_size", None),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        vocab_size=spec.vocab_size,
        n_blocks=spec.n_blocks,
        rms_eps=number(raw, "rms_norm_eps", 1e-6),
        rope=rope,
        windows=_windows(raw, kind, spec.n_blocks),
        qkv_bias=kind == "qwen2" or attention_bias,
        o_bias=attention_bias,
        mlp_bias=kind == "llama" and flag(raw, "mlp_bias"),
        qk_norm=kind in ("qwen3", "qwen3_moe", "gemma3_text"),
        tied=flag(raw, "tie_word_embeddings"),
        local_rope=local_rope,
        activation=activation,
        fused_names=kind == "phi3",
        experts=parse_experts(raw, kind, spec.n_blocks) if kind in MIXTURES else None,
        sinks=kind == "gpt_oss",
    )
    return _gemma(config, raw, kind) if kind in _GEMMAS else config


def _gemma(config: NativeConfig, raw: Mapping[str, Any], kind: str) -> NativeConfig:
    """What Gemma 2 and 3 do that others do not."""
    if flag(raw, "use_bidirectional_attention"):
        raise UnsupportedModel("the native path has no attention to later tokens")
    score_cap = _cap(raw, "attn_logit_softcapping")
    if score_cap is not None and kind == "gemma3_text":  # transformers' fast attention leaves it away, its slow one not
        raise UnsupportedModel("the native path has no gemma3_text with attn_logit_softcapping")
    return replace(
        config,
        query_scalar=number(raw, "query_pre_attn_scalar", None),
        score_cap=score_cap,
        logit_cap=_cap(raw, "final_logit_softcapping"),
        embedding_scale=config.hidden_size**0.5,
        centred_norms=True,
        output_norms=True,
    )


def _text_part(spec: ModelSpec) -> tuple[str, Mapping[str, Any]]:
    """The model type and the config of what reads and writes text, for Gemma 3 also where the model sees."""
    inner = spec.raw.get("text_config")
    if spec.model_type != "gemma3" or not isinstance(inner, dict):
        return spec.model_type, spec.raw
    if inner.get("model_type", "gemma3_text") != "gemma3_text":
        raise UnsupportedModel(f"the native path has no gemma3 whose text part is {shown(inner['model_type'])}")
    if isinstance(spec.raw.get("tie_word_embeddings"), bool):
        inner = {**inner, "tie_word_embeddings": spec.raw["tie_word_embeddings"]}
    return "gemma3_text", inner


def _cap(raw: Mapping[str, Any], name: str) -> float | None:
    return None if raw.get(name) is None else number(raw, name, None)


def _is_null(raw: Mapping[str, Any], kind: str) -> bool:
    """True where as many key-value heads as heads are meant: an explicit null, or Llama's default."""
    return kind not in _DEFAULT_KV_HEADS or "num_key_value_heads" in raw


def _windows(raw: Mapping[str, Any], kind: str, n_blocks: int) -> tuple[int | None, ...]:
    if kind == "llama":
        return (None,) * n_blocks
    if kind in ("qwen2", "qwen3", "qwen3_moe") and not flag(raw, "use_sliding_window"):
        listed = raw.get("layer_types")
        if isinstance(listed, list) and any(item != "full_attention" for item in listed):
            raise UnsupportedModel("the native path has no layer_types that use_sliding_window does not allow")
        return (None,) * n_blocks
    window = raw.get("sliding_window", _DEFAULT_WINDOW)
    if window is None and kind in _GEMMAS:
        raise UnsupportedModel(f"the native path has no {kind} without a sliding_window")
    if window is None and kind != "gpt_oss":
        return (None,) * n_blocks
    if type(window) is not int or window < 1:
        raise CheckpointError(f"config.json: sliding_window must be a positive integer, got {shown(window)}")
    types = raw.get("layer_types")
    if kind in ("mistral", "mixtral", "qwen3_moe", "phi3"):
        if types is not None:
            raise UnsupportedModel(f"the native path has no {kind} with layer_types")
        return (window,) * n_blocks
    if types is None:
        types = ["sliding_attention" if each else "full_attention" for each in _slides(raw, kind, n_blocks)]
    if not isinstance(types, list) or len(types) != n_blocks:
        raise CheckpointError(f"config.json: layer_types must have an entry for each of {n_blocks} blocks")
    if not all(item in ("full_attention", "sliding_attention") for item in types):
        raise UnsupportedModel("the native path has only full and sliding attention")
    return tuple(window if item == "sliding_attention" else None for item in types)


def _slides(raw: Mapping[str, Any], kind: str, n_blocks: int) -> list[bool]:
    """Which blocks have a window where no layer_types say so."""
    if kind == "gpt_oss":
        return [block % 2 == 0 for block in range(n_blocks)]
    if kind in _GEMMAS:
        pattern = count(raw, "sliding_window_pattern", _GEMMA3_PATTERN) if kind == "gemma3_text" else _GEMMA2_PATTERN
        return [(block + 1) % pattern != 0 for block in range(n_blocks)]
    from_block = raw.get("max_window_layers", 28)
    if type(from_block) is not int:
        raise CheckpointError(f"config.json: max_window_layers must be an integer, got {shown(from_block)}")
    return [block >= from_block for block in range(n_blocks)]
