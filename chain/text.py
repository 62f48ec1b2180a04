"""Text from strangers on the chain: a string there is any bytes. What cannot be shown is marked, and fails nothing.

Names and ids that hold invisible characters count as unreadable too: they could pass for other names, turn the line
around in which they are printed, or command a terminal. Pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from chain import safe_json

SHOWN_BYTES = 12
LINES = frozenset("\t\n\r")
"""What text of several lines (metadata) may hold beyond what can be printed."""


class Unreadable(str):
    """Stands for bytes that are no text, or that hold characters which cannot be shown; `raw` are the bytes.

    As a `str` it is only a safe description: it is nobody's id or name, and `check_id` refuses it.
    """

    raw: bytes

    def __new__(cls, raw: bytes) -> Unreadable:
        cut = "…" if len(raw) > SHOWN_BYTES else ""
        made = super().__new__(cls, f"<unreadable: 0x{raw[:SHOWN_BYTES].hex()}{cut}, {len(raw)} bytes>")
        made.raw = raw
        return made

    def __reduce__(self) -> tuple[type[Unreadable], tuple[bytes]]:
        return type(self), (self.raw,)


def read_text(raw: bytes, *, lines: bool = False) -> str:
    """The text in `raw`, or an `Unreadable`. With `lines`, tabs and line ends are text. Never raises."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return Unreadable(raw)
    return text if is_plain(text, lines=lines) else Unreadable(raw)


def is_plain(text: str, *, lines: bool = False) -> bool:
    """True where every character can be shown as itself: no controls, no invisible or reordering characters."""
    return text.isprintable() or (lines and all(each.isprintable() or each in LINES for each in text))


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a party's metadata says, as far as it can be read."""

    url: str | None = None
    name: str | None = None


def read_metadata(text: str) -> Metadata:
    """`url` and `name` of a party's metadata; None for what is not there, or no text that can be shown. Never raises.

    Metadata is JSON with a `url`, perhaps a `name`; a bare address counts as the url.
    """
    if isinstance(text, Unreadable):
        return Metadata()
    value = _parsed(text)
    if isinstance(value, dict):
        return Metadata(_plain(value.get("url")), _plain(value.get("name")))
    return Metadata(url=text.strip()) if _is_address(text) else Metadata()


def is_metadata(text: str) -> bool:
    """True for metadata that we write: nothing, a bare address, or a JSON object whose `url` and `name` are text."""
    if not text or _is_address(text):
        return True
    value = _parsed(text)
    return isinstance(value, dict) and all(
        isinstance(value[name], str) and value[name].strip() and is_plain(value[name])
        for name in ("url", "name")
        if name in value
    )


def metadata_hint(text: str) -> str | None:
    """What to tell a party about metadata that is allowed, but by which its peers do not find it; None if they do."""
    found = read_metadata(text)
    if found.url is None:
        return 'peers cannot find a node without a url: give metadata like {"url": "https://…"}'
    if _is_address(text):
        written = json.dumps({"url": found.url}, separators=(",", ":"))
        return f"metadata is JSON, peers may not find a node by a bare address: give {written}"
    return None


def _parsed(text: str) -> object:
    try:
        return safe_json.parse(text.encode())
    except ValueError:  # UnicodeEncodeError too
        return None


def _plain(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() and is_plain(value) else None


def _is_address(text: str) -> bool:
    scheme, colon, rest = text.strip().partition(":")
    return (
        bool(colon and rest and scheme.isalnum() and scheme.isascii())
        and text.strip().isprintable()
        and (" " not in text.strip())
    )
