"""`POST /v1/chat/completions`: from the conversation to a job, and the shape of its answers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from mesh.client.types import GenerateRequest, ModelInfo
from mesh.errors import InvalidRequest
from mesh.gateway import sampling, structured
from mesh.gateway.chat_writer import ChatWriter
from mesh.gateway.errors import ApiFailure, invalid_body
from mesh.gateway.fields import check_unserved
from mesh.gateway.job import Job, new_id
from mesh.gateway.schemas import ChatRequest, ContentPart, Message
from mesh.gateway.tools.request import Tools, past_id, read_past_calls, read_tools
from shards.engine.sampling_params import SEED_BITS
from shards.errors import TextTooLong, TokenizerError, TokenizerLimit
from shards.text.conversation import chat_tokens
from shards.text.tokenizer import Tokenizer

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
"""Accepted roles and what a template calls them (OpenAI renamed system to developer; templates did not)."""


def prepare(
    request: ChatRequest,
    info: ModelInfo,
    tokenizer: Tokenizer,
    *,
    max_choices: int,
    max_chat_tokens: int,
    tool_parser: str | None = None,
) -> Job:
    """The request as a job. Renders and encodes, so it may take long. Raises `InvalidRequest` and its kin."""
    job, _ = prepare_with_tools(
        request, info, tokenizer, max_choices=max_choices, max_chat_tokens=max_chat_tokens, tool_parser=tool_parser
    )
    return job


def translated(fields: Mapping[str, Any]) -> ChatRequest:
    """A request of another API as a chat's. Raises `ApiFailure`."""
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        raise ApiFailure(invalid_body(error)) from None


def prepare_with_tools(
    request: ChatRequest,
    info: ModelInfo,
    tokenizer: Tokenizer,
    *,
    max_choices: int,
    max_chat_tokens: int,
    tool_parser: str | None = None,
) -> tuple[Job, Tools | None]:
    """As `prepare`, and the tools that it offers: other APIs write their answers themselves."""
    check(request)
    n = sampling.choices(request.n, 1, max_choices)
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    top = sampling.top_logprobs(request.top_logprobs, "top_logprobs")
    logprobs = (top or 0) if request.logprobs else None
    stop = sampling.stop_strings(request.stop)
    tools = read_tools(request.tools, request.tool_choice, request.parallel_tool_calls, tokenizer, parser=tool_parser)
    prompt = encode_conversation(
        request.messages, tokenizer, tools, add_generation_prompt=request.add_generation_prompt is not False
    )
    asked, param = sampling.named_length(request.max_completion_tokens), "max_completion_tokens"
    if asked is None:
        asked, param = sampling.named_length(request.max_tokens), "max_tokens"
    length = sampling.answer_length(asked, max_chat_tokens, len(prompt), info.context_length, param)
    resumed = sampling.resumed(request, n)
    if resumed and tools is not None:
        raise InvalidRequest("an answer with tools cannot be resumed", param="resume_token_ids")
    constraint = structured.read_constraint(request.model_extra, request.response_format)
    if tools is not None:
        if constraint is not None:
            why = f"{constraint.param} does not go with tools, which the answer may call instead"
            raise InvalidRequest(f"{why}: leave one of them out, or set tool_choice to 'none'", param=constraint.param)
        constraint = structured.call_constraint(tools)
    seed = secrets.randbits(SEED_BITS) if request.seed is None else request.seed
    sessions = tuple(
        GenerateRequest(
            model=info.name,
            prompt=prompt,
            max_tokens=length,
            sampling=sampling.sampling_params(request, info, seed=seed + choice, logprobs=logprobs),
            stop=stop,
            shown=() if tools is None else tools.markers(tokenizer),
            ignore_eos=bool(request.ignore_eos),
            constraint=constraint,
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
        tools=tools,
    )
    job = Job(
        id=writer.id,
        created=writer.created,
        model=info,
        sessions=sessions,
        writer=writer,
        prompt_tokens=len(prompt) + len(resumed),
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
    )
    return job, tools


def check(request: ChatRequest) -> None:
    """Raise `InvalidRequest` for what we do not offer."""
    check_unserved(request.model_extra, structured.FIELDS)
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("stream_options needs stream to be true", param="stream_options")


def encode_conversation(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    tools: Tools | None = None,
    *,
    add_generation_prompt: bool = True,
) -> tuple[int, ...]:
    """The conversation's token ids by the model's own template. Raises `InvalidRequest`."""
    if not messages:
        raise InvalidRequest("messages must not be empty", param="messages")
    form = tokenizer.tool_format if tools is None else tools.form
    turns = [read_message(position, message, form) for position, message in enumerate(messages)]
    _name_results(turns)
    if not tokenizer.has_chat_template:
        raise InvalidRequest("This model has no chat template; use /v1/completions instead.", param="messages")
    try:
        offered = None if tools is None else tools.offered
        prompt = tuple(chat_tokens(tokenizer, turns, add_generation_prompt=add_generation_prompt, tools=offered))
    except (TokenizerLimit, TextTooLong):
        raise
    except TokenizerError as error:
        # A template refuses conversations that its model never saw, such as two user turns in a row.
        raise InvalidRequest(f"The model's chat template refused the messages: {error}", param="messages") from error
    if not prompt:
        raise InvalidRequest("the messages give an empty prompt", param="messages")
    if tools is not None and tools.begins:
        prompt += tuple(tokenizer.encode(tools.begins, add_special_tokens=False))
    return prompt


def read_message(position: int, message: Message, form: str | None = None) -> dict[str, Any]:
    """One turn as a template takes it. Raises `InvalidRequest`."""
    where = f"messages.{position}"
    role = ROLES.get(message.role)
    if role is None:
        raise InvalidRequest(f"{where}: role must be one of {', '.join(ROLES)}", param="messages")
    if message.function_call is not None:
        raise InvalidRequest(f"{where}: function_call is not supported: use tool_calls", param="messages")
    if message.tool_calls and role != "assistant":
        raise InvalidRequest(f"{where}: only an assistant's message has tool_calls", param="messages")
    if message.tool_call_id is None and role == "tool":
        raise InvalidRequest(f"{where}: a tool's message needs a tool_call_id", param="messages")
    if (message.tool_calls or role == "tool") and form is None:
        raise InvalidRequest(f"{where}: this model does not support tools", param="messages")
    if message.content is None and role != "assistant":
        raise InvalidRequest(f"{where}: content is missing", param="messages")
    content = message.content or ""
    if not isinstance(content, str):
        content = "\n".join(_part_text(where, part) for part in content)
    turn: dict[str, Any] = {"role": role, "content": content}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_calls:
        turn["tool_calls"] = read_past_calls(where, message.tool_calls, form)
    if role == "tool":
        turn["tool_call_id"] = past_id(message.tool_call_id or "", form)
    return turn


def _name_results(turns: Sequence[dict[str, Any]]) -> None:
    """Some templates write the name of the tool beside its result, where OpenAI's messages have the call's id only."""
    names: dict[str, str] = {}
    for turn in turns:
        names |= {call["id"]: call["function"]["name"] for call in turn.get("tool_calls", ())}
        if turn["role"] == "tool" and "name" not in turn and turn["tool_call_id"] in names:
            turn["name"] = names[turn["tool_call_id"]]


def _part_text(where: str, part: ContentPart) -> str:
    if part.type != "text" or part.text is None:
        raise InvalidRequest(f"{where}: only content parts of the type 'text' are supported", param="messages")
    return part.text
