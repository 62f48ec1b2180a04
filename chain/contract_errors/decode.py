"""From the data of a revert, wherever a node puts it, to a typed error.

Nodes disagree about the place: geth and anvil give `error.data` as hex, others nest it (`{"data": {"data": "0x…"}}`,
`originalError`), some only write it into the message. Contracts nest too: `Error(string)` of a failed call may hold
another error's bytes, and our own events carry the revert data of an item that failed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

from chain.abi import Param, to_python
from chain.errors import ContractError, Panicked, RevertedWithReason, UnknownRevert
from chain.text import read_text

MAX_DEPTH = 8
MAX_DATA = 64 * 1024
_HEX_IN_TEXT = re.compile(r"0x([0-9a-fA-F]{8,})")
_NESTED_KEYS = ("data", "result", "originalError", "error", "cause", "output", "return")


@functools.cache
def by_selector() -> dict[bytes, type[ContractError]]:
    """Every error class by its selector."""
    import chain.contract_errors  # registers the classes  # noqa: F401

    return {cls.selector(): cls for cls in ContractError.known}


def decode_revert(data: bytes, depth: int = 0) -> ContractError:
    """The error that `data` encodes; `UnknownRevert` for what no contract of ours can have raised.

    The bytes of another error, which a contract in between put into its own `Error(string)`, are opened, at most
    `MAX_DEPTH` deep.
    Never raises on hostile data: what does not decode is unknown.
    """
    from eth_abi import abi
    from eth_abi.exceptions import DecodingError

    cls = by_selector().get(data[:4])
    if len(data) > MAX_DATA or cls is None:
        return UnknownRevert(data[:MAX_DATA])
    params = [Param(name, kind) for name, kind in cls.parameters]
    try:
        values = abi.decode([param.raw_type for param in params], data[4:])
    except (DecodingError, OverflowError):
        return UnknownRevert(data)
    if cls is not RevertedWithReason:
        return cls(*(to_python(param, value) for param, value in zip(params, values, strict=True)))
    reason = bytes(values[0])
    if depth < MAX_DEPTH and reason[:4] in by_selector():
        inner = decode_revert(reason, depth + 1)
        if not isinstance(inner, UnknownRevert):
            return inner
    return RevertedWithReason(read_text(reason))


def revert_data(error: object) -> bytes | None:
    """The revert data in a JSON-RPC error object, or None where it carries none (so it may not be a revert)."""
    return _find(error, 0)


def _find(value: object, depth: int) -> bytes | None:
    if depth > MAX_DEPTH:
        return None
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return _hex(value) if value.startswith("0x") else _in_text(value)
    if isinstance(value, Mapping):
        for key in _NESTED_KEYS:
            if key in value:
                found = _find(value[key], depth + 1)
                if found is not None:
                    return found
        message = value.get("message")
        if isinstance(message, str) and "revert" in message.lower():
            return _in_text(message)
        return None
    if isinstance(value, Sequence):
        for item in value[:MAX_DEPTH]:
            found = _find(item, depth + 1)
            if found is not None:
                return found
    return None


def _hex(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text[2 : 2 + 2 * MAX_DATA])
    except ValueError:
        return None


def _in_text(text: str) -> bytes | None:
    match = _HEX_IN_TEXT.search(text[: 2 * MAX_DATA])
    if match is None:
        return None
    digits = match.group(1)
    # A selector and whole words: anything else in a message is an address or a hash.
    return bytes.fromhex(digits) if len(digits) % 64 == 8 else None


def is_revert(code: int, message: str) -> bool:
    """True where a node's error without data still says that the call reverted."""
    return code == 3 or "revert" in message.lower()


__all__ = ["ContractError", "Panicked", "by_selector", "decode_revert", "is_revert", "revert_data"]
