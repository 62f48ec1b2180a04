"""A short way from where an answer stands to an end of its form, and when it has to be taken.

An answer that has only so many tokens is of no use where they end in the middle of its form: nobody can read half of a
JSON text. So what is left is compared, now and then, with what the shortest ending that is found easily would take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MOST_STEPS: Final = 600
"""Bytes that are chosen for an ending, beside those that must come: a form that takes more is not helped."""
MOST_BYTES: Final = 8192
SPARE: Final = 64
"""Tokens that stay when an answer is brought to its end: the next one might open a part that takes so many more."""

_CLOSES = b"}],"
_BEGINS = b'"ntf0123456789[{:-'
_PARTS = b"@:/.-_+ T"
_LETTERS = b"xyzabcdefghijklmnopqrstuvwXYZABCDEFGHIJKLMNOPQRSTUVW"
_DIGITS = b"0123456789"
_PRINTING = bytes(range(0x20, 0x7F))
_QUOTE = ord('"')
_ANY = b"xZ5~#@%|"
"""Where all of these may come next, any text may."""


def single_bytes(tokens: Sequence[bytes]) -> dict[int, int]:
    """For each byte a token that is just it, where there is one."""
    found: dict[int, int] = {}
    for number, token in enumerate(tokens):
        if len(token) == 1:
            found.setdefault(token[0], number)
    return found


def ending(
    at: LLMatcher, trie: LLTokenizer, singles: dict[int, int], until: Callable[[], bool] = lambda: False
) -> tuple[int, ...] | None:
    """Tokens that bring an answer from `at`, which stays as it is, to an end of its form; None where none is found
    before `until` says that it has been looked long enough.

    One byte after the other is chosen: what closes a part before what goes on with it, `null` before an object. What
    must come comes whole.
    """
    probe = at.deep_copy()
    tokens: list[int] = []
    text = bytearray()
    for step in range(MOST_STEPS):
        if probe.is_accepting():
            return _spelt(at, trie, bytes(text), tokens)
        must = probe.compute_ff_bytes()
        more = trie.greedy_tokenize(must.decode("utf-8", "ignore")) if must else []
        if not more:
            byte = _choice(_May(probe, singles, until), step)
            if byte is None:
                return None
            more = [singles[byte]]
        if not probe.consume_tokens(more):
            return None
        tokens += more
        text += trie.decode_bytes(more)
        if len(text) > MOST_BYTES:
            return None
    return None


def _spelt(at: LLMatcher, trie: LLTokenizer, text: bytes, tokens: list[int]) -> tuple[int, ...]:
    """The text in as few tokens as the vocabulary's usual ones, where the form takes them."""
    try:
        usual = trie.greedy_tokenize(text.decode())
    except UnicodeDecodeError:
        return tuple(tokens)
    fits = len(usual) < len(tokens) and at.validate_tokens(usual) == len(usual)
    return tuple(usual if fits else tokens)


def _choice(may: _May, step: int) -> int | None:
    """The byte to go on with; None where no token of one byte may come."""
    if _QUOTE in may:  # it ends a text; or begins one, or a name, where nothing can be closed
        within = any(byte in may for byte in b"xZ5")
        closes = None if within else _first(b"}]", may)
        return _QUOTE if closes is None else closes
    if all(byte in may for byte in _ANY):  # within a text of any characters that is too short
        return _first(_LETTERS, may)
    if any(byte in may for byte in b"xXgGzZ"):  # within a text of a pattern
        orders = (_LETTERS + _DIGITS + _PARTS, _PARTS + _DIGITS + _LETTERS, _DIGITS + _LETTERS + _PARTS)
        return _first(orders[step % 3], may)
    closes = _first(_CLOSES, may)
    if closes is not None:
        return closes
    digits = [byte for byte in _DIGITS if byte in may]
    if digits and not any(byte in may for byte in b"{[ntf:@/ "):
        return _closable(may, digits) or digits[step % len(digits)]
    found = _first(_BEGINS, may)
    return may.any() if found is None else found


def _closable(may: _May, digits: Sequence[int]) -> int | None:
    """The digit after which a number may end: there are numbers of which only some do."""
    return next((byte for byte in digits if may.ends_after(byte)), None)


class _May:
    """Which bytes may come next. Each is looked at when it is asked for: a mask of all tokens takes far longer. None
    may where `until` says that it has been looked long enough."""

    def __init__(self, probe: LLMatcher, singles: dict[int, int], until: Callable[[], bool]) -> None:
        self._probe = probe
        self._singles = singles
        self._until = until

    def __contains__(self, byte: int) -> bool:
        token = self._singles.get(byte)
        return token is not None and not self._until() and self._probe.validate_tokens([token]) == 1

    def any(self) -> int | None:
        """Any of them, printing ones first."""
        return next((byte for byte in (*_PRINTING, *self._singles) if byte in self), None)

    def ends_after(self, byte: int) -> bool:
        """Whether what stands here may end after this byte."""
        after = self._probe.deep_copy()
        if not after.consume_token(self._singles[byte]):
            return False
        return after.is_accepting() or _first(_CLOSES + b'"', _May(after, self._singles, self._until)) is not None


def _first(order: bytes, may: _May) -> int | None:
    return next((byte for byte in order if byte in may), None)


@dataclass(slots=True)
class Closing:
    """When an answer of at most `most` tokens, its end token among them, has to be brought to its end.

    That depends on the tokens before a position alone (unless it took too long to look), so an answer that is taken up
    again elsewhere ends as it would have: the lengths at which it is looked follow from the answer too.
    """

    most: int
    spare: int = field(init=False)
    _next: int = field(init=False)
    """The length at which it is looked next."""
    _begun: int = 0
    """The length from which on `_plan` is followed, where there is one."""
    _plan: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self.spare = min(SPARE, self.most // 3)
        self._next = self.most // 8

    def left(self, length: int, find: Callable[[int], tuple[int, ...] | None]) -> tuple[int, ...] | None:
        """What is left of the ending that has to be taken after so many tokens, () where only the end token is; None
        while there is room.

        `find` gives an ending from a length up to this one, () where the answer may end there, None for none.
        """
        if self._plan is not None and length < self._begun:
            self.forget()
        while self._plan is None and self._next <= length:
            at = self._next
            plan, room = find(at), self.most - 1 - at
            slack = room - self.spare - len(plan or ())
            if plan and slack <= 0 and len(plan) <= room:
                self._begun, self._plan = at, plan
            self._next = max(self._next, at + max(1, slack // 4))
        return None if self._plan is None else self._plan[length - self._begun :]

    def is_due(self, length: int) -> bool:
        """It has to be looked after so many tokens, which takes longer than to see what may follow."""
        return self._plan is None and self._next <= length

    def give_up(self) -> None:
        """The form is too slow to look for an ending of it: the answer ends where its tokens do."""
        self.most = 1 << 62
        self._plan, self._next = None, self.most

    def forget(self) -> None:
        """Tokens have been taken back: it is looked anew."""
        self._plan, self._next = None, self.most // 8
