"""The half-open span `[start, end)` of blocks: the unit in which a model is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Blocks `start, …, end - 1`; never empty. Raises `ValueError` on an empty or negative span."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"a span needs 0 <= start < end, got {self.start}:{self.end}")

    def __len__(self) -> int:
        return self.end - self.start

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.end))

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"

    def covers(self, other: Span) -> bool:
        """True when every block of `other` is in this span."""
        return self.start <= other.start and other.end <= self.end

    def overlaps(self, other: Span) -> bool:
        """True when the two spans share a block."""
        return self.start < other.end and other.start < self.end

    @classmethod
    def parse(cls, text: str) -> Span:
        """Read `a:b`. Raises `ValueError` with a sentence that says what was expected."""
        start, colon, end = text.partition(":")
        if not colon or not start.strip().isdecimal() or not end.strip().isdecimal():
            raise ValueError(f"blocks are written as start:end (for example 0:4), got {text!r}")
        return cls(int(start), int(end))
