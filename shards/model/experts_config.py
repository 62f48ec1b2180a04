"""What the native path must know of a mixture of experts, read from config.json (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shards.errors import CheckpointError, UnsupportedModel
from shards.model.config_fields import count, flag, number
from shards.model.spec import ModelSpec
from shards.shown import shown

MIXTURES: Final = ("mixtral", "qwen3_moe", "gpt_oss")
MAX_EXPERTS: Final = 4096
_DEFAULTS: Final = {"mixtral": (8, 2), "qwen3_moe": (128, 8), "gpt_oss": (128, 4)}
"""Experts and how many of them each token takes, where a config is silent."""


@dataclass(frozen=True, slots=True)
class ClampedGate:
    """gpt-oss's gate: of `gate` (at most `limit`) and `up` (within it), gate * sigmoid(slope * gate) * (up + 1)."""

    slope: float
    limit: float


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """The MLPs of a mixture's blocks: a router's softmax says which `chosen` of `count` experts each token takes.

    The probabilities of those chosen are what their outputs are multiplied by: as they are, or `normalised` so that
    their sum is 1 (which is also a softmax over the chosen alone). `inner` is the width of one expert.
    """

    count: int
    chosen: int
    inner: int
    normalised: bool
    bias: bool
    """Of the experts and of the router."""
    gate: ClampedGate | None
    """None: silu(gate) * up."""
    blocks: tuple[bool, ...]
    """Which blocks have experts; the others have a dense MLP."""


def parse_experts(raw: Mapping[str, Any], kind: str, n_blocks: int) -> ExpertsConfig | None:
    """The mixture that a config of one of `MIXTURES` describes; None where no block has experts.

    Raises `UnsupportedModel` and `CheckpointError` as `parse_native` does.
    """
    name, defaults = _name_of_count(raw), _DEFAULTS[kind]
    if kind == "qwen3_moe" and raw.get(name) == 0:
        return None
    total, chosen = count(raw, name, defaults[0]), count(raw, "num_experts_per_tok", defaults[1])
    if total > MAX_EXPERTS:
        raise UnsupportedModel(f"the native path serves at most {MAX_EXPERTS} experts, not {total}")
    if chosen > total:
        raise CheckpointError(f"config.json: a token cannot take {chosen} of {total} experts")
    match kind:
        case "qwen3_moe":
            blocks = _sparse_blocks(raw, n_blocks)
            if not any(blocks):
                return None
            inner, normalised, gate = count(raw, "moe_intermediate_size", 768), flag(raw, "norm_topk_prob"), None
        case "gpt_oss":
            gate = ClampedGate(number(raw, "swiglu_alpha", 1.702), number(raw, "swiglu_limit", 7.0))
            blocks, inner, normalised = (True,) * n_blocks, count(raw, "intermediate_size", None), True
        case _:
            blocks, inner, normalised, gate = (True,) * n_blocks, count(raw, "intermediate_size", None), True, None
    return ExpertsConfig(total, chosen, inner, normalised, kind == "gpt_oss", gate, blocks)


def _name_of_count(raw: Mapping[str, Any]) -> str:
    """The field that says how many experts there are: transformers takes either name for the other."""
    given = [name for name in ("num_local_experts", "num_experts") if raw.get(name) is not None]
    if len({shown(raw[name]) for name in given}) > 1:
        raise UnsupportedModel("config.json has two different numbers of experts, num_local_experts and num_experts")
    return given[0] if given else "num_experts"


def _sparse_blocks(raw: Mapping[str, Any], n_blocks: int) -> tuple[bool, ...]:
    """Every `decoder_sparse_step`-th block has experts, except those of `mlp_only_layers`."""
    step = count(raw, "decoder_sparse_step", 1)
    dense = raw.get("mlp_only_layers")
    dense = [] if dense is None else dense
    if not isinstance(dense, list) or not all(type(item) is int for item in dense):
        raise CheckpointError(f"config.json: mlp_only_layers must be numbers of blocks, got {shown(dense)}")
    without = set(dense)
    return tuple(block not in without and (block + 1) % step == 0 for block in range(n_blocks))


def expert_numbers(raw: Mapping[str, Any], hidden_size: int) -> tuple[int, int]:
    """About how many numbers a block has in all its experts, and in those that one token takes; zeros for a dense one.

    Of any family that calls things by their usual names: this is for planning, where the weights' size is not known.
    """
    inner = raw.get("text_config")
    shape = inner if isinstance(inner, dict) else raw

    def first(*names: str) -> int:
        values = (shape.get(name) for name in names)
        return next((value for value in values if type(value) is int and 0 < value < 1 << 20), 0)

    total, chosen = first("num_local_experts", "num_experts", "n_routed_experts"), first("num_experts_per_tok")
    each = 3 * hidden_size * first("moe_intermediate_size", "intermediate_size")
    return total * each, min(chosen or total, total) * each


def read_share(spec: ModelSpec) -> float:
    """Of a block's weights, which part is read for one token: all but the experts that it does not take."""
    every, taken = expert_numbers(spec.raw, spec.hidden_size)
    dense = 4 * spec.hidden_size**2
    return (dense + taken) / (dense + every) if every else 1.0
