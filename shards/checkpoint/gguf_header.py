"""The head of a GGUF file, its metadata and its table of tensors, read within bounds (no torch here).

The format is the one of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from shards.errors import CheckpointError

SUFFIX: Final = ".gguf"
MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
MAX_HEAD_BYTES: Final = 64 << 20
MAX_STRING_BYTES: Final = 4 << 20
MAX_ITEMS: Final = 4 << 20
"""Of one array: vocabularies have hundreds of thousands."""
MAX_KEYS: Final = 4096
MAX_TENSORS: Final = 1 << 17
MAX_RANK: Final = 4
MAX_NAME_BYTES: Final = 256
DEFAULT_ALIGNMENT: Final = 32

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
"""struct's letter by the number that the format gives a type."""


def is_gguf(path: Path) -> bool:
    """True for what is to be read as a GGUF file."""
    return path.suffix == SUFFIX and not path.is_dir()


@dataclass(frozen=True, slots=True)
class TensorType:
    """How a tensor's numbers are stored: `items` of them in `nbytes` bytes, one block after another along a row."""

    name: str
    items: int
    nbytes: int


TYPES: Final[Mapping[int, TensorType]] = {
    number: TensorType(name, items, nbytes)
    for number, name, items, nbytes in (
        (0, "F32", 1, 4), (1, "F16", 1, 2), (30, "BF16", 1, 2),
        (2, "Q4_0", 32, 18), (3, "Q4_1", 32, 20), (6, "Q5_0", 32, 22), (7, "Q5_1", 32, 24), (8, "Q8_0", 32, 34),
        (10, "Q2_K", 256, 84), (11, "Q3_K", 256, 110), (12, "Q4_K", 256, 144), (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor lies: from byte `begin` of the file on. `shape` is outermost first, as torch has it."""

    type: TensorType
    shape: tuple[int, ...]
    begin: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) // self.type.items * self.type.nbytes


@dataclass(frozen=True, slots=True)
class GgufHead:
    """What a file says of itself: numbers, texts, truth values and lists of those by key, and its tensors by name."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    size: int
    """Bytes of the head, up to the first tensor."""


def read_head(file: BinaryIO, size: int, name: str) -> GgufHead:
    """The head of an open GGUF file of `size` bytes; `name` is for messages.

    Nothing is allocated before its size was checked. Raises `CheckpointError` when the file is none, breaks the
    format, or has tensors of a type that is not read.
    """
    return _Reader(file, size, name).head()


class _Reader:
    """Reads forward, never beyond the file's end nor `MAX_HEAD_BYTES`."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file, self._size, self._name = file, size, name
        self._at = 0

    def head(self) -> GgufHead:
        if self._take(4) != MAGIC:
            raise CheckpointError(f"{self._name} is no GGUF file")
        version = self._number("I")
        if version not in VERSIONS:
            what = "written for big-endian machines" if version >> 16 else f"of version {version}"
            raise CheckpointError(f"{self._name} is {what}: versions 2 and 3 are read, little-endian")
        n_tensors, n_keys = self._number("Q"), self._number("Q")
        if n_tensors > MAX_TENSORS or n_keys > MAX_KEYS:
            raise self._wrong(f"{n_tensors} tensors and {n_keys} keys are over the limits {MAX_TENSORS} and {MAX_KEYS}")
        metadata: dict[str, Any] = {}
        for _ in range(n_keys):
            key = self._text(MAX_NAME_BYTES)
            if key in metadata:
                raise self._wrong(f"the key {key!r} occurs twice")
            metadata[key] = self._value(self._number("I"), key)
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment % 8:
            raise self._wrong(f"an alignment of {str(alignment)[:40]}")
        found = [self._entry() for _ in range(n_tensors)]
        begin = -(-self._at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for key, kind, shape, offset in found:
            if key in tensors:
                raise self._wrong(f"the tensor {key!r} occurs twice")
            if offset % alignment:
                raise self._wrong(f"the tensor {key!r} is not aligned")
            tensors[key] = GgufTensor(kind, shape, begin + offset)
        self._check_places(tensors)
        return GgufHead(metadata, tensors, begin)

    def _check_places(self, tensors: Mapping[str, GgufTensor]) -> None:
        end = 0
        for key, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].nbytes)):
            if tensor.begin < end:
                raise self._wrong(f"the tensor {key!r} overlaps another one")
            end = tensor.begin + tensor.nbytes
            if end > self._size:
                raise self._wrong(f"it is truncated: the tensor {key!r} ends at byte {end} of {self._size}")

    def _entry(self) -> tuple[str, TensorType, tuple[int, ...], int]:
        key = self._text(MAX_NAME_BYTES)
        rank = self._number("I")
        if not 1 <= rank <= MAX_RANK:
            raise self._wrong(f"the tensor {key!r} has {rank} dimensions")
        sizes = [self._number("Q") for _ in range(rank)]
        if not all(0 < each < 1 << 31 for each in sizes) or math.prod(sizes) >= 1 << 48:
            raise self._wrong(f"the tensor {key!r} has sizes {sizes}")
        number, offset = self._number("I"), self._number("Q")
        kind = TYPES.get(number)
        if kind is None:
            known = ", ".join(each.name for each in TYPES.values())
            raise CheckpointError(
                f"{self._name}: the tensor {key!r} is of type {number}, which is not read: take a file of {known}"
            )
        if sizes[0] % kind.items:
            raise self._wrong(f"rows of {sizes[0]} numbers are no whole blocks of {kind.name} (tensor {key!r})")
        if offset > self._size:
            raise self._wrong(f"it is truncated: the tensor {key!r} begins behind its end")
        return key, kind, tuple(reversed(sizes)), offset

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._text(MAX_STRING_BYTES)
        if kind == _ARRAY:
            return self._list(self._number("I"), self._number("Q"), key)
        if kind not in _SCALARS:
            raise self._wrong(f"the key {key!r} has a value of type {kind}")
        value = self._number(_SCALARS[kind])
        return bool(value) if kind == _BOOL else value

    def _list(self, kind: int, count: int, key: str) -> list[Any]:
        if count > MAX_ITEMS:
            raise self._wrong(f"the list {key!r} has {count} items, more than {MAX_ITEMS}")
        if kind == _STRING:
            return [self._text(MAX_STRING_BYTES) for _ in range(count)]
        if kind not in _SCALARS:
            raise self._wrong(f"the list {key!r} has items of type {kind}")
        letter = _SCALARS[kind]
        values = struct.unpack(f"<{count}{letter}", self._take(count * struct.calcsize(f"<{letter}")))
        return [bool(each) for each in values] if kind == _BOOL else list(values)

    def _text(self, limit: int) -> str:
        length = self._number("Q")
        if length > limit:
            raise self._wrong(f"a text of {length} bytes, more than {limit}")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as error:
            raise self._wrong("a text that is not UTF-8") from error

    def _number(self, letter: str) -> Any:
        return struct.unpack(f"<{letter}", self._take(struct.calcsize(f"<{letter}")))[0]

    def _take(self, count: int) -> bytes:
        self._at += count
        if self._at > self._size:
            raise CheckpointError(f"{self._name} is truncated: its head goes on beyond its {self._size} bytes")
        if self._at > MAX_HEAD_BYTES:
            raise self._wrong(f"its head is over the limit of {MAX_HEAD_BYTES} bytes")
        data = self._file.read(count)
        if len(data) != count:
            raise CheckpointError(f"{self._name} is truncated")
        return data

    def _wrong(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._name} is no sound GGUF file: {what}")
