"""A frame: a bounded msgpack header and raw payload bytes behind a fixed prefix (pure).

    prefix = magic "IM" | version u8 | reserved u8 (0) | header length u32 | payload length u32

The prefix has 12 bytes, big-endian.

Lengths are checked against `FrameLimits` as soon as the prefix has arrived, before anything is allocated.
A prefix with reserved = 1 and both lengths 0 (`GOODBYE`) ends a channel: without it, a peer whose process was
killed could not be told from one that closed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mesh.errors import FrameTooLarge, ProtocolViolation

MAGIC = b"IM"
VERSION = 1
PREFIX = struct.Struct(">2sBBII")
GOODBYE = PREFIX.pack(MAGIC, VERSION, 1, 0, 0)


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """Most bytes of header and of payload that a frame may have."""

    header: int = 256 * 1024
    payload: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """Header bytes (msgpack, read by `mesh.wire.messages`) and raw payload bytes."""

    header: bytes
    payload: bytes | bytearray | memoryview = b""


def encode_prefix(frame: Frame, limits: FrameLimits) -> bytes:
    """The 12 bytes before the frame. Raises `FrameTooLarge` rather than send what the peer must refuse."""
    _check(len(frame.header), len(frame.payload), limits)
    return PREFIX.pack(MAGIC, VERSION, 0, len(frame.header), len(frame.payload))


def decode_prefix(prefix: bytes, limits: FrameLimits) -> tuple[int, int]:
    """Header and payload length. Raises `ProtocolViolation` or `FrameTooLarge`."""
    magic, version, reserved, header, payload = PREFIX.unpack(prefix)
    if magic != MAGIC or reserved != 0:
        raise ProtocolViolation(f"not a mesh frame: it starts with {prefix[:4]!r}")
    if version != VERSION:
        raise ProtocolViolation(f"frame version {version} is not supported (this node speaks {VERSION})")
    _check(header, payload, limits)
    return header, payload


def _check(header: int, payload: int, limits: FrameLimits) -> None:
    if header > limits.header:
        raise FrameTooLarge(f"frame header of {header} bytes is over the limit of {limits.header}")
    if payload > limits.payload:
        raise FrameTooLarge(f"frame payload of {payload} bytes is over the limit of {limits.payload}")
