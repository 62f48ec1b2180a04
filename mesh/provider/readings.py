"""A provider's figures at one moment, and how they are read from outside while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mesh.discovery.records import ProviderRecord


@dataclass(frozen=True, slots=True)
class Reading:
    """A provider at one moment. The counts begin anew when it moves to other blocks."""

    record: ProviderRecord
    tokens: int
    """Tokens that its engine has run, of prompts and of answers."""
    busy_seconds: float
    """Seconds that its engine has computed."""


class Meter:
    """Through this a provider's figures are read while it runs; `read` is None before it has joined."""

    def __init__(self) -> None:
        self.read: Callable[[], Reading] | None = None
