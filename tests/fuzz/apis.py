"""Decoders of the gateway's other APIs: calls of tools in what a model writes, Messages, Responses, files of keys."""

from __future__ import annotations

import json
from typing import Any

from mesh.errors import ConfigError, InvalidRequest
from mesh.gateway import messages, responses_schema
from mesh.gateway.chat import read_message
from mesh.gateway.edge import parse_body
from mesh.gateway.errors import ApiFailure
from mesh.gateway.keys import KeyLimits, parse_keys
from mesh.gateway.messages_schema import MessagesRequest
from mesh.gateway.responses_schema import ResponsesRequest
from mesh.gateway.schemas import ChatRequest
from mesh.gateway.tools.calls import Call
from mesh.gateway.tools.stream import read_calls
from shards.text.tool_format import TOOL_FORMATS
from tests.fuzz.decoder import Decoder
from tests.fuzz.mutate import mutate_json

TOOLS: dict[str, dict[str, Any]] = {
    "add": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    "look": {"type": "object", "properties": {"query": {"type": "string"}, "exact": {"type": "boolean"}}},
}
CALLS = (
    '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": -2.5}}\n</tool_call>',
    '{"name": "add", "parameters": {"a": 1, "b": 2}}',
    '[TOOL_CALLS][{"name": "look", "arguments": {"query": "x"}}, {"name": "add", "arguments": {"a": 1}}]',
    '[TOOL_CALLS]look{"query": "Zürich"}[TOOL_CALLS]add[ARGS]{}',
    "<tool_call>\n<function=look>\n<parameter=query>\na\n</parameter>\n</function>\n</tool_call>",
    """[look(query='a "quoted" } ] thing', exact=true), add(a=1, b=-2.5)]""",
)
TOOL = {"type": "function", "function": {"name": "add", "parameters": TOOLS["add"]}}
PAST = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
CHAT = {
    "model": "m", "tools": [TOOL], "tool_choice": "auto",
    "messages": [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": None, "tool_calls": [PAST]},
        {"role": "tool", "tool_call_id": "call_1", "content": "2"},
    ],
}  # fmt: skip
MESSAGES = {
    "model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "be brief"}], "stop_sequences": ["\n"],
    "tools": [{"name": "add", "input_schema": TOOLS["add"]}], "tool_choice": {"type": "auto"},
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "2"}]},
    ],
}  # fmt: skip
RESPONSES = {
    "model": "m", "max_output_tokens": 5, "instructions": "be brief", "store": False,
    "tools": [{"type": "function", "name": "add", "parameters": TOOLS["add"]}],
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "1 + 1?"}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "2"},
    ],
}  # fmt: skip
KEYS = b"# ours\nsk-1\nsk-2 requests_per_minute=60 tokens_per_day=100000 models=a,org/b\n"


def _calls(data: bytes) -> list[Call]:
    """In each form: a model may write any text in any of them."""
    text = data.decode("utf-8", "replace")
    found: list[Call] = []
    for form in TOOL_FORMATS:
        found += read_calls(text, form, TOOLS)[1]
    return found


def _calls_wrong(sample: bytes, data: bytes, calls: list[Call]) -> str | None:
    for call in calls:
        if call.name not in TOOLS:
            return f"a call of {call.name!r}, which is not offered"
        if not isinstance(json.loads(call.arguments), dict):
            return "arguments that are no object"
    return None


def _turns(request: ChatRequest) -> list[dict[str, Any]]:
    return [read_message(position, message, "hermes") for position, message in enumerate(request.messages)]


def _turns_wrong(sample: bytes, data: bytes, turns: list[dict[str, Any]]) -> str | None:
    for turn in turns:
        if not isinstance(turn["role"], str):
            return "a turn of nobody"
        for call in turn.get("tool_calls") or ():
            if not isinstance(call["function"]["arguments"], dict):
                return "arguments that are no object"
    return None


def _responses(data: bytes) -> list[dict[str, Any]]:
    request = parse_body(ResponsesRequest, data)
    responses_schema.check(request)
    return _turns(ChatRequest.model_validate(responses_schema.chat_fields(request, ())))


def _keys_wrong(sample: bytes, data: bytes, keys: dict[str, KeyLimits]) -> str | None:
    for key, limits in keys.items():
        if not key or any(
            each is not None and each < 1 for each in (limits.requests_per_minute, limits.tokens_per_day)
        ):
            return f"{key!r}: {limits}"
    return None


def decoders() -> list[Decoder]:
    """All of this module."""
    asked = (ApiFailure, InvalidRequest)
    body = ("mesh.gateway.edge:parse_body",)
    return [
        Decoder(
            "calls of tools",
            lambda: [text.encode() for text in CALLS],
            _calls,
            (),
            _calls_wrong,
            ("mesh.gateway.tools.calls:_json",),
        ),
        Decoder(
            "chats with tools",
            lambda: [json.dumps(CHAT).encode()],
            lambda data: _turns(parse_body(ChatRequest, data)),
            asked,
            _turns_wrong,
            (*body, "mesh.gateway.tools.request:_past_call"),
            mutate_json,
        ),
        Decoder(
            "Anthropic's messages",
            lambda: [json.dumps(MESSAGES).encode()],
            lambda data: _turns(messages.chat_request(parse_body(MessagesRequest, data))),
            asked,
            _turns_wrong,
            body,
            mutate_json,
        ),
        Decoder(
            "responses",
            lambda: [json.dumps(RESPONSES).encode()],
            _responses,
            asked,
            _turns_wrong,
            body,
            mutate_json,
        ),
        Decoder(
            "files of API keys",
            lambda: [KEYS],
            lambda data: parse_keys(data.decode("utf-8", "replace")),
            (ConfigError,),
            _keys_wrong,
            ("mesh.gateway.keys:parse_keys",),
        ),
    ]
