"""Hidden states as raw frame payloads, and back; sizes come from the session, never from the message."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mesh.errors import BadTensor

WIRE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def hidden_payload(pieces: Sequence[torch.Tensor]) -> memoryview:
    """Pieces [n, hidden] of one dtype, on the CPU, one after another as raw bytes."""
    joined = pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
    raw: memoryview = joined.contiguous().flatten().view(torch.uint8).numpy().data
    return raw


def split_hidden(
    payload: bytes | bytearray | memoryview, counts: Sequence[int], hidden_size: int, dtype: torch.dtype
) -> list[torch.Tensor]:
    """One tensor [count, hidden_size] per count. Raises `BadTensor` unless the size fits exactly.

    A piece that is a small part of the payload is copied, so that keeping it does not keep the whole payload.
    """
    if not counts or min(counts) < 1:
        raise BadTensor("a frame of hidden states without tokens")
    expected = sum(counts) * hidden_size * dtype.itemsize
    if len(payload) != expected:
        raise BadTensor(
            f"{len(payload)} bytes of hidden states came for {sum(counts)} tokens of {hidden_size} {dtype}, "
            f"which are {expected} bytes"
        )
    writable = bytearray(payload) if memoryview(payload).readonly else payload
    whole = torch.frombuffer(writable, dtype=dtype).view(-1, hidden_size)
    return [piece if 2 * piece.nbytes > whole.nbytes else piece.clone() for piece in torch.split(whole, list(counts))]
