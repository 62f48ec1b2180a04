"""Thirty-two calls of the `openai` client, unmodified, against a gateway process over the model that ships.

Each is right when it does what OpenAI documents of it. The table is printed (`pytest -s`).
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

from tests.scenarios.processes import World, start_stages, wait_until

SHIPPED = Path(__file__).parents[2] / "shards" / "models" / "tiny-python"
TEMPLATE = """\
{% if tools %}<|system|>
Call a function within <tool_call></tool_call>: {{ tools | tojson }}<|end|>
{% endif %}{% for message in messages %}<|{{ message['role'] if message['role'] != 'tool' else 'user' }}|>
{{ message['content'] }}{% for call in message['tool_calls'] or [] %}<tool_call>
{{ call['function'] | tojson }}
</tool_call>{% endfor %}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}"""
KEY = "a-key-of-the-battery"
ASK: list[Any] = [{"role": "user", "content": "Write add."}]
NOW: Any = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One provider of the shipped model, with a template that takes tools, and a gateway with a key."""
    folder = tmp_path_factory.mktemp("b") / "tiny"
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("mesh.manifest.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    keys = folder.parent / "keys"
    keys.write_text(KEY)
    with World() as world:
        swarm = start_stages(world, folder, ("0:8",)).wait_serving()
        gateway = world.start("gateway", "--peers", swarm.address, "--port", "0", "--json", "--api-keys", str(keys))
        url: str = gateway.event("ready")["url"]
        root = url.removesuffix("/v1")
        wait_until(lambda: httpx.get(f"{root}/health").status_code == 200, "the gateway sees a complete model")
        yield url


@pytest.fixture
def client(base_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=base_url, api_key=KEY, max_retries=0, timeout=30) as client:
        yield client


class Battery:
    """The calls; each method raises or asserts where something is not right."""

    def __init__(self, client: OpenAI, model: str) -> None:
        self.client = client
        self.model = model

    def chat(self, **options: Any) -> Any:
        arguments = {"model": self.model, "messages": ASK, "max_tokens": 12, "seed": 1, **options}
        return self.client.chat.completions.create(**arguments)

    def text(self, **options: Any) -> str:
        return self.chat(**options).choices[0].message.content

    def complete(self, **options: Any) -> Any:
        arguments = {"model": self.model, "prompt": "def add(", "max_tokens": 12, "temperature": 0, **options}
        return self.client.completions.create(**arguments)

    def respond(self, **options: Any) -> Any:
        arguments = {"model": self.model, "input": "Write add.", "max_output_tokens": 12, "temperature": 0, **options}
        return self.client.responses.create(**arguments)

    def calls(self) -> dict[str, Callable[[], None]]:
        return {
            "chat": self.plain,
            "chat stream": self.stream,
            "stream_options include_usage": self.usage,
            "n": lambda: _is(len({choice.index for choice in self.chat(n=3).choices}), 3),
            "stop": self.stop,
            "logprobs": self.logprobs,
            "seed": lambda: _is(self.text(seed=5), self.text(seed=5)),
            "temperature 0, top_p 0": lambda: _is(self.text(temperature=0), self.text(top_p=0, seed=9)),
            "penalties": lambda: _is(bool(self.text(presence_penalty=1.5, frequency_penalty=1.5)), True),
            "logit_bias": self.logit_bias,
            "max_completion_tokens": self.max_completion_tokens,
            "developer role": self.developer,
            "content parts": self.parts,
            "tools": self.tools,
            "tool_choice none": self.tool_choice_none,
            "tool_choice named": self.tool_choice_named,
            "tools stream": self.tools_stream,
            "history with tool messages": self.tool_history,
            "response_format json_object": lambda: _is(
                self.text(response_format={"type": "json_object"}).startswith("{"), True
            ),
            "response_format json_schema": lambda: _is(
                self.text(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {}}})[:1], "{"
            ),
            "chat.completions.parse": self.parse,
            "responses.create": self.responses,
            "responses.create stream": self.responses_stream,
            "completions": lambda: _is(self.complete().choices[0].finish_reason, "length"),
            "completions stream": self.completions_stream,
            "completions echo, logprobs": self.echo,
            "models list, retrieve": self.models,
            "404 for an unknown model": lambda: _raises(
                openai.NotFoundError, lambda: self.chat(model="nobody"), "model"
            ),
            "401 for a wrong key": self.wrong_key,
            "400 for a bad value": lambda: _raises(
                openai.BadRequestError, lambda: self.chat(temperature=-1), "temperature"
            ),
            "with_raw_response headers": self.raw,
            "async client, cancelled in mid-stream": self.cancelled,
        }

    def plain(self) -> None:
        answer = self.chat()
        assert answer.object == "chat.completion" and answer.choices[0].message.role == "assistant"
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert answer.usage.completion_tokens <= 12

    def stream(self) -> None:
        pieces = [chunk.choices[0].delta.content or "" for chunk in self.chat(stream=True)]
        assert len(pieces) > 2 and "".join(pieces) == self.text()

    def usage(self) -> None:
        *_, last = self.chat(stream=True, stream_options={"include_usage": True})
        assert last.choices == [] and last.usage.completion_tokens > 0

    def stop(self) -> None:
        whole = self.text(temperature=0, max_tokens=24)
        stop = whole[4:7]
        assert self.text(temperature=0, max_tokens=24, stop=[stop]) == whole[: whole.index(stop)]

    def logprobs(self) -> None:
        choice = self.chat(logprobs=True, top_logprobs=3, temperature=0).choices[0]
        assert all(len(entry.top_logprobs) == 3 for entry in choice.logprobs.content)
        assert all(entry.logprob == entry.top_logprobs[0].logprob for entry in choice.logprobs.content)

    def logit_bias(self) -> None:
        free = self.chat(temperature=0, logprobs=True).choices[0].logprobs.content
        biased = self.chat(temperature=0, logprobs=True, logit_bias={"300": 100}).choices[0].logprobs.content
        assert len({entry.token for entry in biased}) == 1 < len({entry.token for entry in free})

    def developer(self) -> None:
        turns = [{"role": "developer", "content": "Be brief."}, *ASK]
        as_system = [{"role": "system", "content": "Be brief."}, *ASK]
        assert self.text(messages=turns, temperature=0) == self.text(messages=as_system, temperature=0)

    def max_completion_tokens(self) -> None:
        answer = self.client.chat.completions.create(model=self.model, messages=ASK, max_completion_tokens=3)
        assert answer.usage is not None and answer.usage.completion_tokens == 3

    def parts(self) -> None:
        parts = [{"type": "text", "text": "Write"}, {"type": "text", "text": "add."}]
        joined = self.text(messages=[{"role": "user", "content": "Write\nadd."}], temperature=0)
        assert self.text(messages=[{"role": "user", "content": parts}], temperature=0) == joined

    def tools(self) -> None:
        with_tools, without = self.chat(tools=[NOW]), self.chat()
        assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens
        assert with_tools.choices[0].message.content or with_tools.choices[0].message.tool_calls

    def tool_choice_none(self) -> None:
        chosen, without = self.chat(tools=[NOW], tool_choice="none"), self.chat()
        assert chosen.usage.prompt_tokens == without.usage.prompt_tokens

    def tool_choice_named(self) -> None:
        named = {"type": "function", "function": {"name": "now"}}
        chosen, free = self.chat(tools=[NOW], tool_choice=named), self.chat(tools=[NOW])
        assert chosen.usage.prompt_tokens > free.usage.prompt_tokens
        _raises(openai.BadRequestError, lambda: self.chat(tools=[], tool_choice="required"), "tool_choice")

    def tools_stream(self) -> None:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in self.chat(tools=[NOW], stream=True))
        assert text == (self.text(tools=[NOW]) or "")

    def tool_history(self) -> None:
        call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
        past = [
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
        ]
        assert self.chat(messages=[*ASK, *past], tools=[NOW]).usage.prompt_tokens > self.chat().usage.prompt_tokens

    def parse(self) -> None:
        class Answer(BaseModel):
            number: int = Field(ge=0, le=999)

        found = self.client.chat.completions.parse(model=self.model, messages=ASK, response_format=Answer)
        assert found.choices[0].message.parsed is not None

    def responses(self) -> None:
        first = self.respond()
        assert first.output_text == self.text(temperature=0)
        second = self.respond(previous_response_id=first.id)
        assert second.usage.input_tokens > first.usage.input_tokens

    def responses_stream(self) -> None:
        events = list(self.respond(stream=True))
        assert [event.sequence_number for event in events] == [*range(len(events))]
        assert events[0].type == "response.created"
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == (
            self.respond().output_text
        )

    def completions_stream(self) -> None:
        text = "".join(chunk.choices[0].text for chunk in self.complete(stream=True))
        assert text == self.complete().choices[0].text

    def echo(self) -> None:
        choice = self.complete(echo=True, logprobs=1).choices[0]
        assert choice.text.startswith("def add(")
        assert choice.logprobs.token_logprobs[0] is None
        assert len(choice.logprobs.tokens) == len(choice.logprobs.text_offset)

    def models(self) -> None:
        assert [model.id for model in self.client.models.list()] == [self.model]
        assert self.client.models.retrieve(self.model).id == self.model

    def wrong_key(self) -> None:
        wrong = self.client.with_options(api_key="wrong")
        _raises(openai.AuthenticationError, lambda: wrong.models.list(), None)

    def raw(self) -> None:
        ask = self.client.chat.completions.with_raw_response.create
        raw = ask(model=self.model, messages=ASK, max_tokens=2, extra_headers={"X-Request-ID": "battery-1"})
        assert raw.headers["x-request-id"] == "battery-1"
        assert raw.parse().choices

    def cancelled(self) -> None:
        async def run() -> None:
            async with AsyncOpenAI(base_url=str(self.client.base_url), api_key=KEY, max_retries=0) as client:
                ask: Any = {"model": self.model, "messages": ASK, "max_tokens": 300, "extra_body": {"ignore_eos": True}}
                stream = await client.chat.completions.create(**ask, stream=True)
                async for _ in stream:
                    break
                await stream.close()
                whole = await client.chat.completions.create(**{**ask, "max_tokens": 2})
                assert whole.usage is not None and whole.usage.completion_tokens == 2

        asyncio.run(run())


class Address(BaseModel, extra="forbid"):
    street: str = Field(max_length=12)
    number: int = Field(ge=1, le=99)


class Person(BaseModel, extra="forbid"):
    name: str = Field(max_length=12)
    kind: Literal["human", "robot"]
    homes: list[Address] = Field(min_length=1, max_length=2)


def test_answers_are_held_to_their_form_whatever_it_is_called(client: OpenAI, base_url: str) -> None:
    model = client.models.list().data[0].id
    ask: dict[str, Any] = {"model": model, "messages": ASK, "temperature": 0, "max_tokens": 200}
    parsed = client.chat.completions.parse(**ask, response_format=Person).choices[0].message.parsed
    assert parsed is not None and parsed.kind in ("human", "robot")

    shape: Any = {"type": "json_schema", "json_schema": {"name": "p", "schema": Person.model_json_schema()}}
    whole = client.chat.completions.create(**ask, response_format=shape).choices[0]
    stream = client.chat.completions.create(**ask, response_format=shape, stream=True)
    joined = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert joined == whole.message.content
    assert whole.finish_reason == "stop" and Person.model_validate_json(joined) == parsed

    for field, value, pattern in (
        ("guided_choice", ["red", "green"], "red|green"),
        ("guided_regex", "[a-f]{2}-[0-9]", "[a-f]{2}-[0-9]"),
        ("guided_grammar", 'root ::= "no" ("!" | "?")', "no[!?]"),
        ("structured_outputs", {"choice": ["ja", "nein"]}, "ja|nein"),
    ):
        content = client.chat.completions.create(**ask, extra_body={field: value}).choices[0].message.content
        assert content is not None and re.fullmatch(pattern, content), field

    responded = client.responses.parse(
        model=model, input="Who?", temperature=0, max_output_tokens=200, text_format=Person
    )
    assert responded.output_parsed is not None
    body = {**ask, "output_config": {"format": {"type": "json_schema", "schema": Person.model_json_schema()}}}
    answer = httpx.post(f"{base_url}/messages", json=body, headers={"x-api-key": KEY}, timeout=30).json()
    Person.model_validate_json(answer["content"][0]["text"])

    tool: Any = {"type": "function", "function": {"name": "move", "parameters": Address.model_json_schema()}}
    for choice in ("required", {"type": "function", "function": {"name": "move"}}):
        called = client.chat.completions.create(**ask, tools=[NOW, tool], tool_choice=choice).choices[0]  # type: ignore[arg-type]
        assert called.finish_reason == "tool_calls"
        for call in called.message.tool_calls or []:
            if call.type == "function" and call.function.name == "move":
                Address.model_validate_json(call.function.arguments)

    with pytest.raises(openai.BadRequestError, match="look-ahead") as caught:
        client.chat.completions.create(**ask, extra_body={"guided_regex": "(?=a)b"})
    assert caught.value.param == "guided_regex"


def _is(found: object, expected: object) -> None:
    assert found == expected


def _raises(kind: type[openai.APIStatusError], call: Callable[[], object], param: str | None) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.param == param


def test_the_openai_client_gets_what_it_asks_for(client: OpenAI) -> None:
    calls = Battery(client, client.models.list().data[0].id).calls()
    assert len(calls) == 32
    results: dict[str, str] = {}
    for name, call in calls.items():
        try:
            call()
        except (AssertionError, openai.OpenAIError, LookupError, AttributeError, TypeError) as error:
            results[name] = f"{type(error).__name__}: {str(error)[:100]}"
        else:
            results[name] = "right"
    sys.stdout.write("\n" + "".join(f"{name:40} {result}\n" for name, result in results.items()))
    wrong = {name: result for name, result in results.items() if result != "right"}
    sys.stdout.write(f"{len(results) - len(wrong)} of {len(results)} are right\n")
    assert not wrong
