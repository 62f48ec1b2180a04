"""Tools over the gateway with the `openai` client: what the model is shown, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI

from mesh.gateway.app import create_app
from mesh.gateway.config import GatewayConfig
from tests.mesh.gateway.conftest import Live, serve_app
from tests.mesh.gateway.echo_backend import Behaviour, EchoBackend
from tests.mesh.gateway.echo_tokenizer import ByteTokenizer

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
ASK = [{"role": "user", "content": "How is the weather?"}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
BROKEN = {"id": "1", "function": {"name": "a", "arguments": "["}}
FORMS = {
    "hermes": CALL,
    "qwen_xml": (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nZürich\n</parameter>\n</function>\n</tool_call>"
    ),
    "mistral": '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Zürich"}}]',
    "llama": '{"name": "get_weather", "parameters": {"city": "Zürich"}}',
    "pythonic": '[get_weather(city="Zürich")]',
}


def behaviours() -> dict[str, Behaviour]:
    hermes = ByteTokenizer(tool_format="hermes")
    forms = {
        form: Behaviour(ByteTokenizer(tool_format=form), script=text, context_length=2048)
        for form, text in FORMS.items()
    }
    return forms | {
        "no-tools": Behaviour(ByteTokenizer()),
        "unknown-form": Behaviour(ByteTokenizer(tool_format="unknown"), script=CALL),
        "two": Behaviour(hermes, script=f'Let me look.\n{CALL}\n<tool_call>{{"name": "now"}}</tool_call>'),
        "malformed": Behaviour(hermes, script="Well: <tool_call>\n{nothing}\n</tool_call>"),
        "named": Behaviour(hermes, script='{"city": "Basel"}}\n</tool_call>'),
        "required": Behaviour(hermes, script='get_weather", "arguments": {"city": "Bern"}}\n</tool_call>'),
        "unwilling": Behaviour(hermes, script="no, thanks"),
        "wordy": Behaviour(hermes, script="Hello there.", context_length=2048),
    }


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    backend = EchoBackend(behaviours())
    app = create_app(backend, GatewayConfig())
    with serve_app(app) as url:
        yield Live(url, backend, app)


def whole(
    client: OpenAI, model: str, messages: list = ASK, **options: object
) -> openai.types.chat.chat_completion.Choice:
    arguments = {"model": model, "messages": messages or ASK, "tools": [WEATHER, NOW], **options}
    return client.chat.completions.create(**arguments).choices[0]  # type: ignore[call-overload]


def streamed(client: OpenAI, model: str, **options: object) -> tuple[str, list[tuple[str, str]], str]:
    """A stream put together as clients do: text, calls by their index, and the finish reason."""
    arguments = {"model": model, "messages": ASK, "tools": [WEATHER, NOW], "stream": True, **options}
    text, calls, reason = "", {}, ""
    for chunk in client.chat.completions.create(**arguments):  # type: ignore[call-overload]
        [choice] = chunk.choices
        text += choice.delta.content or ""
        for call in choice.delta.tool_calls or ():
            before = calls.setdefault(call.index, ["", ""])
            before[0] += call.function.name or ""
            before[1] += call.function.arguments or ""
            assert call.id or before[0]
        reason = choice.finish_reason or reason
    return text, [(name, arguments) for name, arguments in (tuple(calls[i]) for i in sorted(calls))], reason


@pytest.mark.parametrize("form", FORMS)
def test_a_call_comes_back_in_openais_form_whatever_the_models(client: OpenAI, form: str) -> None:
    choice = whole(client, form)
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    [call] = choice.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Zürich"}
    assert streamed(client, form) == ("", [("get_weather", call.function.arguments)], "tool_calls")


def test_several_calls_have_ids_and_indices_of_their_own(client: OpenAI) -> None:
    choice = whole(client, "two")
    assert choice.message.content == "Let me look."
    assert [call.function.name for call in choice.message.tool_calls] == ["get_weather", "now"]
    assert len({call.id for call in choice.message.tool_calls}) == 2
    text, calls, reason = streamed(client, "two")
    assert (text, reason) == ("Let me look.", "tool_calls")
    assert calls == [(call.function.name, call.function.arguments) for call in choice.message.tool_calls]
    one = whole(client, "two", parallel_tool_calls=False)
    assert [call.function.name for call in one.message.tool_calls] == ["get_weather"]


def test_a_malformed_call_is_text(client: OpenAI) -> None:
    choice = whole(client, "malformed")
    assert choice.message.content == "Well: <tool_call>\n{nothing}\n</tool_call>"
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"
    assert streamed(client, "malformed") == (choice.message.content, [], "stop")
    cut = whole(client, "hermes", max_tokens=30)
    assert (cut.message.content, cut.finish_reason) == (CALL[:30], "length")


def test_the_model_is_shown_the_tools_unless_none_may_be_called(client: OpenAI, live: Live) -> None:
    def prompt() -> str:
        return ByteTokenizer().decode(live.backend.requests[-1].prompt)

    whole(client, "wordy")
    first, _, rest = prompt().partition("\n")
    assert [tool["function"]["name"] for tool in json.loads(first.removeprefix("tools: "))] == ["get_weather", "now"]
    assert rest == "user: How is the weather?\nassistant: "
    choice = whole(client, "hermes", tool_choice="none")
    assert prompt() == "user: How is the weather?\nassistant: "
    assert choice.message.content == CALL
    assert whole(client, "no-tools", tool_choice="none", max_tokens=3).message.content


@pytest.mark.parametrize(
    ("model", "choice", "begins", "city"),
    [
        ("required", "required", '<tool_call>\n{"name": "', "Bern"),
        (
            "named",
            {"type": "function", "function": {"name": "get_weather"}},
            '<tool_call>\n{"name": "get_weather", "arguments": ',
            "Basel",
        ),
    ],
)
def test_a_call_that_is_required_is_begun_for_the_model(
    client: OpenAI, live: Live, model: str, choice: object, begins: str, city: str
) -> None:
    made = whole(client, model, tool_choice=choice)
    assert ByteTokenizer().decode(live.backend.requests[-1].prompt).endswith("assistant: " + begins)
    [call] = made.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": city})
    assert streamed(client, model, tool_choice=choice)[1] == [("get_weather", call.function.arguments)]


def test_what_tools_said_goes_back_through_the_template(client: OpenAI, live: Live) -> None:
    asked = whole(client, "hermes").message
    messages = [
        *ASK,
        asked.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "rain"},
    ]
    assert whole(client, "wordy", messages).message.content == "Hello there."
    prompt = ByteTokenizer().decode(live.backend.requests[-1].prompt)
    function = {"name": "get_weather", "arguments": {"city": "Zürich"}}
    call = {"id": asked.tool_calls[0].id, "type": "function", "function": function}
    assert f"assistant: {json.dumps([call])}\ntool: rain\n" in prompt


def test_mistrals_templates_get_ids_of_nine_characters(client: OpenAI, live: Live) -> None:
    [call] = whole(client, "mistral").message.tool_calls
    assert len(call.id) == 9 and call.id.isalnum()
    past = {"id": "call_of_another_provider", "type": "function", "function": {"name": "now", "arguments": ""}}
    messages = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [past]},
        {"role": "tool", "tool_call_id": past["id"], "content": "noon"},
    ]
    whole(client, "mistral", messages)
    prompt = ByteTokenizer().decode(live.backend.requests[-1].prompt)
    [shown] = json.loads(prompt.split("assistant: ")[1].partition("\n")[0])
    assert len(shown["id"]) == 9 and shown["function"]["arguments"] == {}


@pytest.mark.parametrize(
    ("model", "options", "param"),
    [
        ("no-tools", {}, "tools"),
        ("no-tools", {"tool_choice": "required"}, "tools"),
        ("unknown-form", {}, "tools"),
        ("hermes", {"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools"),
        ("hermes", {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, "tools"),
        ("hermes", {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools"),
        ("hermes", {"tools": [{"type": "web_search"}]}, "tools"),
        ("hermes", {"tools": [WEATHER, WEATHER]}, "tools"),
        ("hermes", {"tools": [NOW] * 129}, "tools"),
        ("hermes", {"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ("hermes", {"tool_choice": "sometimes"}, "tool_choice"),
        ("hermes", {"tools": [], "tool_choice": "required"}, "tool_choice"),
        ("hermes", {"tools": [], "parallel_tool_calls": True}, "parallel_tool_calls"),
        ("hermes", {"messages": [*ASK, {"role": "tool", "content": "rain"}]}, "messages"),
        ("hermes", {"messages": [*ASK, {"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages"),
        (
            "hermes",
            {"messages": [{"role": "assistant", "tool_calls": [BROKEN]}]},
            "messages",
        ),
        ("hermes", {"extra_body": {"resume_token_ids": [65]}, "seed": 1}, "resume_token_ids"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client: OpenAI, model: str, options: dict, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        whole(client, model, **options)
    assert caught.value.param == param


def test_an_operator_may_say_how_the_models_call() -> None:
    backend = EchoBackend(behaviours())
    with (
        serve_app(create_app(backend, GatewayConfig(tool_parser="hermes"))) as url,
        OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
    ):
        assert whole(client, "unknown-form").message.tool_calls
    with pytest.raises(ValueError, match="tool_parser"):
        GatewayConfig(tool_parser="smoke-signals")
