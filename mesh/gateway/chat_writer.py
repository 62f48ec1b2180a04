"""The shape of `/v1/chat/completions` answers: whole ones, and the chunks of streamed ones, with tool calls."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from mesh.client.types import ModelInfo, TextDelta
from mesh.gateway import sse
from mesh.gateway.job import Answer, fingerprint
from mesh.gateway.logprobs import chat_logprobs
from mesh.gateway.schemas import (
    AssistantMessage,
    CalledFunction,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprobs,
    ChatResponse,
    Failure,
    FinishReason,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from mesh.gateway.tools.calls import Call
from mesh.gateway.tools.request import Tools
from mesh.gateway.tools.stream import Event, ToolStream
from shards.text.tokenizer import Tokenizer


class ChatWriter:
    """Writes `/v1/chat/completions` answers."""

    def __init__(
        self,
        *,
        id: str,
        created: int,
        model: ModelInfo,
        tokenizer: Tokenizer,
        logprobs: bool,
        token_ids: bool,
        tools: Tools | None = None,
    ) -> None:
        self.framing = sse.CHUNKS
        self.id = id
        self.created = created
        self._model = model
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._token_ids = token_ids
        self._tools = tools
        self._choices: dict[int, CallReader] = {}

    def opening(self, index: int) -> list[BaseModel]:
        return [self._chunk(index, ChatDelta(role="assistant", content=""))]

    def piece(self, index: int, delta: TextDelta) -> list[BaseModel]:
        table = None
        if self._logprobs and delta.logprobs:
            table = chat_logprobs(delta.logprobs, self._tokenizer)
        deltas = self._deltas(index, delta.text)
        if not deltas and (table or (self._token_ids and delta.tokens)):
            deltas = [ChatDelta(content="")]
        chunks: list[BaseModel] = []
        for number, each in enumerate(deltas):  # tables and ids go with the first
            first = number == 0
            chunks.append(self._chunk(index, each, table if first else None, tokens=delta.tokens if first else ()))
        return chunks

    def closing(self, index: int, answer: Answer) -> list[BaseModel]:
        rest: list[BaseModel] = [self._chunk(index, each) for each in self._deltas(index, "", final=True)]
        reason: FinishReason | None = answer.completion.finish_reason if answer.completion else None
        if reason == "stop" and index in self._choices and self._choices[index].count:
            reason = "tool_calls"
        return [*rest, self._chunk(index, ChatDelta(), finish_reason=reason)]

    def usage(self, usage: Usage) -> list[BaseModel]:
        chunk = self._response([])
        chunk.usage = usage
        return [chunk]

    def whole(self, answers: Sequence[Answer], usage: Usage, failure: Failure | None = None) -> BaseModel:
        response = ChatResponse(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self._model.name,
            system_fingerprint=fingerprint(self._model),
            choices=[self._choice(index, answer) for index, answer in enumerate(answers)],
            usage=usage,
        )
        if failure is not None:
            failure.mark(response)
        return response

    def _deltas(self, index: int, text: str, *, final: bool = False) -> list[ChatDelta]:
        """What a piece of text adds: itself, or what its calls are."""
        if self._tools is None:
            return [ChatDelta(content=text)] if text else []
        reader = self._choices.get(index)
        if reader is None:
            reader = self._choices[index] = CallReader(self._tools)
        deltas = []
        for event in reader.push(text, final=final):
            if isinstance(event, str):
                deltas.append(ChatDelta(content=event))
            else:
                number, id, call = event
                function = CalledFunction(name=call.name, arguments=call.arguments)
                whole = ToolCallDelta(index=number, id=id, type="function", function=function)
                deltas.append(ChatDelta(tool_calls=[whole]))
        return deltas

    def _choice(self, index: int, answer: Answer) -> ChatChoice:
        reason: FinishReason = answer.completion.finish_reason if answer.completion else "error"
        message = AssistantMessage(role="assistant", content=answer.text, refusal=None)
        if self._tools is not None:
            text, called = read_whole(self._tools, answer.text)
            message.content = text or (None if called else "")
            if called:
                message.tool_calls = [
                    ToolCall(id=id, type="function", function=CalledFunction(name=call.name, arguments=call.arguments))
                    for id, call in called
                ]
                reason = "tool_calls" if reason == "stop" else reason
        choice = ChatChoice(
            index=index,
            message=message,
            logprobs=chat_logprobs(answer.logprobs, self._tokenizer) if self._logprobs else None,
            finish_reason=reason,
        )
        if self._token_ids:
            choice.token_ids = list(answer.tokens)
        return choice

    def _chunk(
        self,
        index: int,
        delta: ChatDelta,
        table: ChatLogprobs | None = None,
        finish_reason: FinishReason | None = None,
        tokens: Sequence[int] = (),
    ) -> ChatChunk:
        choice = ChatChunkChoice(index=index, delta=delta, logprobs=table, finish_reason=finish_reason)
        if self._token_ids:
            choice.token_ids = list(tokens)
        return self._response([choice])

    def _response(self, choices: list[ChatChunkChoice]) -> ChatChunk:
        return ChatChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self._model.name,
            system_fingerprint=fingerprint(self._model),
            choices=choices,
        )


class CallReader:
    """Reads one choice's calls as they arrive, and gives each its number and its id."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._stream = ToolStream(tools.form, tools.schemas)
        self._begun = tools.begins
        self.count = 0

    def push(self, text: str, *, final: bool = False) -> list[str | tuple[int, str, Call]]:
        """Texts, and calls as (number, id, call); without parallel calls the first one only."""
        events: list[Event] = self._stream.push(self._begun + text)
        self._begun = ""
        if final:
            events += self._stream.finish()
        found: list[str | tuple[int, str, Call]] = []
        for event in events:
            if isinstance(event, str):
                found.append(event)
            elif self._tools.parallel or not self.count:
                found.append((self.count, self._tools.new_id(), event))
                self.count += 1
        return found


def read_whole(tools: Tools, text: str) -> tuple[str, list[tuple[str, Call]]]:
    """The text and the calls, with their ids, of a whole answer."""
    found = CallReader(tools).push(text, final=True)
    return (
        "".join(event for event in found if isinstance(event, str)),
        [(event[1], event[2]) for event in found if not isinstance(event, str)],
    )
