"""Where an answer stands in its form: which tokens may come next, and which must."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from shards.errors import InvalidGrammar
from shards.grammar import limits
from shards.grammar.closing import Closing, ending, single_bytes
from shards.grammar.library import words

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MOST_FORCED = 64
"""Bytes that are looked at of what must come next."""
MOST_DIGITS = 24
"""In a row, of JSON: no number needs more, and small models find no end to one that may have them."""
_LATE = "the form that the answer is held to takes too long to follow: ask for a simpler one"
_DIGITS = frozenset(b"0123456789")


@dataclass(frozen=True, slots=True)
class TokenTable:
    """The tokens of a model, as the library has them, those that begin with a digit: 0 or 1 [vocab], and those that are
    one byte."""

    trie: LLTokenizer
    vocab: int
    digits: npt.NDArray[np.uint8]
    singles: dict[int, int]


def token_table(trie: LLTokenizer, tokens: Sequence[bytes]) -> TokenTable:
    """The table of these tokens, by id."""
    digits = np.array([token[:1].isdigit() for token in tokens], np.uint8)
    return TokenTable(trie, len(tokens), digits, single_bytes(tokens))


@dataclass(frozen=True, slots=True)
class _Next:
    """What may follow so many tokens: a mask [vocab], True where allowed; bytes that must, or tokens."""

    length: int
    mask: torch.Tensor
    forced: bytes
    ending: tuple[int, ...] = ()


class Matcher:
    """One answer. Its own lock makes it safe for the engine's thread and another one.

    What may follow is found as soon as a token is known. Where that has taken long once, it is found on a thread of
    `pool` from then on, and waited for no longer than `limits.MASK_SECONDS`. An answer of a bounded number of tokens is
    brought to an end of its form as they are used up (`shards.grammar.closing`). Everything that says what may follow
    raises `InvalidGrammar` where it takes too long, the library's limits are exceeded, or nothing may.
    """

    def __init__(self, inner: LLMatcher, table: TokenTable, pool: ThreadPoolExecutor, *, json: bool) -> None:
        """`inner` is at the answer's beginning. Of `json`, rows of digits are bounded."""
        self._inner = inner
        self._table = table
        self._pool = pool
        self._json = json
        self._lock = threading.Lock()
        self._eos: tuple[int, ...] = ()
        self._digits: list[int] = []
        """How many digits each token ends a row of."""
        self._slow = False
        self._patience = limits.MASK_SECONDS
        self._closing: Closing | None = None
        self._next: _Next | Future[_Next] | None = None

    @property
    def length(self) -> int:
        """Tokens of the answer that have been followed."""
        return len(self._digits)

    def start(self, eos: Sequence[int], most: int | None = None) -> None:
        """With these tokens the answer ends, and has at most so many with the one that does. Before they are used up it
        is brought to an end of its form. Raises `InvalidGrammar` where there are none: it could never end."""
        self._eos = tuple(token for token in eos if token < self._table.vocab)
        if not self._eos:
            raise InvalidGrammar("an answer that is held to a form must be able to end: the model has no end token")
        self._closing = None if most is None else Closing(most)
        self._look_ahead()

    def follow(self, tokens: Sequence[int]) -> None:
        """The answer goes on with these, none of which ends it."""
        self._enter()
        try:
            self._next = None
            if not self._inner.consume_tokens([*tokens]):
                raise InvalidGrammar(f"the answer is not of its form: {words(self._inner.get_error())}")
            for token in tokens:
                self._digits.append(self._row_of_digits(token))
        finally:
            self._lock.release()
        if self._eos:
            self._look_ahead()

    def mask(self, length: int) -> torch.Tensor:
        """Which tokens may follow the answer's first `length` ones: bool [vocab], for reading only.

        Those after them are forgotten. An end token is allowed exactly where the answer may end.
        """
        if length > self.length:
            raise InvalidGrammar(f"the answer's form was followed for {self.length} tokens, not {length}")
        if length < self.length:
            self._enter()
            try:
                self._next = None
                self._inner.rollback(self.length - length)
                del self._digits[length:]
                if self._closing is not None:
                    self._closing.forget()
            finally:
                self._lock.release()
        found = self._next or self._look_ahead()
        if isinstance(found, _Next):
            return found.mask
        try:
            self._next = known = found.result(self._patience)
            return known.mask
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
        """Guesses at tokens that spell what must come next, at most `most`; none where it is not known at once."""
        found = self._next
        if isinstance(found, _Next) and found.ending:
            return found.ending[:most]
        text = found.forced.decode("utf-8", "ignore") if isinstance(found, _Next) else ""
        return tuple(self._table.trie.greedy_tokenize(text)[:most]) if text else ()

    def _enter(self) -> None:
        if not self._lock.acquire(timeout=self._patience):
            raise InvalidGrammar(_LATE)

    def _row_of_digits(self, token: int) -> int:
        """With how many digits the answer ends, when this token is its last."""
        text = self._table.trie.decode_bytes([token])
        row = next((place for place, byte in enumerate(reversed(text)) if byte not in _DIGITS), len(text))
        return row + (self._digits[-1] if row == len(text) and self._digits else 0)

    def _look_ahead(self) -> _Next | Future[_Next]:
        length, found = self.length, None
        closes = self._closing is not None and self._closing.is_due(length)
        self._patience = limits.MASK_SECONDS + (limits.ENDING_WAIT if closes else 0.0)
        if not self._slow and not closes:
            self._next = found = self._find(length)
            return found
        try:
            self._next = later = self._pool.submit(self._find, length)
        except RuntimeError as error:  # the stage ends
            raise InvalidGrammar(_LATE) from error
        return later

    def _find(self, length: int) -> _Next:
        with self._lock:
            if length != self.length:
                raise InvalidGrammar("the answer has gone on meanwhile")
            left = None if self._closing is None else self._left(self._closing, length)
            if left is not None:
                return self._only(length, left)
            began = time.thread_time()
            packed = self._inner.compute_bitmask()
            if self._inner.is_error():
                raise InvalidGrammar(f"the answer's form cannot be followed: {words(self._inner.get_error())}")
            ends = self._inner.is_accepting()
            forced = b"" if ends else self._inner.compute_ff_bytes()[:MOST_FORCED]
            self._slow |= time.thread_time() - began > limits.SLOW_SECONDS
            row = self._digits[-1] if self._digits else 0
        # NumPy, not torch: its threads, which an answer's own thread would have to wake, take longer than the work.
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")[: self._table.vocab]
        bits[list(self._eos)] = ends
        if self._json and row >= MOST_DIGITS:
            others = bits & ~self._table.digits
            bits = others if others.view(np.bool_).any() else bits
        if not bits.view(np.bool_).any():
            raise InvalidGrammar("no token of the model can go on with the answer in its form")
        return _Next(length, torch.from_numpy(bits).view(torch.bool), forced)

    def _left(self, closing: Closing, length: int) -> tuple[int, ...] | None:
        """What is left of the ending that has to be taken now, None where there is room."""
        until = time.thread_time() + limits.ENDING_SECONDS

        def find(earlier: int) -> tuple[int, ...] | None:
            at = self._inner
            if earlier < length:  # an answer that was taken up again
                at = at.deep_copy()
                at.rollback(length - earlier)
            found = ending(at, self._table.trie, self._table.singles, lambda: time.thread_time() > until)
            if found is None and time.thread_time() > until:
                closing.give_up()
            return found

        return closing.left(length, find)

    def _only(self, length: int, left: tuple[int, ...]) -> _Next:
        """The answer is brought to its end: what is left of that may follow, then an end token."""
        bits = np.zeros(self._table.vocab, np.uint8)
        bits[list(left[:1] or self._eos)] = 1
        return _Next(length, torch.from_numpy(bits).view(torch.bool), b"", left)
