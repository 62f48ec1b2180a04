"""No field of OpenAI's requests is accepted and ignored: each is done, or refused by name, or known to be harmless."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from mesh.gateway import fields as gateway_fields
from mesh.gateway import messages_schema, responses_schema, structured
from mesh.gateway.app import create_app
from mesh.gateway.config import GatewayConfig
from mesh.gateway.fields import HARMLESS, NEUTRAL
from mesh.gateway.responses_schema import ResponsesRequest
from mesh.gateway.schemas import ChatRequest, CompletionRequest
from tests.mesh.gateway.conftest import Live, serve_app
from tests.mesh.gateway.echo_backend import Behaviour, EchoBackend
from tests.mesh.gateway.echo_tokenizer import ByteTokenizer

SAY = {"model": "echo", "max_tokens": 4, "messages": [{"role": "user", "content": "the swa"}]}
FORMS = {
    "/v1/chat/completions": (chat_create_params.CompletionCreateParamsBase, ChatRequest, SAY),
    "/v1/completions": (
        completion_create_params.CompletionCreateParamsBase,
        CompletionRequest,
        {"model": "echo", "prompt": "the swa", "max_tokens": 4},
    ),
    "/v1/responses": (
        response_create_params.ResponseCreateParamsBase,
        ResponsesRequest,
        {"model": "echo", "input": "the swa", "max_output_tokens": 4},
    ),
}


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    backend = EchoBackend({"echo": Behaviour(ByteTokenizer())})
    app = create_app(backend, GatewayConfig())
    with serve_app(app) as url:
        yield Live(url, backend, app)


def all_fields() -> list[Any]:
    return [
        pytest.param(path, name, id=f"{path.rpartition('/')[2]}-{name}")
        for path, (params, schema, _) in FORMS.items()
        for name in params.__annotations__
        if name not in schema.model_fields and name not in HARMLESS
    ]


@pytest.mark.parametrize(("path", "name"), all_fields())
def test_a_field_that_is_not_served_is_refused_by_name(live: Live, path: str, name: str) -> None:
    *_, body = FORMS[path]
    response = httpx.post(live.url + path, json={**body, name: {"asks": "something"}})
    assert response.status_code == 400, f"{name} was taken and nothing done"
    assert response.json()["error"]["param"] == name
    for value in (None, *neutral(path, name)):
        assert httpx.post(live.url + path, json={**body, name: value}).status_code == 200


def neutral(path: str, name: str) -> tuple[Any, ...]:
    if path == "/v1/responses" and name in responses_schema._REFUSED:
        return responses_schema._REFUSED[name]
    return NEUTRAL[name]


@pytest.mark.parametrize("name", [name for name in NEUTRAL if name not in structured.FIELDS])
def test_what_other_servers_take_is_not_passed_over(live: Live, name: str) -> None:
    response = httpx.post(f"{live.url}/v1/chat/completions", json={**SAY, name: {"asks": "something"}})
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)


def test_what_other_servers_do_and_we_do_not_is_refused_and_not_ignored(live: Live) -> None:
    asked = {
        "guided_whitespace_pattern": " ?",
        "min_tokens": 3,
        "stop_token_ids": [5],
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "continue_final_message": True,
        "prompt_logprobs": 1,
    }
    for name, value in asked.items():
        response = httpx.post(f"{live.url}/v1/chat/completions", json={**SAY, name: value})
        assert (response.status_code, response.json()["error"]["param"]) == (400, name)
        assert name in response.json()["error"]["message"]


def test_zero_is_not_false(live: Live) -> None:
    for name, value in (("store", 0), ("min_tokens", False)):
        assert httpx.post(f"{live.url}/v1/chat/completions", json={**SAY, name: value}).status_code == 400


def test_every_harmless_field_says_why() -> None:
    assert all(reason for reason in HARMLESS.values())
    assert not HARMLESS.keys() & NEUTRAL.keys()
    assert not HARMLESS.keys() & {*ChatRequest.model_fields, *CompletionRequest.model_fields}
    assert gateway_fields.check_unserved(dict.fromkeys(HARMLESS, "x")) is None
    assert messages_schema.HARMLESS


def test_an_assistants_turn_is_begun_unless_not_wanted(live: Live) -> None:
    httpx.post(f"{live.url}/v1/chat/completions", json={**SAY, "add_generation_prompt": False})
    assert ByteTokenizer().decode(live.backend.requests[-1].prompt) == "user: the swa\n"


def test_a_models_own_sampling_is_the_default_unless_the_operator_says_no() -> None:
    tokenizer = ByteTokenizer(sampling_defaults={"temperature": 0.5, "top_k": 7, "repetition_penalty": 1.2})
    for wanted in (True, False):
        backend = EchoBackend({"echo": Behaviour(tokenizer)})
        with serve_app(create_app(backend, GatewayConfig(generation_defaults=wanted))) as url:
            httpx.post(f"{url}/v1/chat/completions", json=SAY)
            httpx.post(f"{url}/v1/chat/completions", json={**SAY, "temperature": 0.9, "top_k": -1})
        left_out, given = (request.sampling for request in backend.requests)
        expected = (0.5, 7, 1.2) if wanted else (1.0, 0, 1.0)
        assert (left_out.temperature, left_out.top_k, left_out.repetition_penalty) == expected
        assert (given.temperature, given.top_k) == (0.9, 0)
