"""`POST /v1/messages`: a chat in the form of Anthropic's API, its content blocks and its events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from mesh.client.types import ModelInfo
from mesh.errors import InvalidRequest
from mesh.gateway import chat, sse
from mesh.gateway.block_writer import BlockWriter
from mesh.gateway.errors import ApiError
from mesh.gateway.fields import check_unserved
from mesh.gateway.job import Answer, Job, new_id
from mesh.gateway.messages_schema import MessagesRequest, chat_fields, check
from mesh.gateway.schemas import ChatRequest, Failure, Usage
from mesh.gateway.sse import NamedEvent
from mesh.gateway.tools.calls import Call
from mesh.gateway.tools.request import Tools
from shards.text.tokenizer import Tokenizer

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(error: ApiError, request_id: str | None = None) -> dict[str, Any]:
    """An error as this API writes it."""
    kind = _KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    body = {"type": "error", "error": {"type": kind, "message": error.message}}
    return body if request_id is None else {**body, "request_id": request_id}


def prepare(
    request: MessagesRequest,
    info: ModelInfo,
    tokenizer: Tokenizer,
    *,
    max_chat_tokens: int,
    tool_parser: str | None = None,
) -> Job:
    """The request as a job. Raises `InvalidRequest` and its kin."""
    if request.max_tokens is None:
        raise InvalidRequest("max_tokens: Field required", param="max_tokens")
    asked = chat_request(request)
    job, tools = chat.prepare_with_tools(
        asked, info, tokenizer, max_choices=1, max_chat_tokens=max_chat_tokens, tool_parser=tool_parser
    )
    writer = MessageWriter(request, info, tokenizer, job.prompt_tokens, tools)
    return replace(job, id=writer.id, writer=writer, include_usage=True).constrained_by("output_config")


def chat_request(request: MessagesRequest) -> ChatRequest:
    """The chat request that asks the same. Raises `InvalidRequest` and `ApiFailure`."""
    check_unserved(check(request))
    return chat.translated(chat_fields(request))


class MessageWriter(BlockWriter):
    """Writes `/v1/messages` answers: blocks of text and of tool_use, in their order."""

    def __init__(
        self,
        request: MessagesRequest,
        model: ModelInfo,
        tokenizer: Tokenizer,
        prompt_tokens: int,
        tools: Tools | None,
    ) -> None:
        super().__init__(tools)
        self.id = new_id("msg")
        self.framing = sse.Framing(sse.encode_named, self._failed, b"")
        self._model = model
        self._stops = tuple(text for text in request.stop_sequences or () if text)
        self._eos = frozenset(tokenizer.eos_token_ids)
        self._prompt_tokens = prompt_tokens
        self._blocks = 0
        self._in_text = False
        self._reason: tuple[str | None, str | None] = (None, None)

    def opening(self, index: int) -> list[BaseModel]:
        usage = {"input_tokens": self._prompt_tokens, "output_tokens": 0}
        return [NamedEvent({"type": "message_start", "message": self._message([], (None, None), usage)})]

    def closing(self, index: int, answer: Answer) -> list[BaseModel]:
        events = self._pushed("", final=True)
        self._reason = self._why(answer, called=self._reader is not None and self._reader.count > 0)
        return [*events, *self._close()]

    def usage(self, usage: Usage) -> list[BaseModel]:
        reason, stop = self._reason
        delta = {"stop_reason": reason, "stop_sequence": stop}
        return [
            NamedEvent({"type": "message_delta", "delta": delta, "usage": _usage(usage)}),
            NamedEvent({"type": "message_stop"}),
        ]

    def whole(self, answers: Sequence[Answer], usage: Usage, failure: Failure | None = None) -> BaseModel:
        [answer] = answers
        text, calls = self._read(answer)
        blocks: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
        blocks += [_tool_use(id, call, json.loads(call.arguments)) for id, call in calls]
        body = self._message(blocks, self._why(answer, called=bool(calls)), _usage(usage))
        if failure is not None:
            body["error"] = failure.error.model_dump()
            if failure.resume_ticket is not None:
                body["resume_ticket"] = failure.resume_ticket
        return NamedEvent(body)

    def _why(self, answer: Answer, *, called: bool) -> tuple[str | None, str | None]:
        """Why it ended, and at which stop sequence, where only one was given."""
        match answer.completion.finish_reason if answer.completion else None:
            case None:
                return None, None
            case "length":
                return "max_tokens", None
        if called:
            return "tool_use", None
        if self._stops and not (answer.tokens and answer.tokens[-1] in self._eos):
            return "stop_sequence", self._stops[0] if len(self._stops) == 1 else None
        return "end_turn", None

    def _text(self, text: str) -> list[BaseModel]:
        events: list[BaseModel] = []
        if not self._in_text:
            self._in_text = True
            events.append(self._start({"type": "text", "text": ""}))
        events.append(self._delta({"type": "text_delta", "text": text}))
        return events

    def _close(self) -> list[BaseModel]:
        """End the block of text that is open."""
        if not self._in_text:
            return []
        self._in_text = False
        return [self._stop()]

    def _called(self, id: str, call: Call) -> list[BaseModel]:
        return [
            self._start(_tool_use(id, call, {})),
            self._delta({"type": "input_json_delta", "partial_json": call.arguments}),
            self._stop(),
        ]

    def _start(self, block: dict[str, Any]) -> BaseModel:
        return NamedEvent({"type": "content_block_start", "index": self._blocks, "content_block": block})

    def _delta(self, delta: dict[str, Any]) -> BaseModel:
        return NamedEvent({"type": "content_block_delta", "index": self._blocks, "delta": delta})

    def _stop(self) -> BaseModel:
        self._blocks += 1
        return NamedEvent({"type": "content_block_stop", "index": self._blocks - 1})

    def _failed(self, failure: Failure) -> bytes:
        error = {"type": "api_error", "message": failure.error.message}
        return sse.encode_named([NamedEvent({"type": "error", "error": error})])

    def _message(
        self, blocks: list[dict[str, Any]], why: tuple[str | None, str | None], usage: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self._model.name,
            "content": blocks,
            "stop_reason": why[0],
            "stop_sequence": why[1],
            "usage": usage,
        }


def _tool_use(id: str, call: Call, given: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": call.name, "input": given}


def _usage(usage: Usage) -> dict[str, Any]:
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    found: dict[str, Any] = {
        "input_tokens": usage.prompt_tokens - cached,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
    }
    if usage.cost is not None:
        found["cost"] = usage.cost.model_dump()
    return found
