"""A model without weights: built by transformers on the meta device, then cut down to one span."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from shards.checkpoint.packed.config import is_quantised
from shards.errors import CheckpointError, UnsupportedModel
from shards.model.fields import check_class
from shards.model.span import Span
from shards.model.spec import ModelSpec
from shards.quiet import hush_transformers
from shards.shown import shown

PROVEN = (
    "apertus", "arcee", "biogpt", "bloom", "codegen", "cohere", "cohere2", "cwm", "deepseek_v2", "deepseek_v3",
    "ernie4_5", "exaone4", "falcon", "gemma", "gemma2", "gemma3", "gemma3_text", "glm", "glm4", "gpt2",
    "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe", "granitemoehybrid",
    "granitemoeshared", "helium", "hunyuan_v1_dense", "idefics3", "llama", "llava", "ministral", "ministral3",
    "mistral", "mistral3", "mixtral", "modernbert-decoder", "mpt", "nemotron", "olmo", "olmo2", "olmo3",
    "olmoe", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe",
    "seed_oss", "smollm3", "smolvlm", "stablelm", "starcoder2", "xglm",
)  # fmt: skip
"""Model types whose stages the tests compare with the whole model."""
_BLOCK_LISTS = ("layers", "h", "blocks", "block")
_ATTENTION_KINDS = frozenset({"full_attention", "sliding_attention"})
THEIR_ERRORS = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError, ImportError,
    NameError,
)  # fmt: skip
"""What transformers raises on a config that makes no sense."""
# What a config could use to choose code, and what must not depend on it.
_IGNORED = frozenset(
    {
        "auto_map", "attn_implementation", "experts_implementation", "fusion_config", "kernel_config",
        "_attn_implementation", "_attn_implementation_internal", "_experts_implementation_internal",
        "output_attentions", "output_hidden_states", "return_dict", "use_cache",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Family:
    """How transformers names the parts of a model."""

    model: Any
    """The causal language model (a transformers `PreTrainedModel`), weights on the meta device."""
    base_path: tuple[str, ...]
    """Attributes that lead from `model` to the blocks' parent."""
    list_name: str
    """Attribute of the parent that holds the blocks."""
    composite: bool
    """True for the text part of a model that also sees or hears."""
    longest: int | None
    """Most tokens of a session for which positions are encoded the same way throughout; None: no limit."""


class Absent(nn.Module):
    """Stands where another stage owns a module: lets activations through, or embeds anything as zero."""

    def __init__(self, *, embeds: bool) -> None:
        super().__init__()
        self._embeds = embeds

    def forward(self, *args: object, **kwargs: object) -> torch.Tensor | None:
        given = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
        activations = None if self._embeds else next((each for each in given if each.is_floating_point()), None)
        return torch.zeros((), device=given[0].device) if activations is None and given else activations


def build(spec: ModelSpec, dtype: torch.dtype) -> Family:
    """The whole model on the meta device. Runs transformers' own code only, never a checkpoint's.

    Raises `UnsupportedModel` with the reason where the adapter cannot cut this model, and `CheckpointError`
    for a config that makes no sense.
    """
    hush_transformers()
    config, model_class, composite = _config(spec)
    from transformers.initialization import no_tie_weights

    attention = "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"
    try:
        with torch.device("meta"), no_tie_weights():
            model = model_class._from_config(config, dtype=dtype, attn_implementation=attention)
    except THEIR_ERRORS as error:
        raise UnsupportedModel(f"transformers cannot build this {spec.model_type} model: {_line(error)}") from error
    model.eval()
    for base_path in ((model.base_model_prefix,), (model.base_model_prefix, "decoder")):
        base = parent_of(model, base_path)
        for list_name in _BLOCK_LISTS:
            blocks = getattr(base, list_name, None)
            if isinstance(blocks, nn.ModuleList) and len(blocks) == spec.n_blocks:
                return Family(model, base_path, list_name, composite, _longest(config))
    raise UnsupportedModel(f"the adapter finds no list of {spec.n_blocks} blocks in a {spec.model_type} model")


def parent_of(model: Any, path: Sequence[str]) -> Any:
    """The module that `path` leads to, or None."""
    for name in path:
        model = getattr(model, name, None)
    return model


def cut(family: Family, span: Span, needed: Collection[str]) -> None:
    """Replace what the stage does not own: blocks outside `span`, and modules without a `needed` tensor."""
    wanted = set(needed)
    blocks = getattr(parent_of(family.model, family.base_path), family.list_name)
    for block in range(len(blocks)):
        if block not in span:
            blocks[block] = nn.Identity()
    for depth, kept in enumerate((*family.base_path, family.list_name)):
        path = family.base_path[:depth]
        parent = parent_of(family.model, path)
        for name, child in list(parent.named_children()):
            tensors = {".".join((*path, name, key)) for key in child.state_dict()}
            if name != kept and tensors and not tensors & wanted:
                setattr(parent, name, Absent(embeds=isinstance(child, nn.Embedding)))


def _config(spec: ModelSpec) -> tuple[Any, Any, bool]:
    """The decoder's config, its model class, and whether it is the text part of another model."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

    if is_quantised(spec.raw):
        raise UnsupportedModel("the adapter has no quantised weights: take a copy of the model that is not quantised")
    if spec.model_type not in CONFIG_MAPPING:
        raise UnsupportedModel(
            f"transformers has no model type {spec.model_type!r} of its own, and code from checkpoints is never run: "
            "choose a model that a class of transformers runs"
        )
    # transformers takes a mistral with layer_types, even null ones, for this family, where they count.
    is_ministral = spec.model_type == "mistral" and "layer_types" in spec.raw
    config_class = CONFIG_MAPPING["ministral" if is_ministral else spec.model_type]
    own = {each.name for each in dataclasses.fields(config_class)}
    raw = {
        name: value
        for name, value in spec.raw.items()
        if name not in _IGNORED and (name in own or not name.startswith("_"))
    }
    try:
        whole = config_class.from_dict(raw)
        config = whole.get_text_config(decoder=True)
    except (*THEIR_ERRORS, StrictDataclassError) as error:
        raise CheckpointError(f"config.json is no {spec.model_type} config: {_line(error)}") from error
    if not isinstance(config, PreTrainedConfig):
        raise CheckpointError(f"config.json is no {spec.model_type} config: its decoder or generator is none")
    if isinstance(raw.get("tie_word_embeddings"), bool):
        config.tie_word_embeddings = raw["tie_word_embeddings"]
    if config.is_encoder_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModel(f"{spec.model_type} is no decoder-only language model: choose one that is")
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if isinstance(model_class, (tuple, list)):
        model_class = model_class[0]
    _check(spec, config, model_class)
    check_class(spec.raw, _classes(spec.model_type, type(whole).model_type, type(config).model_type))
    config.use_cache = True
    config.return_dict = True
    return config, model_class, config is not whole


def _classes(*model_types: str) -> set[str]:
    """The classes whose weights are served as such models: the decoder alone, and with a head or with other senses."""
    from transformers.models.auto import modeling_auto as auto

    tables = (
        auto.MODEL_MAPPING_NAMES,
        auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    )
    found = [table.get(model_type) for table in tables for model_type in model_types]
    return {name for each in found if each for name in ([each] if isinstance(each, str) else each)}


def _check(spec: ModelSpec, config: Any, model_class: Any) -> None:
    for name, ours in (
        ("num_hidden_layers", spec.n_blocks),
        ("hidden_size", spec.hidden_size),
        ("vocab_size", spec.vocab_size),
    ):
        theirs = getattr(config, name, None)
        if theirs != ours:
            raise UnsupportedModel(
                f"the adapter reads {name} = {shown(theirs)} out of this {spec.model_type} config, and the mesh {ours}"
            )
    kinds = set(getattr(config, "layer_types", None) or ())
    if getattr(model_class, "_is_stateful", False) and not (kinds and kinds <= _ATTENTION_KINDS):
        raise UnsupportedModel(
            f"{spec.model_type} keeps a running state, from which no token can be taken back: choose a model whose "
            "blocks all have attention"
        )
    others = kinds - _ATTENTION_KINDS
    if others:
        raise UnsupportedModel(
            f"the adapter has no blocks of kind {', '.join(sorted(map(str, others)))}, which layer_types names: choose "
            "a model whose blocks all have full or sliding attention"
        )
    for name in ("num_kv_shared_layers", "hidden_size_per_layer_input"):
        if getattr(config, name, None):
            raise UnsupportedModel(
                f"the blocks of {spec.model_type} share more than hidden states ({name}): choose another model"
            )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _longest(config: Any) -> int | None:
    """Where a rotary embedding begins to encode tokens in another way, cached keys of before no longer fit."""
    limits = [
        getattr(config, "max_position_embeddings", None)
        if kind == "dynamic"
        else settings.get("original_max_position_embeddings")
        for settings in _rope_settings(config)
        if (kind := settings.get("rope_type")) in ("dynamic", "longrope")
    ]
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


def _rope_settings(config: Any) -> list[Mapping[str, Any]]:
    settings = getattr(config, "rope_parameters", None)
    if not isinstance(settings, Mapping):
        return []
    return [settings, *(inner for inner in settings.values() if isinstance(inner, Mapping))]
