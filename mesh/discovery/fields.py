"""Canonical msgpack maps that peers sign: written with sorted keys, read field by field within bounds (pure)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import msgpack

from mesh.errors import BadRecord, InternalError


def pack(fields: dict[str, Any], what: str) -> bytes:
    """`fields`, their keys sorted, as bytes. `what` names the kind in errors. Raises `InternalError`."""
    try:
        packed: bytes = msgpack.packb(fields, use_bin_type=True, strict_types=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise InternalError(f"{what} with a value of the wrong type: {error}") from error
    return packed


def unpack(body: bytes, peer: str, what: str) -> Reader:
    """The fields of a body that `peer` is said to have written. Raises `BadRecord`."""
    try:
        fields = msgpack.unpackb(body, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise BadRecord(f"{what} is not msgpack: {error}", peer=peer) from None
    if not isinstance(fields, dict):
        raise BadRecord(f"{what} is not a map", peer=peer)
    return Reader(fields, peer)


class Reader:
    """Takes typed, bounded values out of an untrusted map; raises `BadRecord` that names the field."""

    def __init__(self, fields: dict[Any, Any], peer: str) -> None:
        self._fields = fields
        self._peer = peer

    def bad(self, name: str) -> BadRecord:
        """The error that says so of the field `name`."""
        return BadRecord(f"the field {name} is missing or out of bounds", peer=self._peer)

    def raw(self, name: str) -> Any:
        """The value as it came, None where there is none."""
        return self._fields.get(name)

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._fields.get(name)
        if type(value) is not int or not low <= value <= high:
            raise self.bad(name)
        return value

    def number(self, name: str, low: float, high: float) -> float:
        value = self._fields.get(name)
        if type(value) is not float or not math.isfinite(value) or not low <= value <= high:
            raise self.bad(name)
        return value

    def boolean(self, name: str) -> bool:
        value = self._fields.get(name)
        if type(value) is not bool:
            raise self.bad(name)
        return value

    def text(self, name: str, pattern: re.Pattern[str]) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str) or not pattern.match(value):
            raise self.bad(name)
        return value

    def octets(self, name: str, most: int) -> bytes:
        value = self._fields.get(name)
        if not isinstance(value, bytes) or len(value) > most:
            raise self.bad(name)
        return value

    def items(self, name: str, most: int, good: Callable[[Any], bool]) -> list[Any]:
        value = self._fields.get(name)
        if not isinstance(value, list) or len(value) > most or not all(good(item) for item in value):
            raise self.bad(name)
        return value


def matches(value: object, pattern: re.Pattern[str]) -> bool:
    """Whether a value is a text of this form."""
    return isinstance(value, str) and pattern.match(value) is not None
