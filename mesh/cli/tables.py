"""Tables for people: routes, and what a swarm serves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table


def short(peer: str) -> str:
    """A peer id short enough for a table: its last eight characters tell peers apart."""
    return f"…{peer[-8:]}"


def route_table(hops: Iterable[tuple[str, str, int, float]]) -> Table:
    """A route, hop by hop: peer, blocks, tokens computed, tokens/s."""
    table = Table("hop", "peer", "blocks", "tokens", "tokens/s", title="route", title_justify="left")
    for number, (peer, blocks, tokens, rate) in enumerate(hops, start=1):
        table.add_row(str(number), short(peer), blocks, str(tokens), f"{rate:,.0f}")
    return table


def swarm_table(model: dict[str, Any]) -> Table:
    """One model of `mesh status --json` and its providers."""
    state = "complete" if model["complete"] else f"GAPS at blocks {', '.join(model['gaps'])}"
    title = f"{model['name']} · {model['n_blocks']} blocks · {state}"
    table = Table(
        "peer",
        "blocks",
        "state",
        "tokens/s",
        "sessions",
        "dtype",
        "profile",
        "version",
        title=title,
        title_justify="left",
    )
    for provider in model["providers"]:
        table.add_row(
            short(provider["peer"]),
            provider["blocks"],
            provider["state"],
            f"{provider['tokens_per_second']:,.0f}",
            str(provider["sessions"]),
            provider["numerics"],
            provider.get("profile", "")[:8],
            provider["version"],
        )
    return table


def pairs_table(pairs: Iterable[dict[str, Any]]) -> Table:
    """Which way providers reach each other; every pair once, as the side that dialled sees it."""
    rows: dict[frozenset[str], dict[str, Any]] = {}
    for pair in pairs:
        key = frozenset((pair["from"], pair["peer"]))
        if key not in rows or pair["direct_round_trip"] is not None:
            rows[key] = pair
    table = Table("peer", "peer", "way", "round trip", title="paths", title_justify="left")
    for pair in rows.values():
        seconds = pair["direct_round_trip" if pair["way"] == "direct" else "daemon_round_trip"]
        table.add_row(
            short(pair["from"]),
            short(pair["peer"]),
            _way(pair),
            "" if seconds is None else f"{seconds * 1000:.1f} ms",
        )
    return table


def _way(pair: dict[str, Any]) -> str:
    """In words; why it is not direct is only news where neither end is known to be behind a NAT."""
    match pair["way"]:
        case "relayed":
            return f"relayed by {short(pair['relay'])}" if pair["relay"] else "relayed"
        case "punched":
            return "hole-punched"
        case "daemon" if pair["problem"]:
            return f"daemon ({pair['problem']})"
        case way:
            return str(way)


def block_line(model: dict[str, Any]) -> str:
    """Replicas and tokens/s per block, as `0:4 ×2 1,234 tokens/s`, runs of equal blocks joined."""
    parts: list[str] = []
    blocks: Sequence[dict[str, Any]] = model["blocks"]
    start = 0
    for index in range(1, len(blocks) + 1):
        if index == len(blocks) or blocks[index] != blocks[start]:
            block = blocks[start]
            parts.append(f"{start}:{index} ×{block['replicas']} {block['tokens_per_second']:,.0f} tokens/s")
            start = index
    return " · ".join(parts)
