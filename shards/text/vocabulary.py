"""The tokens' texts by id, packed: a few bytes each, where Python's own strings would take a hundred."""

from __future__ import annotations

import re
from array import array
from functools import lru_cache

from shards.errors import TokenizerError
from shards.text.tokenizer import ADDED, MAX_TOKEN_ID, PRESENT, SPECIAL

_BYTE_TOKEN = re.compile(rb"<0x([0-9A-Fa-f]{2})>")
_WORD_START = "\u2581"


class Vocabulary:
    """Of `texts` (UTF-8, end to end), `ends` (32-bit numbers of this machine) and `kinds` (bits), one each per id."""

    def __init__(self, texts: bytes, ends: bytes, kinds: bytes, *, is_byte_level: bool) -> None:
        self._ends = array("I")
        self._ends.frombytes(ends)
        if len(self._ends) != len(kinds):
            raise TokenizerError("the vocabulary is broken")
        self._texts = texts
        self._kinds = kinds
        self._is_byte_level = is_byte_level

    def __len__(self) -> int:
        return len(self._kinds)

    @property
    def own_size(self) -> int:
        """One more than the highest id of the model's own tokens, without those that were added to them."""
        own = (at + 1 for at in reversed(range(len(self._kinds))) if self._kinds[at] & (PRESENT | ADDED) == PRESENT)
        return next(own, 0)

    def known(self, token: int) -> bool:
        """True for an id that has a token."""
        return bool(self._kind(token) & PRESENT)

    def special(self, token: int) -> bool:
        """True for a token that marks structure and is left out of texts."""
        return bool(self._kind(token) & SPECIAL)

    def special_tokens(self) -> dict[str, int]:
        """The tokens that mark structure, by how they are written."""
        special = (at for at, kind in enumerate(self._kinds) if kind & SPECIAL)
        return {self.written(token).decode("utf-8", "replace"): token for token in special}

    def written(self, token: int) -> bytes:
        """A token as tokenizer.json writes it; empty for an id without one."""
        if not self._kind(token):
            return b""
        return self._texts[self._ends[token - 1] if token else 0 : self._ends[token]]

    def single_byte(self, token: int) -> bytes | None:
        """The byte of a token like <0x0A>."""
        found = _BYTE_TOKEN.fullmatch(self.written(token))
        return None if found is None else bytes.fromhex(found[1].decode())

    def shown(self, token: int) -> bytes:
        """A token's own bytes."""
        if self._kind(token) & ADDED:
            return self.written(token)
        if self._is_byte_level:
            return self.decoded(token)
        byte = self.single_byte(token)
        return self.written(token).replace(_WORD_START.encode(), b" ") if byte is None else byte

    def decoded(self, token: int) -> bytes:
        """What a byte-level decoder makes of a token: added tokens too are read through the byte alphabet."""
        written = self.written(token)
        alphabet = _byte_alphabet()
        text = written.decode("utf-8", "replace")
        try:
            return bytes([alphabet[character] for character in text])
        except KeyError:  # not written in the alphabet: an added token, taken as it stands
            return written

    def _kind(self, token: int) -> int:
        """Raises `TokenizerError` for a number that cannot be an id."""
        if not 0 <= token <= MAX_TOKEN_ID:
            raise TokenizerError(f"{token} is not a token id")
        return self._kinds[token] if token < len(self._kinds) else 0


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: bytes that print stand for themselves, the others follow from U+0100."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printing)]
    alphabet = {chr(byte): byte for byte in printing}
    return alphabet | {chr(0x100 + place): byte for place, byte in enumerate(others)}
