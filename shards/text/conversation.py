"""A conversation as token ids: the template's special tokens are tokens, those that somebody wrote are text."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from shards.text.tokenizer import Tokenizer

_DIGITS = 24
_PLACE_DIGITS = 8


def chat_tokens(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[int]:
    """What the model's chat template makes of a conversation, as token ids.

    A message or a tool's description that holds the text of a special token, such as the one that ends a turn, gets the
    tokens of that text and not that token: nobody opens another's turn by writing so. Raises what
    `apply_chat_template` and `encode` do.
    """
    specials = sorted({text for text in tokenizer.special_texts if text}, key=len, reverse=True)
    written = _written([*messages, *(tools or ())], specials)
    if not written:  # as nearly always; the text is encoded in one piece, as others do it
        text = _rendered(tokenizer, messages, add_generation_prompt, tools)
        return tokenizer.encode(text, add_special_tokens=False)
    # Templates may strip, quote or capitalise what they are given: digits stay what they are.
    nonce = f"{secrets.randbelow(10**_DIGITS):0{_DIGITS}}"
    marks = {text: f"{nonce}{place:0{_PLACE_DIGITS}}" for place, text in enumerate(written)}
    pattern = re.compile("|".join(map(re.escape, written)))

    def mark(text: str) -> str:
        return pattern.sub(lambda found: marks[found[0]], text)

    marked = [_marked(message, mark) for message in messages]
    offered = None if tools is None else [_marked(tool, mark) for tool in tools]
    text = _rendered(tokenizer, marked, add_generation_prompt, offered)
    pieces = re.split(rf"{nonce}(\d{{{_PLACE_DIGITS}}})", text)
    parts = [(written[int(piece)], True) if at % 2 else (piece, False) for at, piece in enumerate(pieces)]
    return tokenizer.encode_parts(parts)


def _rendered(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None,
) -> str:
    if tools is None:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt)
    return tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tools=tools)


def _written(messages: Sequence[Mapping[str, Any]], specials: Sequence[str]) -> list[str]:
    """The special tokens whose text is in any message, the longest first."""
    texts = list(_texts(list(messages)))
    return [special for special in specials if any(special in text for text in texts)]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():  # a tool's schema has names of its own
            yield from _texts(name)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _marked(value: Any, change: Callable[[str], str]) -> Any:
    """The same with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_marked(name, change): _marked(item, change) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(item, change) for item in value]
    return value
