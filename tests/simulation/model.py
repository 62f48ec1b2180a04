"""A model that is all check: each hidden value is a hash of everything before it, block by block (pure).

A position that is missing, doubled, out of place, or computed from somebody else's cache changes every value after it,
so the answer differs from `reference` within a token or two. There are no weights; the cache holds what it hashed.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from functools import lru_cache

import tokenizers
import torch

from mesh.provider.model_files import ModelFiles
from shards.engine.sampling import TokenHistory, sample
from shards.engine.sampling_params import SamplingParams
from shards.model.span import Span
from shards.model.spec import ModelSpec, parse_config
from shards.model.stage import LogitsMode, Piece

NAME = "hash"
VOCAB = 48
EOS = 1
CONTEXT = 256
ROWS = 1009
HIDDEN = 2
KV_BYTES = 16
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
    """One block on one position: its new state (what the cache holds), and what it hands on (40 bits)."""
    state = mix(mix(state, value), block << 20 | position)
    return state, mix(state, block) & (1 << 40) - 1


class HashCache:
    """One session's states on one stage, a list per block."""

    def __init__(self, span: Span, capacity: int) -> None:
        self.span = span
        self.capacity = capacity
        self.states: list[list[int]] = [[] for _ in span]

    @property
    def length(self) -> int:
        return len(self.states[0])

    @property
    def nbytes(self) -> int:
        return KV_BYTES * len(self.span) * self.capacity

    def truncate(self, length: int) -> None:
        for states in self.states:
            del states[length:]

    def run(self, value: int) -> int:
        position = self.length
        for block, states in zip(self.span, self.states, strict=True):
            state, value = step(states[-1] if states else 0, value, block, position)
            states.append(state)
        return value


class HashModel:
    """A `StageModel`. `caches` are those that somebody still holds."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, spec: ModelSpec, span: Span, block_rate: float) -> None:
        self.spec = spec
        self.span = span
        self.block_rate = block_rate
        self.caches: weakref.WeakSet[HashCache] = weakref.WeakSet()

    def new_cache(self, span: Span, capacity: int) -> HashCache:
        cache = HashCache(span, capacity)
        self.caches.add(cache)
        return cache

    def kv_bytes_per_token(self, span: Span) -> int:
        return KV_BYTES * len(span)

    def forward(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
        return [self._piece(piece) for piece in pieces]

    def _piece(self, piece: Piece) -> torch.Tensor:
        cache = piece.cache
        assert isinstance(cache, HashCache) and cache.length == piece.start
        if piece.tokens is not None:
            values = [token + 1 for token in piece.tokens.tolist()]
        else:
            assert piece.hidden is not None
            values = [int(high) * _HALF + int(low) for high, low in piece.hidden.tolist()]
        results = [cache.run(value) for value in values]
        if cache.span.end < self.spec.n_blocks:
            return torch.tensor([(value // _HALF, value % _HALF) for value in results], dtype=torch.float32)
        wanted = {LogitsMode.NOTHING: [], LogitsMode.LAST: results[-1:], LogitsMode.ALL: results}[piece.want]
        return _LOGITS[[value % ROWS for value in wanted]]


def reference(
    n_blocks: int, prompt: tuple[int, ...], max_tokens: int, params: SamplingParams, ignore_eos: bool
) -> tuple[int, ...]:
    """The answer that an undisturbed model gives, its end token included."""
    cache = HashCache(Span(0, n_blocks), len(prompt) + max_tokens)
    history = TokenHistory(prompt)
    value = 0
    for token in prompt:
        value = cache.run(token + 1)
    answer: list[int] = []
    while True:
        token = sample(_LOGITS[value % ROWS], params, len(prompt) + len(answer), history).token
        history.push(token)
        answer.append(token)
        if len(answer) == max_tokens or (token == EOS and not ignore_eos):
            return tuple(answer)
        value = cache.run(token + 1)


@lru_cache(64)
def model_files(n_blocks: int) -> ModelFiles:
    """The small files of the model, as its providers hand them out."""
    config = {
        "model_type": "llama",
        "num_hidden_layers": n_blocks,
        "hidden_size": HIDDEN,
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "eos_token_id": EOS,
        "dtype": "float32",
    }
    words = {f"<{number}>": number for number in range(VOCAB)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<0>"))
    contents = {"config.json": json.dumps(config).encode(), "tokenizer.json": inner.to_str().encode()}
    digest = f"{n_blocks:064x}"
    return ModelFiles(NAME, parse_config(contents["config.json"]), digest, contents)
