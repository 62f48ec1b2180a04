"""Fields that any model's config.json may have and that change what is computed: refused by name (no torch here).

transformers honours them in every family; neither of our ways to run a model does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from shards.errors import CheckpointError, UnsupportedModel
from shards.shown import shown

_REFUSED: Final[Mapping[str, str]] = {
    "is_encoder_decoder": "it has an encoder, and only decoders are served: choose a decoder-only model",
    "per_layer_config": "its blocks differ from each other, which no stage knows: serve it with transformers",
    "transformers_weights": "its weights are in a file of another name: name that file model.safetensors (or put its "
    "index in model.safetensors.index.json) and remove the field",
    "configuration_files": "transformers may read another file instead, by its version: make the one that is meant "
    "config.json and remove the field",
    "add_cross_attention": "its blocks also attend to an encoder: choose a decoder-only model",
    "tie_encoder_decoder": "it has an encoder: choose a decoder-only model",
}
"""Refused where they say anything; why, and what can be done."""
_BOTH_WAYS: Final = "tokens attend to later ones, so it cannot write token by token: choose the model's causal version"
_TEXT_ALONE: Final = (None, False, "vision")
"""Of `use_bidirectional_attention`, what leaves text causal."""


def refuse_unserved(raw: Mapping[str, Any]) -> None:
    """Look at a config and at the one of its text part. Raises `UnsupportedModel` naming the field."""
    inner = raw.get("text_config")
    for source in (raw, inner) if isinstance(inner, dict) else (raw,):
        for name, reason in _REFUSED.items():
            if source.get(name):
                raise UnsupportedModel(f"config.json says {name} = {shown(source[name])}: {reason}")
        if source.get("is_causal") not in (None, True):
            raise UnsupportedModel(f"config.json says is_causal = {shown(source['is_causal'])}: {_BOTH_WAYS}")
        looks = source.get("use_bidirectional_attention")
        if not any(looks is each or looks == each for each in _TEXT_ALONE):
            raise UnsupportedModel(f"config.json says use_bidirectional_attention = {shown(looks)}: {_BOTH_WAYS}")


def check_class(raw: Mapping[str, Any], built: Collection[str]) -> None:
    """Whether the weights were saved from one of the classes `built`, as far as `architectures` says.

    Other classes compute something else with the same fields. Case does not count: it was changed in some families.
    Raises `UnsupportedModel`, and `CheckpointError` where it is no list of names.
    """
    said = raw.get("architectures")
    if said is None:
        return
    if not isinstance(said, list) or not all(isinstance(name, str) for name in said):
        raise CheckpointError(f"config.json: architectures must be a list of names, got {shown(said)}")
    known = {name.casefold() for name in built}
    for name in said:
        if name.casefold() not in known:
            raise UnsupportedModel(
                f"config.json says architectures = {shown(name)}, which is not what {raw.get('model_type')} models are "
                f"served as ({', '.join(sorted(built))}): if its weights are of such a model, write that name there"
            )
