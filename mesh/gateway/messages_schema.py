"""`POST /v1/messages` (Anthropic's form): its fields, and how its blocks become a chat's messages (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mesh.errors import InvalidRequest
from mesh.gateway.fields import SHARED, asked_for
from mesh.gateway.schemas import SamplingFields, Strings

_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "container": (),
    "context_management": (),
    "inference_geo": (),
    "mcp_servers": ([],),
    "service_tier": ("auto", "standard_only"),
    "thinking": ({"type": "disabled"},),
    "n": (1,),
    "stop": (),
    "stream_options": (),
    "resume_token_ids": ([],),
    "resume_ticket": (),
    "return_token_ids": (False,),
}
"""Fields that are not served in this form, and the values of them that ask for nothing."""
HARMLESS = ("metadata", "cache_control")
"""Names the caller's user; a hint about what to cache."""


class MessagesRequest(SamplingFields):
    """`POST /v1/messages`. Others of Anthropic's fields are looked at as they are (`check`)."""

    messages: list[Any]
    system: str | list[Any] | None = None
    stop_sequences: Strings | None = None
    tools: list[Any] | None = None
    tool_choice: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None
    """The earlier name of `output_config.format`."""


def check(request: MessagesRequest) -> dict[str, Any]:
    """The fields that are neither the schema's nor this API's own, for `check_unserved`. Raises `InvalidRequest`."""
    rest = {name: value for name, value in (request.model_extra or {}).items() if name not in HARMLESS}
    if name := asked_for(request, rest, _REFUSED):
        raise InvalidRequest(f"{name}: is not supported by this gateway", param=name)
    return rest


def _format(request: MessagesRequest) -> dict[str, Any] | None:
    """The chat's `response_format`. Raises `InvalidRequest`."""
    config = request.output_config or {}
    if rest := [key for key, value in config.items() if key != "format" and value is not None]:
        raise InvalidRequest(f"output_config.{rest[0][:60]}: is not supported by this gateway", param="output_config")
    match config.get("format") or request.output_format:
        case None:
            return None
        case {"type": "json_schema", "schema": dict(schema)}:
            return {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}
        case _:
            raise InvalidRequest("output_config.format: must be a json_schema with its schema", param="output_config")


def chat_fields(request: MessagesRequest) -> dict[str, Any]:
    """The chat request that asks the same. Raises `InvalidRequest`."""
    fields = {name: value for name in (*SHARED, "max_tokens") if (value := getattr(request, name)) is not None}
    if request.stop_sequences:
        fields["stop"] = request.stop_sequences
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": _text("system", request.system)})
    for position, message in enumerate(request.messages):
        messages += _messages(f"messages.{position}", message)
    fields["messages"] = messages
    if (form := _format(request)) is not None:
        fields["response_format"] = form
    if request.tools:
        fields["tools"] = [_tool(f"tools.{position}", tool) for position, tool in enumerate(request.tools)]
    choice = request.tool_choice or {}
    if choice:
        fields["tool_choice"] = _choice(choice)
        if request.tools and choice.get("disable_parallel_tool_use"):
            fields["parallel_tool_calls"] = False
    return fields


def _messages(where: str, message: Any) -> list[dict[str, Any]]:
    """One turn: results of tools are messages of their own, before what else is said."""
    match message:
        case {"role": "user" | "assistant" as role, "content": str(text)}:
            return [{"role": role, "content": text}]
        case {"role": "user", "content": [*blocks]}:
            results = [_result(where, block) for block in blocks if _kind(block) == "tool_result"]
            said = [block for block in blocks if _kind(block) != "tool_result"]
            return [*results, *([{"role": "user", "content": _text(where, said)}] if said or not results else [])]
        case {"role": "assistant", "content": [*blocks]}:
            calls = [_call(where, block) for block in blocks if _kind(block) == "tool_use"]
            said = [block for block in blocks if _kind(block) != "tool_use"]
            turn: dict[str, Any] = {"role": "assistant", "content": _text(where, said) if said else None}
            return [{**turn, "tool_calls": calls} if calls else turn]
        case _:
            raise InvalidRequest(f"{where}: must have the role user or assistant, and content", param="messages")


def _kind(block: Any) -> Any:
    return block.get("type") if isinstance(block, dict) else None


def _text(where: str, blocks: Any) -> str | list[dict[str, str]]:
    if isinstance(blocks, str):
        return blocks
    parts = []
    for block in blocks if isinstance(blocks, list) else [None]:
        match block:
            case {"type": "text", "text": str(text)}:
                parts.append({"type": "text", "text": text})
            case _:
                kind = str(_kind(block))[:60]
                raise InvalidRequest(f"{where}: blocks of the type {kind!r} are not supported", param="messages")
    return parts


def _result(where: str, block: dict[str, Any]) -> dict[str, Any]:
    id = block.get("tool_use_id")
    if not isinstance(id, str):
        raise InvalidRequest(f"{where}: a tool_result needs a tool_use_id", param="messages")
    content = _text(where, block.get("content") or "")
    if block.get("is_error"):
        said = [{"type": "text", "text": content}] if isinstance(content, str) else content
        content = [{"type": "text", "text": "Error:"}, *said]
    return {"role": "tool", "tool_call_id": id, "content": content}


def _call(where: str, block: dict[str, Any]) -> dict[str, Any]:
    match block:
        case {"id": str(id), "name": str(name), "input": dict(given)}:
            function = {"name": name, "arguments": json.dumps(given, ensure_ascii=False)}
            return {"id": id, "type": "function", "function": function}
        case _:
            raise InvalidRequest(f"{where}: a tool_use needs an id, a name and an input", param="messages")


def _tool(where: str, tool: Any) -> dict[str, Any]:
    match tool:
        case {"name": str(name), "input_schema": dict(schema)} if tool.get("type", "custom") == "custom":
            shown = {"name": name, "description": tool.get("description"), "parameters": schema}
            return {"type": "function", "function": {**shown, "strict": tool.get("strict")}}
        case _:
            raise InvalidRequest(f"{where}: only tools with a name and an input_schema are supported", param="tools")


def _choice(choice: Mapping[str, Any]) -> Any:
    match choice:
        case {"type": "auto" | "none" as word}:
            return word
        case {"type": "any"}:
            return "required"
        case {"type": "tool", "name": str(name)}:
            return {"type": "function", "function": {"name": name}}
        case _:
            raise InvalidRequest("tool_choice: its type must be auto, any, tool or none", param="tool_choice")
