"""JSON Schemas made by chance in the manner of public API descriptions: nested objects, lists with bounds, choices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

Schema = dict[str, Any]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_NOUNS = _words(
    "account address amount author balance batch branch build campaign carrier cart category channel "
    "charge city claim cluster comment company contact contract country coupon currency customer dataset "
    "delivery device discount driver event expense feature file filter flight folder forecast gateway "
    "group guest host image incident invoice item job label language ledger license listing location "
    "machine member message metric model note offer order owner package partner payment permission phone "
    "plan policy position price product profile project quote rate reading receipt record refund region "
    "release report reservation resource review role route rule sample schedule score sensor service "
    "session shipment site source stage status step store subject summary supplier tag target task team "
    "template tenant ticket token topic trip unit update user vehicle vendor version visit volume "
    "warehouse webhook zone"
)
_ADJECTIVES = _words(
    "active billing current default expected external final first internal last main next parent public"
)
_STATES = (
    ("open", "closed", "merged"),
    ("pending", "paid", "failed", "refunded"),
    ("low", "medium", "high", "critical"),
    ("draft", "published", "archived"),
    ("queued", "running", "succeeded", "cancelled", "timed_out"),
    ("usd", "eur", "gbp", "jpy"),
    ("monday", "wednesday", "friday"),
    ("read", "write", "admin"),
)
_PATTERNS = (
    r"^[A-Z]{3}-[0-9]{4}$",
    r"^#[0-9a-f]{6}$",
    r"^v[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{1,2}$",
    r"^[a-z][a-z0-9_]{2,12}$",
    r"^\+[1-9][0-9]{7,11}$",
    r"^(sku|ref)_[A-Za-z0-9]{6}$",
    r"^[0-9]{2}:[0-9]{2}$",
    r"^[A-Z]{2}[0-9]{2}( [0-9]{4}){2}$",
)
_FORMATS = ("date", "date-time", "time", "email", "uuid", "ipv4", "hostname")
_DEPTH = 3
_SMALL = 6
"""Most properties of an object."""


def made(count: int, seed: int = 1) -> Iterator[tuple[str, Schema]]:
    """So many schemas, each with a name; the same ones for the same seed."""
    for number in range(count):
        chance = Random(f"{seed} {number}")
        name = f"{chance.choice(_ADJECTIVES)}_{chance.choice(_NOUNS)}_{number}"
        yield name, _Maker(chance).whole(name)


class _Maker:
    """One schema."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._shared: dict[str, Schema] = {}

    def whole(self, title: str) -> Schema:
        body = self._object(_DEPTH)
        if self._shared:
            body["$defs"] = self._shared
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **body}

    def _object(self, depth: int) -> Schema:
        names = self._chance.sample(_NOUNS, self._chance.randint(2, _SMALL if depth == _DEPTH else 3))
        properties = {name: self._value(depth - 1) for name in names}
        required = [name for name in names if self._chance.random() < 0.7]
        body: Schema = {"type": "object", "properties": properties, "required": required}
        if self._chance.random() < 0.85:
            body["additionalProperties"] = False
        else:  # a few more, so that a small model comes to an end
            body["required"] = names
            body["additionalProperties"] = {"type": "integer", "minimum": 0, "maximum": 9}
            body["maxProperties"] = len(names) + 2
        if self._chance.random() < 0.3:
            body["description"] = f"What is known of a {names[0]}."
        return body

    def _value(self, depth: int) -> Schema:
        plain: list[Callable[[], Schema]] = [
            self._text,
            self._text,
            self._pattern,
            self._format,
            self._integer,
            self._number,
            self._enum,
            self._boolean,
            self._nullable,
            self._const,
        ]
        nested: list[Callable[[], Schema]] = [
            lambda: self._object(depth),
            lambda: self._array(depth),
            lambda: self._array(depth),
            lambda: self._any_of(depth),
            lambda: self._reference(depth),
        ]
        return self._chance.choice(plain + nested if depth > 0 else plain)()

    def _text(self) -> Schema:
        least = self._chance.choice((0, 1, 3))
        schema: Schema = {"type": "string", "maxLength": self._chance.choice((12, 24, 40))}
        return schema | ({"minLength": least} if least else {})

    def _pattern(self) -> Schema:
        return {"type": "string", "pattern": self._chance.choice(_PATTERNS)}

    def _format(self) -> Schema:
        schema: Schema = {"type": "string", "format": self._chance.choice(_FORMATS)}
        return schema | ({"maxLength": 40} if schema["format"] in ("email", "hostname") else {})

    def _integer(self) -> Schema:
        low = self._chance.choice((-90, 0, 1, 18, 1900))
        return {"type": "integer", "minimum": low, "maximum": low + self._chance.choice((4, 10, 99, 100_000))}

    def _number(self) -> Schema:
        low = self._chance.choice((-180, 0, 0.5))
        return {"type": "number", "minimum": low, "exclusiveMaximum": low + self._chance.choice((1, 100, 360))}

    def _enum(self) -> Schema:
        return {"type": "string", "enum": list(self._chance.choice(_STATES))}

    def _boolean(self) -> Schema:
        return {"type": "boolean"}

    def _const(self) -> Schema:
        return {"const": self._chance.choice(_NOUNS)}

    def _nullable(self) -> Schema:
        kind = self._chance.choice(("string", "integer"))
        bounds: Schema = {"maxLength": 20} if kind == "string" else {"minimum": 0, "maximum": 1000}
        return {"type": [kind, "null"], **bounds}

    def _array(self, depth: int) -> Schema:
        least = self._chance.choice((0, 1, 2))
        bounds = {"minItems": least, "maxItems": least + self._chance.randint(1, 3)}
        return {"type": "array", "items": self._value(depth - 1), **bounds}

    def _any_of(self, depth: int) -> Schema:
        kinds = [self._integer(), self._enum(), self._object(max(1, depth - 1)), {"type": "null"}]
        return {"anyOf": self._chance.sample(kinds, self._chance.randint(2, 3))}

    def _reference(self, depth: int) -> Schema:
        name = self._chance.choice(("Money", "Person", "Point", "Period"))
        if name not in self._shared:
            self._shared[name] = _SHARED[name]
        return {"$ref": f"#/$defs/{name}"}


def _closed(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


_SHARED = {
    "Money": _closed(
        amount={"type": "integer", "minimum": 0, "maximum": 99_999}, currency={"enum": ["USD", "EUR", "CHF"]}
    ),
    "Person": _closed(
        name={"type": "string", "minLength": 1, "maxLength": 30}, age={"type": "integer", "minimum": 0, "maximum": 120}
    ),
    "Point": _closed(
        lat={"type": "number", "minimum": -90, "maximum": 90}, lon={"type": "number", "minimum": -180, "maximum": 180}
    ),
    "Period": _closed(begins={"type": "string", "format": "date"}, ends={"type": "string", "format": "date"}),
}
