"""The HTTP edge: browsers of allowed origins, probes by HEAD, request ids, the access log."""

from __future__ import annotations

import logging
from collections.abc import Callable

import httpx
import pytest

from mesh.gateway.config import GatewayConfig
from tests.mesh.gateway.conftest import Live

BODY = {"model": "echo", "prompt": "the", "max_tokens": 2}


@pytest.mark.parametrize("origins", [("https://app.example",), ("*",)])
def test_a_page_of_an_allowed_origin_asks_first_and_may_then_read(
    serve: Callable[[GatewayConfig], Live], origins: tuple[str, ...]
) -> None:
    live = serve(GatewayConfig(cors_origins=origins, api_keys=frozenset({"secret"})))
    page = {"Origin": "https://app.example"}
    asks = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-request-id",
    }
    granted = httpx.options(f"{live.url}/v1/chat/completions", headers=page | asks)
    assert granted.status_code == 200
    assert granted.headers["access-control-allow-origin"] in ("https://app.example", "*")
    assert "POST" in granted.headers["access-control-allow-methods"]
    assert "authorization" in granted.headers["access-control-allow-headers"]
    answer = httpx.post(f"{live.url}/v1/completions", json=BODY, headers=page | {"Authorization": "Bearer secret"})
    assert answer.status_code == 200
    assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
    # A key is the page's own; what a browser holds for the gateway never goes along.
    assert "access-control-allow-credentials" not in answer.headers.keys() | granted.headers.keys()
    refused = httpx.post(f"{live.url}/v1/completions", json=BODY, headers=page)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] in ("https://app.example", "*")


def test_probes_may_ask_for_the_head_only(http: httpx.Client) -> None:
    response = http.head("/health")
    assert (response.status_code, response.content) == (200, b"")


def test_a_request_is_known_by_its_clients_id_or_gets_one(http: httpx.Client) -> None:
    def id_of(sent: str) -> str:
        return http.post("/v1/completions", json=BODY, headers={"X-Request-ID": sent}).headers["x-request-id"]

    assert id_of("mine-1") == "mine-1"
    assert id_of("no good").startswith("req-")


def test_the_access_log_has_a_line_for_each_request_and_no_secret(
    serve: Callable[[GatewayConfig], Live], caplog: pytest.LogCaptureFixture
) -> None:
    live = serve(GatewayConfig(access_log=True, api_keys=frozenset({"secret"})))
    headers = {"X-Request-ID": "mine-2", "Authorization": "Bearer secret"}
    with caplog.at_level(logging.INFO, logger="mesh.gateway.access"):
        httpx.post(f"{live.url}/v1/completions", json=BODY, headers=headers)
        httpx.get(f"{live.url}/v1/%0Aforged")
    lines = [record.getMessage() for record in caplog.records if record.name == "mesh.gateway.access"]
    assert lines[0].startswith("POST /v1/completions 200 ")
    assert "model=echo" in lines[0] and "source=127.0.0.1" in lines[0] and lines[0].endswith("request=mine-2")
    assert len(lines) == 2 and all("\n" not in line and "secret" not in line for line in lines)


def test_without_the_option_nothing_is_logged(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mesh.gateway.access"):
        http.get("/health")
    assert not [record for record in caplog.records if record.name == "mesh.gateway.access"]
