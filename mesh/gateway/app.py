"""The gateway's FastAPI app: its URLs, who may call them, and how errors are answered."""

from __future__ import annotations

import hashlib
import hmac
import logging
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from chain.http_guard import Allowed, HttpGuard, Refusal
from mesh.client.types import Backend
from mesh.errors import MeshError
from mesh.gateway import accounts_api, chat, completions, messages, responses
from mesh.gateway.answering import GenerationResponse
from mesh.gateway.billing import Billing
from mesh.gateway.config import GatewayConfig
from mesh.gateway.connections import source_of
from mesh.gateway.edge import Observer, notes_of
from mesh.gateway.errors import ApiError, ApiFailure, describe, from_http, internal, is_ours
from mesh.gateway.messages_schema import MessagesRequest
from mesh.gateway.reports import model_json, status_json
from mesh.gateway.responses_schema import ResponsesRequest
from mesh.gateway.schemas import ChatRequest, CompletionRequest
from mesh.gateway.service import Gateway
from mesh.gateway.text_api import text_routes, version_route
from shards.errors import ShardError

log = logging.getLogger(__name__)

EXPOSED_HEADERS = ("x-request-id", "retry-after", "openai-processing-ms", "openai-version")
"""What a page of an allowed origin may read of an answer's head."""


def create_app(backend: Backend, config: GatewayConfig, billing: Billing | None = None) -> FastAPI:
    """The gateway over `backend` and `billing`, which the caller owns and closes after the server has stopped.

    `/v1` and `/mesh` need an API key where `config` has any or there is billing; `/health` and `/metrics` never do.
    The keys of `config` are the operator's own: what they ask is not billed.
    """
    app = FastAPI(title="Inference mesh", openapi_url=None, redirect_slashes=False)
    gateway = Gateway(backend, config, billing)
    app.state.gateway = gateway
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["*"],
            # A page sends its key itself, as a header; cookies are never granted, so `*` gives nobody's rights away.
            allow_credentials=False,
            expose_headers=list(EXPOSED_HEADERS),
        )
    # A key is what a stranger's page does not have; without keys the caller's address is all there is.
    app.add_middleware(
        HttpGuard,
        allowed=Allowed.of(config.hosts, config.cors_origins),
        answer=_refused,
        checks_callers=not config.api_keys and billing is None,
    )
    # Added last, so outermost: it sees what every other middleware answers.
    app.add_middleware(Observer, metrics=gateway.metrics, access_log=config.access_log)
    app.include_router(_open_routes(gateway))
    if billing is not None:
        app.include_router(accounts_api.open_routes(gateway, billing))
    needs_key = [Depends(_key_check(gateway, config.api_keys, billing))]
    app.include_router(_openai_routes(gateway), dependencies=needs_key)
    app.include_router(_mesh_routes(gateway), dependencies=needs_key)
    app.include_router(text_routes(gateway), dependencies=needs_key)
    app.include_router(version_route())
    if billing is not None:
        app.include_router(accounts_api.key_routes(gateway, billing), dependencies=needs_key)
    app.add_exception_handler(HTTPException, _http_error)
    for kind in (MeshError, ShardError, TimeoutError, ApiFailure):
        app.add_exception_handler(kind, _named_error)
    app.add_exception_handler(Exception, _unforeseen_error)
    return app


def _openai_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1", redirect_slashes=False)
    limits = gateway.config
    prepare_completion = partial(completions.prepare, max_choices=limits.max_choices)
    prepare_chat = partial(
        chat.prepare,
        max_choices=limits.max_choices,
        max_chat_tokens=limits.max_chat_tokens,
        tool_parser=limits.tool_parser,
    )

    @router.get("/models", response_model=None)
    async def list_models(request: Request) -> dict[str, Any]:
        """The models that can answer now, of those that the key is for."""
        meter = notes_of(request.scope).meter
        served = [info for info in await gateway.models() if info.complete and (not meter or meter.may_use(info.name))]
        return {"object": "list", "data": [model_json(info, gateway.started) for info in served]}

    # A model's name may have slashes.
    @router.get("/models/{model_id:path}", response_model=None)
    async def retrieve_model(request: Request, model_id: str) -> dict[str, Any]:
        if (meter := notes_of(request.scope).meter) is not None:
            meter.check_model(model_id)
        return model_json(await gateway.model(model_id), gateway.started)

    @router.post("/completions", response_model=None)
    async def create_completion() -> Response:
        return GenerationResponse(gateway, CompletionRequest, prepare_completion)

    @router.post("/responses", response_model=None)
    async def create_response(request: Request) -> Response:
        prepare = partial(
            responses.prepare,
            max_chat_tokens=limits.max_chat_tokens,
            store=gateway.responses,
            asker=notes_of(request.scope).asker,
            tool_parser=limits.tool_parser,
        )
        return GenerationResponse(gateway, ResponsesRequest, prepare)

    @router.get("/responses/{response_id}", response_model=None)
    async def retrieve_response(request: Request, response_id: str) -> dict[str, Any]:
        """One that is still kept, as it was answered."""
        return gateway.responses.get(notes_of(request.scope).asker, response_id).body

    @router.delete("/responses/{response_id}", response_model=None)
    async def delete_response(request: Request, response_id: str) -> dict[str, Any]:
        gateway.responses.remove(notes_of(request.scope).asker, response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    @router.post("/messages", response_model=None)
    async def create_message() -> Response:
        prepare = partial(messages.prepare, max_chat_tokens=limits.max_chat_tokens, tool_parser=limits.tool_parser)
        return GenerationResponse(gateway, MessagesRequest, prepare)

    @router.post("/chat/completions", response_model=None)
    async def create_chat_completion() -> Response:
        return GenerationResponse(gateway, ChatRequest, prepare_chat)

    return router


def _mesh_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/mesh", redirect_slashes=False)

    @router.get("/requests/{completion_id}", response_model=None)
    async def request_report(completion_id: str) -> dict[str, Any]:
        """The route of a recent request."""
        report = gateway.requests.get(completion_id)
        if report is None:
            raise HTTPException(404, "No recent request has this id.")
        return report.as_json()

    @router.get("/status", response_model=None)
    async def swarm_status() -> dict[str, Any]:
        """Every model, complete or not."""
        return {"object": "mesh.status", "models": [status_json(info) for info in await gateway.models()]}

    return router


def _open_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter(redirect_slashes=False)

    @router.api_route("/health", methods=["GET", "HEAD"], response_model=None)
    async def health() -> JSONResponse:
        """200 when at least one model is complete, else 503. Says at once what is known."""
        models = await gateway.models_at_hand()
        ready = any(info.complete for info in models)
        body = {
            "status": "ready" if ready else "unavailable",
            "models": [{"id": info.name, "complete": info.complete} for info in models],
        }
        return JSONResponse(body, 200 if ready else 503)

    @router.get("/metrics", response_model=None)
    async def metrics() -> Response:
        models = await gateway.models_at_hand()
        return Response(gateway.metrics.render(models), media_type=CONTENT_TYPE_LATEST)

    return router


def _key_check(gateway: Gateway, keys: frozenset[str], billing: Billing | None) -> Any:
    """A dependency that refuses requests without one of `keys` or an account's; with neither, everybody may call."""
    accepted = [key.encode() for key in keys]

    async def check(request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if not scheme and "x-api-key" in request.headers:  # as Anthropic's clients send it
            scheme, key = "bearer", request.headers["x-api-key"]
        given = key.strip().encode("latin-1")
        notes = notes_of(request.scope)
        notes.asker = f"key {hashlib.sha256(given).hexdigest()}"
        # Compared with every key in constant time: how long it takes tells nothing about any of them.
        matches = [hmac.compare_digest(given, each) for each in accepted]
        bearer = scheme.lower() == "bearer"
        if bearer and any(matches):
            notes.meter = gateway.keys.of(key.strip())
            return
        if bearer and billing is not None:
            notes.caller = billing.caller(key.strip())
            if notes.caller is not None:
                return
        if accepted or billing is not None:
            headers = {"WWW-Authenticate": "Bearer"}
            raise HTTPException(401, "Incorrect or missing API key.", headers)
        notes.asker = f"address {source_of(request.client.host if request.client else None)}"

    return check


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    detail = error.detail
    if detail in ("Not Found", "Method Not Allowed"):
        detail = f"{detail}: {request.method} {request.url.path}"
    return _respond(from_http(error.status_code, detail, error.headers), request)


async def _named_error(request: Request, error: Exception) -> Response:
    request_id = notes_of(request.scope).request_id
    if is_ours(error):
        log.error("request %s failed", request_id, exc_info=error)
    return _respond(describe(error, request_id), request)


async def _unforeseen_error(request: Request, error: Exception) -> Response:
    """Outside of `Observer`, so it adds the id by itself; the server logs the traceback."""
    request_id = notes_of(request.scope).request_id
    log.error("request %s failed", request_id)
    return _respond(internal(request_id), request, {"x-request-id": request_id})


def _refused(why: Refusal) -> Response:
    return _respond(from_http(why.status, why.text))


def _respond(error: ApiError, request: Request | None = None, extra: dict[str, str] | None = None) -> Response:
    body = error.body()
    if request is not None and request.url.path.startswith("/v1/messages"):
        body = messages.error_body(error, notes_of(request.scope).request_id)
    return JSONResponse(body, error.status, headers={**error.headers, **(extra or {})})
