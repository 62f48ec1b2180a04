"""State that can be taken back: tables and cells remember what they held, so a reverted call leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Journal:
    """The undo log shared by all state of one ledger. Calls nest: the inner one can fail while the outer goes on."""

    __slots__ = ("_depth", "_undo")

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._depth = 0

    def note(self, undo: Callable[[], None]) -> None:
        """Remembers how to take one write back, while a call is running."""
        if self._depth:
            self._undo.append(undo)

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Takes back every write of the block if the block raises."""
        mark = len(self._undo)
        self._depth += 1
        try:
            yield
        except BaseException:
            while len(self._undo) > mark:
                self._undo.pop()()
            raise
        finally:
            self._depth -= 1
            if not self._depth:
                self._undo.clear()


class Table(Generic[K, V]):
    """A mapping that, like Solidity's, holds the default under every key. Values are never mutated in place."""

    __slots__ = ("_data", "_default", "_journal")

    def __init__(self, journal: Journal, default: V) -> None:
        self._journal = journal
        self._default = default
        self._data: dict[K, V] = {}

    def __getitem__(self, key: K) -> V:
        return self._data.get(key, self._default)

    def __setitem__(self, key: K, value: V) -> None:
        data = self._data
        if key in data:
            previous = data[key]
            self._journal.note(lambda: data.__setitem__(key, previous))
        else:
            self._journal.note(lambda: data.__delitem__(key))
        data[key] = value

    def __contains__(self, key: K) -> bool:
        return key in self._data

    def __len__(self) -> int:
        return len(self._data)

    def items(self) -> Iterator[tuple[K, V]]:
        """Every key that was ever written."""
        return iter(tuple(self._data.items()))


class Cell(Generic[V]):
    """One value."""

    __slots__ = ("_journal", "_value")

    def __init__(self, journal: Journal, value: V) -> None:
        self._journal = journal
        self._value = value

    @property
    def value(self) -> V:
        return self._value

    @value.setter
    def value(self, value: V) -> None:
        previous = self._value

        def undo() -> None:
            self._value = previous

        self._journal.note(undo)
        self._value = value
