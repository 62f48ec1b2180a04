"""What requests say that an answer is held to, by all their names; and what is refused in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mesh.errors import InvalidRequest
from mesh.gateway.app import create_app
from mesh.gateway.config import GatewayConfig
from mesh.gateway.structured import call_constraint, read_constraint
from mesh.gateway.tools.request import Tools
from shards.grammar import library
from shards.text.tool_format import ToolFormat
from tests.mesh.gateway.conftest import Live, serve_app
from tests.mesh.gateway.echo_backend import Behaviour, EchoBackend
from tests.mesh.gateway.echo_tokenizer import ByteTokenizer

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
ASK: dict[str, Any] = {"model": "echo", "max_tokens": 4, "messages": [{"role": "user", "content": "the swa"}]}
TEXT = json.dumps(SCHEMA, separators=(",", ":"))
NAMED = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    backend = EchoBackend({"echo": Behaviour(ByteTokenizer())})
    app = create_app(backend, GatewayConfig())
    with serve_app(app) as url:
        yield Live(url, backend, app)


@pytest.mark.parametrize(
    ("asked", "kind", "text"),
    [
        ({"response_format": {"type": "json_object"}}, "json_schema", '{"type":"object"}'),
        ({"response_format": NAMED}, "json_schema", TEXT),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "json_schema", TEXT),
        ({"guided_json": SCHEMA}, "json_schema", TEXT),
        ({"guided_json": TEXT, "guided_decoding_backend": "xgrammar"}, "json_schema", TEXT),
        ({"json_schema": SCHEMA}, "json_schema", TEXT),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"regex": "a+"}, "regex", "a+"),
        ({"guided_choice": ["a", 'b"']}, "grammar", 'start: "a" | "b\\""'),
        ({"guided_grammar": "root ::= x"}, "grammar", "root ::= x"),
        ({"grammar": "start: x"}, "grammar", "start: x"),
        ({"ebnf": "start: x"}, "grammar", "start: x"),
        ({"structured_outputs": {"json": SCHEMA, "regex": None}}, "json_schema", TEXT),
        ({"structured_outputs": {"choice": ["a"]}}, "grammar", 'start: "a"'),
        ({"structured_outputs": {"json_object": True}}, "json_schema", '{"type":"object"}'),
    ],
)
def test_every_name_of_a_form_reaches_the_session(live: Live, asked: dict[str, Any], kind: str, text: str) -> None:
    assert httpx.post(f"{live.url}/v1/chat/completions", json={**ASK, **asked}).status_code == 200
    found = live.backend.requests[-1].constraint
    assert found is not None
    assert (found.kind, found.text, found.param) == (kind, text, next(iter(asked)))
    if "response_format" not in asked:
        body = {"model": "echo", "prompt": "the", "max_tokens": 2, **asked}
        assert httpx.post(f"{live.url}/v1/completions", json=body).status_code == 200
        assert live.backend.requests[-1].constraint == found


def test_the_other_apis_have_their_own_names(live: Live) -> None:
    shape = {"type": "json_schema", "name": "a", "strict": True, "schema": SCHEMA}
    asked = {
        "model": "echo",
        "input": "the swa",
        "max_output_tokens": 4,
        "text": {"format": shape, "verbosity": "medium"},
    }
    answer = httpx.post(f"{live.url}/v1/responses", json=asked)
    assert answer.json()["text"]["format"] == shape
    asked = {**ASK, "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    assert httpx.post(f"{live.url}/v1/messages", json=asked).status_code == 200
    asked = {**ASK, "output_format": {"type": "json_schema", "schema": SCHEMA}}
    assert httpx.post(f"{live.url}/v1/messages", json=asked).status_code == 200
    told = [(each.constraint.text, each.constraint.param) for each in live.backend.requests[-3:] if each.constraint]
    assert told == [(TEXT, "text"), (TEXT, "output_config"), (TEXT, "output_config")]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": [1]}}}, "response_format"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "response_format"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_regex": 5}, "guided_regex"),
        ({"guided_regex": "a" * 70_000}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": ["a", 5]}, "guided_choice"),
        ({"guided_json": "{"}, "guided_json"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs"),
    ],
)
def test_what_is_no_form_is_refused_by_name(live: Live, asked: dict[str, Any], param: str) -> None:
    response = httpx.post(f"{live.url}/v1/chat/completions", json={**ASK, **asked})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_what_asks_for_nothing_holds_nothing() -> None:
    assert read_constraint({"guided_json": None, "structured_outputs": {}, "grammar": ""}, {"type": "text"}) is None


def tools(form: ToolFormat, begins: str, named: str | None = None, **function: Any) -> Tools:
    offered = [
        {"type": "function", "function": {"name": name, "description": "", "parameters": SCHEMA, **function}}
        for name in ("add", "sub")
    ]
    return Tools(form, tuple(offered), True, begins, named)


@pytest.mark.parametrize(
    ("form", "named", "answer"),
    [
        ("hermes", None, 'sub", "arguments": {"a": 5}}'),
        ("hermes", "add", '{"a": 5}}'),
        ("mistral", None, 'add", "arguments": {"a": 5}}]'),
        ("mistral", "add", '{"a": 5}}]'),
        ("llama", None, 'add", "parameters": {"a": 5}}'),
    ],
)
def test_a_required_call_is_held_to_its_schema(form: ToolFormat, named: str | None, answer: str) -> None:
    held = call_constraint(tools(form, "begun", named))
    assert held is not None
    trie = library.vocabulary([bytes([value]) for value in range(256)])
    matcher = library.matcher(trie, held.kind, held.text)
    assert matcher.consume_tokens([*answer.encode()])
    assert matcher.is_accepting()
    other = library.matcher(trie, held.kind, held.text)
    assert other.try_consume_tokens([*answer.replace("5", '5, "b": 6').encode()]) < len(answer)
    wrong = library.matcher(trie, held.kind, held.text)
    assert wrong.try_consume_tokens([*answer.replace("5", '"').encode()]) < len(answer)


def test_calls_that_are_not_json_or_not_required_are_free() -> None:
    assert call_constraint(tools("pythonic", "[")) is None
    assert call_constraint(tools("hermes", "")) is None


def test_a_strict_tool_is_strict_about_its_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}
    trie = library.vocabulary([bytes([value]) for value in range(256)])
    free, strict = (
        call_constraint(tools("hermes", "begun", "add", parameters=schema, strict=value)) for value in (False, True)
    )
    assert free is not None and strict is not None
    library.matcher(trie, free.kind, free.text)
    with pytest.raises(Exception, match="not"):
        library.matcher(trie, strict.kind, strict.text)


def test_a_form_and_tools_do_not_go_together() -> None:
    with pytest.raises(InvalidRequest, match="one form"):
        read_constraint({"regex": "a", "ebnf": "b"}, None)
