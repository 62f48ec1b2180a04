"""`POST /v1/chat/completions`: from the conversation to a job, and the shape of its answers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from pydantic import BaseModel

from mesh.client.types import FinishReason, GenerateRequest, ModelInfo, TextDelta
from mesh.errors import InvalidRequest
from mesh.gateway import sampling
from mesh.gateway.job import Answer, Job, fingerprint, new_id
from mesh.gateway.logprobs import chat_logprobs
from mesh.gateway.schemas import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprobs,
    ChatRequest,
    ChatResponse,
    ContentPart,
    Failure,
    Message,
    Usage,
)
from shards.engine.sampling_params import SEED_BITS
from shards.errors import TextTooLong, TokenizerError, TokenizerLimit
from shards.text.conversation import chat_tokens
from shards.text.tokenizer import Tokenizer

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
"""Accepted roles and what a template calls them (OpenAI renamed system to developer; templates did not)."""


def prepare(
    request: ChatRequest, info: ModelInfo, tokenizer: Tokenizer, *, max_choices: int, max_chat_tokens: int
) -> Job:
    """The request as a job. Renders and encodes, so it may take long. Raises `InvalidRequest` and its kin."""
    check(request)
    n = sampling.choices(request.n, 1, max_choices)
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    top = sampling.top_logprobs(request.top_logprobs, "top_logprobs")
    logprobs = (top or 0) if request.logprobs else None
    stop = sampling.stop_strings(request.stop)
    prompt = encode_conversation(request.messages, tokenizer)
    asked, param = request.max_completion_tokens, "max_completion_tokens"
    if asked is None:
        asked, param = request.max_tokens, "max_tokens"
    length = sampling.answer_length(asked, max_chat_tokens, len(prompt), info.context_length, param)
    resumed = sampling.resumed(request, n)
    seed = secrets.randbits(SEED_BITS) if request.seed is None else request.seed
    sessions = tuple(
        GenerateRequest(
            model=info.name,
            prompt=prompt,
            max_tokens=length,
            sampling=sampling.sampling_params(request, info, seed=seed + choice, logprobs=logprobs),
            stop=stop,
            ignore_eos=bool(request.ignore_eos),
            shrinks=asked is None,
            resumed=resumed,
        )
        for choice in range(n)
    )
    writer = ChatWriter(
        id=new_id("chatcmpl"),
        created=int(time.time()),
        model=info,
        tokenizer=tokenizer,
        logprobs=logprobs is not None,
        token_ids=bool(request.return_token_ids),
    )
    return Job(
        id=writer.id,
        created=writer.created,
        model=info,
        sessions=sessions,
        writer=writer,
        prompt_tokens=len(prompt) + len(resumed),
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
    )


def check(request: ChatRequest) -> None:
    """Raise `InvalidRequest` for what we do not offer."""
    for param, value in (("tools", request.tools), ("functions", request.functions)):
        if value:
            raise InvalidRequest(f"{param}: tool calls are not supported", param=param)
    if request.response_format is not None and request.response_format.type != "text":
        raise InvalidRequest("response_format: only the type 'text' is supported", param="response_format")
    if request.modalities is not None and request.modalities != ["text"]:
        raise InvalidRequest("modalities: only 'text' is supported", param="modalities")
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("stream_options needs stream to be true", param="stream_options")


def encode_conversation(messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The conversation's token ids by the model's own template. Raises `InvalidRequest`."""
    if not messages:
        raise InvalidRequest("messages must not be empty", param="messages")
    turns = [read_message(position, message) for position, message in enumerate(messages)]
    if not tokenizer.has_chat_template:
        raise InvalidRequest("This model has no chat template; use /v1/completions instead.", param="messages")
    try:
        prompt = tuple(chat_tokens(tokenizer, turns))
    except (TokenizerLimit, TextTooLong):
        raise
    except TokenizerError as error:
        # A template refuses conversations that its model never saw, such as two user turns in a row.
        raise InvalidRequest(f"The model's chat template refused the messages: {error}", param="messages") from error
    if not prompt:
        raise InvalidRequest("the messages give an empty prompt", param="messages")
    return prompt


def read_message(position: int, message: Message) -> dict[str, str]:
    """One turn as a template takes it. Raises `InvalidRequest`."""
    where = f"messages.{position}"
    role = ROLES.get(message.role)
    if role is None:
        raise InvalidRequest(f"{where}: role must be one of {', '.join(ROLES)}", param="messages")
    if message.tool_calls or message.function_call is not None:
        raise InvalidRequest(f"{where}: tool calls are not supported", param="messages")
    if message.content is None and role != "assistant":
        raise InvalidRequest(f"{where}: content is missing", param="messages")
    content = message.content or ""
    if not isinstance(content, str):
        content = "".join(_part_text(where, part) for part in content)
    turn = {"role": role, "content": content}
    return turn if message.name is None else {**turn, "name": message.name}


def _part_text(where: str, part: ContentPart) -> str:
    if part.type != "text" or part.text is None:
        raise InvalidRequest(f"{where}: only content parts of the type 'text' are supported", param="messages")
    return part.text


class ChatWriter:
    """Writes `/v1/chat/completions` answers."""

    def __init__(
        self, *, id: str, created: int, model: ModelInfo, tokenizer: Tokenizer, logprobs: bool, token_ids: bool
    ) -> None:
        self.id = id
        self.created = created
        self._model = model
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._token_ids = token_ids

    def opening(self, index: int) -> list[BaseModel]:
        return [self._chunk(index, ChatDelta(role="assistant", content=""))]

    def piece(self, index: int, delta: TextDelta) -> list[BaseModel]:
        table = None
        if self._logprobs and delta.logprobs:
            table = chat_logprobs(delta.logprobs, self._tokenizer)
        if not (delta.text or table or (self._token_ids and delta.tokens)):
            return []
        return [self._chunk(index, ChatDelta(content=delta.text), table, tokens=delta.tokens)]

    def closing(self, index: int, answer: Answer) -> list[BaseModel]:
        reason = answer.completion.finish_reason if answer.completion else None
        return [self._chunk(index, ChatDelta(), finish_reason=reason)]

    def usage(self, usage: Usage) -> BaseModel:
        chunk = self._response([])
        chunk.usage = usage
        return chunk

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

    def _choice(self, index: int, answer: Answer) -> ChatChoice:
        choice = ChatChoice(
            index=index,
            message=AssistantMessage(role="assistant", content=answer.text, refusal=None),
            logprobs=chat_logprobs(answer.logprobs, self._tokenizer) if self._logprobs else None,
            finish_reason=answer.completion.finish_reason if answer.completion else "error",
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
