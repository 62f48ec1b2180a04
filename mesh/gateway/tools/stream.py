"""Takes tool calls out of an answer's text as it arrives (pure).

The same code reads a streamed answer and a whole one, and what it gives depends on the text alone, never on where it
was cut: every decision waits for the characters that it needs. A call is given out when all of it is there and it is
one of a tool that was offered; whatever turns out not to be one is given out as the text that it is, from its first
character on. So a client never has half a call that becomes something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mesh.gateway.tools import calls
from mesh.gateway.tools.calls import MAX_CALL_CHARACTERS, Call, Malformed
from mesh.gateway.tools.extent import BadBrackets, Extent
from shards.text.tool_format import ToolFormat

Event = str | Call
"""A piece of the answer's text, or a call."""

_MAX_HEAD = 512
"""Characters of a name with its call's id."""

_Read = tuple[int, list[Call]]
"""How many characters of the buffer were calls, and which."""


class ToolStream:
    """Reads one choice. `tools` are the parameter schemas of the tools that were offered, by name."""

    def __init__(self, form: ToolFormat, tools: Mapping[str, Mapping[str, Any]]) -> None:
        self._tools = tools
        self._buffer = ""
        self._called = False
        """A call has been read: white space until the next one, or the end, is no text."""
        self._plain = False
        """What follows is text, whatever it looks like."""
        self._begun = False
        """Something other than white space has been seen."""
        self._gap = ""
        """White space before what looks like a call: text again where it is none."""
        self._reader: _Reader = _READERS[form](tools)

    def push(self, text: str) -> list[Event]:
        """What `text` completes."""
        self._buffer += text
        return self._read(final=False)

    def finish(self) -> list[Event]:
        """What is still held back, when the answer has ended."""
        return self._read(final=True)

    def _read(self, *, final: bool) -> list[Event]:
        events: list[Event] = []
        while self._buffer:
            if self._plain:
                events.append(self._take(len(self._buffer)))
                break
            start = self._reader.find(self._buffer, first=not self._begun, after_call=self._called)
            if start is None:
                self._text(events, self._reader.certain(self._buffer, begun=self._begun, called=self._called), final)
                break
            if start:
                self._text(events, start, final=False, before_call=True)
                continue
            try:
                read = self._reader.read(self._buffer, final)
                if (len(self._buffer) if read is None else read[0]) > MAX_CALL_CHARACTERS:
                    raise Malformed
                if read is not None and any(call.name not in self._tools for call in read[1]):
                    raise Malformed
            except (Malformed, BadBrackets):
                self._refuse(events)
                continue
            if read is None:
                if not final:
                    break
                self._refuse(events)
                continue
            self._take(read[0])
            events += read[1]
            self._gap = ""
            self._called = self._begun = True
            self._reader = _READERS[self._reader.form](self._tools)
        return _joined(events)

    def _refuse(self, events: list[Event]) -> None:
        """What looked like a call is none: its opening is text, and where a call is a whole answer so is all else."""
        events.append(self._gap + self._take(self._reader.opening(self._buffer)))
        self._gap = ""
        self._begun = True
        self._called = False
        self._plain = not self._reader.anywhere
        self._reader = _READERS[self._reader.form](self._tools)

    def _text(self, events: list[Event], end: int, final: bool, *, before_call: bool = False) -> None:
        """Give out text up to `end`. White space at its end waits; before a call it goes, with what stands between."""
        if final:
            text = self._take(len(self._buffer))
            if not (self._called and not text.strip()):
                events.append(text)
            return
        kept = len(self._buffer[:end].rstrip()) if self._reader.anywhere or not before_call else 0
        if kept:
            events.append(self._take(kept))
            self._begun, self._called = True, False
        if before_call:
            self._gap = self._take(end - kept)

    def _take(self, count: int) -> str:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


class _Reader:
    """How one form is read. A reader reads one call, or one list of them."""

    form: ToolFormat
    anywhere = True
    """Calls may stand after text; else only at the answer's beginning and after another call."""
    marker = ""

    def __init__(self, tools: Mapping[str, Mapping[str, Any]]) -> None:
        self._tools = tools

    def find(self, buffer: str, *, first: bool, after_call: bool) -> int | None:
        """Where a call begins; None where none does yet."""
        place = buffer.find(self.marker)
        return None if place < 0 else place

    def certain(self, buffer: str, *, begun: bool, called: bool) -> int:
        """Up to where `buffer`, in which no call begins, is text whatever follows."""
        return len(buffer) - _beginning(buffer, self.marker)

    def read(self, buffer: str, final: bool) -> _Read | None:
        """The calls at the beginning of `buffer`; None while more is needed. Raises `Malformed`, `BadBrackets`."""
        raise NotImplementedError

    def opening(self, buffer: str) -> int:
        """How many characters are text at least where `read` raised."""
        return len(self.marker)


class _Tagged(_Reader):
    """`<tool_call>`, what is in it, `</tool_call>`."""

    marker = "<tool_call>"
    closing = "</tool_call>"
    _searched = 0

    def _close(self, buffer: str, start: int, final: bool) -> int | None:
        """Where the closing tag after `start` ends; an answer that ends without one ends the call too."""
        rest = buffer[start:].lstrip()
        if rest.startswith(self.closing):
            return len(buffer) - len(rest) + len(self.closing)
        if self.closing.startswith(rest):
            return len(buffer) if final else None
        raise Malformed


class _Hermes(_Tagged):
    form: ToolFormat = "hermes"

    def __init__(self, tools: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(tools)
        self._extent = Extent()
        self._end: int | None = None

    def read(self, buffer: str, final: bool) -> _Read | None:
        start = _skip(buffer, len(self.marker))
        if start == len(buffer):
            return None
        if buffer[start] != "{":
            raise Malformed
        if self._end is None:
            self._end = self._extent.end(buffer, start)
        if self._end is None:
            return None
        close = self._close(buffer, self._end, final)
        return None if close is None else (close, calls.from_json(buffer[start : self._end]))


class _QwenXml(_Tagged):
    form: ToolFormat = "qwen_xml"

    def read(self, buffer: str, final: bool) -> _Read | None:
        start = len(self.marker)
        place = buffer.find(self.closing, max(start, self._searched))
        self._searched = max(len(buffer) - len(self.closing), start)
        if place < 0:
            body = buffer[start:].rstrip()
            if not final or not body.endswith("</function>"):
                return None
            return len(buffer), [calls.from_xml(body, self._tools)]
        return place + len(self.closing), [calls.from_xml(buffer[start:place], self._tools)]


class _Mistral(_Reader):
    """`[TOOL_CALLS]` and a list of calls, or `NAME{…}` and `NAME[CALL_ID]ID[ARGS]{…}` after it."""

    form: ToolFormat = "mistral"
    marker = "[TOOL_CALLS]"

    def __init__(self, tools: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(tools)
        self._extent = Extent()

    def read(self, buffer: str, final: bool) -> _Read | None:
        start = _skip(buffer, len(self.marker))
        if start == len(buffer):
            return None
        if buffer[start] in "[{":
            end = self._extent.end(buffer, start)
            return None if end is None else (end, calls.from_json(buffer[start:end], several=True))
        brace = buffer.find("{", start)
        if (len(buffer) if brace < 0 else brace) - start > _MAX_HEAD:
            raise Malformed
        if brace < 0:
            return None
        head = buffer[start:brace].strip().removesuffix("[ARGS]")
        name = head.partition("[CALL_ID]")[0].strip()
        end = self._extent.end(buffer, brace)
        return None if end is None else (end, [calls.named(name, buffer[brace:end])])


class _Whole(_Reader):
    """Forms in which calls are the whole answer."""

    anywhere = False
    begins = ""
    prefix = ""
    """A special token that may stand before the calls."""
    between = ""

    def find(self, buffer: str, *, first: bool, after_call: bool) -> int | None:
        if not (first or after_call):
            return None
        start = _skip(buffer, 0, self.between if after_call else "")
        if start == len(buffer) or not buffer.startswith((self.begins, self.prefix), start):
            return None
        return start

    def certain(self, buffer: str, *, begun: bool, called: bool) -> int:
        start = _skip(buffer, 0, self.between if called else "")
        rest = buffer[start:]
        undecided = (not begun or called) and self.prefix.startswith(rest)
        return 0 if undecided else len(buffer)

    def opening(self, buffer: str) -> int:
        return len(buffer)

    def _start(self, buffer: str) -> int | None:
        """Where the value begins, after the prefix; None while it does not."""
        start = _skip(buffer, len(self.prefix) if buffer.startswith(self.prefix) else 0)
        if start == len(buffer):
            return None
        if buffer[start] != self.begins:
            raise Malformed
        return start


class _Llama(_Whole):
    form: ToolFormat = "llama"
    begins = "{"
    prefix = "<|python_tag|>"
    between = ";"

    def __init__(self, tools: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(tools)
        self._extent = Extent()

    def read(self, buffer: str, final: bool) -> _Read | None:
        start = self._start(buffer)
        end = None if start is None else self._extent.end(buffer, start)
        return None if end is None else (end, calls.from_json(buffer[start:end]))


class _Pythonic(_Whole):
    form: ToolFormat = "pythonic"
    begins = "["
    prefix = "<|python_start|>"
    _suffix = "<|python_end|>"

    def __init__(self, tools: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(tools)
        self._extent = Extent("\"'")
        self._end: int | None = None

    def read(self, buffer: str, final: bool) -> _Read | None:
        start = self._start(buffer)
        if start is None:
            return None
        if self._end is None:
            self._end = self._extent.end(buffer, start)
        if self._end is None:
            return None
        after = _skip(buffer, self._end)
        rest = buffer[after:]
        end = self._end
        if rest.startswith(self._suffix):
            end = after + len(self._suffix)
        elif not final and self._suffix.startswith(rest):
            return None
        elif rest and not self._suffix.startswith(rest):
            raise Malformed  # a list in a sentence
        return end, calls.from_python(buffer[start : self._end])


_READERS: Mapping[ToolFormat, Callable[[Mapping[str, Mapping[str, Any]]], _Reader]] = {
    "hermes": _Hermes,
    "qwen_xml": _QwenXml,
    "mistral": _Mistral,
    "llama": _Llama,
    "pythonic": _Pythonic,
}


def read_calls(text: str, form: ToolFormat, tools: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[Call]]:
    """The text and the calls of a whole answer."""
    stream = ToolStream(form, tools)
    events = [*stream.push(text), *stream.finish()]
    return (
        "".join(event for event in events if isinstance(event, str)),
        [event for event in events if isinstance(event, Call)],
    )


def _joined(events: Sequence[Event]) -> list[Event]:
    """Texts that follow each other as one; empty ones go."""
    joined: list[Event] = []
    for event in events:
        if isinstance(event, str) and joined and isinstance(joined[-1], str):
            joined[-1] += event
        elif event:
            joined.append(event)
    return joined


def _skip(text: str, start: int, also: str = "") -> int:
    """Where what is neither white space nor one of `also` begins."""
    while start < len(text) and (text[start].isspace() or text[start] in also):
        start += 1
    return start


def _beginning(text: str, marker: str) -> int:
    """Length of the longest end of `text` with which `marker` begins."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
