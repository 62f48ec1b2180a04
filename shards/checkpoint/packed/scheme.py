"""How a checkpoint's weights are quantised, in the words that all its forms share (no torch)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a layer's weights may be stored: `int4`, `int8` or `fp8`, and how many share a scale (None: all)."""

    code: str
    rows: int | None = 1
    columns: int | None = None
    zeros: bool = False
    """Whether a zero point is stored with each scale."""


@dataclass(frozen=True, slots=True)
class PackedConfig:
    """A checkpoint's quantised form."""

    method: str
    """As its makers call it."""
    layout: str
    """Which tensors a layer has: one of `layouts.LAYOUTS`."""
    schemes: tuple[Scheme, ...]
    whole: frozenset[str] = frozenset()
    """Layers that the settings name as not quantised."""
    source: str = "config.json"

    @property
    def form(self) -> str:
        """A word for it, part of what two providers compare."""
        return "+".join([self.method, *sorted({scheme.code for scheme in self.schemes})])

    @property
    def bits(self) -> int:
        """The fewest that a weight takes."""
        return min(4 if scheme.code == "int4" else 8 for scheme in self.schemes)
