"""A mixture's experts: their weights, and the torch path's way through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F

from shards.model.experts_config import ClampedGate, ExpertsConfig
from shards.model.linear import Linear

L = TypeVar("L")


@dataclass(frozen=True, slots=True)
class ExpertWeights(Generic[L]):
    """The MLP of one block: `router` has an output for each expert, the others a layer for each, gate-up fused."""

    router: L
    gate_up: Sequence[L]
    down: Sequence[L]


def choose(scores: torch.Tensor, config: ExpertsConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the router's `scores` [n, experts] the likeliest experts and what each counts, both [n, chosen]."""
    top, chosen = scores.float().topk(config.chosen, dim=-1)
    if config.normalised:
        return chosen, top.softmax(dim=-1)
    return chosen, scores.float().softmax(dim=-1).gather(1, chosen)


def gated(gate: torch.Tensor, up: torch.Tensor, how: ClampedGate | None) -> torch.Tensor:
    """What an expert's inner layer passes on."""
    if how is None:
        return F.silu(gate) * up
    gate, up = gate.clamp(max=how.limit), up.clamp(-how.limit, how.limit)
    return (up + 1) * gate * torch.sigmoid(gate * how.slope)


def mix(x: torch.Tensor, weights: ExpertWeights[Linear], config: ExpertsConfig) -> torch.Tensor:
    """`x` [n, hidden] through the experts that each row takes, added up in the experts' order."""
    chosen, shares = choose(weights.router(x), config)
    by_expert = chosen.flatten()
    order = by_expert.argsort(stable=True)
    rows, counted = order // config.chosen, shares.flatten()[order, None]
    total = torch.zeros_like(x, dtype=torch.float32)
    first = 0
    for expert, count in enumerate(torch.bincount(by_expert, minlength=config.count).tolist()):
        if not count:
            continue
        own = slice(first, first + count)
        gate, up = weights.gate_up[expert](x[rows[own]]).chunk(2, dim=-1)
        out = weights.down[expert](gated(gate, up, config.gate))
        total.index_add_(0, rows[own], out.float() * counted[own])
        first += count
    return total.to(x.dtype)
