"""How a stage computes, as a text and its hash, and the self-test by which two stages see that they compute alike.

The hash is of all that may change the last bits: version, dtype, wire dtype, kernels, kind of device.
"""

from __future__ import annotations

import hashlib

import torch

from mesh.verification.commitments import begin_chain, extend_chain, split_rows
from shards.model.paging import pages_for
from shards.model.stage import LogitsMode, Piece, StageModel

GOLDEN_ROWS = 16
_PROFILE = b"mesh profile v1\n"


def profile_text(version: str, numerics: str, wire_dtype: str) -> str:
    """A profile in words, of 200 characters at most."""
    return f"{version} {numerics} wire {wire_dtype}"[:200]


def profile_hash(text: str) -> bytes:
    """By which records of work name it."""
    return hashlib.sha256(_PROFILE + text.encode()).digest()


def golden_root(model: StageModel, wire_dtype: torch.dtype) -> bytes:
    """The root of what a stage's blocks make of fixed rows. It takes the model's pages: call it before an engine does.

    At the model's last blocks it is of the logits, as float32.
    """
    model.allocate(pages_for(GOLDEN_ROWS))
    first, last = model.span.start == 0, model.span.end == model.spec.n_blocks
    piece = Piece(0, model.span, tuple(range(pages_for(GOLDEN_ROWS))), 0, want=LogitsMode.ALL)
    numbers = torch.arange(GOLDEN_ROWS * model.spec.hidden_size, dtype=torch.int64)
    if first:
        piece.tokens = ((numbers[:GOLDEN_ROWS] * 7919 + 13) % model.spec.vocab_size).to(model.device)
    else:  # multiples of 1/64 below 1, which every dtype has exactly
        rows = ((numbers * 2654435761 >> 7) % 127 - 63).to(torch.float32) / 64
        piece.hidden = rows.view(GOLDEN_ROWS, -1).to(device=model.device, dtype=model.dtype)
    with torch.inference_mode():
        (result,) = model.forward([piece])
        out = result.to(dtype=torch.float32 if last else wire_dtype, device="cpu").contiguous()
    model.forget(0)
    data = out.flatten().view(torch.uint8).numpy().tobytes()
    return extend_chain(begin_chain(bytes(16), 0), split_rows(data, GOLDEN_ROWS))
