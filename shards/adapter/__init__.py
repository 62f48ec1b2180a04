"""Stages over transformers' modelling code, for the families that the native path does not know."""

from __future__ import annotations

from shards.adapter.loading import load_adapter_stage
from shards.adapter.stage import AdapterStage

__all__ = ["AdapterStage", "load_adapter_stage"]
