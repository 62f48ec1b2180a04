"""A model without weights: built by transformers on the meta device, then cut down to one span."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from shards.checkpoint.packed.config import is_quantised
from shards.errors import CheckpointError, UnsupportedModel
from shards.model.span import Span
from shards.model.spec import ModelSpec

PROVEN = (
    "llama", "qwen3", "gemma3_text", "gemma3", "mixtral", "gpt2", "falcon", "bloom", "phi3",
)  # fmt: skip
"""Model types whose stages the tests compare with the whole model."""
_BLOCK_LISTS = ("layers", "h", "blocks", "block")
_ATTENTION_KINDS = frozenset({"full_attention", "sliding_attention"})
# What a config could use to choose code, and what must not depend on it.
_IGNORED = frozenset(
    {
        "auto_map", "attn_implementation", "experts_implementation", "fusion_config", "kernel_config",
        "transformers_weights", "output_attentions", "output_hidden_states", "return_dict", "use_cache",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Family:
    """How transformers names the parts of a model."""

    model: Any
    """The causal language model (a transformers `PreTrainedModel`), weights on the meta device."""
    base_name: str
    """Attribute of `model` that holds the blocks' parent."""
    list_name: str
    """Attribute of the parent that holds the blocks."""
    composite: bool
    """True for the text part of a model that also sees or hears."""
    longest: int | None
    """Most tokens of a session for which positions are encoded the same way throughout; None: no limit."""


class Absent(nn.Module):
    """Stands where another stage owns a module: lets activations through, and embeds ids as zero."""

    def forward(self, x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return x if x.is_floating_point() else torch.zeros((), device=x.device)


def build(spec: ModelSpec, dtype: torch.dtype) -> Family:
    """The whole model on the meta device. Runs transformers' own code only, never a checkpoint's.

    Raises `UnsupportedModel` with the reason where the adapter cannot cut this model, and `CheckpointError`
    for a config that makes no sense.
    """
    config, model_class = _config(spec)
    from transformers.initialization import no_tie_weights

    attention = "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"
    try:
        with torch.device("meta"), no_tie_weights():
            model = model_class._from_config(config, dtype=dtype, attn_implementation=attention)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, ImportError) as error:
        raise UnsupportedModel(f"transformers cannot build this {spec.model_type} model: {error}") from error
    model.eval()
    base_name = model.base_model_prefix
    base = getattr(model, base_name, None)
    if not isinstance(base, nn.Module):
        raise UnsupportedModel(f"the adapter finds no decoder in a {spec.model_type} model")
    for list_name in _BLOCK_LISTS:
        blocks = getattr(base, list_name, None)
        if isinstance(blocks, nn.ModuleList) and len(blocks) == spec.n_blocks:
            composite = config.model_type != spec.model_type
            return Family(model, base_name, list_name, composite, _longest(config))
    raise UnsupportedModel(f"the adapter finds no list of {spec.n_blocks} blocks in a {spec.model_type} model")


def cut(family: Family, span: Span, needed: Collection[str]) -> None:
    """Replace what the stage does not own: blocks outside `span`, and modules without a `needed` tensor."""
    model = family.model
    base = getattr(model, family.base_name)
    blocks = getattr(base, family.list_name)
    for block in range(len(blocks)):
        if block not in span:
            blocks[block] = nn.Identity()
    for parent, prefix, kept in (
        (base, f"{family.base_name}.", family.list_name),
        (model, "", family.base_name),
    ):
        for name, child in list(parent.named_children()):
            tensors = {f"{prefix}{name}.{key}" for key in child.state_dict()}
            if name != kept and tensors and not tensors & set(needed):
                setattr(parent, name, Absent())


def _config(spec: ModelSpec) -> tuple[Any, Any]:
    """The decoder's config and its model class."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    if is_quantised(spec.raw):
        raise UnsupportedModel("the adapter has no quantised weights: take a copy of the model that is not quantised")
    if spec.model_type not in CONFIG_MAPPING:
        raise UnsupportedModel(
            f"transformers has no model type {spec.model_type!r} of its own, and code from checkpoints is never run"
        )
    raw = {name: value for name, value in spec.raw.items() if not name.startswith("_") and name not in _IGNORED}
    try:
        whole = CONFIG_MAPPING[spec.model_type].from_dict(raw)
        config = whole.get_text_config(decoder=True)
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        raise CheckpointError(f"config.json is no {spec.model_type} config: {error}") from error
    if isinstance(raw.get("tie_word_embeddings"), bool):
        config.tie_word_embeddings = raw["tie_word_embeddings"]
    if config.is_encoder_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModel(f"{spec.model_type} is no decoder-only language model")
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if isinstance(model_class, (tuple, list)):
        model_class = model_class[0]
    _check(spec, config, model_class)
    config.use_cache = True
    config.return_dict = True
    return config, model_class


def _check(spec: ModelSpec, config: Any, model_class: Any) -> None:
    if config.num_hidden_layers != spec.n_blocks or config.hidden_size != spec.hidden_size:
        raise UnsupportedModel(f"the adapter reads another shape than the mesh out of this {spec.model_type} config")
    if getattr(model_class, "_is_stateful", False):
        raise UnsupportedModel(f"{spec.model_type} keeps a running state, from which no token can be taken back")
    kinds = set(getattr(config, "layer_types", None) or ()) - _ATTENTION_KINDS
    if kinds:
        raise UnsupportedModel(f"the adapter has no blocks of kind {', '.join(sorted(map(str, kinds)))}")
    for name in ("num_kv_shared_layers", "hidden_size_per_layer_input"):
        if getattr(config, name, None):
            raise UnsupportedModel(f"the blocks of {spec.model_type} share more than hidden states ({name})")
    if any(settings.get("rope_type") == "dynamic" for settings in _rope_settings(config)):
        raise UnsupportedModel("dynamic rotary scaling encodes a token differently as its session grows")


def _longest(config: Any) -> int | None:
    """Where a rotary embedding switches from short to long factors, cached keys of before no longer fit."""
    limits = [
        settings.get("original_max_position_embeddings")
        for settings in _rope_settings(config)
        if settings.get("rope_type") == "longrope"
    ]
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


def _rope_settings(config: Any) -> list[Mapping[str, Any]]:
    settings = getattr(config, "rope_parameters", None)
    if not isinstance(settings, Mapping):
        return []
    return [settings, *(inner for inner in settings.values() if isinstance(inner, Mapping))]
