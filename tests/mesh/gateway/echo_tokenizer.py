"""A tokenizer by bytes for the gateway's tests: ids 0 to 255 are bytes, then come two special tokens."""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from shards.errors import TokenizerError

BOS, EOS = 256, 257
VOCAB_SIZE = 258
_SPECIAL = {BOS: "<s>", EOS: "</s>"}


class ByteTokenizer:
    """Implements `shards.text.tokenizer.Tokenizer`. Its template wants the system turn first, as many do."""

    vocab_size = VOCAB_SIZE
    eos_token_ids: tuple[int, ...] = (EOS,)
    special_texts: tuple[str, ...] = tuple(_SPECIAL.values())
    special_tokens: Mapping[str, int] = {text: token for token, text in _SPECIAL.items()}

    def __init__(
        self,
        *,
        has_chat_template: bool = True,
        add_bos: bool = True,
        tool_format: str | None = None,
        sampling_defaults: Mapping[str, float] | None = None,
    ) -> None:
        self.has_chat_template = has_chat_template
        self.sampling_defaults = sampling_defaults or {}
        self.tool_format = tool_format
        self._add_bos = add_bos

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        head = [BOS] if add_special_tokens and self._add_bos else []
        return head + list(text.encode())

    def encode_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        return [token for text, _ in parts for token in text.encode()]

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        parts = [b"" if skip_special_tokens and t in _SPECIAL else self.token_bytes(t) for t in tokens]
        return b"".join(parts).decode(errors="replace")

    def token_text(self, token: int) -> str:
        return self.token_bytes(token).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return _SPECIAL[token].encode() if token in _SPECIAL else bytes([token])

    def stream(self, *, shown: Collection[int] = ()) -> ByteStream:
        return ByteStream()

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        if not self.has_chat_template:
            raise TokenizerError("no chat template")
        if any(message["role"] == "system" for message in messages[1:]):
            raise TokenizerError("the system turn must come first")
        turns = "".join(f"{message['role']}: {message['content']}{_calls(message)}\n" for message in messages)
        if tools:
            turns = f"tools: {json.dumps(tools)}\n{turns}"
        return turns + ("assistant: " if add_generation_prompt else "")


def _calls(message: Mapping[str, Any]) -> str:
    return json.dumps(message["tool_calls"]) if message.get("tool_calls") else ""


class ByteStream:
    """Implements `shards.text.tokenizer.TextStream`."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return "" if token in _SPECIAL else self._decoder.decode(bytes([token]))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)
