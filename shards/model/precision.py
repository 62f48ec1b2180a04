"""In how many bits an unquantised checkpoint's weights may be kept, and which tensors in which (no torch here)."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from shards.checkpoint.gguf_header import TYPES, TensorType

VERSION: Final = 1
"""To be raised with every change of what the weights become: providers of different numbers form no ring."""

_LINEAR: Final = re.compile(r"\.(?:\w+_proj|w[123])\.weight$")
_VOCABULARY: Final = re.compile(r"(?:^|\.)(?:embed_tokens|lm_head)\.weight$")
_TYPES: Final = {each.name: each for each in TYPES.values()}


class Precision(StrEnum):
    """What weights are quantised to as they are loaded. Values go into digests: never rename one."""

    INT8 = "int8"
    INT4 = "int4"

    @property
    def identity(self) -> bytes:
        """What of it counts for a model's digest."""
        return f"weights in {self.value}, version {VERSION}".encode()

    @property
    def block_bytes(self) -> float:
        """Bytes of a weight in a block's linear layers."""
        return _each(self._linear)

    @property
    def vocabulary_bytes(self) -> float:
        """Bytes of a weight in the embedding and in the head."""
        return _each(_VOCABULARY_TYPE)

    def type_of(self, name: str) -> TensorType | None:
        """What a tensor of this name becomes; None where it stays as it is: norms, biases, routers of experts."""
        if _VOCABULARY.search(name):
            return _TYPES[_VOCABULARY_TYPE]
        return _TYPES[self._linear] if _LINEAR.search(name) else None

    @property
    def _linear(self) -> str:
        return {Precision.INT8: "Q8_0", Precision.INT4: "Q4_1"}[self]


_VOCABULARY_TYPE: Final = "Q8_0"
"""Of the embedding and the head: what is looked up and what chooses the token suffer most from few bits."""
SLICE: Final = 32
"""Inputs of a linear layer must be a multiple of this: the numbers of a block."""


def _each(kind: str) -> float:
    return _TYPES[kind].nbytes / _TYPES[kind].items
