"""Operations for tests of the sandbox: well-behaved ones, and each way of breaking a limit."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from shards.errors import TokenizerError


def new_operations() -> Mapping[str, Callable[..., Any]]:
    """One set for a worker, with a memory of its own."""
    state: list[object] = []

    def remember(value: object) -> int:
        state.append(value)
        return len(state)

    return {
        "remember": remember,
        "echo": lambda value: value,
        "pid": os.getpid,
        "modules": lambda: sorted(name for name in ("torch", "transformers", "numpy") if name in sys.modules),
        "environment": lambda: sorted(os.environ),
        "spin": _spin,
        "sleep": time.sleep,
        "grow": lambda size: len(bytearray(size)),
        "answer": bytes,
        "refuse": _refuse,
        "crash": os.abort,
        "leave": os._exit,
        "fail": lambda: {}["nothing"],
        "no_answer": object,
        "garble": lambda: os.write(3, b"garbage" * 100),
        "file": lambda path: os.write(os.open(path, os.O_WRONLY | os.O_CREAT), bytes(100)),
        "handles": lambda: [os.open(os.devnull, os.O_RDONLY) for _ in range(1000)],
    }


def _spin() -> None:
    while True:
        pass


def _refuse(text: str) -> None:
    raise TokenizerError(text)
