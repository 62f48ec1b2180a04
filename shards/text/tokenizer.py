"""Text to token ids and back: tokenizer.json, the chat template, and decoding as a stream."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

TOKENIZER = "tokenizer.json"
MAX_TOKEN_ID = (1 << 31) - 1
PRESENT, ADDED, SPECIAL = 1, 2, 4
"""What an id can be, as bits: any token at all, one added to the model's own, one that marks structure."""


class TextStream(Protocol):
    """Turns ids into text one at a time, holding back incomplete UTF-8."""

    def push(self, token: int) -> str:
        """Text that `token` completed; empty while a character is still incomplete."""

    def flush(self) -> str:
        """What is still held back, with U+FFFD for bytes that never became a character."""


class Tokenizer(Protocol):
    """What the mesh needs of a tokenizer. Raises `TokenizerError`."""

    vocab_size: int
    eos_token_ids: tuple[int, ...]
    has_chat_template: bool
    tool_format: str | None
    """How the model writes tool calls (`shards.text.tool_format`); None where its template takes no tools."""
    sampling_defaults: Mapping[str, float]
    """How the model's makers want it sampled (`shards.text.sampling_defaults`), by OpenAI's and vLLM's names."""
    special_tokens: Mapping[str, int]
    """The tokens that mark structure, by how they are written."""

    @property
    def special_texts(self) -> tuple[str, ...]:
        """How the tokens are written that mark structure."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`."""

    def encode_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """Token ids of texts one after another; of those with True what is written like a special token is text."""

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids."""

    def token_text(self, token: int) -> str:
        """One token's own text (special tokens as they are written), for log-probability tables."""

    def token_bytes(self, token: int) -> bytes:
        """One token's own bytes (part of a character for a byte-level token)."""

    def stream(self, *, shown: Collection[int] = ()) -> TextStream:
        """A new streaming decoder; the special tokens of `shown` are part of its text."""

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The prompt text for a conversation. Raises `TokenizerError` when there is no template or it fails."""
