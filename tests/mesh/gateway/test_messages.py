"""`/v1/messages` (Anthropic's form), `/tokenize` and its kin, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from mesh.gateway.app import create_app
from mesh.gateway.config import GatewayConfig
from tests.mesh.gateway.conftest import Live, serve_app
from tests.mesh.gateway.echo_backend import Behaviour, EchoBackend
from tests.mesh.gateway.echo_tokenizer import ByteTokenizer
from tests.mesh.gateway.test_tools import CALL

TOOL = {"name": "get_weather", "description": "Weather.", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    hermes = ByteTokenizer(tool_format="hermes")
    backend = EchoBackend(
        {
            "says": Behaviour(ByteTokenizer(), script="Hello there."),
            "calls": Behaviour(hermes, script=f"Let me look.\n{CALL}", context_length=2048),
            "lost-midway": Behaviour(ByteTokenizer(), fails_at=3, failure=lambda: ZeroDivisionError("secret")),
        }
    )
    app = create_app(backend, GatewayConfig())
    with serve_app(app) as url:
        yield Live(url, backend, app)


def ask(live: Live, **fields: object) -> httpx.Response:
    body = {"model": "says", "max_tokens": 256, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return httpx.post(f"{live.url}/v1/messages", json=body, headers={"anthropic-version": "2023-06-01"})


def events_of(response: httpx.Response) -> list[dict]:
    found = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def prompt_of(live: Live) -> str:
    return ByteTokenizer().decode(live.backend.requests[-1].prompt)


def test_a_turn_is_answered_with_a_block_of_text(live: Live) -> None:
    answer = ask(live, system="Be kind.", metadata={"user_id": "ann"}).json()
    assert prompt_of(live) == "system: Be kind.\nuser: Hi\nassistant: "
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", "says")
    assert answer["content"] == [{"type": "text", "text": "Hello there."}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("end_turn", None)
    assert answer["usage"]["input_tokens"] == len(prompt_of(live))
    cut = ask(live, max_tokens=3).json()
    assert (cut["content"][0]["text"], cut["stop_reason"]) == ("Hel", "max_tokens")


def test_a_stream_has_anthropics_events_in_their_order(live: Live) -> None:
    events = events_of(ask(live, stream=True))
    assert [event["type"] for event in events[:2]] == ["message_start", "content_block_start"]
    assert [event["type"] for event in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert "".join(event["delta"]["text"] for event in events[2:-3]) == "Hello there."
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


def test_tools_are_used_and_their_results_go_back(live: Live) -> None:
    answer = ask(live, model="calls", tools=[TOOL]).json()
    text, use = answer["content"]
    assert text == {"type": "text", "text": "Let me look."}
    assert (use["type"], use["name"], use["input"]) == ("tool_use", "get_weather", {"city": "Zürich"})
    assert answer["stop_reason"] == "tool_use"
    events = events_of(ask(live, model="calls", tools=[TOOL], stream=True))
    [start] = [e for e in events if e["type"] == "content_block_start" and e["content_block"]["type"] == "tool_use"]
    [delta] = [e for e in events if e.get("delta", {}).get("type") == "input_json_delta"]
    assert start["index"] == delta["index"] == 1
    assert json.loads(delta["delta"]["partial_json"]) == {"city": "Zürich"}
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": [{"type": "text", "text": "rain"}]}
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": answer["content"]},
        {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]},
    ]
    assert ask(live, model="calls", tools=[TOOL], messages=turns).status_code == 200
    assert prompt_of(live).endswith("tool: rain\nuser: And now?\nassistant: ")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "image"),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "thinking"),
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0"),
        ({"tool_choice": {"type": "sometimes"}}, "tool_choice"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_is_not_served_is_refused_in_anthropics_form(live: Live, fields: dict, says: str) -> None:
    response = ask(live, **fields)
    assert response.status_code == 400
    error = response.json()
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert says in error["error"]["message"]
    assert error["request_id"] == response.headers["x-request-id"]


def test_failures_and_keys_are_told_in_anthropics_form(live: Live, serve: Callable[[GatewayConfig], Live]) -> None:
    assert ask(live, model="nobody").json()["error"]["type"] == "not_found_error"
    last = events_of(ask(live, model="lost-midway", stream=True, temperature=0))[-1]
    assert last["type"] == "error" and "secret" not in json.dumps(last)
    closed = serve(GatewayConfig(api_keys=frozenset({"secret"})))
    body = {"model": "echo", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
    refused = httpx.post(f"{closed.url}/v1/messages", json=body, headers={"x-api-key": "wrong"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
    assert httpx.post(f"{closed.url}/v1/messages", json=body, headers={"x-api-key": "secret"}).status_code == 200


def test_a_stop_sequence_is_named(live: Live) -> None:
    answer = ask(live, stop_sequences=["there"]).json()
    assert answer["content"] == [{"type": "text", "text": "Hello "}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "there")


def test_texts_become_tokens_and_tokens_texts(live: Live) -> None:
    def post(path: str, **body: object) -> dict:
        return httpx.post(f"{live.url}{path}", json={"model": "says", **body}).json()

    made = post("/tokenize", prompt="hé", return_token_strs=True)
    assert made == {"count": 4, "max_model_len": 512, "tokens": [256, *"hé".encode()], "token_strs": made["token_strs"]}
    assert made["token_strs"][:2] == ["<s>", "h"]
    assert post("/tokenize", prompt="hé", add_special_tokens=False)["tokens"] == list("hé".encode())
    said = post("/tokenize", messages=[{"role": "user", "content": "Hi"}])
    assert post("/detokenize", tokens=said["tokens"]) == {"prompt": "user: Hi\nassistant: "}
    counted = post("/v1/messages/count_tokens", messages=[{"role": "user", "content": "Hi"}])
    assert counted == {"input_tokens": said["count"]}
    for path, body in (
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "a", "surprise": 1}),
        ("/detokenize", {"tokens": [258]}),
        ("/detokenize", {"tokens": "a"}),
    ):
        assert httpx.post(f"{live.url}{path}", json={"model": "says", **body}).status_code == 400
    assert httpx.get(f"{live.url}/version").json()["version"]
