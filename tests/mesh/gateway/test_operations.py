"""What an operator sees: models, health, metrics, routes of recent requests, the swarm's state."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import httpx
import openai
import pytest
from openai import OpenAI

from mesh.client.types import Completion, HopReport, ModelInfo
from mesh.errors import PeerTimeout, PeerUnreachable
from mesh.gateway.config import GatewayConfig
from mesh.gateway.metrics import MAX_MODEL_LABELS, UNKNOWN_MODEL, Metrics, coverage
from mesh.gateway.reports import RequestLog, RequestReport
from shards.model.span import Span
from tests.mesh.gateway.conftest import Live, serving


def sample(text: str, name: str, **labels: str) -> float:
    """One value of a Prometheus exposition; 0 where there is none."""
    for line in text.splitlines():
        match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if match and dict(re.findall(r'(\w+)="([^"]*)"', match[1] or "")) == labels:
            return float(match[2])
    return 0.0


def test_the_models_that_can_answer_are_listed(client: OpenAI) -> None:
    listed = {model.id: model for model in client.models.list().data}
    assert "echo" in listed
    assert "incomplete" not in listed
    assert listed["echo"].object == "model"
    assert listed["echo"].owned_by == "mesh"


def test_a_model_is_found_by_its_name_slashes_included(client: OpenAI) -> None:
    assert client.models.retrieve("org/with-slash").id == "org/with-slash"
    assert client.models.retrieve("incomplete").model_extra["complete"] is False
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("n" * 1000)
    assert caught.value.code == "model_not_found"


def test_a_gateway_is_healthy_when_a_model_is_complete(http: httpx.Client, live: Live) -> None:
    response = http.get("/health")
    assert response.status_code == 200
    assert response.json()["status"] == "ready"
    assert {"id": "incomplete", "complete": False} in response.json()["models"]


def test_a_gateway_without_a_complete_model_is_not_ready(serve: Callable[[GatewayConfig], Live]) -> None:
    live = serve(GatewayConfig(models_seconds=1e-9))
    incomplete = live.backend.behaviours["incomplete"]
    live.backend.behaviours.clear()
    with live.http() as http:
        for expected in ([], [{"id": "incomplete", "complete": False}]):
            response = http.get("/health")
            assert response.status_code == 503
            assert response.json() == {"status": "unavailable", "models": expected}
            live.backend.behaviours["incomplete"] = incomplete


def test_the_swarms_state_names_the_gaps(http: httpx.Client) -> None:
    models = {model["id"]: model for model in http.get("/mesh/status").json()["models"]}
    assert models["incomplete"]["gaps"] == ["1:2"]
    assert models["incomplete"]["coverage"] == 0.75
    assert (models["echo"]["complete"], models["echo"]["gaps"], models["echo"]["blocks"]) == (True, [], 4)


@pytest.mark.parametrize("stream", [False, True])
def test_the_route_of_a_recent_request_is_told(client: OpenAI, http: httpx.Client, stream: bool) -> None:
    answer = client.completions.create(model="echo", prompt="the swa", max_tokens=5, temperature=0, n=2, stream=stream)
    request_id = next(iter(answer)).id if stream else answer.id
    report = http.get(f"/mesh/requests/{request_id}").json()
    assert (report["id"], report["model"], report["status"]) == (request_id, "echo", "done")
    assert [choice["index"] for choice in report["choices"]] == [0, 1]
    choice = report["choices"][0]
    assert (choice["prompt_tokens"], choice["completion_tokens"]) == (8, 5)
    assert choice["finish_reason"] == "length"
    assert 0 <= choice["time_to_first_token"] <= choice["seconds"]
    assert choice["route"] == [
        {"peer": "peer-a", "blocks": "0:2", "tokens": 13, "busy_seconds": 0.5, "tokens_per_second": 26.0},
        {"peer": "peer-b", "blocks": "2:4", "tokens": 13, "busy_seconds": 0.25, "tokens_per_second": 52.0},
    ]


def test_a_failed_request_is_told_as_failed(http: httpx.Client) -> None:
    raw = http.post("/v1/completions", json={"model": "lost-midway", "prompt": "a", "stream": True})
    first = json.loads(raw.text.split("\n\n")[0].removeprefix("data: "))
    report = http.get(f"/mesh/requests/{first['id']}").json()
    assert (report["status"], report["error"], report["choices"]) == ("failed", "gone", [])


def test_the_oldest_requests_are_forgotten() -> None:
    log = RequestLog(3)
    for number in range(5):
        log.add(RequestReport(str(number), "m", 0, 1))
    assert len(log) == 3
    assert [log.get(str(number)) is not None for number in range(5)] == [False, False, True, True, True]


def test_a_peers_impossible_figures_stay_json() -> None:
    hop = HopReport("p", Span(0, 1), 10**6, 1e-320)
    report = RequestReport("a", "m", 0, 1)
    report.choices[0] = Completion("stop", 1, 1, (hop,), (), float("nan"), float("inf"))
    json.dumps(report.as_json(), allow_nan=False)


def test_requests_and_tokens_are_counted(serve: Callable[[GatewayConfig], Live]) -> None:
    live = serve(GatewayConfig())
    options = {"model": "echo", "prompt": "the swa", "max_tokens": 5, "extra_body": {"ignore_eos": True}}
    with live.client() as client, live.http() as http:
        client.completions.create(n=2, **options)
        list(client.completions.create(stream=True, **options))
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="invented", prompt="a")
        http.post("/v1/completions", json={"model": "lost-midway", "prompt": "a", "stream": True})
        http.get("/nowhere/at/all")
        text = http.get("/metrics").text
    requests = "mesh_gateway_requests_total"
    assert sample(text, requests, route="/v1/completions", model="echo", status="200") == 2
    assert sample(text, requests, route="/v1/completions", model="unknown", status="404") == 1
    assert sample(text, requests, route="/v1/completions", model="lost-midway", status="502") == 1
    assert sample(text, requests, route="unmatched", model="unknown", status="404") == 1
    assert "invented" not in text
    assert "nowhere" not in text
    assert sample(text, "mesh_gateway_prompt_tokens_total", model="echo") == 24
    assert sample(text, "mesh_gateway_completion_tokens_total", model="echo") == 15
    assert sample(text, "mesh_gateway_time_to_first_token_seconds_count", model="echo") == 3
    assert sample(text, "mesh_gateway_inter_token_seconds_count", model="echo") == 12
    assert sample(text, "mesh_gateway_active_sessions") == 0
    assert sample(text, "mesh_gateway_model_coverage_ratio", model="echo") == 1
    assert sample(text, "mesh_gateway_model_coverage_ratio", model="incomplete") == 0.75


def test_two_apps_count_apart(serve: Callable[[GatewayConfig], Live]) -> None:
    one, other = serve(GatewayConfig()), serve(GatewayConfig())
    with one.client() as client:
        client.completions.create(model="echo", prompt="a")
    with other.http() as http:
        assert sample(http.get("/metrics").text, "mesh_gateway_completion_tokens_total", model="echo") == 0


def test_a_swarm_of_invented_models_cannot_fill_the_metrics() -> None:
    metrics = Metrics()
    labels = {metrics.model_label(str(number)) for number in range(2 * MAX_MODEL_LABELS)}
    assert len(labels) == MAX_MODEL_LABELS + 1
    assert UNKNOWN_MODEL in labels
    assert metrics.model_label("0") == "0"


@pytest.mark.parametrize(
    ("blocks", "gaps", "expected"), [(4, (), 1.0), (4, (Span(0, 1), Span(2, 4)), 0.25), (0, (), 0.0)]
)
def test_coverage_is_the_part_of_the_blocks_that_is_served(
    blocks: int, gaps: tuple[Span, ...], expected: float
) -> None:
    assert coverage(ModelInfo("m", "d", blocks, 1, 1, not gaps, gaps)) == expected


@pytest.mark.parametrize("limits", [{"max_concurrent": 0}, {"request_timeout": 0.0}, {"api_keys": frozenset({""})}])
def test_limits_that_cannot_be_are_refused(limits: dict) -> None:
    with pytest.raises(ValueError):
        GatewayConfig(**limits)


def test_a_model_whose_providers_are_all_away_is_503_with_a_time_and_one_that_nobody_knows_404() -> None:
    body = {"prompt": "a", "max_tokens": 1}
    with serving(GatewayConfig(models_seconds=0.001)) as gateway, gateway.http() as http:
        assert http.post("/v1/completions", json={"model": "echo", **body}).status_code == 200
        gateway.backend.behaviours.clear()
        away = http.post("/v1/completions", json={"model": "echo", **body})
        assert (away.status_code, away.json()["error"]["code"]) == (503, "no_route")
        assert "no provider of echo is there now" in away.json()["error"]["message"]
        assert int(away.headers["retry-after"]) >= 1
        assert http.post("/v1/completions", json={"model": "nobody", **body}).status_code == 404


@pytest.mark.parametrize("error", [PeerTimeout("the DHT does not answer"), PeerUnreachable("no node answers")])
def test_a_swarm_that_cannot_be_asked_is_503_with_a_time(error: Exception) -> None:
    with serving(GatewayConfig(models_seconds=0.001)) as gateway, gateway.http() as http:

        async def models() -> list[ModelInfo]:
            raise error

        gateway.backend.models = models  # type: ignore[method-assign]
        answer = http.post("/v1/completions", json={"model": "echo", "prompt": "a", "max_tokens": 1})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1


def test_a_stream_that_is_quiet_for_long_sends_its_headers_and_comments() -> None:
    body = {"model": "stuck", "prompt": "a", "max_tokens": 1, "stream": True}
    with serving(GatewayConfig(quiet_seconds=0.05)) as gateway, gateway.http() as http:
        with http.stream("POST", "/v1/completions", json=body) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            assert [next(lines) for _ in range(4)] == [": working on it", ""] * 2
        with gateway.client() as client:  # clients pass over them
            chunks = client.completions.create(model="slow", prompt="abc", max_tokens=4, stream=True)
            assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
        refused = http.post("/v1/completions", json={**body, "model": "refuses"})
        assert refused.status_code == 429, "what is refused soon has a status of its own"
