"""Parts of which JSON Schemas are put together."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def text(most: int = 30, least: int = 0) -> Schema:
    return {"type": "string", "maxLength": most} | ({"minLength": least} if least else {})


def like(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}


def form(name: str) -> Schema:
    return {"type": "string", "format": name}


def whole(low: int = 0, high: int = 9999) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def real(low: float = 0, high: float = 1000) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high}


def one(*choices: Any) -> Schema:
    return {"enum": list(choices)}


def some(items: Schema, least: int = 0, most: int = 3) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def obj(optional: str = "", /, **properties: Schema) -> Schema:
    """A closed object; `optional` names what of it may be left out."""
    required = [name for name in properties if name not in optional.split()]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def table(values: Schema, most: int = 3) -> Schema:
    return {"type": "object", "additionalProperties": values, "minProperties": 1, "maxProperties": most}


YES: Schema = {"type": "boolean"}
ID = form("uuid")
DAY = form("date")
TIME = form("date-time")
COLOUR = like("^#[0-9a-f]{6}$")
MONEY = obj(amount=whole(0, 100_000), currency=one("usd", "eur", "gbp"))
POINT = obj(latitude=real(-90, 90), longitude=real(-180, 180))
PLACE = obj(
    "line2", line1=text(), line2=text(), city=text(20), postal_code=like("^[0-9]{5}$"), country=like("^[A-Z]{2}$")
)
