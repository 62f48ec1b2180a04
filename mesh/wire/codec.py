"""How a family of messages goes on the wire: a msgpack header of kind and fields, strictly read by a schema (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final, Generic, TypeVar

from mesh.errors import ProtocolViolation
from mesh.wire import fields as f
from mesh.wire.frame import Frame
from shards.shown import shown

Schema = Mapping[type[Any], Mapping[str, Callable[[str, Any], Any]]]
"""For each message class a reader per field; the class's `kind` names it on the wire."""

M = TypeVar("M")

ANY_SIZE: Final = 1 << 62
"""A payload as large as frames may have."""


class Codec(Generic[M]):
    """One family of messages. `payloads` says which of them may carry one, and of how many bytes at most."""

    def __init__(self, schema: Schema, *, header_limit: int, payloads: Mapping[type[Any], int] | None = None) -> None:
        self._schema = schema
        self._by_kind: dict[str, type[Any]] = {cls.kind: cls for cls in schema}
        self._header_limit = header_limit
        self._payloads = payloads or {}

    def encode(self, message: Any, payload: bytes | bytearray | memoryview = b"") -> Frame:
        """The frame that carries `message` and `payload`."""
        header: dict[str, Any] = {"t": message.kind}
        for field in fields(message):
            value = getattr(message, field.name)
            header[field.name] = f.plain(value) if isinstance(value, tuple) else value
        return Frame(f.pack(header), payload)

    def decode(self, frame: Frame) -> M:
        """The message in a frame's header. Raises `ProtocolViolation` on anything that the schema does not allow."""
        raw = f.unpack_map(frame.header, limit=self._header_limit)
        cls = self._by_kind.get(kind) if isinstance(kind := raw.pop("t", None), str) else None
        if cls is None:
            raise ProtocolViolation(f"unknown message kind {shown(kind)}")
        if len(frame.payload) > self._payloads.get(cls, 0):
            raise ProtocolViolation(f"{kind!r} message has a payload of {len(frame.payload)} bytes")
        readers = self._schema[cls]
        unknown = raw.keys() - readers.keys()
        if unknown:
            raise ProtocolViolation(f"{kind!r} message has unknown fields: {sorted(unknown)!r:.200}")
        message: M = cls(**{name: f.take(raw, name, read) for name, read in readers.items()})
        return message
