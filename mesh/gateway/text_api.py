"""`/tokenize`, `/detokenize`, `/version` (vLLM's), and `/v1/messages/count_tokens`: no generation, and no charge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request

from mesh.client.types import ModelInfo
from mesh.errors import InvalidRequest
from mesh.gateway.bodies import read_body
from mesh.gateway.chat import encode_conversation
from mesh.gateway.connections import source_of
from mesh.gateway.edge import notes_of, parse_body
from mesh.gateway.fields import check_unserved
from mesh.gateway.messages import chat_request
from mesh.gateway.messages_schema import MessagesRequest
from mesh.gateway.schemas import Message, NamesModel, TokenIds
from mesh.gateway.service import Gateway
from mesh.gateway.tools.request import read_tools
from mesh.version import VERSION
from shards.text.tokenizer import Tokenizer

_Named = TypeVar("_Named", bound=NamesModel)


class TokenizeRequest(NamesModel):
    """A text, or a conversation that is put through the model's template."""

    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Any] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(NamesModel):
    tokens: TokenIds


def text_routes(gateway: Gateway) -> APIRouter:
    """The routes that need a key where the API does."""
    router = APIRouter(redirect_slashes=False)

    async def answered(
        request: Request, schema: type[_Named], work: Callable[[_Named, ModelInfo, Tokenizer], dict[str, Any]]
    ) -> dict[str, Any]:
        notes = notes_of(request.scope)
        await gateway.admit(notes.caller)
        body = await read_body(
            request.scope,
            request.receive,
            limit=gateway.config.max_body_bytes,
            timeout=gateway.config.body_timeout,
            memory=gateway.body_memory,
            owner=source_of(request.client.host if request.client else None),
        )
        fields = parse_body(schema, body)
        if notes.meter is not None:
            notes.meter.check_model(fields.model)
        info = await gateway.model(fields.model)
        notes.model = gateway.metrics.model_label(info.name)
        async with gateway.place(notes.caller):
            tokenizer = await gateway.backend.tokenizer(info.name)
            return await gateway.text_threads.run(tokenizer, work, fields, info, tokenizer)

    @router.post("/tokenize", response_model=None)
    async def tokenize(request: Request) -> dict[str, Any]:
        return await answered(request, TokenizeRequest, _tokenize)

    @router.post("/detokenize", response_model=None)
    async def detokenize(request: Request) -> dict[str, Any]:
        return await answered(request, DetokenizeRequest, _detokenize)

    @router.post("/v1/messages/count_tokens", response_model=None)
    async def count_tokens(request: Request) -> dict[str, Any]:
        return await answered(request, MessagesRequest, _count)

    return router


def version_route() -> APIRouter:
    """The one that needs none."""
    router = APIRouter(redirect_slashes=False)

    @router.get("/version", response_model=None)
    async def version() -> dict[str, str]:
        return {"version": VERSION}

    return router


def _tokenize(request: TokenizeRequest, info: ModelInfo, tokenizer: Tokenizer) -> dict[str, Any]:
    check_unserved(request.model_extra)
    if (request.prompt is None) == (request.messages is None):
        raise InvalidRequest("give either prompt or messages", param="prompt")
    if request.messages is not None:
        if request.add_special_tokens:
            raise InvalidRequest("a chat template has its special tokens itself", param="add_special_tokens")
        tools = read_tools(request.tools, None, None, tokenizer)
        begun = request.add_generation_prompt is not False
        tokens = list(encode_conversation(request.messages, tokenizer, tools, add_generation_prompt=begun))
    else:
        if request.tools or request.add_generation_prompt is not None:
            raise InvalidRequest("tools and add_generation_prompt go with messages", param="tools")
        tokens = tokenizer.encode(request.prompt or "", add_special_tokens=request.add_special_tokens is not False)
    shown = [tokenizer.token_text(token) for token in tokens] if request.return_token_strs else None
    return {"count": len(tokens), "max_model_len": info.context_length, "tokens": tokens, "token_strs": shown}


def _detokenize(request: DetokenizeRequest, info: ModelInfo, tokenizer: Tokenizer) -> dict[str, Any]:
    check_unserved(request.model_extra)
    if request.tokens and not 0 <= min(request.tokens) <= max(request.tokens) < info.vocab_size:
        message = f"tokens has an id outside of this model's 0 to {info.vocab_size - 1}"
        raise InvalidRequest(message, param="tokens")
    return {"prompt": tokenizer.decode(request.tokens, skip_special_tokens=False)}


def _count(request: MessagesRequest, info: ModelInfo, tokenizer: Tokenizer) -> dict[str, Any]:
    asked = chat_request(request)
    tools = read_tools(asked.tools, asked.tool_choice, asked.parallel_tool_calls, tokenizer)
    return {"input_tokens": len(encode_conversation(asked.messages, tokenizer, tools))}
