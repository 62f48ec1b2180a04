"""Guesses at the next tokens of a text: what followed its last few tokens where they stood before (pure).

Prompt lookup decoding (Saxena, 2023): answers repeat names, quote and edit what was asked, and programs repeat
themselves, so an n-gram that has come before often goes on as it did.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LONGEST = 4
SHORTEST = 2
"""Tokens that must match; of single ones nearly every one has come before, and goes on otherwise."""
WINDOW = 1 << 15
"""Tokens that are searched, the newest: the time of a search is bounded."""
_WIDTH = 4


@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens that may come next, found by a match of so many tokens."""

    tokens: tuple[int, ...]
    matched: int


NOTHING = Guess((), 0)


class PromptLookup:
    """A text of token ids (below 2^31) that grows, and is searched for its own end.

    It is kept as bytes, four a token, which the standard library searches at memory speed, where an index of all
    n-grams would take hundreds of bytes a token.
    """

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._text = bytearray()
        self.write(0, tokens)

    def __len__(self) -> int:
        return len(self._text) // _WIDTH

    def write(self, position: int, tokens: Iterable[int]) -> None:
        """From token number `position` on the text is this."""
        del self._text[position * _WIDTH :]
        for token in tokens:
            self._text += token.to_bytes(_WIDTH, "little")

    def guess(self, most: int) -> Guess:
        """What followed the longest match of the text's end, the latest of those; at most `most` tokens."""
        if most < 1:
            return NOTHING
        for size in range(min(LONGEST, len(self) - 1), SHORTEST - 1, -1):
            found = self._find(size)
            if found is not None:
                return Guess(self._after(found, most), size)
        return NOTHING

    def _find(self, size: int) -> int | None:
        """Where the last `size` tokens came before: the number of the token that followed."""
        text, end = self._text, len(self._text)
        ending = bytes(text[end - size * _WIDTH :])
        oldest = max(0, end - WINDOW * _WIDTH)
        before = end - _WIDTH
        while (at := text.rfind(ending, oldest, before)) >= 0:
            if at % _WIDTH == 0:
                return at // _WIDTH + size
            before = at + len(ending) - 1  # it lies across tokens: look further back
        return None

    def _after(self, first: int, most: int) -> tuple[int, ...]:
        """The tokens from number `first` on, and where the text ends, as if it went on like this."""
        period = len(self) - first
        known = self._text[first * _WIDTH : (first + most) * _WIDTH]
        tokens = [int.from_bytes(known[at : at + _WIDTH], "little") for at in range(0, len(known), _WIDTH)]
        while len(tokens) < most:
            tokens.append(tokens[len(tokens) - period])
        return tuple(tokens)
