"""Mutations of valid inputs: of plain bytes, of msgpack trees and of JSON trees, all from one seeded generator.

A tree mutation changes what a value means and leaves the format in order, so that it reaches the checks behind the
parser; a byte mutation breaks the format itself. What no encoder would write (a key twice, wide integers, NaN, half a
surrogate pair, nesting without end) is written by the small encoders here.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgpack

MOST_BYTES = 300_000
"""No mutation makes an input longer than this, or than the sample it came from."""


class Pairs(list[tuple[Any, Any]]):
    """A map that was changed: it may name a key twice."""


class Items(list[Any]):
    """A list that was changed. Plain lists and maps hold nothing that a library could not encode."""


class Raw(bytes):
    """Bytes that are already encoded."""


INTEGERS = (
    -1, 0, 1, 2, 127, 128, 255, 256, 65535, 65536, (1 << 24) - 1, 1 << 24, (1 << 31) - 1, 1 << 31,
    (1 << 32) - 1, 1 << 32, (1 << 53) - 1, (1 << 53) + 1, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
    -(1 << 31), -(1 << 63),
)  # fmt: skip
FLOATS = (math.nan, math.inf, -math.inf, -0.0, 0.5, 1e-320, 1e308, -1e308, 1e30, 4e9)
TEXTS = (
    "", "\0", "a" * 5000, "é" * 81, "\u202e12D3KooW", "𝔭" * 70, "..", "../../etc/passwd", "a/b", "\r\n", "%s%n{0}",
    "nan", "1e400", "0x" + "f" * 64, "١٢٣", "²", "\ufeff", "a\u0301", "float32 ", "OPEN",
)  # fmt: skip
LENGTHS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0xFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


# --- plain bytes ---


def mutate_bytes(data: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """One to four changes of the bytes themselves."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        data = rng.choice(_BYTE_MUTATIONS)(data, rng, others)
    return data[: max(MOST_BYTES, len(data))]


def _flip(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    if not data:
        return b"\0"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _set(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    if not data:
        return b"\xff"
    at = rng.randrange(len(data))
    return data[:at] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xC1, 0xFE, 0xFF, rng.randrange(256)))]) + data[at + 1 :]


def _truncate(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _extend(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    return data + rng.randbytes(rng.choice((1, 2, 8, 64, 1000)))


def _delete(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    start, end = _range(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    start, end = _range(data, rng)
    times = rng.choice((2, 3, 100))
    return data[:start] + data[start:end] * min(times, 1 + MOST_BYTES // max(1, len(data))) + data[end:]


def _move(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    start, end = _range(data, rng)
    rest = data[:start] + data[end:]
    at = rng.randrange(len(rest) + 1)
    return rest[:at] + data[start:end] + rest[at:]


def _splice(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others) if others else data[::-1]
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _length_field(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice(LENGTHS) & ((1 << 8 * size) - 1)
    if size == 8 and rng.random() < 0.5:
        value = rng.choice(((1 << 64) - 1, 1 << 63, (1 << 62) + 7))
    at = rng.randrange(max(1, len(data) - size + 1)) if rng.random() < 0.7 else 0
    return data[:at] + value.to_bytes(size, rng.choice(("big", "little"))) + data[at + size :]


def _deep(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    opener, closer = rng.choice(((b"\x91", b""), (b"[", b"]"), (b'{"a":', b"}"), (b"\x81\xa1a", b"")))
    depth = rng.choice((5, 100, 511, 900, 1023, 1025, 5000, 60_000))
    at = rng.randrange(len(data) + 1) if rng.random() < 0.5 else 0
    closers = closer * depth if rng.random() < 0.7 else b""
    return (data[:at] + opener * depth + b"\xc0" * (not closer) + closers + data[at:])[:MOST_BYTES]


def _garbage(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 12, 40, 64, 65, 200, 4000)))


def _range(data: bytes, rng: Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 4, 16, 64)))


_BYTE_MUTATIONS: tuple[Callable[[bytes, Random, Sequence[bytes]], bytes], ...] = (
    *(_flip, _flip, _flip, _set, _set, _truncate, _truncate, _extend, _delete, _delete),
    *(_repeat, _move, _splice, _splice, _length_field, _length_field, _deep, _garbage),
)


# --- trees ---


def mutate_tree(tree: Any, rng: Random, value: Callable[[Random], Any], others: Sequence[Any] = ()) -> Any:
    """One to three changes somewhere in a tree of maps, lists and leaves; `value` makes hostile leaves."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _change(tree, rng, value, others)
    return tree


def _change(node: Any, rng: Random, value: Callable[[Random], Any], others: Sequence[Any]) -> Any:
    if isinstance(node, dict):
        node = Pairs(node.items())
    if isinstance(node, Pairs) and node and rng.random() < 0.85:
        at = rng.randrange(len(node))
        if rng.random() < 0.75:
            key, inner = node[at]
            return Pairs((*node[:at], (key, _change(inner, rng, value, others)), *node[at + 1 :]))
        return _change_pairs(node, at, rng, value, others)
    if isinstance(node, list) and not isinstance(node, Pairs) and node and rng.random() < 0.85:
        at = rng.randrange(len(node))
        if rng.random() < 0.7:
            return Items((*node[:at], _change(node[at], rng, value, others), *node[at + 1 :]))
        match rng.randrange(4):
            case 0:
                return Items(node[:at] + node[at + 1 :])
            case 1:
                return Items((*node, node[at]))
            case 2 if len(node) < 1000:
                return Items(list(node) * (20_000 // len(node) if rng.random() < 0.02 else rng.choice((2, 20))))
            case _:
                return Items(node[::-1])
    return _leaf(node, rng, value, others)


def _change_pairs(node: Pairs, at: int, rng: Random, value: Callable[[Random], Any], others: Sequence[Any]) -> Pairs:
    key, inner = node[at]
    match rng.randrange(7):
        case 0:
            return Pairs((*node[:at], *node[at + 1 :]))
        case 1:
            return Pairs((*node, (key, value(rng))))  # a key twice
        case 2:
            return Pairs((*node, (rng.choice((*TEXTS, key + "_", key.upper())) if isinstance(key, str) else 7, inner)))
        case 3:
            return Pairs((*node[:at], (value(rng), inner), *node[at + 1 :]))
        case 4:
            return Pairs(node[::-1])
        case 5:
            count = 17_000 if rng.random() < 0.02 else rng.choice((3, 70))
            return Pairs((*node, *((f"k{number}", number) for number in range(count))))
        case _:
            other, stranger = rng.choice(node), rng.choice(others) if others else None
            if isinstance(stranger, dict) and stranger:
                return Pairs((*node, rng.choice(list(stranger.items()))))
            return Pairs((*node[:at], (key, other[1]), *node[at + 1 :]))


def _leaf(node: Any, rng: Random, value: Callable[[Random], Any], others: Sequence[Any]) -> Any:
    choice = rng.random()
    if isinstance(node, bool) or node is None:
        return value(rng)
    if isinstance(node, int) and choice < 0.6:
        return rng.choice(
            (node + 1, node - 1, -node, node * 2, node << 8, node ^ (1 << rng.randrange(32)), float(node))
        )
    if isinstance(node, float) and choice < 0.4:
        return rng.choice((node * 2, -node, node + 1e-9, int(node) if math.isfinite(node) else 0))
    if isinstance(node, str) and choice < 0.5:
        at = rng.randrange(len(node) + 1)
        inserted = rng.choice(("", " ", "\0", "é", "Z", node[:40]))
        changed = node[:at] + inserted + node[at + 1 :]
        return rng.choice((changed, node[:at], node.upper(), node + inserted, node.encode("utf-8", "replace")))
    if isinstance(node, bytes) and choice < 0.6:
        return mutate_bytes(node, rng) if choice < 0.4 else node.hex()
    if choice > 0.96:
        deep: Any = node
        for _ in range(rng.choice((2, 60, 500, rng.randrange(900, 1030)))):
            deep = Items((deep,)) if rng.random() < 0.5 else Pairs((("a", deep),))
        return deep
    return value(rng)


# --- msgpack ---


def hostile_value(rng: Random) -> Any:
    """A value that some check must stop."""
    match rng.randrange(9):
        case 0 | 1:
            return rng.choice(INTEGERS)
        case 2:
            return rng.choice(FLOATS)
        case 3 | 4:
            return rng.choice(TEXTS)
        case 5:
            return rng.randbytes(rng.choice((0, 1, 15, 16, 17, 32, 64, 65, 5000)))
        case 6:
            return rng.choice((None, True, False))
        case 7:
            return Items(hostile_value(rng) for _ in range(rng.choice((0, 1, 2, 9))))
        case _:
            return rng.choice((
                Raw(b"\xd4\x01\x00"), Raw(b"\xc1"), Raw(b"\xd6\xff\x00\x00\x00\x01"), Raw(b"\xdd\xff\xff\xff\xff"),
                Raw(b"\xa2\xed\xa0"), Raw(b"\xd9\xff"), {}, {"a": 1}, {1: 2}, Pairs([("a", 1), ("a", 2)]),
            ))  # fmt: skip


def pack(node: Any, rng: Random | None = None) -> bytes:
    """msgpack of a tree that may hold `Pairs` and `Raw`; with a generator, numbers are sometimes written wide."""
    out: list[bytes] = []
    stack = [node]  # not recursive: trees are deep on purpose
    size = 0
    while stack and size < MOST_BYTES:
        _pack(stack.pop(), rng, stack, out)
        size += len(out[-1])
    return b"".join(out)


def _pack(node: Any, rng: Random | None, stack: list[Any], out: list[bytes]) -> None:
    wide = rng is not None and rng.random() < 0.02
    if isinstance(node, Raw):
        out.append(bytes(node))
    elif isinstance(node, Pairs):
        out.append(b"\xdf" + struct.pack(">I", len(node)) if wide else _head(len(node), 0x80, 16, b"\xde", b"\xdf"))
        for key, value in reversed(node):
            stack += [value, key]
    elif isinstance(node, Items):
        out.append(b"\xdd" + struct.pack(">I", len(node)) if wide else _head(len(node), 0x90, 16, b"\xdc", b"\xdd"))
        stack += reversed(node)
    elif wide and isinstance(node, int) and not isinstance(node, bool) and 0 <= node < 1 << 64:
        out.append(b"\xcf" + struct.pack(">Q", node))
    elif wide and isinstance(node, str):
        raw = node.encode("utf-8", "surrogatepass")
        out.append(b"\xdb" + struct.pack(">I", len(raw)) + raw)
    else:
        if isinstance(node, int) and not -(1 << 63) <= node < 1 << 64:
            node = (1 << 64) - 1
        out.append(msgpack.packb(node, use_bin_type=True, unicode_errors="surrogatepass"))


def _head(count: int, fixed: int, most: int, middle: bytes, large: bytes) -> bytes:
    if count < most:
        return bytes([fixed | count])
    return middle + struct.pack(">H", count) if count < 1 << 16 else large + struct.pack(">I", count)


def mutate_msgpack(data: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """A msgpack input, changed as a tree or as bytes."""
    if rng.random() < 0.35:
        return mutate_bytes(data, rng, others)
    tree = msgpack.unpackb(data, raw=False, strict_map_key=False)
    stranger = [msgpack.unpackb(rng.choice(others), raw=False, strict_map_key=False)] if others else []
    return pack(mutate_tree(tree, rng, hostile_value, stranger), rng)[:MOST_BYTES]


# --- JSON ---


def hostile_json(rng: Random) -> Any:
    """A value for JSON that some check must stop."""
    match rng.randrange(8):
        case 0 | 1:
            return rng.choice((*INTEGERS, 10**30, 10**300))
        case 2:
            return rng.choice((
                Raw(b"NaN"), Raw(b"Infinity"), Raw(b"-Infinity"), Raw(b"1e400"), Raw(b"-0.0"),
                Raw(b"1" + b"0" * 5000), Raw(b"1" + b"0" * 400),
                Raw(b"1e-400"), Raw(b"0.1e1"), Raw(b"1" + b"0" * 4200), 0.5, 1e308, 2.0,
            ))  # fmt: skip
        case 3 | 4:
            return rng.choice(TEXTS)
        case 5:
            return rng.choice((
                Raw(b'"\\ud800"'), Raw(b'"\\u0000"'), Raw(b'"\xff"'), Raw(b"'a'"), Raw(b'"\\x"'), Raw(b""), Raw(b"tru"),
            ))  # fmt: skip
        case 6:
            return rng.choice((None, True, False, [], {}, [[]], {"a": {}}))
        case _:
            return Items(hostile_json(rng) for _ in range(rng.choice((0, 1, 2, 17))))


def dump(root: Any) -> bytes:
    """JSON of a tree that may hold `Pairs` and `Raw`; keys that are no strings are written as they are."""
    out: list[bytes] = []
    stack: list[Any] = [root]
    size = 0
    while stack and size < MOST_BYTES:
        node = stack.pop()
        if isinstance(node, Raw):
            out.append(bytes(node))
            size += len(node)
        elif isinstance(node, Pairs):
            stack.append(Raw(b"}"))
            for place, (key, value) in reversed(list(enumerate(node))):
                stack += [value, Raw(b":"), key, Raw(b"," if place else b"")]
            stack.append(Raw(b"{"))
        elif isinstance(node, Items):
            stack.append(Raw(b"]"))
            for place, value in reversed(list(enumerate(node))):
                stack += [value, Raw(b"," if place else b"")]
            stack.append(Raw(b"["))
        else:
            out.append(b'"' + node + b'"' if isinstance(node, bytes) else json.dumps(node).encode())
            size += len(out[-1])
    return b"".join(out)


def mutate_json(data: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """A JSON input, changed as a tree or as bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng, others)
    stranger = [json.loads(rng.choice(others))] if others else []
    changed = dump(mutate_tree(json.loads(data), rng, hostile_json, stranger))[: max(MOST_BYTES, len(data))]
    match rng.randrange(40):
        case 0:
            return b"\xef\xbb\xbf" + changed
        case 1:
            return changed.decode("utf-8", "replace").encode("utf-16")
        case 2:
            return changed + rng.choice((b" ", b"\n\n", b"{}", b"\0"))
    return changed
