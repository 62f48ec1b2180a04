"""What requests say that an answer is to be held to, in OpenAI's, vLLM's, SGLang's and llama.cpp's fields (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mesh.errors import InvalidRequest
from mesh.gateway.tools.request import Tools
from shards.errors import InvalidGrammar
from shards.grammar.constraint import Constraint, json_object, json_schema, one_of
from shards.text.tool_format import ToolFormat

FIELDS = (
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "json_schema",
    "regex",
    "ebnf",
    "grammar",
)
"""Beside `response_format`: vLLM's, then SGLang's and llama.cpp's."""
_PLAIN = {"type", "properties", "required", "title", "description", "$defs", "$schema", "definitions"}
"""Keys of schemas of objects that leave nothing about other properties to say elsewhere."""
_OF_VLLM = {"json", "regex", "choice", "grammar", "json_object"}


def read_constraint(extra: Mapping[str, Any] | None, response_format: Mapping[str, Any] | None) -> Constraint | None:
    """What a request's answer is held to. Raises `InvalidRequest`, also where it says so twice."""
    given = {name: value for name in FIELDS if (value := (extra or {}).get(name)) is not None}
    if given.get("grammar") == "":
        del given["grammar"]
    found = [each for name, value in given.items() if (each := _named(name, value)) is not None]
    if response_format is not None and (each := read_format(response_format, "response_format")) is not None:
        found.append(each)
    if len(found) > 1:
        names = ", ".join(each.param for each in found)
        raise InvalidRequest(f"an answer is held to one form, and these name several: {names}", param=found[1].param)
    return found[0] if found else None


def read_format(asked: Mapping[str, Any], param: str) -> Constraint | None:
    """OpenAI's `response_format`. Raises `InvalidRequest`."""
    match asked:
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            schema = asked.get("schema")  # llama.cpp's and Together's
            return json_object(param) if schema is None else _schema(schema, param)
        case {"type": "json_schema", "json_schema": {"name": str()} as described}:
            return _schema(described.get("schema"), param)
        case {"type": "json_schema"}:
            raise InvalidRequest(f"{param}.json_schema must be an object with a name and a schema", param=param)
        case _:
            raise InvalidRequest(f"{param}.type must be text, json_object or json_schema", param=param)


def _named(name: str, value: Any) -> Constraint | None:
    match name, value:
        case "structured_outputs", dict():
            return _of_vllm(value)
        case (("guided_json" | "json_schema"), _):
            return _schema(value, name)
        case ("guided_choice", list()) if all(isinstance(each, str) for each in value):
            return _made(lambda: one_of(value, name), name)
        case (("guided_regex" | "regex"), str()):
            return _made(lambda: Constraint("regex", value, name), name)
        case (("guided_grammar" | "grammar" | "ebnf"), str()):
            return _made(lambda: Constraint("grammar", value, name), name)
        case _:
            kind = {"guided_choice": "a list of strings", "structured_outputs": "an object"}.get(name, "a string")
            raise InvalidRequest(f"{name} must be {kind}", param=name)


def _of_vllm(asked: Mapping[str, Any]) -> Constraint | None:
    name = "structured_outputs"
    given = {key: value for key, value in asked.items() if value is not None and value is not False}
    if unknown := sorted(given.keys() - _OF_VLLM):
        raise InvalidRequest(f"{name}.{unknown[0][:60]} is not supported by this gateway", param=name)
    if len(given) > 1:
        raise InvalidRequest(f"{name} holds an answer to one form, got {', '.join(given)}", param=name)
    match given:
        case {"json": schema}:
            return _schema(schema, name)
        case {"json_object": True}:
            return json_object(name)
        case {"choice": list(choices)} if all(isinstance(each, str) for each in choices):
            return _made(lambda: one_of(choices, name), name)
        case {"regex": str(text)}:
            return _made(lambda: Constraint("regex", text, name), name)
        case {"grammar": str(text)}:
            return _made(lambda: Constraint("grammar", text, name), name)
        case {}:
            if not given:
                return None
    raise InvalidRequest(f"{name}.{next(iter(given))} is not of its type", param=name)


def _schema(given: Any, param: str) -> Constraint:
    """A schema as an object, or as its JSON. One that says nothing means an object, as all do at OpenAI."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise InvalidRequest(f"{param}: the schema is not JSON", param=param) from None
    if given is None or given == {}:
        return json_object(param)
    if not isinstance(given, dict):
        raise InvalidRequest(f"{param}: a schema is a JSON object", param=param)
    return _made(lambda: json_schema(given, param), param)


def _made(make: Any, param: str) -> Constraint:
    try:
        made: Constraint = make()
    except InvalidGrammar as error:
        raise InvalidRequest(str(error), param=param) from error
    return made


def call_constraint(tools: Tools) -> Constraint | None:
    """What an answer is held to in which a call is required, after the text with which it is made to begin; None where
    the model's form of calls is not JSON: there it begins a call, and goes on as the model has it."""
    if not tools.begins:
        return None
    ends: Mapping[ToolFormat, str] = {"hermes": "}", "mistral": "}]", "llama": "}"}
    end = ends.get(tools.form)
    if end is None:
        return None
    key = "parameters" if tools.form == "llama" else "arguments"
    parameters = {name: _lenient(tool) for name, tool in _by_name(tools).items()}
    if tools.named is not None:
        body = f"%json {parameters[tools.named]}"
    else:
        # The opening has the name's first quotation mark already.
        heads = {name: f'{json.dumps(name)[1:]}, "{key}": ' for name in parameters}
        body = "(" + " | ".join(f"{json.dumps(heads[name])} %json {text}" for name, text in parameters.items()) + ")"
    return _made(lambda: Constraint("grammar", f"start: {body} {json.dumps(end)}", "tools"), "tools")


def _by_name(tools: Tools) -> dict[str, Mapping[str, Any]]:
    return {tool["function"]["name"]: tool["function"] for tool in tools.offered}


def _lenient(function: Mapping[str, Any]) -> str:
    """The arguments' schema; what of it cannot be held to is passed over where the tool is not `strict`. Arguments that
    it does not name are not written unless it says so: small models would name them without end."""
    schema = {"type": "object", **function["parameters"]}
    if "properties" in schema and schema.keys() <= _PLAIN:
        schema["additionalProperties"] = False
    return json.dumps({**schema, "x-guidance": {"lenient": not function.get("strict")}}, ensure_ascii=False)
