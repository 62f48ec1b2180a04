"""Hidden states and token ids as raw frame payloads, and back; sizes come from the session, never from the message."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mesh.errors import BadTensor

WIRE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def hidden_payload(pieces: Sequence[torch.Tensor]) -> memoryview:
    """Pieces [n, hidden] of one dtype, on the CPU, one after another as raw bytes."""
    joined = pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
    return memoryview(joined.contiguous().flatten().view(torch.uint8).numpy())


def split_hidden(
    payload: bytes | bytearray | memoryview, counts: Sequence[int], hidden_size: int, dtype: torch.dtype
) -> list[torch.Tensor]:
    """One tensor [count, hidden_size] per count. Raises `BadTensor` unless the size fits exactly."""
    expected = sum(counts) * hidden_size * dtype.itemsize
    if len(payload) != expected:
        raise BadTensor(
            f"{len(payload)} bytes of hidden states came for {sum(counts)} tokens of {hidden_size} {dtype}, "
            f"which are {expected} bytes"
        )
    writable = payload if isinstance(payload, bytearray) else bytearray(payload)
    whole = torch.frombuffer(writable, dtype=dtype).view(-1, hidden_size)
    return list(whole.split(list(counts)))


def token_payload(tokens: Sequence[int]) -> bytes:
    """Token ids as little-endian int32."""
    return np.asarray(tokens, dtype="<i4").tobytes()


def read_tokens(payload: bytes | bytearray | memoryview, count: int, vocab_size: int) -> list[int]:
    """`count` token ids below `vocab_size`. Raises `BadTensor`."""
    if len(payload) != 4 * count:
        raise BadTensor(f"{len(payload)} bytes of token ids came for {count} tokens")
    ids = np.frombuffer(payload, dtype="<i4")
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= vocab_size):
        raise BadTensor(f"a token id is outside the model's vocabulary of {vocab_size}: is this the wrong tokenizer?")
    return [int(token) for token in ids]
