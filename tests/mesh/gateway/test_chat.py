"""`/v1/chat/completions` through the official client."""

from __future__ import annotations

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.mesh.gateway.conftest import Live
from tests.mesh.gateway.echo_tokenizer import ByteTokenizer

HELLO = [{"role": "user", "content": "the swa"}]


def say(client: OpenAI, messages: list | None = None, **options: object):
    options = {"model": "echo", "temperature": 0, "max_tokens": 12, **options}
    return client.chat.completions.create(messages=HELLO if messages is None else messages, **options)


def prompt_of(live: Live) -> str:
    return ByteTokenizer().decode(live.backend.requests[-1].prompt, skip_special_tokens=False)


def test_a_conversation_is_answered_through_the_models_template(client: OpenAI, live: Live) -> None:
    answer = say(client)
    assert prompt_of(live) == "user: the swa\nassistant: "
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert len(answer.choices[0].message.content) == 12
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs is None
    assert answer.usage.prompt_tokens == len("user: the swa\nassistant: ")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_roles_parts_and_names_are_read(client: OpenAI, live: Live) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {
            "role": "user",
            "name": "ann",
            "content": [{"type": "text", "text": "he"}, {"type": "text", "text": "llo"}],
        },
        {"role": "assistant", "content": None},
        {"role": "user", "content": "é"},
    ]
    say(client, messages)
    assert prompt_of(live) == "system: be brief\nuser: he\nllo\nassistant: \nuser: é\nassistant: "


@pytest.mark.parametrize("model", ["echo", "pairs"])
def test_a_stream_says_what_a_whole_answer_says(client: OpenAI, model: str) -> None:
    options = {"model": model, "n": 2, "seed": 3, "temperature": 0.9, "logprobs": True, "top_logprobs": 2}
    whole = say(client, **options)
    chunks = list(say(client, stream=True, stream_options={"include_usage": True}, **options))
    texts, logprobs, reasons, roles = ["", ""], [[], []], {}, {}
    for chunk in chunks[:-1]:
        assert chunk.object == "chat.completion.chunk"
        [choice] = chunk.choices
        assert choice.index not in reasons
        roles.setdefault(choice.index, choice.delta.role)
        texts[choice.index] += choice.delta.content or ""
        if choice.logprobs:
            logprobs[choice.index] += choice.logprobs.content
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
            assert choice.delta.content is None
    assert roles == {0: "assistant", 1: "assistant"}
    assert texts == [choice.message.content for choice in whole.choices]
    assert logprobs == [choice.logprobs.content for choice in whole.choices]
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)


def test_log_probabilities_come_with_bytes(client: OpenAI) -> None:
    answer = say(client, [{"role": "user", "content": "x"}], logprobs=True, top_logprobs=3, max_tokens=2)
    for entry in answer.choices[0].logprobs.content:
        assert bytes(entry.bytes).decode() == entry.token
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == entry.logprob < 0
    bare = say(client, logprobs=True, max_tokens=2).choices[0].logprobs.content
    assert [entry.top_logprobs for entry in bare] == [[], []]


def test_an_answer_without_a_limit_fills_the_context(client: OpenAI, live: Live) -> None:
    client.chat.completions.create(model="echo", messages=HELLO)
    request = live.backend.requests[-1]
    assert request.max_tokens == 512 - len(request.prompt)
    with client.chat.completions.create(model="slow", messages=HELLO, stream=True) as stream:
        next(iter(stream))
    assert live.backend.requests[-1].max_tokens == 4096


def test_max_completion_tokens_is_the_newer_name_of_max_tokens(client: OpenAI, live: Live) -> None:
    client.chat.completions.create(model="echo", messages=HELLO, max_completion_tokens=3, max_tokens=9)
    assert live.backend.requests[-1].max_tokens == 3


def test_stop_strings_and_seeds_work_as_in_completions(client: OpenAI) -> None:
    whole = say(client, seed=1, temperature=1, max_tokens=40).choices[0].message.content
    stop = whole[10:12]
    assert (
        say(client, seed=1, temperature=1, max_tokens=40, stop=[stop]).choices[0].message.content
        == whole[: whole.index(stop)]
    )


def test_plain_text_modes_are_accepted(client: OpenAI) -> None:
    extra = {"response_format": {"type": "text"}, "tools": [], "tool_choice": "none", "modalities": ["text"]}
    assert say(client, stop="", extra_body={"max_tokens": -1}).choices[0].message.content
    assert say(client, user="ann", extra_body=extra).choices[0].message.content


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages"),
        ({"messages": [*HELLO, {"role": "system", "content": "late"}]}, "messages"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages"),
        ({"model": "no-template"}, "messages"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_an_impossible_option_is_a_400_that_names_it(client: OpenAI, options: dict, param: str) -> None:
    arguments = {"model": "echo", "messages": HELLO, **options}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**arguments)
    assert caught.value.param == param


def test_a_conversation_longer_than_the_context_says_so(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        say(client, [{"role": "user", "content": "x" * 600}])
    assert caught.value.code == "context_length_exceeded"


async def test_the_async_client_streams_a_chat(live: Live) -> None:
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as client:
        options = {"model": "echo", "messages": HELLO, "seed": 1, "max_tokens": 20}
        stream = await client.chat.completions.create(stream=True, **options)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        whole = await client.chat.completions.create(**options)
        assert text == whole.choices[0].message.content


def test_only_an_answer_of_which_a_length_was_asked_must_have_room_for_it(live: Live, client: OpenAI) -> None:
    for asked, shrinks in (({}, True), ({"max_tokens": 3}, False), ({"max_completion_tokens": 3}, False)):
        client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}], **asked)  # type: ignore[call-overload]
        assert live.backend.requests[-1].shrinks is shrinks
    client.completions.create(model="echo", prompt="hi")
    assert live.backend.requests[-1].shrinks
    client.completions.create(model="echo", prompt="hi", max_tokens=3)
    assert not live.backend.requests[-1].shrinks
