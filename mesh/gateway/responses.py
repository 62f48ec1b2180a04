"""`POST /v1/responses`: a chat in the Responses API's words, with its items and numbered events."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from mesh.client.types import ModelInfo
from mesh.errors import ContextLengthExceeded, InvalidRequest
from mesh.gateway import chat, sse
from mesh.gateway.block_writer import BlockWriter
from mesh.gateway.fields import check_unserved
from mesh.gateway.job import Answer, Job, new_id
from mesh.gateway.responses_schema import ResponsesRequest, chat_fields, check
from mesh.gateway.responses_store import ResponseStore
from mesh.gateway.schemas import Failure, Usage
from mesh.gateway.sse import NamedEvent
from mesh.gateway.tools.calls import Call
from mesh.gateway.tools.request import Tools
from shards.text.tokenizer import Tokenizer

_PARAMS = {"messages": "input", "max_completion_tokens": "max_output_tokens", "response_format": "text"}


def prepare(
    request: ResponsesRequest,
    info: ModelInfo,
    tokenizer: Tokenizer,
    *,
    max_chat_tokens: int,
    store: ResponseStore,
    asker: str,
    tool_parser: str | None = None,
) -> Job:
    """The request as a job. Raises `InvalidRequest` and its kin, and `ApiFailure` for a response that is not known."""
    check_unserved(check(request))
    before: tuple[dict[str, Any], ...] = ()
    if request.previous_response_id is not None:
        before = store.get(asker, request.previous_response_id).messages
    fields = chat_fields(request, before)
    asked = chat.translated(fields)
    try:
        job, tools = chat.prepare_with_tools(
            asked, info, tokenizer, max_choices=1, max_chat_tokens=max_chat_tokens, tool_parser=tool_parser
        )
    except (InvalidRequest, ContextLengthExceeded) as error:
        error.param = _PARAMS.get(error.param or "", error.param)
        raise
    told = fields["messages"][1 if request.instructions is not None else 0 :]
    keep = Keep(store, asker, tuple(told)) if request.store is not False else None
    writer = ResponseWriter(request, info, job.sessions[0].max_tokens, tools, keep)
    return replace(job, id=writer.id, writer=writer, include_usage=True).constrained_by("text")


class Keep:
    """Puts a response that is whole into the store."""

    def __init__(self, store: ResponseStore, asker: str, messages: tuple[dict[str, Any], ...]) -> None:
        self._store = store
        self._asker = asker
        self._messages = messages

    def __call__(self, body: dict[str, Any], text: str, calls: Sequence[tuple[str, Call]]) -> None:
        answer: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            answer["tool_calls"] = [
                {"id": id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for id, call in calls
            ]
        messages = (*self._messages, answer)
        self._store.add(self._asker, body, messages, 2 * len(json.dumps([body, messages])))


class ResponseWriter(BlockWriter):
    """Writes `/v1/responses` answers: one message of text, where there is any, and function calls, in their order."""

    def __init__(
        self, request: ResponsesRequest, model: ModelInfo, limit: int, tools: Tools | None, keep: Keep | None
    ) -> None:
        super().__init__(tools)
        self.id = new_id("resp")
        self.framing = sse.Framing(sse.encode_named, self._failed, b"")
        self.created = int(time.time())
        self._request = request
        self._model = model
        self._limit = limit
        self._keep = keep
        self._number = 0
        self._items: list[dict[str, Any]] = []
        self._calls: list[tuple[str, Call]] = []
        self._open: dict[str, Any] | None = None
        """The message whose text still grows."""
        self._reason: str | None = None

    def opening(self, index: int) -> list[BaseModel]:
        body = self._body("in_progress", [], None)
        return [self._event("response.created", response=body), self._event("response.in_progress", response=body)]

    def closing(self, index: int, answer: Answer) -> list[BaseModel]:
        self._reason = answer.completion.finish_reason if answer.completion else "error"
        events = self._pushed("", final=True)
        if not self._items:  # an empty answer is a message too
            events += self._text("")
        return [*events, *self._close()]

    def usage(self, usage: Usage) -> list[BaseModel]:
        body = self._body(self._status(self._reason), self._items, usage)
        if self._keep is not None:
            self._keep(body, "".join(self._texts()), self._calls)
        kind = "response.completed" if body["status"] == "completed" else "response.incomplete"
        return [self._event(kind, response=body)]

    def whole(self, answers: Sequence[Answer], usage: Usage, failure: Failure | None = None) -> BaseModel:
        [answer] = answers
        reason = answer.completion.finish_reason if answer.completion else "error"
        text, calls = self._read(answer)
        items = [_message(text)] if text or not calls else []
        items += [_call(id, call) for id, call in calls]
        body = self._body("failed" if failure else self._status(reason), items, usage)
        if failure is not None:
            body["error"] = {"code": failure.error.code or "server_error", "message": failure.error.message}
            if failure.resume_ticket is not None:
                body["resume_ticket"] = failure.resume_ticket
        elif self._keep is not None:
            self._keep(body, text, calls)
        return NamedEvent(body)

    def _text(self, text: str) -> list[BaseModel]:
        events: list[BaseModel] = []
        if self._open is None:
            self._open = _message("")
            self._items.append(self._open)
            begun = {**self._open, "status": "in_progress", "content": []}
            events.append(self._event("response.output_item.added", output_index=self._at, item=begun))
            events.append(self._part("response.content_part.added", part={**self._open["content"][0]}))
        self._open["content"][0]["text"] += text
        if text:
            events.append(self._part("response.output_text.delta", delta=text, logprobs=[]))
        return events

    def _close(self) -> list[BaseModel]:
        """End the message that is open."""
        if self._open is None:
            return []
        part = self._open["content"][0]
        events = [
            self._part("response.output_text.done", text=part["text"], logprobs=[]),
            self._part("response.content_part.done", part=part),
            self._event("response.output_item.done", output_index=self._at, item=self._open),
        ]
        self._open = None
        return events

    def _called(self, id: str, call: Call) -> list[BaseModel]:
        item = _call(id, call)
        self._items.append(item)
        self._calls.append((id, call))
        where = {"item_id": item["id"], "output_index": self._at}
        begun = {**item, "status": "in_progress", "arguments": ""}
        return [
            self._event("response.output_item.added", output_index=self._at, item=begun),
            self._event("response.function_call_arguments.delta", **where, delta=call.arguments),
            self._event("response.function_call_arguments.done", **where, name=call.name, arguments=call.arguments),
            self._event("response.output_item.done", output_index=self._at, item=item),
        ]

    @property
    def _at(self) -> int:
        return len(self._items) - 1

    def _texts(self) -> list[str]:
        return [item["content"][0]["text"] for item in self._items if item["type"] == "message"]

    def _part(self, kind: str, **fields: Any) -> BaseModel:
        item = self._items[-1]["id"]
        return self._event(kind, item_id=item, output_index=self._at, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> BaseModel:
        """The next event. What it holds may still change, so it is written at once."""
        event = NamedEvent(json.loads(json.dumps({"type": kind, "sequence_number": self._number, **fields})))
        self._number += 1
        return event

    def _failed(self, failure: Failure) -> bytes:
        error = failure.error
        event = self._event("error", code=error.code, message=error.message, param=error.param)
        return sse.encode_named([event])

    @staticmethod
    def _status(reason: str | None) -> str:
        return "incomplete" if reason == "length" else "completed"

    def _body(self, status: str, output: Sequence[dict[str, Any]], usage: Usage | None) -> dict[str, Any]:
        request = self._request
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": self._model.name,
            "output": [*output],
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": request.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "store": request.store is not False,
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "text": {"format": {"type": "text"}, **(request.text or {})},
            "tool_choice": request.tool_choice or "auto",
            "tools": request.tools or [],
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
        }


def _message(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"id": new_id("msg"), "type": "message", "role": "assistant", "status": "completed", "content": [part]}


def _call(id: str, call: Call) -> dict[str, Any]:
    names = {"call_id": id, "name": call.name, "arguments": call.arguments}
    return {"id": new_id("fc"), "type": "function_call", "status": "completed", **names}


def _usage(usage: Usage) -> dict[str, Any]:
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    found: dict[str, Any] = {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }
    if usage.cost is not None:
        found["cost"] = usage.cost.model_dump()
    return found
