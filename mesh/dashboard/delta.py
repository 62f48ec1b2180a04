"""The difference between two snapshots, as the page is told it, and how it is put together again (pure).

A snapshot on the wire is `{table: {key: row}}`, a row `{column: value}`. A delta has, for each table that changed, what
is new of its rows (`set`: of a row that was there only the columns that differ) and which are gone:

    {"providers": {"set": {"12D3…/ab": {"queue": 3}}, "gone": ["12D3…/cd"]}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, TypedDict

import msgspec

from mesh.dashboard.snapshot import Row, Snapshot

TABLES: Final = ("about", "models", "providers", "pairs", "requests")
SELF: Final = "self"
"""The key of the only row of `about`."""

Tables = Mapping[str, Mapping[str, Row]]


class Changes(TypedDict, total=False):
    """Of one table."""

    set: dict[str, Row]
    gone: list[str]


Delta = Mapping[str, Changes]


def tables(state: Snapshot) -> dict[str, Mapping[str, Any]]:
    """The rows of a snapshot by table and key, as dataclasses."""
    return {
        "about": {SELF: state.about},
        "models": state.models,
        "providers": state.providers,
        "pairs": state.pairs,
        "requests": state.requests,
    }


def plain(state: Snapshot) -> dict[str, dict[str, Row]]:
    """The same as plain values, as the page gets it first."""
    return {name: {key: _columns(row) for key, row in rows.items()} for name, rows in tables(state).items()}


def delta(old: Snapshot, new: Snapshot) -> dict[str, Changes]:
    """What makes `new` of `old`; empty where they are equal."""
    before, changed = tables(old), {}
    for name, rows in tables(new).items():
        known = before[name]
        changes: Changes = {}
        news = {key: _difference(known.get(key), row) for key, row in rows.items() if known.get(key) != row}
        gone = [key for key in known if key not in rows]
        if news:
            changes["set"] = news
        if gone:
            changes["gone"] = gone
        if changes:
            changed[name] = changes
    return changed


def apply(state: Tables, changes: Delta) -> dict[str, dict[str, Row]]:
    """What the page does with a delta: the tables after it."""
    after = {name: dict(state.get(name, {})) for name in TABLES}
    for name, change in changes.items():
        for key in change.get("gone", ()):
            after[name].pop(key, None)
        for key, columns in change.get("set", {}).items():
            after[name][key] = {**after[name].get(key, {}), **columns}
    return after


def encode(value: object) -> bytes:
    """Compact JSON."""
    return msgspec.json.encode(value)


def _columns(row: Any) -> Row:
    return {column.name: getattr(row, column.name) for column in fields(row)}


def _difference(old: Any, new: Any) -> Row:
    columns = _columns(new)
    if old is None:
        return columns
    return {name: value for name, value in columns.items() if getattr(old, name) != value}
