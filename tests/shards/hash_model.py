"""A model that is all check: each hidden value is a hash of everything before it, block by block (pure).

A position that is missing, doubled, out of place, or computed from somebody else's page changes every value after it,
so the answer differs from `reference` within a token or two. There are no weights; pages hold what was hashed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shards.engine.sampling import TokenHistory, sample
from shards.engine.sampling_params import SamplingParams
from shards.model.span import Span
from shards.model.spec import ModelSpec
from shards.model.stage import PAGE, LogitsMode, Piece

VOCAB = 48
EOS = 1
CONTEXT = 256
ROWS = 1009
HIDDEN = 2
STATE_BYTES = 16
_WORD = (1 << 64) - 1
_HALF = 1 << 20
_LOGITS = torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(1))


def mix(one: int, other: int) -> int:
    """A 64-bit hash of two numbers (the finaliser of splitmix64)."""
    value = (one ^ other * 0x9E3779B97F4A7C15) & _WORD
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _WORD
    return value ^ value >> 31


def step(state: int, value: int, block: int, position: int) -> tuple[int, int]:
    """One block on one position: its new state (what a page holds), and what it hands on (40 bits)."""
    state = mix(mix(state, value), block << 20 | position)
    return state, mix(state, block) & (1 << 40) - 1


class HashModel:
    """A `StageModel`. `pages` is what has been written, by page, place in it and block."""

    device = torch.device("cpu")
    dtype = torch.float32
    numerics = "hash/cpu/native"
    longest = CONTEXT
    shares_pages = True

    def __init__(self, spec: ModelSpec, span: Span, block_rate: float = 100.0) -> None:
        self.spec = spec
        self.span = span
        self.block_rate = block_rate
        self.page_bytes = PAGE * STATE_BYTES * len(span)
        self.pages: dict[tuple[int, int, int], int] = {}
        self.passes: list[list[tuple[int, int, int]]] = []
        """Of every pass, its pieces: session, start, tokens."""
        self._allocated = 0

    def allocate(self, pages: int) -> None:
        self._allocated = pages
        self.pages.clear()

    def cut(self, sequence: int, length: int) -> None:
        pass

    def forget(self, sequence: int) -> None:
        pass

    def forward(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
        assert len({piece.sequence for piece in pieces}) == len(pieces)
        assert len({piece.span for piece in pieces}) == 1
        self.passes.append([(piece.sequence, piece.start, _count(piece)) for piece in pieces])
        del self.passes[:-1000]
        return [self._piece(piece) for piece in pieces]

    def _piece(self, piece: Piece) -> torch.Tensor:
        assert all(0 <= page < self._allocated for page in piece.pages)
        if piece.tokens is not None:
            values = [token + 1 for token in piece.tokens.tolist()]
        else:
            assert piece.hidden is not None
            values = [int(high) * _HALF + int(low) for high, low in piece.hidden.tolist()]
        assert piece.start + len(values) <= len(piece.pages) * PAGE
        results = [self._run(piece, piece.start + offset, value) for offset, value in enumerate(values)]
        if piece.span.end < self.spec.n_blocks:
            return torch.tensor([(value // _HALF, value % _HALF) for value in results], dtype=torch.float32)
        wanted = {LogitsMode.NOTHING: [], LogitsMode.LAST: results[-1:], LogitsMode.ALL: results}[piece.want]
        return _LOGITS[[value % ROWS for value in wanted]]

    def _run(self, piece: Piece, position: int, value: int) -> int:
        for block in piece.span:
            before = 0
            if position:
                page, offset = piece.pages[(position - 1) // PAGE], (position - 1) % PAGE
                before = self.pages.get((page, offset, block), 0)
            state, value = step(before, value, block, position)
            self.pages[piece.pages[position // PAGE], position % PAGE, block] = state
        return value


def _count(piece: Piece) -> int:
    given = piece.tokens if piece.tokens is not None else piece.hidden
    assert given is not None
    return len(given)


def reference(
    n_blocks: int, prompt: Sequence[int], max_tokens: int, params: SamplingParams, ignore_eos: bool
) -> tuple[int, ...]:
    """The answer that an undisturbed model gives, its end token included."""
    states = [0] * n_blocks
    history = TokenHistory(prompt)

    def run(token: int, position: int) -> int:
        value = token + 1
        for block in range(n_blocks):
            states[block], value = step(states[block], value, block, position)
        return value

    value = 0
    for position, token in enumerate(prompt):
        value = run(token, position)
    answer: list[int] = []
    while True:
        token = sample(_LOGITS[value % ROWS], params, len(prompt) + len(answer), history).token
        history.push(token)
        answer.append(token)
        if len(answer) == max_tokens or (token == EOS and not ignore_eos):
            return tuple(answer)
        value = run(token, len(prompt) + len(answer) - 1)
