"""Multiaddrs as text and as bytes, for the address kinds that nodes have (pure).

hivemind's own `Multiaddr` misreads whatever comes before `/p2p-circuit`, so relayed addresses need this one.
The format and the code numbers are those of https://github.com/multiformats/multiaddr.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from mesh.identity import peer_id_of, public_key_of

MAX_BYTES: Final = 512
CIRCUIT: Final = "p2p-circuit"
_VARINT_BYTES: Final = 9
_IDENTITY: Final = bytes.fromhex("0024080112 20")
"""What comes before the key in the bytes of an Ed25519 peer id: identity multihash of 36 bytes, protobuf."""


class _Kind(NamedTuple):
    name: str
    size: int
    """Bytes of its value; -1: a varint says it, 0: it has none."""
    read: Callable[[bytes], str]
    write: Callable[[str], bytes]


def peer_to_bytes(peer: str) -> bytes:
    """The multihash of an Ed25519 peer id. Raises `ValueError`."""
    return _IDENTITY + public_key_of(peer)


def peer_from_bytes(data: bytes) -> str:
    """The peer id of a multihash. Raises `ValueError` unless it is one of an Ed25519 key."""
    if not data.startswith(_IDENTITY):
        raise ValueError("not the multihash of an Ed25519 peer id")
    return peer_id_of(data[len(_IDENTITY) :])


def _read_name(data: bytes) -> str:
    name = data.decode("ascii")
    if not name or not all(character.isalnum() or character in "-._" for character in name):
        raise ValueError(f"not a host name: {name[:80]!r}")
    return name


def _write_name(text: str) -> bytes:
    return _read_name(text.encode("ascii")).encode()


def _read_port(data: bytes) -> str:
    return str(int.from_bytes(data, "big"))


def _write_port(text: str) -> bytes:
    if not (text.isascii() and text.isdecimal() and int(text) < 1 << 16):
        raise ValueError(f"not a port: {text[:80]!r}")
    return int(text).to_bytes(2, "big")


def _nothing(value: bytes | str) -> str:
    return ""


_KINDS: Final = {
    4: _Kind("ip4", 4, lambda data: str(ipaddress.IPv4Address(data)), lambda text: ipaddress.IPv4Address(text).packed),
    6: _Kind("tcp", 2, _read_port, _write_port),
    41: _Kind(
        "ip6", 16, lambda data: str(ipaddress.IPv6Address(data)), lambda text: ipaddress.IPv6Address(text).packed
    ),
    53: _Kind("dns", -1, _read_name, _write_name),
    54: _Kind("dns4", -1, _read_name, _write_name),
    55: _Kind("dns6", -1, _read_name, _write_name),
    273: _Kind("udp", 2, _read_port, _write_port),
    290: _Kind(CIRCUIT, 0, _nothing, lambda text: b""),
    421: _Kind("p2p", -1, peer_from_bytes, peer_to_bytes),
    460: _Kind("quic", 0, _nothing, lambda text: b""),
    461: _Kind("quic-v1", 0, _nothing, lambda text: b""),
    477: _Kind("ws", 0, _nothing, lambda text: b""),
}
_CODES: Final = {kind.name: code for code, kind in _KINDS.items()}


def decode(data: bytes) -> str:
    """The text of a binary multiaddr. Raises `ValueError` for what is malformed or of a kind that nodes do not have."""
    if not 0 < len(data) <= MAX_BYTES:
        raise ValueError(f"a multiaddr of {len(data)} bytes")
    parts = []
    at = 0
    while at < len(data):
        code, at = varint(data, at)
        kind = _KINDS.get(code)
        if kind is None:
            raise ValueError(f"an address of unknown kind {code}")
        size = kind.size
        if size < 0:
            size, at = varint(data, at)
        if size > len(data) - at:
            raise ValueError("a multiaddr that ends early")
        value = kind.read(data[at : at + size])
        at += size
        parts.append(f"/{kind.name}/{value}" if kind.size else f"/{kind.name}")
    return "".join(parts)


def encode(text: str) -> bytes:
    """The bytes of a multiaddr. Raises `ValueError`."""
    words = text.split("/")
    if words[0] or len(words) < 2:
        raise ValueError(f"an address begins with a slash, got {text[:80]!r}")
    out = bytearray()
    rest = iter(words[1:])
    for name in rest:
        code = _CODES.get(name)
        if code is None:
            raise ValueError(f"an address of unknown kind {name[:80]!r}")
        kind = _KINDS[code]
        out += to_varint(code)
        if kind.size:
            value = next(rest, None)
            if value is None:
                raise ValueError(f"{text[:80]!r} ends early")
            packed = kind.write(value)
            out += to_varint(len(packed)) * (kind.size < 0) + packed
    if len(out) > MAX_BYTES:
        raise ValueError(f"a multiaddr of {len(out)} bytes")
    return bytes(out)


def is_relayed(maddr: str) -> bool:
    """True for an address that leads through a relay."""
    return CIRCUIT in maddr.split("/")


def relay_of(maddr: str) -> str | None:
    """The peer id of the relay that an address leads through."""
    before, circuit, _ = maddr.partition(f"/{CIRCUIT}")
    _, found, peer = before.rpartition("/p2p/")
    return peer if circuit and found and "/" not in peer else None


def ip_of(maddr: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a multiaddr begins with."""
    match maddr.split("/"):
        case ["", "ip4" | "ip6", host, *_]:
            try:
                return ipaddress.ip_address(host)
            except ValueError:
                return None
    return None


def on_one_machine(ours: Iterable[str], theirs: Iterable[str]) -> bool:
    """Whether two nodes seem to have an IP address in common; loopback counts only where one of them has no other."""
    own, other = ({ip_of(maddr) for maddr in maddrs if not is_relayed(maddr)} - {None} for maddrs in (ours, theirs))
    wide, wider = ({ip for ip in found if ip is not None and not ip.is_loopback} for found in (own, other))
    return bool(wide & wider) if wide and wider else bool(own & other)


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned LEB128 number at `at`, and where it ends. Raises `ValueError`."""
    value = 0
    for index, byte in enumerate(data[at : at + _VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("a number that does not end")


def to_varint(value: int) -> bytes:
    """An unsigned number in LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
