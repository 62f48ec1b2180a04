"""Numbers and flags of config.json, each of its kind or refused with `CheckpointError` (no torch here)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from shards.errors import CheckpointError
from shards.shown import shown


def count(raw: Mapping[str, Any], name: str, default: int | None) -> int:
    """A positive integer below 2^31; `default` where it is absent or null."""
    value = raw.get(name)
    if value is None:
        value = default
    if type(value) is not int or not 0 < value < 1 << 31:
        raise CheckpointError(f"config.json: {name} must be a positive integer, got {shown(value)}")
    return value


def number(raw: Mapping[str, Any], name: str, default: float | None) -> float:
    """A positive finite number; `default` where it is absent or null."""
    value = raw.get(name)
    if value is None:
        value = default
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise CheckpointError(f"config.json: {name} must be a positive number, got {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        raise CheckpointError(f"config.json: {name} is larger than any number that we compute with") from None


def numbers(raw: Mapping[str, Any], name: str, length: int) -> tuple[float, ...]:
    """A list of exactly `length` positive finite numbers."""
    values = raw.get(name)
    if not isinstance(values, list) or len(values) != length:
        raise CheckpointError(f"config.json: {name} must be a list of {length} numbers, got {shown(values)}")
    return tuple(number({name: value}, name, None) for value in values)


def flag(raw: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """True or false; `default` where it is absent or null."""
    value = raw.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise CheckpointError(f"config.json: {name} must be true or false, got {shown(value)}")
    return value
