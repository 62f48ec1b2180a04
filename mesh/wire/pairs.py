"""The message of `/mesh/pairs/1`: which way a node reaches each peer that it has channels with (pure).

Whoever opens the channel is answered with one frame; nothing is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from mesh.wire.codec import Codec, PeerText, ShortText, WireMessage
from mesh.wire.frame import Frame

PAIRS_PROTOCOL: Final = "/mesh/pairs/1"
MAX_PAIRS: Final = 256
HEADER_LIMIT: Final = 128 * 1024

Way = Literal["direct", "daemon", "punched", "relayed"]
"""TLS between the two; a libp2p connection of their daemons; the same between two NATs; the same through a relay."""


Seconds = Annotated[float, Meta(ge=0, le=3600)]


class PairState(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One peer, the way that new channels take to it, how many are open, and round trips in seconds (None: unknown)."""

    peer: PeerText
    way: Way
    channels: Annotated[int, Meta(ge=0, le=1 << 20)]
    direct_round_trip: Seconds | None
    daemon_round_trip: Seconds | None
    problem: ShortText | None
    """Why it is not direct."""
    relay: PeerText | None = None
    """The relay's peer id, where it is relayed and known."""


class _PairsMessage(WireMessage, frozen=True, tag="pairs"):
    pairs: Annotated[tuple[PairState, ...], Meta(max_length=MAX_PAIRS)]


_codec: Final = Codec[_PairsMessage](_PairsMessage, header_limit=HEADER_LIMIT)


def encode(pairs: Sequence[PairState]) -> Frame:
    """The frame of the first `MAX_PAIRS` pairs."""
    return _codec.encode(_PairsMessage(tuple(pairs[:MAX_PAIRS])))


def decode(frame: Frame) -> tuple[PairState, ...]:
    """The pairs in a frame. Raises `ProtocolViolation`."""
    return _codec.decode(frame).pairs
