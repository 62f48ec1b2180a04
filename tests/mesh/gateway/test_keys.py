"""Keys of an unpaid gateway with limits: how often, how many tokens a day, which models."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from mesh.errors import ConfigError
from mesh.gateway.config import GatewayConfig
from mesh.gateway.errors import ApiFailure
from mesh.gateway.keys import DAY, KeyLimits, KeyMeter, parse_keys
from tests.mesh.gateway.conftest import Live

FILE = """\
# The office
key-free
key-few requests_per_minute=2
key-small tokens_per_day=10 models=echo,pairs  # ann
"""


def test_a_file_of_keys_says_what_each_may_do() -> None:
    assert parse_keys(FILE) == {
        "key-free": KeyLimits(),
        "key-few": KeyLimits(requests_per_minute=2),
        "key-small": KeyLimits(tokens_per_day=10, models=frozenset({"echo", "pairs"})),
    }
    for wrong in ("a b", "a requests_per_minute=0", "a tokens_per_day=x", "a models=", "a\na", "a surprise=1"):
        with pytest.raises(ConfigError, match="line"):
            parse_keys(wrong)


def test_each_key_has_its_own_limits(serve: Callable[[GatewayConfig], Live]) -> None:
    keys = parse_keys(FILE)
    live = serve(GatewayConfig(api_keys=frozenset(keys), key_limits=keys))

    def ask(key: str, model: str = "echo") -> httpx.Response:
        body = {"model": model, "prompt": "the", "max_tokens": 8, "temperature": 0}
        return httpx.post(f"{live.url}/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"})

    assert [ask("key-few").status_code for _ in range(3)] == [200, 200, 429]
    assert ask("key-few").json()["error"]["code"] == "rate_limit_exceeded"
    assert int(ask("key-few").headers["retry-after"]) >= 1
    assert ask("key-small", "slow").json()["error"]["code"] == "model_not_found"
    assert ask("key-small").json()["usage"]["total_tokens"] >= 10
    spent = ask("key-small")
    assert (spent.status_code, spent.json()["error"]["code"]) == (429, "insufficient_quota")
    assert [ask("key-free", "pairs").status_code for _ in range(4)] == [200] * 4
    with httpx.Client(base_url=live.url, headers={"Authorization": "Bearer key-small"}) as small:
        assert {model["id"] for model in small.get("/v1/models").json()["data"]} == {"echo", "pairs"}
        assert small.get("/v1/models/slow").status_code == 404


def test_a_new_day_begins_anew() -> None:
    now = 5.5 * DAY
    meter = KeyMeter(KeyLimits(tokens_per_day=10), clock=lambda: now)
    meter.admit()
    meter.count(10)
    with pytest.raises(ApiFailure):
        meter.admit()
    now = 6.1 * DAY
    meter.admit()
    assert meter.tokens == 0
