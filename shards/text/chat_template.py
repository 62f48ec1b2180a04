"""A stranger's chat template, compiled and rendered in a child process with limits of time, memory and output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgpack

from shards.errors import SandboxBreach, SandboxRefusal, TextTooLong, TokenizerError, TokenizerLimit
from shards.sandbox.box import Box, Sandbox
from shards.sandbox.limits import Call
from shards.text import limits
from shards.text.limits import MAX_PROMPT_CHARACTERS, MAX_TEMPLATE_CHARACTERS, MAX_TEXT_BYTES

__all__ = ["MAX_PROMPT_CHARACTERS", "MAX_TEMPLATE_CHARACTERS", "SANDBOX", "ChatTemplate", "ask", "begin", "render"]

SANDBOX = Sandbox("shards.text.inside")
"""Where all tokenizers and chat templates of this process do what cannot be bounded here."""


class ChatTemplate:
    """A compiled chat template. Raises `TokenizerError` when it is too long or not a template."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise TokenizerError(f"the chat template has {len(source)} characters, more than {MAX_TEMPLATE_CHARACTERS}")
        self._box = SANDBOX.box(Call("compile", (source,), limits.loading(len(source))))
        begin(self._box)

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """The prompt. Raises `TokenizerError` when the template fails, refuses, or exceeds its limits."""
        return render(self._box, messages, variables)


def render(box: Box, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    """The prompt that the box's template makes of a conversation. Raises as `ChatTemplate.render`."""
    try:
        packed = msgpack.packb([[dict(message) for message in messages], dict(variables)])
    except (ValueError, TypeError, OverflowError) as error:
        raise TokenizerError(f"the conversation is not made of plain values: {str(error)[:200]}") from error
    if len(packed) > MAX_TEXT_BYTES:
        raise TextTooLong(f"the conversation has {len(packed)} bytes, more than {MAX_TEXT_BYTES}")
    prompt = ask(box, Call("render", (packed,), limits.rendering(len(packed))))
    if not isinstance(prompt, str):
        raise TokenizerError("the chat template gave no text")
    return prompt


def begin(box: Box) -> Any:
    """Start the box; what its first call answers. Raises `TokenizerError`."""
    return _told(box, None)


def ask(box: Box, call: Call) -> Any:
    """What the box answers. Raises `TokenizerError`; `CapacityExceeded` when others' calls leave no room."""
    return _told(box, call)


def _told(box: Box, call: Call | None) -> Any:
    try:
        return box.begin() if call is None else box.call(call)
    except SandboxRefusal as error:
        raise TokenizerError(str(error)) from error
    except SandboxBreach as error:
        what = "this model's tokenizer or chat template broke the limits of what it may take"
        raise TokenizerLimit(f"{what}: {error}", error.retry_after) from error
