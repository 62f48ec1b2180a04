"""Whatever JSON a stranger sends, the answer is never our fault and always has OpenAI's shape."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.gateway.config import GatewayConfig
from tests.mesh.gateway.conftest import serving

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([0, 1, -1, 2, 1.0, 0.5, 1e308, "", "a", "echo"])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"]) | SCALARS},
        optional={"content": JSON, "name": JSON, "tool_calls": JSON},
    ),
    max_size=3,
)
LIKELY = {
    "prompt": st.text(max_size=30)
    | st.lists(st.integers(0, 260), max_size=9)
    | st.lists(st.text(max_size=5), max_size=3),
    "messages": MESSAGES,
    "max_tokens": st.integers(-1, 20),
    "n": st.integers(0, 3),
    "temperature": st.floats(-0.1, 3),
    "top_p": st.floats(0, 1.1),
    "top_k": st.integers(-2, 300),
    "min_p": st.floats(-0.1, 1),
    "seed": st.integers(),
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=5),
    "logprobs": st.integers(-1, 21) | st.booleans(),
    "top_logprobs": st.integers(-1, 21),
    "echo": st.booleans(),
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}),
    "logit_bias": st.dictionaries(st.integers(-1, 300).map(str), st.floats(-101, 101), max_size=3),
    "repetition_penalty": st.floats(0, 3),
    "presence_penalty": st.floats(-2.1, 2.1),
    "response_format": st.fixed_dictionaries({"type": st.sampled_from(["text", "json_object"])}),
    "tools": JSON,
    "best_of": st.integers(0, 3),
    "suffix": JSON,
    "user": JSON,
    "ignore_eos": st.booleans(),
}
MODEL = st.sampled_from(["echo", "pairs", "no-bos", "no-template"])
PLAUSIBLE = st.fixed_dictionaries(
    {"model": MODEL, "max_tokens": st.integers(0, 20), "prompt": LIKELY["prompt"], "messages": MESSAGES},
    optional={name: likely for name, likely in LIKELY.items() if name not in ("prompt", "messages", "max_tokens")},
)
# A request as it should be, with one field that may be anything.
SPOILT = st.builds(
    lambda request, field, value: {**request, field: value}, PLAUSIBLE, st.sampled_from(list(LIKELY)), JSON
)
PATH = st.sampled_from(["/v1/completions", "/v1/chat/completions"])


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    # Short answers: the point is in the requests.
    with serving(GatewayConfig(max_chat_tokens=20)) as live, live.http() as client:
        yield client


def check(response: httpx.Response) -> None:
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    elif response.headers["content-type"].startswith("text/event-stream"):
        assert response.text.endswith("data: [DONE]\n\n")
        assert '"error"' not in response.text
    else:
        assert response.json()["choices"]


QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(path=PATH, body=JSON | st.dictionaries(st.sampled_from([*LIKELY, "model"]), JSON))
def test_arbitrary_json_never_makes_a_500(http: httpx.Client, path: str, body: object) -> None:
    check(http.post(path, json=body))


@QUICK
@given(path=PATH, body=PLAUSIBLE | SPOILT)
def test_a_plausible_request_never_makes_a_500(http: httpx.Client, path: str, body: dict) -> None:
    check(http.post(path, json=body))


@QUICK
@given(path=PATH, body=st.binary(max_size=60))
def test_arbitrary_bytes_never_make_a_500(http: httpx.Client, path: str, body: bytes) -> None:
    check(http.post(path, content=body))
