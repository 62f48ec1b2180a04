"""Requests and answers of the OpenAI API as typed models; fields that we do not know are let through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, StringConstraints
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, slots=True)
class _StopAtFirst:
    """Stop validating a list at its first wrong item: a million of them must not become a million errors.

    pydantic's own `FailFast` cannot be hashed, which members of a union must be.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        return core_schema.list_schema(schema["items_schema"], strict=True, fail_fast=True)


ModelName = Annotated[str, StringConstraints(min_length=1)]
Strings = Annotated[list[str], _StopAtFirst()]
TokenIds = Annotated[list[int], _StopAtFirst()]
TokenIdLists = Annotated[list[TokenIds], _StopAtFirst()]


class StrictFields(BaseModel):
    """Strict: `"5"` is not 5 and `true` is not 1, as at OpenAI; unknown fields of objects inside are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)


class StreamOptions(StrictFields):
    include_usage: bool | None = None


class NamesModel(StrictFields):
    """A request of a model. Fields that it does not have are kept, for `mesh.gateway.fields` to refuse them by name."""

    model_config = ConfigDict(extra="allow")
    model: ModelName


class SamplingFields(NamesModel):
    """What all requests to generate share: OpenAI's sampling fields, and the extras that vLLM made customary."""

    n: int | None = None
    seed: int | None = None
    stop: str | Strings | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = None
    # Not OpenAI's own:
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None
    resume_token_ids: TokenIds | None = None
    resume_ticket: str | None = None


class CompletionRequest(SamplingFields):
    """`POST /v1/completions`."""

    prompt: str | TokenIds | Strings | TokenIdLists
    max_completion_tokens: int | None = None
    """Not OpenAI's own here; a name for `max_tokens`."""
    add_special_tokens: bool | None = None
    """vLLM's: false leaves out what a tokenizer puts before a text."""
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None


class ContentPart(StrictFields):
    type: str
    text: str | None = None


class Message(StrictFields):
    role: str
    content: str | Annotated[list[ContentPart], _StopAtFirst()] | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    function_call: Any = None


class ChatRequest(SamplingFields):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], _StopAtFirst()]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    """vLLM's: false leaves out what begins the assistant's turn."""


class Cost(BaseModel):
    """What a request was charged: wei exactly, and the same in FUNC; decimal strings, because JSON's numbers round."""

    wei: str
    func: str


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None
    cost: Cost | None = None
    """Set where requests are paid for; not OpenAI's own."""


FinishReason = Literal["stop", "length", "tool_calls", "error"]
"""Of a choice. "error" is not OpenAI's own: what came before a failure, in an answer that has an `error`."""


class ErrorFields(BaseModel):
    """OpenAI's error object, in an answer that broke off after something had come."""

    message: str
    type: str
    param: str | None
    code: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an answer broke off, and with what it may be resumed."""

    error: ErrorFields
    resume_ticket: str | None

    def mark(self, response: CompletionResponse | ChatResponse) -> None:
        """Put it into the answer."""
        response.error = self.error
        if self.resume_ticket is not None:
            response.resume_ticket = self.resume_ticket


class CompletionLogprobs(BaseModel):
    """Parallel lists, one entry a token; `text_offset` counts characters into the choice's text."""

    tokens: list[str] = Field(default_factory=list)
    token_logprobs: list[float | None] = Field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = Field(default_factory=list)
    text_offset: list[int] = Field(default_factory=list)


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    token_ids: list[int] | None = None


class CompletionResponse(BaseModel):
    """A whole completion, or one chunk of a streamed one (they have the same shape)."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    error: ErrorFields | None = None
    resume_ticket: str | None = None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[ChatTokenLogprob]
    refusal: None = None


class CalledFunction(BaseModel):
    name: str
    arguments: str
    """JSON of an object."""


class ToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ToolCallDelta(ToolCall):
    """A call in a stream; `index` counts the calls of one choice. Each comes in one piece, when it is whole."""

    index: int


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    token_ids: list[int] | None = None


class ChatResponse(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    error: ErrorFields | None = None
    resume_ticket: str | None = None


class ChatDelta(BaseModel):
    """What a chunk adds; fields left unset are not sent."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(BaseModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    token_ids: list[int] | None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
