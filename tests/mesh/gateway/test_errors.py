"""What goes wrong, and how it is answered: status, OpenAI's shape, and nothing of ours laid bare."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import httpx
import openai
import pytest
from openai import OpenAI

from mesh.errors import (
    BadTensor,
    Cancelled,
    ConfigError,
    ContextLengthExceeded,
    InvalidRequest,
    NoRoute,
    PeerTimeout,
    PeerUnreachable,
    Refused,
    UnknownModel,
)
from mesh.gateway.config import GatewayConfig
from mesh.gateway.errors import ApiError, describe, first_cause
from shards.errors import (
    CapacityExceeded,
    CheckpointError,
    InvalidSampling,
    NotText,
    ShardError,
    TextTooLong,
    TokenizerError,
    TokenizerLimit,
)
from tests.mesh.gateway.conftest import Live

ASK = {"model": "echo", "prompt": "a", "max_tokens": 2}


def error_of(response: httpx.Response) -> dict:
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert response.headers["x-request-id"].startswith("req-")
    return body["error"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UnknownModel("m"), 404, "model_not_found"),
        (ContextLengthExceeded("m"), 400, "context_length_exceeded"),
        (InvalidRequest("m", param="n"), 400, "invalid_value"),
        (InvalidSampling("top_p must be"), 400, "invalid_value"),
        (NoRoute("m"), 503, "no_route"),
        (Cancelled("m"), 503, "cancelled"),
        (Refused("m"), 429, "at_capacity"),
        (CapacityExceeded("m"), 429, "at_capacity"),
        (PeerUnreachable("m"), 502, "peer_error"),
        (BadTensor("m"), 502, "peer_error"),
        (PeerTimeout("m"), 504, "peer_timeout"),
        (TimeoutError(), 504, "timeout"),
        (CheckpointError("m"), 502, "model_error"),
        (TokenizerError("m"), 502, "model_error"),
        (NotText("m"), 400, "invalid_value"),
        (TokenizerLimit("m"), 502, "model_error"),
        (TextTooLong("m"), 400, "context_length_exceeded"),
        (ShardError("m"), 500, "internal_error"),
        (ConfigError("m"), 500, "internal_error"),
        (ValueError("m"), 500, "internal_error"),
    ],
)
def test_each_kind_of_failure_has_its_status(error: Exception, status: int, code: str) -> None:
    answer = describe(error, "req-1")
    assert (answer.status, answer.code) == (status, code)


@pytest.mark.parametrize(
    ("wait", "header"), [(0.0, "1"), (2.5, "3"), (float("inf"), "60"), (float("nan"), "60"), (1e9, "3600")]
)
def test_retry_after_is_a_sane_number_of_seconds(wait: float, header: str) -> None:
    assert describe(Refused("m", retry_after=wait), "req-1").headers == {"Retry-After": header}


def test_a_gap_always_says_when_to_try_again() -> None:
    assert describe(NoRoute("m", retry_after=4.2), "req-1").headers == {"Retry-After": "5"}
    assert describe(NoRoute("m"), "req-1").headers == {"Retry-After": "30"}


def test_a_model_that_is_set_aside_says_until_when() -> None:
    assert describe(TokenizerLimit("m", 29.5), "req-1").headers == {"Retry-After": "30"}
    assert describe(TokenizerLimit("m"), "req-1").headers == {}


def test_long_messages_are_cut() -> None:
    assert len(describe(NoRoute("x" * 10_000), "req-1").message) == 500


def test_of_several_errors_the_named_one_is_reported() -> None:
    named = NoRoute("gap")
    group = ExceptionGroup("a", [ValueError("b"), ExceptionGroup("c", [named])])
    assert first_cause(group) is named


def test_an_error_body_has_openais_four_fields() -> None:
    assert ApiError(400, "m").body() == {
        "error": {"message": "m", "type": "invalid_request_error", "param": None, "code": None}
    }


@pytest.mark.parametrize(
    ("model", "kind", "code"),
    [
        ("nobody", openai.NotFoundError, "model_not_found"),
        ("n" * 1000, openai.NotFoundError, "model_not_found"),
        ("incomplete", openai.InternalServerError, "no_route"),
        ("refuses", openai.RateLimitError, "at_capacity"),
        ("peer-lost", openai.InternalServerError, "peer_error"),
        ("peer-silent", openai.InternalServerError, "peer_timeout"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_token_is_a_real_http_status(
    client: OpenAI, model: str, kind: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    with pytest.raises(kind) as caught:
        client.completions.create(model=model, prompt="a", stream=stream)
    assert caught.value.code == code
    assert len(caught.value.message) < 700
    assert caught.value.request_id
    if code == "at_capacity":
        assert caught.value.response.headers["retry-after"] == "3"
    if code == "peer_timeout":
        assert caught.value.status_code == 504


@pytest.mark.parametrize(
    ("model", "code"),
    [("lost-midway", "peer_error"), ("group-midway", "peer_timeout"), ("crash-midway", "internal_error")],
)
def test_a_failure_in_mid_stream_is_the_streams_last_event(
    client: OpenAI, http: httpx.Client, model: str, code: str
) -> None:
    text = ""
    with pytest.raises(openai.APIError) as caught:
        for chunk in client.completions.create(model=model, prompt="the swa", temperature=0, stream=True):
            text += chunk.choices[0].text
    assert text == "rm "
    assert caught.value.code == code
    assert "secret" not in caught.value.message
    raw = http.post(
        "/v1/chat/completions",
        json={"model": model, "messages": [{"role": "user", "content": "a"}], "stream": True, "temperature": 0},
    )
    assert raw.status_code == 200
    events = raw.text.rstrip("\n").split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == code
    assert "[DONE]" not in raw.text
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(model=model, prompt="the swa", temperature=0)
    assert caught.value.code == code


@pytest.mark.parametrize("model", ["our-bug", "crash"])
def test_a_bug_of_ours_tells_only_a_request_id(
    http: httpx.Client, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "mesh.gateway"):
        response = http.post("/v1/completions", json={**ASK, "model": model})
    assert response.status_code == 500
    error = error_of(response)
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    assert response.headers["x-request-id"] in error["message"]
    assert response.headers["x-request-id"] in caplog.text


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"prompt=a", "invalid_json"),
        (b"{" * 100_000, "invalid_json"),
        (b"[" * 100_000 + b"]" * 100_000, "invalid_json"),
        (b'{"model": "echo", "prompt": "\\ud800"}', "invalid_json"),
        (b'\xff\xfe{"model": "echo"}', "invalid_encoding"),
        (b'{"model": "echo", "prompt": "\xff"}', "invalid_encoding"),
        ('{"model": "echo", "prompt": "a"}'.encode("utf-16"), "invalid_encoding"),
        (b"[]", "invalid_type"),
        (b"null", "invalid_type"),
        (b'"a"', "invalid_type"),
        (b"{}", "missing_required_parameter"),
        (b'{"model": "echo"}', "missing_required_parameter"),
        (b'{"model": "", "prompt": "a"}', "invalid_type"),
        (b'{"model": "echo", "prompt": "a", "temperature": NaN}', "invalid_value"),
        (b'{"model": "echo", "prompt": "a", "temperature": 1e999}', "invalid_value"),
    ],
)
def test_a_body_that_cannot_be_read_is_a_400(http: httpx.Client, body: bytes, code: str) -> None:
    response = http.post("/v1/completions", content=body)
    assert response.status_code == 400
    assert error_of(response)["code"] == code


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 5),
        ("max_tokens", "5"),
        ("max_tokens", 2.5),
        ("max_tokens", True),
        ("temperature", "hot"),
        ("n", []),
        ("seed", 1.5),
        ("stop", 5),
        ("stop", ["a", 5]),
        ("stream", "yes"),
        ("stream", 1),
        ("logit_bias", {"1": "a"}),
        ("logit_bias", [1]),
        ("logprobs", True),
        ("prompt", [[1], "a"]),
        ("prompt", [1.5]),
        ("stream_options", "usage"),
    ],
)
def test_a_field_of_the_wrong_type_is_a_400_that_names_it(http: httpx.Client, field: str, value: object) -> None:
    response = http.post("/v1/completions", json={**ASK, field: value})
    assert response.status_code == 400
    assert error_of(response)["param"] == field


def test_a_body_may_begin_with_a_byte_order_mark(http: httpx.Client) -> None:
    assert http.post("/v1/completions", content=b"\xef\xbb\xbf" + json.dumps(ASK).encode()).status_code == 200


def test_nulls_are_let_through_and_unknown_fields_refused_by_name(http: httpx.Client) -> None:
    nulls = dict.fromkeys(("n", "stop", "seed", "logit_bias", "stream", "echo", "logprobs", "top_p", "user"))
    assert http.post("/v1/completions", json={**ASK, **nulls, "new_field": None}).status_code == 200
    response = http.post("/v1/completions", json={**ASK, "new_field": {"deep": [1]}})
    assert response.status_code == 400
    assert error_of(response)["param"] == "new_field"


def test_a_number_with_thousands_of_digits_is_no_accident(http: httpx.Client) -> None:
    for field in ("seed", "n", "max_tokens", "temperature", "prompt"):
        digits = "9" * 4000
        value = f"[{digits}]" if field == "prompt" else digits
        fields = {"model": '"echo"', "prompt": '"a"', field: value}
        body = "{" + ",".join(f'"{key}": {text}' for key, text in fields.items()) + "}"
        response = http.post("/v1/completions", content=body)
        assert response.status_code == (200 if field == "seed" else 400), field


def test_a_million_wrong_items_are_refused_at_the_first(http: httpx.Client) -> None:
    response = http.post("/v1/completions", json={**ASK, "prompt": [1] * 500_000 + ["a"]})
    assert response.status_code == 400
    assert len(response.content) < 1000


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/completions/", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/mesh/requests/cmpl-unknown", 404),
        ("GET", "/v1/models/unknown", 404),
        ("GET", "/v1/%00%ff", 404),
    ],
)
def test_urls_and_methods_that_do_not_exist_are_answered_in_the_same_shape(
    http: httpx.Client, method: str, path: str, status: int
) -> None:
    response = http.request(method, path)
    assert response.status_code == status
    error_of(response)
    if status == 405:
        assert response.headers["allow"]


def test_a_body_over_the_limit_is_a_413(serve: Callable[[GatewayConfig], Live]) -> None:
    live = serve(GatewayConfig(max_body_bytes=1000))

    def pieces():
        yield from [b" " * 400] * 3

    with live.http() as http:
        declared = http.post("/v1/completions", json={**ASK, "prompt": "x" * 1000})
        chunked = http.post("/v1/completions", content=pieces())
        within = http.post("/v1/completions", json=ASK)
    for response in (declared, chunked):
        assert response.status_code == 413
        assert error_of(response)["code"] == "body_too_large"
    assert within.status_code == 200


def test_ten_megabytes_are_the_limit_by_default(http: httpx.Client) -> None:
    over = http.post("/v1/completions", content=b" " * (10 * 1024 * 1024 + 1))
    assert over.status_code == 413
    under = http.post("/v1/completions", json={**ASK, "prompt": "x" * (10 * 1024 * 1024 - 100)})
    assert under.status_code == 400
    assert error_of(under)["code"] == "context_length_exceeded"


def test_api_keys_close_the_api_but_not_the_probes(serve: Callable[[GatewayConfig], Live]) -> None:
    live = serve(GatewayConfig(api_keys=frozenset({"sk-one", "sk-zwei-ü"})))
    with live.client("sk-one") as client:
        assert client.models.list().data
    with live.client("sk-wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.completions.create(**ASK)
    assert caught.value.code == "invalid_api_key"
    with live.http() as http:
        for headers in ({}, {"Authorization": "sk-one"}, {"Authorization": "Basic sk-one"}):
            for path in ("/v1/models", "/mesh/status", "/mesh/requests/x"):
                response = http.get(path, headers=headers)
                assert response.status_code == 401
                assert response.headers["www-authenticate"] == "Bearer"
                error_of(response)
        assert http.post("/v1/completions", content=b"not read", headers={}).status_code == 401
        assert http.get("/v1/models", headers={b"Authorization": "Bearer sk-zwei-ü".encode()}).status_code == 200
        assert http.get("/health").status_code == 200
        assert http.get("/metrics").status_code == 200


def test_browsers_of_other_origins_are_refused_unless_allowed(serve: Callable[[GatewayConfig], Live]) -> None:
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    closed, opened = serve(GatewayConfig()), serve(GatewayConfig(cors_origins=("https://a.example",)))
    with closed.http() as http:
        assert "access-control-allow-origin" not in http.get("/health", headers=preflight).headers
        assert http.options("/v1/completions", headers=preflight).status_code == 405
    with opened.http() as http:
        answer = http.options("/v1/completions", headers=preflight)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        other = http.get("/health", headers={"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
