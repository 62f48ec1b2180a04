"""The fields of a quantisation's settings, asked for one by one and bounded; any other is refused (pure)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from shards.errors import CheckpointError, UnsupportedModel
from shards.shown import shown

WAY_OUT: Final = (
    "take a copy of the model that is not quantised, a GGUF file, or one in AWQ (gemm), GPTQ (4 or 8 bits), FP8 or "
    "compressed-tensors"
)
MAX_NAMES: Final = 1 << 16
"""Of one list: a large mixture of experts names each of its routers."""
MAX_GROUP: Final = 1 << 20


class Fields:
    """One object of settings; `where` is for messages. Wrong types are a `CheckpointError`."""

    def __init__(self, raw: object, where: str) -> None:
        if not isinstance(raw, dict):
            raise CheckpointError(f"{where} must be an object, got {shown(raw)}")
        self._left = dict(raw)
        self.where = where

    def take(self, *names: str) -> Any:
        """The value of the first of these names that has one. Raises `CheckpointError` where two differ."""
        values = [value for name in names if (value := self._left.pop(name, None)) is not None]
        if any(value != values[0] for value in values):
            raise CheckpointError(f"{self.where}: {' and '.join(names)} contradict each other")
        return values[0] if values else None

    def text(self, *names: str, default: str) -> str:
        """Lower-cased."""
        value = self.take(*names)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._wrong(names, "a text", value)
        return value.lower()

    def flag(self, *names: str, default: bool = False) -> bool:
        value = self.take(*names)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(names, "true or false", value)
        return value

    def count(self, *names: str) -> int | None:
        value = self.take(*names)
        if value is not None and (type(value) is not int or not 0 < value <= MAX_GROUP):
            raise self._wrong(names, f"a whole number up to {MAX_GROUP}", value)
        return value

    def group(self, *names: str, default: int | None = None) -> int | None:
        """How many inputs share a scale; None (written -1) where all do."""
        value = self.take(*names)
        if value is None:
            return default
        if value == -1 and type(value) is int:
            return None
        if type(value) is not int or not 0 < value <= MAX_GROUP:
            raise self._wrong(names, f"-1 or a whole number up to {MAX_GROUP}", value)
        return value

    def names(self, *names: str) -> tuple[str, ...]:
        value = self.take(*names)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > MAX_NAMES or not all(isinstance(each, str) for each in value):
            raise self._wrong(names, f"a list of up to {MAX_NAMES} names", value)
        return tuple(value)

    def only(self, name: str, *allowed: object) -> None:
        """Refuse a value that changes the numbers in a way that is not read; absent and null are always allowed."""
        value = self._left.pop(name, None)
        if value is not None and not any(value == each and type(value) is type(each) for each in allowed):
            raise UnsupportedModel(f"{self.where} says {name} = {shown(value)}, which is not read: {WAY_OUT}")

    def finish(self, harmless: Collection[str]) -> None:
        """`harmless` say how the weights were found or are multiplied, not what they are."""
        for name, value in self._left.items():
            if name not in harmless and value is not None:
                raise UnsupportedModel(
                    f"{self.where} says {shown(name)} = {shown(value)}, which is not known here: {WAY_OUT}"
                )

    def _wrong(self, names: Collection[str], what: str, value: object) -> CheckpointError:
        return CheckpointError(f"{self.where}: {' or '.join(names)} must be {what}, got {shown(value)}")


def refused(where: str, what: str) -> UnsupportedModel:
    """The error for a form that is not read."""
    return UnsupportedModel(f"{where} says {what}, which is not read: {WAY_OUT}")


def same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """True when two places say the same, as far as neither leaves it out."""
    return all(first[name] == second[name] for name in first.keys() & second.keys())
