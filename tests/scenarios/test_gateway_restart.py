"""A gateway is killed in the middle of a stream: who asks the next one with the same request id gets the rest."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.scenarios.processes import MeshProcess, Swarm, World, wait_until

TOKENS = 300
SAMPLINGS = {
    "greedy": {"temperature": 0},
    "seeded by the request's id": {"temperature": 0.8},
    "with a seed": {"temperature": 0.8, "seed": 11},
}


@dataclass(slots=True)
class Received:
    """What a client has of a stream."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish: str | None = None
    usage: dict[str, Any] | None = None


def start_gateway(world: World, swarm: Swarm) -> tuple[MeshProcess, str]:
    gateway = world.start("gateway", "--port", "0", "--json", "--peers", swarm.address)
    return gateway, gateway.event("ready")["url"]


def stream(url: str, body: dict[str, Any], name: str, *, until: int | None = None) -> Received:
    """Read a streamed completion to its end, or until so many tokens have come."""
    got = Received()
    body = {**body, "stream": True, "return_token_ids": True, "stream_options": {"include_usage": True}}
    headers = {"X-Request-Id": name}
    with httpx.stream(
        "POST", f"{url}/completions", json=body, headers=headers, timeout=60, trust_env=False
    ) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["x-request-id"] == name
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            got.usage = chunk.get("usage") or got.usage
            for choice in chunk["choices"]:
                got.text += choice["text"]
                got.tokens += choice.get("token_ids", [])
                got.finish = choice["finish_reason"] or got.finish
            if until is not None and len(got.tokens) >= until:
                break
    return got


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_a_client_gets_the_rest_of_its_answer_from_a_gateway_that_was_killed_and_started_again(
    swarm: Swarm, world: World, sampling: dict[str, Any]
):
    body = {"model": swarm.model, "prompt": "def add(", "max_tokens": TOKENS, "ignore_eos": True, **sampling}
    gateway, url = start_gateway(world, swarm)
    whole = stream(url, body, "request-1")
    assert len(whole.tokens) == TOKENS
    if "seed" not in sampling and sampling["temperature"]:
        assert stream(url, {**body, "max_tokens": 40}, "request-2").tokens != whole.tokens[:40]

    got = Received()
    with pytest.raises(httpx.HTTPError), httpx.Client(trust_env=False, timeout=60) as client:
        asked = {**body, "stream": True, "return_token_ids": True}
        headers = {"X-Request-Id": "request-1"}
        with client.stream("POST", f"{url}/completions", json=asked, headers=headers) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                    got.text += choice["text"]
                    got.tokens += choice.get("token_ids", [])
                if len(got.tokens) >= 20 and gateway.running:
                    gateway.kill()
    assert 20 <= len(got.tokens) < TOKENS

    _, url = start_gateway(world, swarm)
    rest = stream(url, {**body, "resume_token_ids": got.tokens}, "request-1")

    assert got.tokens + rest.tokens == whole.tokens
    assert got.text + rest.text == whole.text
    assert rest.finish == whole.finish == "length"
    assert rest.usage is not None
    assert rest.usage["completion_tokens"] == TOKENS - len(got.tokens)
    wait_until(lambda: gateway.pid not in {pid for pid, _ in world.left()}, "the killed gateway is gone")


def test_an_answer_that_cannot_be_resumed_is_refused_with_a_reason(swarm: Swarm, world: World):
    _, url = start_gateway(world, swarm)
    body = {"model": swarm.model, "prompt": "def", "max_tokens": 8, "resume_token_ids": [5, 6]}

    def refused(**changes: Any) -> str:
        response = httpx.post(f"{url}/completions", json={**body, **changes}, timeout=60, trust_env=False)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "resume_token_ids"
        message: str = response.json()["error"]["message"]
        return message

    assert "seed" in refused()
    assert "one choice" in refused(n=2, seed=1)
    assert "echo" in refused(echo=True, seed=1)
    assert "max_tokens" in refused(max_tokens=1, seed=1)
