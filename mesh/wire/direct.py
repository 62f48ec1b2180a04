"""Messages that set up a direct connection: certificates over the control path, then a hello inside TLS (pure).

On a channel of `/mesh/direct/1`: the dialler sends `introduce`, the other answers `introduced` or `declined`.
Inside the TLS connection: the dialler sends `hello`, the other answers `accepted` or `declined`, the dialler sends
`start` and the channel begins. A dialler that tried several ways starts one; the others never reach a handler.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from mesh.errors import ProtocolViolation
from mesh.wire import fields as f
from mesh.wire.codec import Codec, Schema
from mesh.wire.frame import FrameLimits

DIRECT_PROTOCOL: Final = "/mesh/direct/1"
HEADER_LIMIT: Final = 8192
MESSAGE_LIMITS: Final = FrameLimits(header=HEADER_LIMIT, payload=0)
"""What a frame of these messages may have."""
MAX_CERTIFICATE: Final = 4096
MAX_ADDRESSES: Final = 8
TOKEN_CHARS: Final = 33

Address = tuple[str, int]
"""IP address (never a name, which we would have to look up for a stranger) and TCP port."""


@dataclass(frozen=True, slots=True)
class Introduce:
    """The certificate (DER) with which the sender will dial."""

    kind: ClassVar[str] = "introduce"
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Introduced:
    """The certificate to expect, where to dial, the server name to ask for, and for how many seconds all that holds."""

    kind: ClassVar[str] = "introduced"
    certificate: bytes
    addresses: tuple[Address, ...]
    token: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Hello:
    """The protocol that the new channel is for."""

    kind: ClassVar[str] = "hello"
    protocol: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The channel may start."""

    kind: ClassVar[str] = "accepted"


@dataclass(frozen=True, slots=True)
class Start:
    """From here on the bytes are the channel's."""

    kind: ClassVar[str] = "start"


@dataclass(frozen=True, slots=True)
class Declined:
    """There will be no channel, and why."""

    kind: ClassVar[str] = "declined"
    reason: str


Message = Introduce | Introduced | Hello | Accepted | Start | Declined


def _certificate(name: str, value: Any) -> bytes:
    if not isinstance(value, bytes) or not 0 < len(value) <= MAX_CERTIFICATE:
        raise ProtocolViolation(f"field {name!r} must be 1 to {MAX_CERTIFICATE} bytes")
    return value


def _address(name: str, value: Any) -> Address:
    host, port = f.record(f.text(45), f.integer(1, 65535))(name, value)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ProtocolViolation(f"field {name!r} must hold IP addresses, got {host!r:.60}") from None
    if address.is_multicast or address.is_unspecified:
        raise ProtocolViolation(f"field {name!r} must hold addresses that can be dialled, got {host}")
    return str(address), port


def _token(name: str, value: Any) -> str:
    token = f.text(TOKEN_CHARS)(name, value)
    if len(token) != TOKEN_CHARS or token[0] != "m" or not set(token[1:]) <= set("0123456789abcdef"):
        raise ProtocolViolation(f"field {name!r} must be a token: m and {TOKEN_CHARS - 1} hexadecimal digits")
    return token


_SCHEMA: Final[Schema] = {
    Introduce: {"certificate": _certificate},
    Introduced: {
        "certificate": _certificate,
        "addresses": f.items(_address, MAX_ADDRESSES),
        "token": _token,
        "seconds": f.number(0, 86_400),
    },
    Hello: {"protocol": f.text(200)},
    Accepted: {},
    Start: {},
    Declined: {"reason": f.text(200)},
}
_codec: Final = Codec[Message](_SCHEMA, header_limit=HEADER_LIMIT)
encode = _codec.encode
decode = _codec.decode
