"""`POST /v1/responses`: its fields, and how its items become a chat's messages (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mesh.errors import InvalidRequest
from mesh.gateway.fields import SHARED, asked_for
from mesh.gateway.schemas import SamplingFields

MAX_ITEMS = 10_000
_TEXT_PARTS = ("input_text", "output_text", "text")
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "include": ([],),
    "max_tool_calls": (),
    "prompt": (),
    "reasoning": ({}, {"effort": None}, {"effort": "none"}),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
    "n": (1,),
    "max_tokens": (),
    "resume_token_ids": ([],),
    "resume_ticket": (),
    "return_token_ids": (False,),
}
"""Fields of this API that are not served here, and the values of them that ask for nothing."""


class ResponsesRequest(SamplingFields):
    """`POST /v1/responses`. Others of OpenAI's fields are looked at as they are (`check`)."""

    input: str | list[Any]
    instructions: str | None = None
    max_output_tokens: int | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None


def check(request: ResponsesRequest) -> dict[str, Any]:
    """The fields that are neither the schema's nor this API's own, for `check_unserved`. Raises `InvalidRequest`."""
    rest = {**(request.model_extra or {})}
    if name := asked_for(request, rest, _REFUSED):
        raise InvalidRequest(f"{name} is not supported by this gateway", param=name)
    return rest


def chat_fields(request: ResponsesRequest, before: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The chat request that asks the same, after the messages of earlier responses. Raises `InvalidRequest`."""
    messages = [*before, *input_messages(request.input)]
    if request.instructions is not None:
        messages.insert(0, {"role": "system", "content": request.instructions})
    fields = {name: value for name in (*SHARED, "stop") if (value := getattr(request, name)) is not None}
    if request.max_output_tokens is not None:
        fields["max_completion_tokens"] = request.max_output_tokens
    if request.tools:
        fields["tools"] = [_tool(position, tool) for position, tool in enumerate(request.tools)]
        if request.parallel_tool_calls is not None:
            fields["parallel_tool_calls"] = request.parallel_tool_calls
    fields["tool_choice"] = _tool_choice(request.tool_choice)
    if request.text is not None:
        fields["response_format"] = _format(request.text)
    return {**fields, "messages": messages}


def _format(text: Mapping[str, Any]) -> dict[str, Any] | None:
    """`text` as a chat's `response_format`. Raises `InvalidRequest`."""
    rest = {key: value for key, value in text.items() if key != "format" and value not in (None, "medium")}
    if rest:
        raise InvalidRequest(f"text.{next(iter(rest))[:60]} is not supported by this gateway", param="text")
    match text.get("format"):
        case None:
            return None
        case {"type": "json_schema", "name": str(name)} as described:
            return {"type": "json_schema", "json_schema": {"name": name, "schema": described.get("schema")}}
        case {"type": "text" | "json_object" as kind}:
            return {"type": kind}
        case _:
            raise InvalidRequest("text.format must be of the type text, json_object or json_schema", param="text")


def input_messages(given: str | list[Any]) -> list[dict[str, Any]]:
    """A chat's messages of a response's input; calls in a row are one message. Raises `InvalidRequest`."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if len(given) > MAX_ITEMS:
        raise InvalidRequest(f"input has {len(given)} items, more than {MAX_ITEMS}", param="input")
    messages: list[dict[str, Any]] = []
    for position, item in enumerate(given):
        where = f"input.{position}"
        match item:
            case {"type": "function_call", "call_id": str(id), "name": str(name), "arguments": str(arguments)}:
                call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
                if messages and messages[-1]["role"] == "assistant":
                    messages[-1].setdefault("tool_calls", []).append(call)
                else:
                    messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            case {"type": "function_call_output", "call_id": str(id), "output": output}:
                messages.append({"role": "tool", "tool_call_id": id, "content": _content(where, output)})
            case {"role": str(role), "content": content} if item.get("type", "message") == "message":
                messages.append({"role": role, "content": _content(where, content)})
            case {"type": str(kind)}:
                raise InvalidRequest(f"{where}: items of the type {kind[:60]!r} are not supported", param="input")
            case _:
                raise InvalidRequest(f"{where} is not an item", param="input")
    return messages


def _content(where: str, content: Any) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return content
    parts = []
    for part in content if isinstance(content, list) else [None]:
        match part:
            case {"type": str(kind), "text": str(text)} if kind in _TEXT_PARTS:
                parts.append({"type": "text", "text": text})
            case _:
                raise InvalidRequest(f"{where}: only parts of text are supported", param="input")
    return parts


def _tool(position: int, tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        kind = str(tool.get("type"))[:60] if isinstance(tool, dict) else "none"
        raise InvalidRequest(f"tools.{position}: tools of the type {kind!r} are not supported", param="tools")
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _tool_choice(choice: Any) -> Any:
    match choice:
        case {"type": "function", "name": str(name)}:
            return {"type": "function", "function": {"name": name}}
        case _:
            return choice
