"""The header of a safetensors file, parsed and bounded as hostile input (no torch here)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from shards.errors import CheckpointError
from shards.shown import shown

MAX_HEADER_BYTES = 32 << 20
"""A file of fifty thousand tensors has a header of about 6 MiB."""
MAX_RANK = 16
LENGTH_BYTES = 8

ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""The dtypes whose items are whole bytes, by the name that the file format gives them."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: bytes `[begin, end)` from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


def read_header(file: BinaryIO, size: int, name: str) -> dict[str, TensorEntry]:
    """The table of tensors of an open safetensors file of `size` bytes; `name` is for messages.

    The format is the one of https://github.com/huggingface/safetensors: eight bytes of little-endian
    length, a JSON object, then the tensors' bytes without holes or overlaps. Nothing is allocated
    before its size was checked. Raises `CheckpointError` when the file breaks any of that.
    """
    if size < LENGTH_BYTES:
        raise CheckpointError(f"{name} is truncated: {size} bytes are too few for a safetensors file")
    length = int.from_bytes(_exactly(file, LENGTH_BYTES, name), "little")
    if length > size - LENGTH_BYTES:
        raise CheckpointError(f"{name} is truncated: its header alone is {length} bytes, the file {size}")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(f"{name}: a header of {length} bytes is over the limit of {MAX_HEADER_BYTES}")
    try:
        table = json.loads(_exactly(file, length, name), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}: the safetensors header is not valid JSON: {error}") from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{name}: the safetensors header is not a JSON object")
    data = LENGTH_BYTES + length
    entries = {
        tensor: _entry(tensor, entry, data, size, name) for tensor, entry in table.items() if tensor != "__metadata__"
    }
    _check_packed(entries, data, size, name)
    return entries


def _exactly(file: BinaryIO, count: int, name: str) -> bytes:
    parts: list[bytes] = []
    while count:
        data = file.read(count)
        if not data:
            raise CheckpointError(f"{name} is truncated: it ended {count} bytes too early")
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key occurs twice")
    return table


def _entry(tensor: str, entry: object, data: int, size: int, name: str) -> TensorEntry:
    where = f"{name}: tensor {tensor[:200]!r}"
    if not tensor.isprintable():
        raise CheckpointError(f"{where}: the name has unprintable characters")
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where}: its entry is not an object")
    dtype, shape, offsets = entry.get("dtype"), _sizes(entry.get("shape")), _sizes(entry.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(f"{where}: dtype {shown(dtype)} is not supported")
    if shape is None or len(shape) > MAX_RANK:
        raise CheckpointError(f"{where}: {shown(entry.get('shape'))} is not a shape")
    if offsets is None or len(offsets) != 2:
        raise CheckpointError(f"{where}: {shown(entry.get('data_offsets'))} are not data offsets")
    begin, end = offsets
    if not begin <= end <= size - data:
        raise CheckpointError(f"{where}: bytes {begin}:{end} are out of the file's range (0:{size - data})")
    if math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
        raise CheckpointError(f"{where}: {end - begin} bytes do not hold a {dtype} tensor of shape {shape}")
    return TensorEntry(dtype, tuple(shape), data + begin, data + end)


def _sizes(value: object) -> list[int] | None:
    """`value` where it is a list of whole numbers that a file can have, else None."""
    if isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value):
        return value
    return None


def _check_packed(entries: Mapping[str, TensorEntry], data: int, size: int, name: str) -> None:
    position = data
    for tensor, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin < position:
            raise CheckpointError(f"{name}: tensor {tensor[:200]!r} overlaps another one")
        if entry.begin > position:
            gap = entry.begin - position
            raise CheckpointError(f"{name}: {gap} bytes before tensor {tensor[:200]!r} are unused")
        position = entry.end
    if position != size:
        raise CheckpointError(f"{name}: {size - position} bytes at the end belong to no tensor")
