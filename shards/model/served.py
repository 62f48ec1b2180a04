"""Whether a quantised checkpoint is served at all, told before anything is joined or loaded (no torch)."""

from __future__ import annotations

from pathlib import Path

from shards.checkpoint.packed.config import read_packed, without
from shards.checkpoint.packed.scheme import PackedConfig
from shards.errors import UnsupportedModel
from shards.model.native_config import parse_native
from shards.model.spec import ModelSpec


def served_form(folder: Path, spec: ModelSpec) -> PackedConfig | None:
    """The quantised form of a checkpoint folder; None for one that has none.

    Raises `UnsupportedModel` with a way out where the form is not read or only the adapter knows the model, and
    `CheckpointError` for settings that make no sense.
    """
    config = read_packed(folder, spec)
    if config is not None:
        check_native(spec, config.form)
    return config


def check_native(spec: ModelSpec, form: str) -> None:
    """Refuse quantised weights of a model that only the adapter could serve."""
    try:
        parse_native(without(spec))
    except UnsupportedModel as error:
        raise UnsupportedModel(
            f"{spec.model_type} with {form} weights is not served ({error}; the adapter takes no quantised weights): "
            "take a copy of the model that is not quantised"
        ) from error
