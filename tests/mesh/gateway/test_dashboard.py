"""The gateway's dashboard under real uvicorn: what it shows to whom, and that its streams are bounded and end."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx

from mesh.client.catalog import Offer
from mesh.gateway.app import create_app
from mesh.gateway.config import GatewayConfig
from mesh.gateway.dashboard import dashboard
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from tests.mesh.dashboard.sample_swarm import record
from tests.mesh.gateway.conftest import models, serve_app
from tests.mesh.gateway.echo_backend import EchoBackend

RECORDS = (record("a", 0, 6), record("b", 6, 12))


class Source:
    """A swarm of two providers that nobody can reach."""

    async def listed(self) -> Sequence[Offer]:
        return [Offer("tiny/llama", RECORDS[0].digest, RECORDS)]

    def opinion(self) -> tuple[Mapping[str, int], Mapping[str, float]]:
        return {"a": 2}, {"b": 17.0}


@contextmanager
def serving(config: GatewayConfig) -> Iterator[httpx.Client]:
    app = create_app(EchoBackend(models()), config)

    @asynccontextmanager
    async def around() -> AsyncIterator[None]:
        async with MemoryTransport("us", MemoryNetwork()) as transport, dashboard(app, Source(), transport):
            yield

    with serve_app(app, around()) as url, httpx.Client(base_url=url, timeout=30) as http:
        yield http


def first_event(http: httpx.Client, key: str = "") -> dict[str, Any]:
    """The snapshot that a viewer gets."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with http.stream("GET", "/mesh/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        line = next(line for line in answer.iter_lines() if line.startswith("data: "))
    return json.loads(line.removeprefix("data: "))  # type: ignore[no-any-return]


def ask(http: httpx.Client, key: str = "") -> str:
    """A completion; its id."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = {"model": "echo", "prompt": "top secret", "max_tokens": 5, "ignore_eos": True}
    answer: dict[str, Any] = http.post("/v1/completions", json=body, headers=headers).json()
    return str(answer["id"])


def test_the_swarm_and_the_requests_are_shown_and_nothing_of_what_is_said() -> None:
    with serving(GatewayConfig()) as http:
        identifier = ask(http)
        tables = first_event(http)
    assert {row["peer"]: (row["ours"], row["trouble"]) for row in tables["providers"].values()} == {
        "a": (2, 1.0),
        "b": (0, 17.0),
    }
    (request,) = tables["requests"].values()
    assert (request["model"], request["status"], request["tokens"]) == ("echo", "done", 5)
    assert tables["about"]["self"]["needs_key"] is False
    shown = json.dumps(tables)
    assert "secret" not in shown
    assert identifier not in shown  # who knows it may ask for the request's report


def test_a_gateway_with_keys_shows_its_requests_to_who_has_one_and_the_swarm_to_all() -> None:
    with serving(GatewayConfig(api_keys=frozenset({"ours"}))) as http:
        ask(http, "ours")
        assert http.get("/").status_code == 200
        public, own = first_event(http), first_event(http, "ours")
        assert http.get("/mesh/events", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert (len(public["providers"]), public["requests"]) == (2, {})
    assert (public["about"]["self"]["needs_key"], public["about"]["self"]["requests"]) == (True, False)
    assert (len(own["requests"]), own["about"]["self"]["requests"]) == (1, True)


def test_there_are_no_more_viewers_than_there_may_be() -> None:
    with serving(GatewayConfig(max_viewers=1)) as http:
        with http.stream("GET", "/mesh/events") as first:
            assert first.status_code == 200
            lines = first.iter_lines()
            next(lines)
            refused = http.get("/mesh/events")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        until = time.monotonic() + 10
        while http.head("/mesh/events").status_code == 503 and time.monotonic() < until:
            time.sleep(0.01)
        assert first_event(http)["about"]


def test_a_strangers_page_may_not_read_an_open_gateways_events_by_a_name_of_its_own() -> None:
    with serving(GatewayConfig()) as http:
        answer = http.get("/mesh/events", headers={"host": "evil.example"})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in http.get("/", headers={"origin": "https://evil.example"}).headers
