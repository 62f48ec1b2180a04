"""`/v1/responses` with the `openai` client: items, events in order, and what is kept of earlier responses."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai import OpenAI

from mesh.gateway.app import create_app
from mesh.gateway.config import GatewayConfig
from mesh.gateway.errors import ApiFailure
from mesh.gateway.responses_store import ResponseStore
from tests.mesh.gateway.conftest import Live, serve_app
from tests.mesh.gateway.echo_backend import Behaviour, EchoBackend
from tests.mesh.gateway.echo_tokenizer import ByteTokenizer
from tests.mesh.gateway.test_tools import CALL

TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}, "strict": False}


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    hermes = ByteTokenizer(tool_format="hermes")
    backend = EchoBackend(
        {
            "says": Behaviour(ByteTokenizer(), script="Grüezi there."),
            "calls": Behaviour(hermes, script=f"Let me look.\n{CALL}", context_length=2048),
            "echo": Behaviour(ByteTokenizer()),
            "lost-midway": Behaviour(ByteTokenizer(), fails_at=3, failure=lambda: ZeroDivisionError("secret")),
        }
    )
    app = create_app(backend, GatewayConfig())
    with serve_app(app) as url:
        yield Live(url, backend, app)


def prompt_of(live: Live) -> str:
    return ByteTokenizer().decode(live.backend.requests[-1].prompt)


def test_a_text_is_answered_with_a_message(client: OpenAI, live: Live) -> None:
    response = client.responses.create(model="says", instructions="Be kind.", input="Hello", metadata={"a": "b"})
    assert prompt_of(live) == "system: Be kind.\nuser: Hello\nassistant: "
    assert response.output_text == "Grüezi there."
    assert (response.status, response.object, response.instructions) == ("completed", "response", "Be kind.")
    assert response.metadata == {"a": "b"}
    assert response.usage.input_tokens == len(prompt_of(live))
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    cut = client.responses.create(model="says", input="Hello", max_output_tokens=4, store=False)
    assert (cut.status, cut.incomplete_details.reason, cut.output_text) == ("incomplete", "max_output_tokens", "Grü")


def test_a_stream_has_openais_events_in_their_order(client: OpenAI) -> None:
    events = list(client.responses.create(model="says", input="Hello", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Grüezi there."
    assert events[-1].response.output_text == "Grüezi there."
    assert events[-1].response.usage.output_tokens > 0
    assert events[0].response.output == []


@pytest.mark.parametrize("stream", [False, True])
def test_calls_are_items_and_their_outputs_go_back(client: OpenAI, live: Live, stream: bool) -> None:
    if stream:
        events = list(client.responses.create(model="calls", input="Weather?", tools=[TOOL], stream=True))
        response = events[-1].response
        kinds = [event.type for event in events]
        assert kinds[kinds.index("response.output_item.done") :] == [
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    else:
        response = client.responses.create(model="calls", input="Weather?", tools=[TOOL])
    message, call = response.output
    assert message.content[0].text == "Let me look."
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "Zürich"})
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    client.responses.create(model="calls", input=[output], previous_response_id=response.id, tools=[TOOL])
    said = prompt_of(live)
    assert "user: Weather?\nassistant: Let me look." in said and "tool: rain\n" in said
    given = [{"role": "user", "content": "Weather?"}, message.to_dict(), call.to_dict(), output]
    client.responses.create(model="calls", input=given, tools=[TOOL])
    assert prompt_of(live) == said


def test_earlier_responses_are_kept_for_who_asked_unless_not_wanted(client: OpenAI, live: Live) -> None:
    first = client.responses.create(model="says", instructions="Be kind.", input="One")
    client.responses.create(model="says", input="Two", previous_response_id=first.id)
    assert prompt_of(live) == "user: One\nassistant: Grüezi there.\nuser: Two\nassistant: "
    assert client.responses.retrieve(first.id).output_text == "Grüezi there."
    client.responses.delete(first.id)
    unkept = client.responses.create(model="says", input="One", store=False)
    for id in (first.id, unkept.id, "resp_unknown"):
        with pytest.raises(openai.NotFoundError):
            client.responses.create(model="says", input="Two", previous_response_id=id)


def test_a_stream_that_fails_ends_with_an_error_event(live: Live) -> None:
    body = {"model": "lost-midway", "input": "x", "stream": True, "temperature": 0}
    lines = httpx.post(f"{live.url}/v1/responses", json=body).text.strip().split("\n\n")
    name, data = lines[-1].split("\n")
    event = json.loads(data.removeprefix("data: "))
    assert (name, event["type"], event["code"]) == ("event: error", "error", "internal_error")
    assert event["sequence_number"] == len(lines) - 1
    assert "secret" not in lines[-1]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input"),
        ({"input": [5]}, "input"),
        ({"input": [{"role": "robot", "content": "a"}]}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [TOOL]}, "tools"),
        ({"text": {"format": {"type": "grammar"}}}, "text"),
        ({"text": {"verbosity": "low"}}, "text"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 5000}, "max_output_tokens"),
        ({"extra_body": {"n": 2}}, "n"),
        ({"extra_body": {"max_tokens": 2}}, "max_tokens"),
        ({"extra_body": {"surprise": 2}}, "surprise"),
    ],
)
def test_what_is_not_served_is_refused_by_name(client: OpenAI, options: dict, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "echo", "input": "a", **options})
    assert caught.value.param == param


def test_the_store_is_bounded_in_count_bytes_and_age() -> None:
    now = 0.0
    store = ResponseStore(most=3, most_bytes=100, seconds=10, clock=lambda: now)

    def add(id: str, size: int = 10) -> None:
        store.add("ann", {"id": id}, (), size)

    for number in range(5):
        add(f"{number}")
    assert len(store) == 3
    add("large", 95)
    assert len(store) == 1
    add("too large", 101)
    assert store.get("ann", "large").size == 95
    with pytest.raises(ApiFailure):
        store.get("bob", "large")
    store.remove("ann", "large")
    add("late")
    now = 11.0
    with pytest.raises(ApiFailure):
        store.get("ann", "late")
    assert len(store) == 0
