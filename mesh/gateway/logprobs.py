"""Log-probability tables in OpenAI's two shapes, and the character offset of each token (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mesh.client.types import TokenLogprob
from mesh.gateway.schemas import ChatLogprobs, ChatTokenLogprob, CompletionLogprobs, TopLogprob
from shards.text.tokenizer import Tokenizer

IMPOSSIBLE = -9999.0
"""Stands for a log-probability of minus infinity, which JSON cannot write (OpenAI's own figure)."""


class Offsets:
    """Tells at which character of the decoded text each token begins.

    A token that only completes a character begins where that character does. Special tokens, which the
    decoder leaves out, take no room.
    """

    def __init__(self, tokenizer: Tokenizer, start: int = 0) -> None:
        self._stream = tokenizer.stream()
        self._position = start

    def of(self, tokens: Iterable[int]) -> list[int]:
        """The offsets of the next `tokens`."""
        offsets = []
        for token in tokens:
            offsets.append(self._position)
            self._position += len(self._stream.push(token))
        return offsets


def completion_logprobs(entries: Sequence[TokenLogprob], tokenizer: Tokenizer, offsets: Offsets) -> CompletionLogprobs:
    """The parallel lists of `/v1/completions`; the chosen token is always among its alternatives."""
    return CompletionLogprobs(
        tokens=[token_label(tokenizer, entry.token) for entry in entries],
        token_logprobs=[None if entry.logprob is None else finite(entry.logprob) for entry in entries],
        top_logprobs=[_alternatives(entry, tokenizer) for entry in entries],
        text_offset=offsets.of(entry.token for entry in entries),
    )


def join(tables: Sequence[CompletionLogprobs]) -> CompletionLogprobs:
    """Several tables as one."""
    return CompletionLogprobs(
        tokens=[token for table in tables for token in table.tokens],
        token_logprobs=[value for table in tables for value in table.token_logprobs],
        top_logprobs=[top for table in tables for top in table.top_logprobs],
        text_offset=[offset for table in tables for offset in table.text_offset],
    )


def chat_logprobs(entries: Sequence[TokenLogprob], tokenizer: Tokenizer) -> ChatLogprobs:
    """The list of `/v1/chat/completions`, with each token's bytes."""
    return ChatLogprobs(
        content=[
            ChatTokenLogprob(
                **_top(tokenizer, entry.token, 0.0 if entry.logprob is None else entry.logprob).model_dump(),
                top_logprobs=[_top(tokenizer, token, logprob) for token, logprob in entry.top],
            )
            for entry in entries
        ]
    )


def token_label(tokenizer: Tokenizer, token: int) -> str:
    """A token's text, or `bytes:\\xNN…` (OpenAI's notation) where it is only a part of a character.

    Without it all such tokens would be U+FFFD and overwrite each other in `top_logprobs`.
    """
    data = tokenizer.token_bytes(token)
    try:
        data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
    return tokenizer.token_text(token)


def finite(logprob: float) -> float:
    """`logprob` as a number that JSON can hold."""
    return logprob if logprob >= IMPOSSIBLE else IMPOSSIBLE


def _alternatives(entry: TokenLogprob, tokenizer: Tokenizer) -> dict[str, float] | None:
    if entry.logprob is None:
        return None
    table: dict[str, float] = {}
    for token, logprob in (*entry.top, (entry.token, entry.logprob)):
        # Best first, so of two tokens with one text the likelier stays.
        table.setdefault(token_label(tokenizer, token), finite(logprob))
    return table


def _top(tokenizer: Tokenizer, token: int, logprob: float) -> TopLogprob:
    return TopLogprob(
        token=tokenizer.token_text(token),
        logprob=finite(logprob),
        bytes=list(tokenizer.token_bytes(token)),
    )
