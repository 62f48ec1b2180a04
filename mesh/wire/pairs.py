"""The message of `/mesh/pairs/1`: which way a node reaches each peer that it has channels with (pure).

Whoever opens the channel is answered with one frame; nothing is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

from mesh.errors import ProtocolViolation
from mesh.wire import fields as f
from mesh.wire.frame import Frame

PAIRS_PROTOCOL: Final = "/mesh/pairs/1"
MAX_PAIRS: Final = 256
HEADER_LIMIT: Final = 128 * 1024

Way = Literal["direct", "daemon", "punched", "relayed"]
"""TLS between the two; a libp2p connection of their daemons; the same between two NATs; the same through a relay."""


@dataclass(frozen=True, slots=True)
class PairState:
    """One peer, the way that new channels take to it, how many are open, and round trips in seconds (None: unknown)."""

    peer: str
    way: Way
    channels: int
    direct_round_trip: float | None
    daemon_round_trip: float | None
    problem: str | None
    """Why it is not direct."""
    relay: str | None = None
    """The relay's peer id, where it is relayed and known."""


_seconds = f.optional(f.number(0, 3600))
_read = f.items(
    f.record(
        f.peer_id,
        f.choice("direct", "daemon", "punched", "relayed"),
        f.integer(0, 1 << 20),
        _seconds,
        _seconds,
        f.optional(f.text(200)),
        f.optional(f.peer_id),
    ),
    MAX_PAIRS,
)


def encode(pairs: Sequence[PairState]) -> Frame:
    """The frame of the first `MAX_PAIRS` pairs."""
    rows = [
        [p.peer, p.way, p.channels, p.direct_round_trip, p.daemon_round_trip, p.problem, p.relay]
        for p in pairs[:MAX_PAIRS]
    ]
    return Frame(f.pack({"t": "pairs", "pairs": rows}))


def decode(frame: Frame) -> tuple[PairState, ...]:
    """The pairs in a frame. Raises `ProtocolViolation`."""
    raw = f.unpack_map(frame.header, limit=HEADER_LIMIT)
    if raw.keys() != {"t", "pairs"} or raw["t"] != "pairs" or len(frame.payload):
        raise ProtocolViolation("not a message of pairs")
    return tuple(
        PairState(peer, cast(Way, way), channels, direct, daemon, problem, relay)
        for peer, way, channels, direct, daemon, problem, relay in f.take(raw, "pairs", _read)
    )
