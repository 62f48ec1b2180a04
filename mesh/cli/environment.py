"""What the `mesh` command takes from its environment, and what of it its child processes get.

Secrets are taken out of the environment before a command runs, so that no child inherits them by accident, and are
handed to a child by name where it needs them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

PASSWORD_VARIABLE: Final = "MESH_WALLET_PASSWORD"
API_KEY_VARIABLE: Final = "MESH_API_KEY"
SECRETS: Final = frozenset({PASSWORD_VARIABLE, API_KEY_VARIABLE})

_taken: dict[str, str] = {}
_asker: int | None = None


def take_secrets() -> None:
    """Move the wallet's password out of the environment; `environment` knows it from now on."""
    _taken.clear()
    password = os.environ.pop(PASSWORD_VARIABLE, None)
    if password is not None:
        _taken[PASSWORD_VARIABLE] = password


def environment() -> Mapping[str, str]:
    """The environment that the command was started with."""
    return {**os.environ, **_taken}


def for_children(secrets: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child that is this program too: without secrets, but for those given here."""
    kept = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return {**kept, **(secrets or {})}


def forked_for(asker: int) -> None:
    """This process was forked from a server: what started it, for all that matters, is the process `asker`."""
    global _asker
    _asker = asker


def started_by() -> int:
    """The id of the process that started this one."""
    return os.getppid() if _asker is None else _asker
