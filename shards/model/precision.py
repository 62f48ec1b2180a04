"""In how many bits an unquantised checkpoint's weights may be kept, and which tensors in which (no torch here)."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from shards.checkpoint.gguf_header import TYPES, TensorType
from shards.checkpoint.names import block_of
from shards.model.native_config import NativeConfig

VERSION: Final = 1
"""To be raised with every change of what the weights become: providers of different numbers form no ring."""
SLICE: Final = 32
"""Inputs of a linear layer must be a multiple of this: the numbers of a block."""

_LINEAR: Final = re.compile(r"\.(\w+_proj|w[123])\.weight$")
_VOCABULARY: Final = re.compile(r"(?:^|\.)(?:embed_tokens|lm_head)\.weight$")
_FINER: Final = frozenset({"k_proj", "v_proj", "qkv_proj", "down_proj", "w2"})
_TYPES: Final = {each.name: each for each in TYPES.values()}
_EIGHT, _FOUR = _TYPES["Q8_0"], _TYPES["Q4_1"]


class Precision(StrEnum):
    """What weights are quantised to as they are loaded. Values go into digests: never rename one.

    `int8` has all linear layers, the embedding and the head in Q8_0. `int4` has most of a block in Q4_1; what loses
    most by it stays in Q8_0: keys, values, what leads back from the MLP, the last block, embedding and head. With all
    blocks in Q4_1, SmolLM2-135M (rescaled, see `benchmarks/quantisation.py`) was 0.18 nats of KL divergence off float32
    over 768 tokens; by themselves keys gave 0.01, values 0.03, down 0.06, and the last block 0.03 where others gave
    less than 0.01. With values and down in Q8_0 it was 0.077, with the last block 0.069. All blocks in Q5_1 gave 0.06
    for about as many bytes, but its kernel is slower.
    """

    INT8 = "int8"
    INT4 = "int4"

    @property
    def identity(self) -> str:
        """What of it counts for a model's digest."""
        return f"{self.value}, version {VERSION}"

    def type_of(self, name: str, n_blocks: int) -> TensorType | None:
        """What a tensor of this name becomes; None where it stays as it is: norms, biases, routers of experts."""
        if _VOCABULARY.search(name):
            return _EIGHT
        linear = _LINEAR.search(name)
        if linear is None:
            return None
        finer = linear[1] in _FINER or block_of(name) == n_blocks - 1
        return _EIGHT if self is Precision.INT8 or finer else _FOUR

    def block_bytes(self, config: NativeConfig) -> float:
        """Bytes of a weight in the blocks' linear layers, on average."""
        queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        four = 2 * queries + 2 * config.intermediate_size
        eight = 2 * keys + config.intermediate_size
        share = 0.0 if self is Precision.INT8 else four / (four + eight) * (config.n_blocks - 1) / config.n_blocks
        return share * _each(_FOUR) + (1 - share) * _each(_EIGHT)

    @property
    def vocabulary_bytes(self) -> float:
        """Bytes of a weight in the embedding and in the head."""
        return _each(_EIGHT)


def _each(kind: TensorType) -> float:
    return kind.nbytes / kind.items
