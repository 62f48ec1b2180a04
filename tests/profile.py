"""How much the tests try: a sample, or with `TESTS_PROFILE=long` everything (hours: before a release)."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TypeVar

LONG = os.environ.get("TESTS_PROFILE") == "long"

T = TypeVar("T")


def sample(cases: Sequence[T]) -> list[T]:
    """Half of many cases of one kind, always the same ones; all of them with the long profile."""
    return list(cases) if LONG else random.Random(len(cases)).sample(cases, (len(cases) + 1) // 2)
