"""The messages of `/mesh/knock/1`: a node asks another whether its addresses can be dialled from there (pure).

The other dials addresses of the IP from which it sees the asker and no others, so that nobody can be made to knock at
a third party's door.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from mesh.errors import ProtocolViolation
from mesh.wire.codec import Codec, ShortText, WireMessage
from mesh.wire.multiaddr import ip_of, is_relayed

KNOCK_PROTOCOL: Final = "/mesh/knock/1"
MAX_KNOCKS: Final = 8
HEADER_LIMIT: Final = 4096

Outcome = Literal["open", "other", "closed", "silent", "elsewhere"]
"""A libp2p node answers there; something else does; the connection is refused; nothing comes back; not dialled, since
it is not an address from which the asker was seen."""


class Knocked(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What came of one address."""

    maddr: ShortText
    outcome: Outcome


class Knock(WireMessage, frozen=True, tag="knock"):
    """Please dial these."""

    maddrs: Annotated[tuple[ShortText, ...], Meta(max_length=MAX_KNOCKS)]


class KnockAnswer(WireMessage, frozen=True, tag="knocked"):
    """What came of each, and the IP addresses from which the asker is seen (none where it came through a relay)."""

    seen: Annotated[tuple[ShortText, ...], Meta(max_length=MAX_KNOCKS)]
    knocked: Annotated[tuple[Knocked, ...], Meta(max_length=MAX_KNOCKS)]


_codec: Final = Codec[Knock | KnockAnswer](Knock | KnockAnswer, header_limit=HEADER_LIMIT)
encode: Final = _codec.encode
decode: Final = _codec.decode


def seen_from(connections: Iterable[str]) -> tuple[str, ...]:
    """The IP addresses at the other ends of connections, without those that go through a relay."""
    ips = (ip_of(maddr) for maddr in connections if not is_relayed(maddr))
    return tuple(dict.fromkeys(str(ip) for ip in ips if ip is not None))[:MAX_KNOCKS]


def tcp_of(maddr: str, seen: Sequence[str]) -> tuple[str, int] | None:
    """Where to dial an address by TCP; None unless it is of one of the IPs `seen`."""
    match maddr.split("/"):
        case ["", "ip4" | "ip6", _, "tcp", port, *_] if not is_relayed(maddr) and port.isascii() and port.isdecimal():
            ip = ip_of(maddr)
            if ip is not None and str(ip) in seen and 0 < int(port) < 1 << 16:
                return str(ip), int(port)
    return None


def check_answer(asked: Sequence[str], answer: KnockAnswer) -> KnockAnswer:
    """The answer, if it is one to this question. Raises `ProtocolViolation`."""
    if [each.maddr for each in answer.knocked] != list(asked):
        raise ProtocolViolation("it tells of other addresses than it was asked for")
    return answer
