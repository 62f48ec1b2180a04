"""Strict readers for msgpack values that came from a stranger: each checks type and bounds and names what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgpack

from mesh.errors import ProtocolViolation
from shards.shown import shown

T = TypeVar("T")

MAX_DEPTH_ITEMS = 16_384
PEER_ID_CHARS = 80


def unpack_map(data: bytes, *, limit: int) -> dict[str, Any]:
    """One msgpack map with string keys, nothing after it. Raises `ProtocolViolation`."""
    if len(data) > limit:
        raise ProtocolViolation(f"message of {len(data)} bytes is over the limit of {limit}")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_str_len=limit,
            max_bin_len=limit,
            max_array_len=MAX_DEPTH_ITEMS,
            max_map_len=MAX_DEPTH_ITEMS,
            max_ext_len=0,
            object_pairs_hook=_without_repeats,
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise ProtocolViolation(f"not a msgpack message: {error}") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ProtocolViolation("a message must be a msgpack map with string keys")
    return value


def _without_repeats(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a map names a key twice")
    return found


def pack(value: Mapping[str, Any]) -> bytes:
    """Encode one map."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def take(raw: Mapping[str, Any], name: str, read: Callable[[str, Any], T]) -> T:
    """The field `name`, which must be there, read by `read`."""
    if name not in raw:
        raise ProtocolViolation(f"field {name!r} is missing")
    return read(name, raw[name])


def integer(low: int, high: int) -> Callable[[str, Any], int]:
    """A reader for integers in `[low, high]`."""

    def read(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ProtocolViolation(f"field {name!r} must be an integer in [{low}, {high}], got {shown(value)}")
        return value

    return read


def number(low: float, high: float) -> Callable[[str, Any], float]:
    """A reader for finite numbers in `[low, high]`."""

    def read(name: str, value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ProtocolViolation(f"field {name!r} must be a number, got {shown(value)}")
        if not low <= value <= high or not math.isfinite(value):
            raise ProtocolViolation(f"field {name!r} must be in [{low:g}, {high:g}], got {shown(value)}")
        return float(value)

    return read


def boolean(name: str, value: Any) -> bool:
    """A reader for true and false."""
    if not isinstance(value, bool):
        raise ProtocolViolation(f"field {name!r} must be true or false, got {shown(value)}")
    return value


def text(limit: int) -> Callable[[str, Any], str]:
    """A reader for strings of at most `limit` characters."""

    def read(name: str, value: Any) -> str:
        if not isinstance(value, str) or len(value) > limit:
            raise ProtocolViolation(f"field {name!r} must be a string of at most {limit} characters")
        return value

    return read


def choice(*allowed: str) -> Callable[[str, Any], str]:
    """A reader for one of `allowed`."""

    def read(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ProtocolViolation(f"field {name!r} must be one of {', '.join(allowed)}, got {shown(value)}")
        return value

    return read


def octets(length: int) -> Callable[[str, Any], bytes]:
    """A reader for exactly `length` bytes."""

    def read(name: str, value: Any) -> bytes:
        if not isinstance(value, bytes) or len(value) != length:
            raise ProtocolViolation(f"field {name!r} must be {length} bytes")
        return value

    return read


def keys(size: int, limit: int) -> Callable[[str, Any], bytes]:
    """A reader for up to `limit` keys of `size` bytes, one after another."""

    def read(name: str, value: Any) -> bytes:
        if not isinstance(value, bytes) or len(value) % size or len(value) > size * limit:
            raise ProtocolViolation(f"field {name!r} must be at most {limit} keys of {size} bytes")
        return value

    return read


def items(read: Callable[[str, Any], T], limit: int, *, least: int = 0) -> Callable[[str, Any], tuple[T, ...]]:
    """A reader for a list of `least` to `limit` values, each read by `read`."""

    def read_all(name: str, value: Any) -> tuple[T, ...]:
        if not isinstance(value, list) or not least <= len(value) <= limit:
            raise ProtocolViolation(f"field {name!r} must be a list of {least} to {limit} items")
        return tuple(read(name, item) for item in value)

    return read_all


def record(*readers: Callable[[str, Any], Any]) -> Callable[[str, Any], tuple[Any, ...]]:
    """A reader for a fixed-length list, each item read by its own reader."""

    def read(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) != len(readers):
            raise ProtocolViolation(f"field {name!r} must be a list of {len(readers)} items")
        return tuple(reader(name, item) for reader, item in zip(readers, value, strict=True))

    return read


def optional(read: Callable[[str, Any], T]) -> Callable[[str, Any], T | None]:
    """A reader that also takes nil."""

    def read_optional(name: str, value: Any) -> T | None:
        return None if value is None else read(name, value)

    return read_optional


peer_id = text(PEER_ID_CHARS)


def plain(values: Sequence[Any]) -> list[Any]:
    """Nested tuples as lists, which is how msgpack reads them back."""
    return [plain(value) if isinstance(value, tuple | list) else value for value in values]
