"""The messages of libp2p's circuit relay v2 (pure).

Schema and numbers are those of https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md: protobuf messages
behind their length. What a peer sends may hold fields that we do not know; they are skipped, as protobuf asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, cast

from mesh.errors import ProtocolViolation
from mesh.wire.multiaddr import encode, peer_from_bytes, peer_to_bytes, to_varint, varint

HOP_PROTOCOL: Final = "/libp2p/circuit/relay/0.2.0/hop"
"""Spoken to a relay: reserve a place, or connect to somebody who has one."""
STOP_PROTOCOL: Final = "/libp2p/circuit/relay/0.2.0/stop"
"""Spoken by a relay: somebody wants to reach you."""
MAX_MESSAGE: Final = 4096


class Status(IntEnum):
    """How a request went."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True, slots=True)
class Reserve:
    """Asks a relay for a place under which others reach the sender."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Asks a relay for a circuit to `peer`."""

    peer: str


@dataclass(frozen=True, slots=True)
class Limit:
    """What a circuit may carry: seconds, and bytes each way."""

    seconds: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a relay answers to a reservation."""

    status: int
    expires: int
    """Unix seconds; 0 where none was given."""
    limit: Limit
    """Zeros mean: none."""


Hop = Reserve | Connect
RESERVE: Final = bytes((2, 8, 0))
"""The request for a place, with its length before it."""

_VARINT, _BYTES = 0, 2
_RESERVE, _CONNECT, _STATUS = 0, 1, 2
_STOP_CONNECT, _STOP_STATUS = 0, 1


def read_hop(data: bytes) -> Hop:
    """What a peer asks a relay for. Raises `ProtocolViolation`."""
    found = _message(data)
    match found.get(1):
        case int(kind) if kind == _RESERVE:
            return Reserve()
        case int(kind) if kind == _CONNECT:
            target = found.get(2)
            peer = _message(target).get(1) if isinstance(target, bytes) else None
            if not isinstance(peer, bytes):
                raise ProtocolViolation("a circuit to nobody")
            try:
                return Connect(peer_from_bytes(peer))
            except ValueError as error:
                raise ProtocolViolation(f"a circuit to {error}") from None
        case _:
            raise ProtocolViolation("neither a reservation nor a connection is asked for")


def read_answer(data: bytes) -> Answer:
    """A relay's answer. Raises `ProtocolViolation`."""
    found = _message(data)
    status, place, limit = found.get(5), _part_of(found, 3), _part_of(found, 4)
    expires, seconds, size = place.get(1), limit.get(1), limit.get(2, 0)
    numbers = (status, expires, seconds, size)
    if found.get(1) != _STATUS or not all(isinstance(number, int) and number < 1 << 63 for number in numbers):
        raise ProtocolViolation("not the answer of a relay")
    return Answer(cast(int, status), cast(int, expires), Limit(cast(int, seconds), cast(int, size)))


def read_stop_status(data: bytes) -> int:
    """What the target of a circuit answers. Raises `ProtocolViolation`."""
    found = _message(data)
    status = found.get(4)
    if found.get(1) != _STOP_STATUS or not isinstance(status, int):
        raise ProtocolViolation("not the answer to a circuit")
    return status


def hop_connect(peer: str) -> bytes:
    """The request for a circuit to `peer`, with its length before it."""
    return _framed(_number(1, _CONNECT) + _part(2, _part(1, peer_to_bytes(peer))))


def hop_status(status: Status, limit: Limit | None = None) -> bytes:
    """A relay's answer, with its length before it."""
    return _framed(_number(1, _STATUS) + _limit(4, limit) + _number(5, status))


def reservation(expires: int, maddrs: Sequence[str], limit: Limit) -> bytes:
    """A relay's answer to one who got a place until `expires` (Unix seconds), under the relay's own `maddrs`."""
    place = _number(1, expires) + b"".join(_part(2, encode(maddr)) for maddr in maddrs)
    return _framed(_number(1, _STATUS) + _part(3, place) + _limit(4, limit) + _number(5, Status.OK))


def stop_connect(peer: str, limit: Limit) -> bytes:
    """A relay's question to the target: `peer` wants to reach you."""
    return _framed(_number(1, _STOP_CONNECT) + _part(2, _part(1, peer_to_bytes(peer))) + _limit(3, limit))


def _framed(message: bytes) -> bytes:
    return to_varint(len(message)) + message


def _number(field: int, value: int) -> bytes:
    return to_varint(field << 3 | _VARINT) + to_varint(value)


def _part(field: int, data: bytes) -> bytes:
    return to_varint(field << 3 | _BYTES) + to_varint(len(data)) + data


def _limit(field: int, limit: Limit | None) -> bytes:
    return b"" if limit is None else _part(field, _number(1, limit.seconds) + _number(2, limit.bytes))


def _part_of(message: dict[int, int | bytes], field: int) -> dict[int, int | bytes]:
    part = message.get(field, b"")
    return _message(part) if isinstance(part, bytes) else {}


def _message(data: bytes) -> dict[int, int | bytes]:
    """A protobuf message's fields by number, the last of each; a field 1 of zero may have been left away."""
    if len(data) > MAX_MESSAGE:
        raise ProtocolViolation(f"a message of {len(data)} bytes")
    try:
        return {1: 0} | dict(_fields(data))
    except ValueError as error:
        raise ProtocolViolation(f"not a protobuf message: {error}") from None


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        field, kind = tag >> 3, tag & 7
        size = {1: 8, 5: 4}.get(kind)
        if kind == _VARINT:
            value, at = varint(data, at)
            yield field, value
            continue
        if kind == _BYTES:
            size, at = varint(data, at)
        if size is None or size > len(data) - at:
            raise ValueError("a field of an unknown kind or size")
        if kind == _BYTES:
            yield field, data[at : at + size]
        at += size
