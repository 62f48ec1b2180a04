"""Single calls: from what a model wrote to a name and its arguments as JSON (pure)."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_CALL_CHARACTERS = 256 << 10
_MAX_PYTHON_CHARACTERS = 32 << 10
_PYTHON_NAMES = {"true": True, "false": False, "null": None, "none": None}


@dataclass(frozen=True, slots=True)
class Call:
    """One call; `arguments` is the JSON text of an object."""

    name: str
    arguments: str


class Malformed(Exception):
    """The text is not a call of a tool that was offered: it stays text."""


def from_json(text: str, *, several: bool = False) -> list[Call]:
    """The call in `{"name": …, "arguments" or "parameters": {…}}`, or with `several` in a list of such objects.

    Raises `Malformed`.
    """
    value = _json(text)
    items = value if several and isinstance(value, list) else [value]
    if not items:
        raise Malformed
    return [_from_object(item) for item in items]


def named(name: str, arguments: str) -> Call:
    """A call of which the name and the arguments stand apart. Raises `Malformed`."""
    value = _json(arguments)
    if not isinstance(value, dict):
        raise Malformed
    return Call(name, _dumps(value))


def from_xml(text: str, schemas: Mapping[str, Mapping[str, Any]]) -> Call:
    """The call in `<function=NAME>` with `<parameter=KEY>` values. What a value is, the tool's schema says; one that
    is not of its type stays text, as Qwen's own parser has it. Raises `Malformed`."""
    text = text.strip()
    if not (text.startswith("<function=") and text.endswith("</function>")):
        raise Malformed
    name, bracket, rest = text[len("<function=") : -len("</function>")].partition(">")
    if not bracket:
        raise Malformed
    name = name.strip()
    properties = schemas.get(name, {}).get("properties")
    arguments: dict[str, Any] = {}
    rest = rest.strip()
    while rest:
        if not rest.startswith("<parameter="):
            raise Malformed
        key, bracket, rest = rest[len("<parameter=") :].partition(">")
        value, end, rest = rest.partition("</parameter>")
        if not bracket or not end:
            raise Malformed
        key = key.strip()
        schema = properties.get(key) if isinstance(properties, Mapping) else None
        arguments[key] = _typed(value.removeprefix("\n").removesuffix("\n"), schema)
        rest = rest.lstrip()
    return Call(name, _dumps(arguments))


def from_python(text: str) -> list[Call]:
    """The calls in `[name(key=value), …]`, of literals only. Raises `Malformed`."""
    if len(text) > _MAX_PYTHON_CHARACTERS:
        raise Malformed
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Malformed from error
    if not isinstance(node, ast.List) or not node.elts:
        raise Malformed
    return [_from_python_call(each) for each in node.elts]


def _from_object(item: Any) -> Call:
    if not isinstance(item, dict):
        raise Malformed
    if item.get("type") == "function" and isinstance(item.get("function"), dict):
        item = item["function"]
    name = item.get("name")
    arguments = item.get("arguments", item.get("parameters", {}))
    if isinstance(arguments, str):  # some write the arguments as OpenAI does: JSON in a string
        arguments = _json(arguments)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise Malformed
    return Call(name, _dumps(arguments))


def _from_python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args:
        raise Malformed
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in arguments:
            raise Malformed
        arguments[keyword.arg] = _literal(keyword.value)
    return Call(_dotted(node.func), _dumps(arguments))


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise Malformed


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | bool() | int() | float() | None as value):
            return value
        case ast.Name(id=name) if name.lower() in _PYTHON_NAMES:
            return _PYTHON_NAMES[name.lower()]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)) if not isinstance(
            number, bool
        ):
            return -number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _literal(value) for key, value in zip(keys, values, strict=True)}
        case _:
            raise Malformed


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise Malformed


def _typed(text: str, schema: object) -> Any:
    """A parameter's value by its schema's type."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    kinds: Sequence[Any] = kind if isinstance(kind, list) else [kind]
    if "null" in kinds and text.strip() == "null":
        return None
    if "string" in kinds or kinds == [None]:
        return text
    try:
        return _json(text)
    except Malformed:
        return text


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite, strict=False)
    except (ValueError, RecursionError) as error:
        raise Malformed from error


def _dumps(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()  # half a surrogate pair cannot be sent
    except (ValueError, RecursionError) as error:
        raise Malformed from error
    return text


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number
