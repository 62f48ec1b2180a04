"""A stranger's decoder (how tokens become a text) in this process: only kinds that make little of little.

It runs once or twice for each token that a model generates, and a call into a child process takes longer than that.
So every decoder of the `tokenizers` library is allowed with settings under which its result is at most `MAX_GROWTH`
times as long as the tokens. What is not allowed is refused with the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tokenizers

from shards.errors import TokenizerError
from shards.text.failures import rust_failures
from shards.text.tokenizer import TOKENIZER

MAX_GROWTH = 8.0
_MAX_PARTS = 16
_MAX_SETTING = 64
_KEYS: Mapping[str, frozenset[str]] = {
    "ByteLevel": frozenset({"add_prefix_space", "trim_offsets", "use_regex"}),
    "WordPiece": frozenset({"prefix", "cleanup"}),
    "Metaspace": frozenset({"replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"}),
    "BPEDecoder": frozenset({"suffix"}),
    "ByteFallback": frozenset(),
    "Fuse": frozenset(),
    "Strip": frozenset({"content", "start", "stop"}),
    "CTC": frozenset({"pad_token", "word_delimiter_token", "cleanup"}),
    "Replace": frozenset({"pattern", "content"}),
}
_REPLACED = ("suffix", "word_delimiter_token", "pad_token")
"""Texts that are replaced wherever they occur: an empty one occurs everywhere."""


class Decoder:
    """Tokens' texts to one text; `is_byte_level` when each token is its bytes and nothing else happens."""

    def __init__(self, state: bytes | None) -> None:
        """`state` is the library's JSON. Raises `TokenizerError` where it is not one of those that are allowed."""
        self._decode: Callable[[list[str]], str] = " ".join
        self.growth = 1.0
        self.is_byte_level = False
        if state is None:
            return
        parts = _parts(_read(state))
        for part in parts:
            self.growth *= _growth(part)
        if self.growth > MAX_GROWTH:
            raise _refused("makes too long a text of its tokens")
        self.is_byte_level = [part["type"] for part in parts] == ["ByteLevel"]
        empty = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
        empty["decoder"] = {"type": "Sequence", "decoders": parts}
        with rust_failures(f"the decoder of {TOKENIZER} cannot be used"):
            self._decode = tokenizers.Tokenizer.from_str(json.dumps(empty)).decoder.decode

    def __call__(self, texts: Sequence[str]) -> str:
        """The text of tokens. Raises `TokenizerError`."""
        with rust_failures("the tokens cannot be decoded"):
            return self._decode(list(texts))


def _read(state: bytes) -> object:
    try:
        return json.loads(state)
    except (ValueError, RecursionError) as error:
        raise _refused("is not valid JSON") from error


def _parts(decoder: object) -> list[dict[str, Any]]:
    """The decoders of a sequence, in order."""
    found: list[dict[str, Any]] = []
    pending = [decoder]
    while pending:
        part = pending.pop()
        if not isinstance(part, dict) or len(found) + len(pending) >= _MAX_PARTS:
            raise _refused(f"has more than {_MAX_PARTS} parts, or parts that are none")
        if part.get("type") == "Sequence" and isinstance(part.get("decoders"), list):
            pending += reversed(part["decoders"])
        else:
            found.append(part)
    return found


def _growth(part: Mapping[str, Any]) -> float:
    """How many times longer a text can become. Raises `TokenizerError` for settings that are not allowed."""
    kind = part.get("type")
    settings = {key: value for key, value in part.items() if key != "type"}
    if not isinstance(kind, str) or kind not in _KEYS or settings.keys() - _KEYS[kind]:
        raise _refused(f"has a part of an unknown kind: {str(kind)[:40]}")
    pattern = settings.pop("pattern", None)
    for value in settings.values():
        fits = len(value) <= _MAX_SETTING if isinstance(value, str) else isinstance(value, bool | int)
        if not fits or (type(value) is int and not 0 <= value <= _MAX_SETTING):
            raise _refused("has a setting that is out of range")
    if any(settings.get(key) == "" for key in _REPLACED):
        raise _refused("replaces an empty text")
    if settings.get("stop"):  # the library panics where a token is shorter
        raise _refused("strips the end of tokens")
    if kind != "Replace":
        return 1.0
    text = pattern.get("String") if isinstance(pattern, dict) else None
    if not isinstance(text, str) or not 0 < len(text) <= _MAX_SETTING:
        raise _refused("replaces a regular expression or an empty text")
    return max(1.0, len(str(settings.get("content", "")).encode()) / len(text.encode()))


def _refused(why: str) -> TokenizerError:
    return TokenizerError(f"the decoder of {TOKENIZER} {why}, which is not allowed")
