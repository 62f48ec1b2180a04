"""An open gateway and the pages of strangers: over real sockets, as browsers and as programs send."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable

import httpx
import pytest

from mesh.gateway.config import GatewayConfig
from tests.mesh.gateway.conftest import Live

BODY = json.dumps({"model": "echo", "prompt": "x", "max_tokens": 1})
PAGE = {"Origin": "http://evil.example", "Content-Type": "text/plain"}
PATHS = ("/v1/completions", "/v1/chat/completions")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        PAGE,
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Origin": "http://evil.example", "Content-Type": "application/json"},
        {"Origin": "null", "Content-Type": "application/json"},
        {"Host": "evil.example", "Content-Type": "application/json"},
        {"Host": "evil.example:8000", "Origin": "http://evil.example:8000", "Content-Type": "application/json"},
    ],
)
def test_what_a_strangers_page_can_send_is_refused_with_a_reason(
    live: Live, path: str, headers: dict[str, str]
) -> None:
    response = httpx.post(live.url + path, content=BODY, headers=headers)
    assert response.status_code in (403, 415)
    assert response.json()["error"]["message"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/models", "/mesh/status"])
def test_a_name_that_was_made_to_point_here_reads_nothing(live: Live, path: str) -> None:
    assert httpx.get(live.url + path, headers={"Host": "evil.example"}).status_code == 403
    assert httpx.get(live.url + path).status_code == 200
    assert httpx.get(live.url.replace("127.0.0.1", "localhost") + path).status_code == 200


def test_a_page_that_asks_first_is_not_granted_it(live: Live) -> None:
    asking = {
        "Origin": "http://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    response = httpx.options(live.url + "/v1/completions", headers=asking)
    assert "access-control-allow-origin" not in response.headers


def test_names_and_origins_that_are_configured_pass(serve: Callable[[GatewayConfig], Live]) -> None:
    live = serve(GatewayConfig(hosts=("gateway.lan",), cors_origins=("https://app.example",)))
    good = {"Host": "gateway.lan:8000", "Origin": "https://app.example", "Content-Type": "application/json"}
    response = httpx.post(live.url + "/v1/completions", content=BODY, headers=good)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    assert httpx.post(live.url + "/v1/completions", content=BODY, headers=good | PAGE).status_code in (403, 415)
    for other in ({"Host": "other.lan"}, {"Origin": "https://other.example"}):
        assert httpx.post(live.url + "/v1/completions", content=BODY, headers=good | other).status_code == 403


def test_where_every_caller_shows_a_key_any_name_will_do_but_not_any_type(
    serve: Callable[[GatewayConfig], Live],
) -> None:
    live = serve(GatewayConfig(api_keys=frozenset({"secret"})))
    key = {"Authorization": "Bearer secret", "Host": "api.example"}
    post = live.url + "/v1/completions"
    assert httpx.post(post, content=BODY, headers=key | {"Content-Type": "application/json"}).status_code == 200
    assert httpx.post(post, content=BODY, headers=key | {"Content-Type": "text/plain"}).status_code == 415
    assert httpx.post(post, content=BODY, headers=PAGE).status_code == 415


def test_programs_go_on_as_before(live: Live) -> None:
    assert httpx.post(live.url + "/v1/completions", json=json.loads(BODY)).status_code == 200
    with live.client() as client:
        assert client.completions.create(model="echo", prompt="x", max_tokens=1).choices
        assert client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "x"}], max_tokens=1)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_needs_the_header_and_is_told_so(live: Live) -> None:
    command = ["curl", "-s", "--noproxy", "*", f"{live.url}/v1/completions", "-d", BODY]
    good = subprocess.run(
        [*command, "-H", "Content-Type: application/json"], capture_output=True, timeout=30, check=True
    )
    assert json.loads(good.stdout)["object"] == "text_completion"
    bad = subprocess.run(command, capture_output=True, timeout=30, check=True)
    error = json.loads(bad.stdout)["error"]
    assert error["code"] == "unsupported_media_type"
    assert "Content-Type: application/json" in error["message"] and "curl" in error["message"]
