"""What writers of text and calls in their order share: pieces of an answer become text, and calls that end it."""

from __future__ import annotations

from pydantic import BaseModel

from mesh.client.types import TextDelta
from mesh.gateway.chat_writer import CallReader, read_whole
from mesh.gateway.job import Answer
from mesh.gateway.tools.calls import Call
from mesh.gateway.tools.request import Tools


class BlockWriter:
    """Of one answer. A writer says what events text, its end, and a call are."""

    def __init__(self, tools: Tools | None) -> None:
        self._tools = tools
        self._reader = None if tools is None else CallReader(tools)

    def piece(self, index: int, delta: TextDelta) -> list[BaseModel]:
        return self._pushed(delta.text, final=False)

    def _pushed(self, text: str, *, final: bool) -> list[BaseModel]:
        if self._reader is None:
            return self._text(text) if text else []
        events: list[BaseModel] = []
        for found in self._reader.push(text, final=final):
            events += self._text(found) if isinstance(found, str) else [*self._close(), *self._called(*found[1:])]
        return events

    def _read(self, answer: Answer) -> tuple[str, list[tuple[str, Call]]]:
        """The text and the calls of a whole answer."""
        return (answer.text, []) if self._tools is None else read_whole(self._tools, answer.text)

    def _text(self, text: str) -> list[BaseModel]:
        """More text."""
        raise NotImplementedError

    def _close(self) -> list[BaseModel]:
        """End the text that is open, if there is any."""
        raise NotImplementedError

    def _called(self, id: str, call: Call) -> list[BaseModel]:
        """A call, whole."""
        raise NotImplementedError
