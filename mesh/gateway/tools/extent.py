"""Finds where a bracketed value ends in a text that is still arriving, looking at each character once (pure)."""

from __future__ import annotations

_CLOSES = {"{": "}", "[": "]", "(": ")"}
MAX_DEPTH = 64


class BadBrackets(Exception):
    """The brackets do not match, or are nested too deep."""


class Extent:
    """Of a value that begins with a bracket, with strings in `quotes` and backslashes in them (JSON's, Python's)."""

    def __init__(self, quotes: str = '"') -> None:
        self._quotes = quotes
        self._open: list[str] = []
        self._quote = ""
        self._escaped = False
        self._at = 0

    def end(self, text: str, start: int = 0) -> int | None:
        """One more than the value's last character in `text`, where it begins at `start`; None while it goes on.

        Called again with a longer text it goes on where it stopped. Raises `BadBrackets`.
        """
        at = start + self._at
        while at < len(text):
            if self._step(text[at]):
                return at + 1
            at += 1
            self._at += 1
        return None

    def _step(self, character: str) -> bool:
        """Take one character in; True when it ends the value."""
        if self._quote:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == self._quote:
                self._quote = ""
        elif character in self._quotes:
            self._quote = character
        elif character in _CLOSES:
            if len(self._open) >= MAX_DEPTH:
                raise BadBrackets
            self._open.append(_CLOSES[character])
        elif character in ")]}":
            if not self._open or self._open.pop() != character:
                raise BadBrackets
            return not self._open
        return False
