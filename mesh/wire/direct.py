"""Messages that set up a direct connection: certificates over the control path, then a hello inside TLS (pure).

On a channel of `/mesh/direct/1`: the dialler sends `introduce`, the other answers `introduced` or `declined`.
Inside the TLS connection: the dialler sends `hello`, the other answers `accepted` or `declined`, the dialler sends
`start` and the channel begins. A dialler that tried several ways starts one; the others never reach a handler.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Final

from msgspec import Meta
from msgspec.structs import force_setattr

from mesh.wire.codec import Codec, ShortText, WireMessage
from mesh.wire.frame import FrameLimits

DIRECT_PROTOCOL: Final = "/mesh/direct/1"
HEADER_LIMIT: Final = 8192
MESSAGE_LIMITS: Final = FrameLimits(header=HEADER_LIMIT, payload=0)
"""What a frame of these messages may have."""
MAX_CERTIFICATE: Final = 4096
MAX_ADDRESSES: Final = 8
TOKEN_CHARS: Final = 33

Address = tuple[Annotated[str, Meta(max_length=45)], Annotated[int, Meta(ge=1, le=65535)]]
"""IP address (never a name, which we would have to look up for a stranger) and TCP port."""
Certificate = Annotated[bytes, Meta(min_length=1, max_length=MAX_CERTIFICATE)]


def _dialable(host: str) -> str:
    address = ipaddress.ip_address(host)
    if address.is_multicast or address.is_unspecified:
        raise ValueError(f"{host} cannot be dialled")
    return str(address)


class Introduce(WireMessage, frozen=True, tag="introduce"):
    """The certificate (DER) with which the sender will dial."""

    certificate: Certificate


class Introduced(WireMessage, frozen=True, tag="introduced"):
    """The certificate to expect, where to dial, the server name to ask for, and for how many seconds all that holds."""

    certificate: Certificate
    addresses: Annotated[tuple[Address, ...], Meta(max_length=MAX_ADDRESSES)]
    token: Annotated[str, Meta(pattern=f"^m[0-9a-f]{{{TOKEN_CHARS - 1}}}\\Z")]
    seconds: Annotated[float, Meta(ge=0, le=86_400)]

    def __post_init__(self) -> None:
        force_setattr(self, "addresses", tuple((_dialable(host), port) for host, port in self.addresses))


class Hello(WireMessage, frozen=True, tag="hello"):
    """The protocol that the new channel is for."""

    protocol: ShortText


class Accepted(WireMessage, frozen=True, tag="accepted"):
    """The channel may start."""


class Start(WireMessage, frozen=True, tag="start"):
    """From here on the bytes are the channel's."""


class Declined(WireMessage, frozen=True, tag="declined"):
    """There will be no channel, and why."""

    reason: ShortText


Message = Introduce | Introduced | Hello | Accepted | Start | Declined


_codec: Final = Codec[Message](Message, header_limit=HEADER_LIMIT)
encode = _codec.encode
decode = _codec.decode
