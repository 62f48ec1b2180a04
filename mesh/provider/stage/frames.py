"""What leaves a stage as frames: hidden states as raw payloads (and back), and what its clients are told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from mesh.errors import BadTensor
from mesh.wire.frame import Frame
from mesh.wire.messages import Activations, NewToken, NewTokens, NextTokens, PromptScores, encode
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
    if len(counts) == 1:
        return [whole]
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


def token_runs(sender: str, message: NextTokens, vocab_size: int) -> list[tuple[bytes, int, tuple[int, ...]]]:
    """What `next_tokens` was made of. Raises `BadTensor` for a token that is not in the vocabulary."""
    drafts = message.drafts or ((),) * len(message.parts)
    runs = [(session, at, (token, *more)) for (session, at, token), more in zip(message.parts, drafts, strict=True)]
    outside = [token for _, _, tokens in runs for token in tokens if token >= vocab_size]
    if outside:
        raise BadTensor(f"token {outside[0]} is outside the vocabulary", peer=sender)
    return runs


def next_tokens(parts: Sequence[tuple[bytes, int, tuple[int, ...]]]) -> NextTokens:
    """For each session the position of its next token, that, and guesses at those after it."""
    drafts = tuple(tokens[1:] for _, _, tokens in parts)
    triples = tuple((session, position, tokens[0]) for session, position, tokens in parts)
    return NextTokens(triples, drafts if any(drafts) else ())


def answers(outcome: StepOutput) -> Iterator[PromptScores | NewToken | NewTokens]:
    """What the client of the last hop is told of an outcome: prompt scores, then the chosen tokens."""
    session, choice = outcome.sequence.session, outcome.choice
    drafted = 0 if outcome.input is None else len(outcome.input.drafts)
    for offset in range(0, len(outcome.scores), SCORES_PER_MESSAGE):
        scores = outcome.scores[offset : offset + SCORES_PER_MESSAGE]
        yield PromptScores(session, outcome.start + 1 + offset, scores)
    if drafted and choice is not None:
        told = tuple((each.sampled.token, each.sampled.logprob, each.sampled.top) for each in outcome.choices)
        yield NewTokens(session, outcome.choices[0].position, told, choice.finish, drafted)
    elif choice is not None:
        sampled = choice.sampled
        yield NewToken(session, choice.position, sampled.token, choice.finish, sampled.logprob, sampled.top)
