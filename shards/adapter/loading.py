"""From a checkpoint and a span to a live `AdapterStage`."""

from __future__ import annotations

import logging

import torch

from shards.adapter.probe import check_cuts
from shards.adapter.skeleton import PROVEN, build
from shards.adapter.stage import AdapterStage
from shards.adapter.weights import fill
from shards.checkpoint.opening import AnyCheckpoint
from shards.errors import UnsupportedModel
from shards.model.span import Span
from shards.progress import Progress, silent

logger = logging.getLogger(__name__)


def load_adapter_stage(
    checkpoint: AnyCheckpoint,
    span: Span,
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress = silent,
) -> AdapterStage:
    """Load `span` with transformers' modelling code, reading only the span's tensors.

    The first call imports transformers, which takes seconds. Building sets torch's default dtype for a
    moment, as transformers does. Raises `UnsupportedModel` with the reason where the model cannot be cut
    into stages, `CheckpointError` where a tensor is missing or does not fit.
    """
    spec = checkpoint.spec
    if span.end > spec.n_blocks:
        raise UnsupportedModel(f"blocks {span} are not all in a model of {spec.n_blocks} blocks")
    family = build(spec, dtype)
    fill(family, checkpoint, span, device=device, dtype=dtype, progress=progress)
    stage = AdapterStage(spec, family, span, device=device, dtype=dtype)
    is_proven = spec.model_type in PROVEN
    if not is_proven:
        logger.warning("%s stages have not been compared with the whole model", spec.model_type)
    if not is_proven or dtype == torch.float32:  # in halves a router may choose otherwise, and nothing be wrong
        check_cuts(stage)
    return stage
