"""What leaves a stage as frames: hidden states as raw payloads (and back), and what its clients are told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from mesh.errors import BadTensor
from mesh.wire.frame import Frame
from mesh.wire.messages import Activations, NewToken, PromptScores, encode
from shards.engine.step import StepOutput

WIRE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

FRAME_BYTES = 16 * 1024 * 1024
"""Pieces are put into one frame up to this size."""

SCORES_PER_MESSAGE = 256


def hidden_payload(pieces: Sequence[torch.Tensor]) -> memoryview:
    """Pieces [n, hidden] of one dtype, on the CPU, one after another as raw bytes."""
    joined = pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
    raw: memoryview = joined.contiguous().flatten().view(torch.uint8).numpy().data
    return raw


def split_hidden(
    payload: bytes | bytearray | memoryview, counts: Sequence[int], hidden_size: int, dtype: torch.dtype
) -> list[torch.Tensor]:
    """One tensor [count, hidden_size] per count. Raises `BadTensor` unless the payload has that size exactly.

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


def activation_frames(outcomes: Iterable[StepOutput]) -> Iterator[Frame]:
    """The outcomes' hidden states as `Activations` of bounded size."""
    parts: list[tuple[bytes, int, int]] = []
    pieces: list[torch.Tensor] = []
    size = 0
    for outcome in outcomes:
        hidden = outcome.hidden
        if hidden is None:
            continue
        if parts and size + hidden.nbytes > FRAME_BYTES:
            yield encode(Activations(tuple(parts)), hidden_payload(pieces))
            parts, pieces, size = [], [], 0
        parts.append((outcome.sequence.session, outcome.start, outcome.count))
        pieces.append(hidden)
        size += hidden.nbytes
    if parts:
        yield encode(Activations(tuple(parts)), hidden_payload(pieces))


def answers(outcome: StepOutput) -> Iterator[PromptScores | NewToken]:
    """What the client of the last hop is told of an outcome: prompt scores, then the chosen token."""
    session, choice = outcome.sequence.session, outcome.choice
    for offset in range(0, len(outcome.scores), SCORES_PER_MESSAGE):
        scores = outcome.scores[offset : offset + SCORES_PER_MESSAGE]
        yield PromptScores(session, outcome.start + 1 + offset, scores)
    if choice is not None:
        sampled = choice.sampled
        yield NewToken(session, choice.position, sampled.token, choice.finish, sampled.logprob, sampled.top)
