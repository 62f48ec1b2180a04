"""What a chat request offers as tools, and what it has of earlier calls, as templates take them (pure)."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mesh.errors import InvalidRequest
from shards.text.tokenizer import Tokenizer
from shards.text.tool_format import MARKERS, TOOL_FORMATS, ToolFormat

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MISTRAL_ID = re.compile(r"[A-Za-z0-9]{9}")


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of one request. `offered` are OpenAI's objects; `begins` is the text with which the answer is made to
    begin, where a call is required, and `named` the tool that must be called, where it is one."""

    form: ToolFormat
    offered: tuple[dict[str, Any], ...]
    parallel: bool = True
    begins: str = ""
    named: str | None = None

    @property
    def schemas(self) -> dict[str, Mapping[str, Any]]:
        """The parameters' schemas by the tools' names."""
        return {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in self.offered}

    def markers(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Those special tokens that stand around calls."""
        special = tokenizer.special_tokens
        return tuple(special[text] for text in MARKERS[self.form] if text in special)

    def new_id(self) -> str:
        """An id for a call, as the models of this form have them."""
        return new_id(self.form)


def new_id(form: ToolFormat) -> str:
    """An id for a call. Mistral's templates refuse any but nine letters and digits."""
    return secrets.token_hex(5)[:9] if form == "mistral" else f"call_{secrets.token_hex(12)}"


def read_tools(
    tools: Sequence[Any] | None, choice: Any, parallel: bool | None, tokenizer: Tokenizer, parser: str | None = None
) -> Tools | None:
    """The tools to offer; None where there are none, or none may be called. `parser` is the operator's own choice of a
    form. Raises `InvalidRequest`, also where the model knows no tools."""
    if not tools:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest("tool_choice is only allowed when tools are specified", param="tool_choice")
        if parallel is not None:
            message = "parallel_tool_calls is only allowed when tools are specified"
            raise InvalidRequest(message, param="parallel_tool_calls")
        return None
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"at most {MAX_TOOLS} tools, got {len(tools)}", param="tools")
    offered = tuple(_tool(position, tool) for position, tool in enumerate(tools))
    names = [tool["function"]["name"] for tool in offered]
    if len(set(names)) < len(names):
        raise InvalidRequest("tools: two of them have one name", param="tools")
    forced = _choice(choice, names)
    if forced == "none":
        return None
    form = _form(tokenizer, parser)
    if forced == "auto" and any(tool["function"].get("strict") for tool in offered):
        message = "arguments are held to their schema where a call is required: set tool_choice, or leave strict out"
        raise InvalidRequest(f"tools: {message}", param="tools")
    named = forced[1] if isinstance(forced, tuple) else None
    begins = "" if forced == "auto" else _opening(form, named)
    return Tools(form, offered, parallel is not False, begins, named)


def _tool(position: int, tool: Any) -> dict[str, Any]:
    where = f"tools.{position}"
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(function, dict):
        raise InvalidRequest(f"{where}: only tools of the type 'function' are supported", param="tools")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(f"{where}.function.name must match {_NAME.pattern}", param="tools")
    if not isinstance(function.get("description"), str | None):
        raise InvalidRequest(f"{where}.function.description must be a string", param="tools")
    parameters = function.get("parameters")
    if not isinstance(parameters, dict | None):
        raise InvalidRequest(f"{where}.function.parameters must be an object", param="tools")
    shown = {"name": name, "description": function.get("description") or "", "parameters": parameters or _NOTHING}
    if function.get("strict"):
        shown["strict"] = True
    return {"type": "function", "function": shown}


_NOTHING: Mapping[str, Any] = {"type": "object", "properties": {}}


def _choice(choice: Any, names: Sequence[str]) -> Literal["none", "auto", "required"] | tuple[str, str]:
    """What `tool_choice` says; of a named tool a pair with its name."""
    match choice:
        case None:
            return "auto"
        case "none" | "auto" | "required":
            word: Literal["none", "auto", "required"] = choice
            return word
        case {"type": "function", "function": {"name": str(name)}}:
            if name not in names:
                raise InvalidRequest(f"tool_choice: no tool is called {name[:64]!r}", param="tool_choice")
            return "named", name
        case _:
            raise InvalidRequest(
                "tool_choice must be 'none', 'auto', 'required' or a function's name", param="tool_choice"
            )


def _form(tokenizer: Tokenizer, parser: str | None) -> ToolFormat:
    if tokenizer.tool_format is None:
        raise InvalidRequest(
            "This model does not support tools: its chat template has no place for them.", param="tools"
        )
    written = parser or tokenizer.tool_format
    for form in TOOL_FORMATS:
        if form == written:
            return form
    raise InvalidRequest(
        "This model does not support tools: how it writes calls is not known here (the gateway's operator can say so "
        "with --tool-parser).",
        param="tools",
    )


def _opening(form: ToolFormat, name: str | None) -> str:
    """How a call of this name, or of any, begins."""
    quoted = None if name is None else json.dumps(name)
    match form:
        case "hermes":
            return '<tool_call>\n{"name": ' + ('"' if quoted is None else f'{quoted}, "arguments": ')
        case "qwen_xml":
            return "<tool_call>\n<function=" + ("" if name is None else f"{name}>\n")
        case "mistral":
            return '[TOOL_CALLS][{"name": ' + ('"' if quoted is None else f'{quoted}, "arguments": ')
        case "llama":
            return '{"name": ' + ('"' if quoted is None else f'{quoted}, "parameters": ')
        case "pythonic":
            return "[" + ("" if name is None else f"{name}(")


def read_past_calls(where: str, calls: Sequence[Any], form: str | None) -> list[dict[str, Any]]:
    """An assistant message's `tool_calls` as templates take them: arguments as objects. Raises `InvalidRequest`."""
    return [_past_call(f"{where}.tool_calls.{position}", call, form) for position, call in enumerate(calls)]


def _past_call(where: str, call: Any, form: str | None) -> dict[str, Any]:
    match call:
        case {"id": str(id), "function": {"name": str(name), "arguments": str(arguments)}} if (
            call.get("type", "function") == "function"
        ):
            pass
        case _:
            raise InvalidRequest(f"{where} must have an id and a function with name and arguments", param="messages")
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where}: its arguments are not a JSON object", param="messages")
    return {"id": past_id(id, form), "type": "function", "function": {"name": name, "arguments": value}}


def past_id(id: str, form: str | None) -> str:
    """An id of an earlier call as the model's template takes it: another provider's may have given it."""
    if form != "mistral" or _MISTRAL_ID.fullmatch(id):
        return id
    return hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:9]
