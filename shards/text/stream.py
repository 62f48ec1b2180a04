"""Decode token ids one at a time so that the pieces, put together, are the text decoded at once."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

from shards.errors import TokenizerLimit
from shards.text.limits import MAX_DECODED_BYTES
from shards.text.tokenizer import TextStream

REPLACEMENT = "\ufffd"
_CONTEXT = 6
"""Emitted tokens that are decoded again in front of new ones: decoders treat a text's start differently."""
_MOST_HELD_INCOMPLETE = 8
_MOST_HELD = 64
"""Of tokens after which the text so far reads differently; a decoder for which that goes on is a hostile one."""


class BoundedStream:
    """A stream whose text is at most `MAX_DECODED_BYTES` characters: a stranger's tokens can be very long."""

    def __init__(self, inner: TextStream) -> None:
        self._inner = inner
        self._left = MAX_DECODED_BYTES

    def push(self, token: int) -> str:
        """Text that `token` completed. Raises `TokenizerLimit`."""
        return self._counted(self._inner.push(token))

    def flush(self) -> str:
        """What is still held back. Raises `TokenizerLimit`."""
        return self._counted(self._inner.flush())

    def _counted(self, text: str) -> str:
        self._left -= len(text)
        if self._left < 0:
            raise TokenizerLimit(f"the answer's text has more than {MAX_DECODED_BYTES} characters")
        return text


class ByteStream:
    """For byte-level tokenizers: a token is its bytes, so an incremental UTF-8 decoder is exact.

    An invalid sequence becomes U+FFFD per maximal subpart (Unicode, section 3.9), in Python's decoder as in
    Rust's, which decodes whole texts.
    """

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Text that `token` completed."""
        return self._decoder.decode(self._bytes_of(token))

    def flush(self) -> str:
        """U+FFFD for a character that was never completed."""
        return self._decoder.decode(b"", final=True)


class WindowStream:
    """For any other decoder: decode a window of the last tokens again and emit what the new ones added.

    A run of byte tokens (`<0xNN>`) is held until it ends, because such decoders judge a run as a whole.
    `decode` must keep special tokens; `is_skipped` says which ids never reach it.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        is_byte: Callable[[int], bool],
        is_skipped: Callable[[int], bool],
    ) -> None:
        self._decode = decode
        self._is_byte = is_byte
        self._is_skipped = is_skipped
        self._window: list[int] = []
        self._read = 0
        """How many of the window's tokens have been emitted."""

    def push(self, token: int) -> str:
        """Text that `token` completed; empty inside a run of byte tokens."""
        if self._is_skipped(token):
            return ""
        self._window.append(token)
        return "" if self._is_byte(token) else self._emit(final=False)

    def flush(self) -> str:
        """What is still held back."""
        return self._emit(final=True)

    def _emit(self, *, final: bool) -> str:
        if self._read == len(self._window):
            return ""
        before = self._decode(self._window[: self._read]) if self._read else ""
        text = self._decode(self._window)
        held = len(self._window) - self._read
        incomplete = text.endswith(REPLACEMENT) and held < _MOST_HELD_INCOMPLETE
        changed = not text.startswith(before) and held < _MOST_HELD
        if not final and (incomplete or changed):
            return ""
        start = len(before) if text.startswith(before) else _common_prefix(before, text)
        self._window = self._window[-_CONTEXT:]
        self._read = len(self._window)
        return text[start:]


def _common_prefix(first: str, second: str) -> int:
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))
