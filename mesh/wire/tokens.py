"""Token ids as raw frame payloads: little-endian int32 (pure)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from mesh.errors import BadTensor


def token_payload(tokens: Sequence[int]) -> bytes:
    """Encode token ids."""
    return struct.pack(f"<{len(tokens)}i", *tokens)


def read_tokens(payload: bytes | bytearray | memoryview, count: int, vocab_size: int) -> list[int]:
    """`count` token ids below `vocab_size`. Raises `BadTensor`."""
    if len(payload) != 4 * count:
        raise BadTensor(f"{len(payload)} bytes of token ids came for {count} tokens")
    ids = struct.unpack(f"<{count}i", payload)
    if not all(0 <= token < vocab_size for token in ids):
        raise BadTensor(f"a token id is outside the model's vocabulary of {vocab_size}: is this the wrong tokenizer?")
    return list(ids)
