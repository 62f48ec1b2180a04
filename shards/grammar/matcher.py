"""Where an answer stands in its form: which tokens may come next, and which must."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from shards.errors import InvalidGrammar
from shards.grammar import limits
from shards.grammar.library import words

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MOST_FORCED = 64
"""Bytes that are looked at of what must come next."""
_LATE = "the form that the answer is held to takes too long to follow: ask for a simpler one"


@dataclass(frozen=True, slots=True)
class _Next:
    """What may follow so many tokens: a mask [vocab], True where allowed; and bytes that must."""

    length: int
    mask: torch.Tensor
    forced: bytes


_Job = tuple[int, Future[_Next]]


class Matcher:
    """One answer. Its own lock makes it safe for the engine's thread and another one.

    What may follow a token is found on a thread of `pool` from the moment that the token is known, so that it mostly is
    there when it is needed. Everything that says so raises `InvalidGrammar` where that takes too long, the library's
    limits are exceeded, or nothing may follow.
    """

    def __init__(self, inner: LLMatcher, trie: LLTokenizer, vocab: int, pool: ThreadPoolExecutor) -> None:
        """`inner` is at the answer's beginning; `vocab` is how wide the model's logits are."""
        self._inner = inner
        self._trie = trie
        self._vocab = vocab
        self._pool = pool
        self._lock = threading.Lock()
        self._eos: tuple[int, ...] = ()
        self._length = 0
        self._job: _Job | None = None

    @property
    def length(self) -> int:
        """Tokens of the answer that have been followed."""
        return self._length

    def start(self, eos: Sequence[int]) -> None:
        """With these tokens the answer ends. Raises `InvalidGrammar` where there are none: it could never."""
        self._eos = tuple(token for token in eos if token < self._vocab)
        if not self._eos:
            raise InvalidGrammar("an answer that is held to a form must be able to end: the model has no end token")
        self._look_ahead()

    def follow(self, tokens: Sequence[int]) -> None:
        """The answer goes on with these, none of which ends it."""
        self._enter()
        try:
            if not self._inner.consume_tokens([*tokens]):
                raise InvalidGrammar(f"the answer is not of its form: {words(self._inner.get_error())}")
            self._length += len(tokens)
        finally:
            self._lock.release()
        if self._eos:
            self._look_ahead()

    def mask(self, length: int) -> torch.Tensor:
        """Which tokens may follow the answer's first `length` ones: bool [vocab], for reading only.

        Those after them are forgotten. An end token is allowed exactly where the answer may end.
        """
        if length > self._length:
            raise InvalidGrammar(f"the answer's form was followed for {self._length} tokens, not {length}")
        if length < self._length:
            self._enter()
            try:
                self._inner.rollback(self._length - length)
                self._length = length
            finally:
                self._lock.release()
        job = self._job if self._job is not None and self._job[0] == length else self._look_ahead()
        try:
            return job[1].result(limits.MASK_SECONDS).mask
        except Late:
            raise InvalidGrammar(_LATE) from None

    def allowed(self, tokens: Sequence[int]) -> int:
        """How many of these guesses may come next, one after the other; 0 where that is not known at once."""
        if not tokens or not self._lock.acquire(blocking=False):
            return 0
        try:
            return 0 if self._inner.is_error() else self._inner.validate_tokens([*tokens])
        finally:
            self._lock.release()

    def forced(self, most: int) -> tuple[int, ...]:
        """Guesses at tokens that spell what must come next, at most `most`; none where it is not known yet."""
        job = self._job
        if job is None or job[0] != self._length or not job[1].done() or job[1].exception() is not None:
            return ()
        text = job[1].result().forced.decode("utf-8", "ignore")
        return tuple(self._trie.greedy_tokenize(text)[:most]) if text else ()

    def _enter(self) -> None:
        if not self._lock.acquire(timeout=limits.MASK_SECONDS):
            raise InvalidGrammar(_LATE)

    def _look_ahead(self) -> _Job:
        length = self._length
        try:
            self._job = job = length, self._pool.submit(self._find, length)
        except RuntimeError as error:  # the stage ends
            raise InvalidGrammar(_LATE) from error
        return job

    def _find(self, length: int) -> _Next:
        with self._lock:
            if length != self._length:
                raise InvalidGrammar("the answer has gone on meanwhile")
            packed = self._inner.compute_bitmask()
            if self._inner.is_error():
                raise InvalidGrammar(f"the answer's form cannot be followed: {words(self._inner.get_error())}")
            ends = self._inner.is_accepting()
            forced = b"" if ends else self._inner.compute_ff_bytes()[:MOST_FORCED]
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")[: self._vocab]
        mask = torch.from_numpy(bits).view(torch.bool)
        mask[list(self._eos)] = ends
        if not bool(mask.any()):
            raise InvalidGrammar("no token of the model can go on with the answer in its form")
        return _Next(length, mask, forced)
