"""A safetensors header is hostile until it has been checked: every file is read or refused, nothing else."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from shards.checkpoint.safetensors_header import ITEM_BYTES, MAX_HEADER_BYTES, TensorEntry, read_header
from shards.errors import CheckpointError

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16), "c": torch.ones(1)}
FILE = save(TENSORS, {"format": "pt"})
DATA_BYTES = 6 * 4 + 4 * 2 + 4


def parse(data: bytes) -> dict[str, TensorEntry]:
    return read_header(io.BytesIO(data), len(data), "x.safetensors")


def build(header: Any, data_bytes: int = DATA_BYTES) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data_bytes)


def entry(begin: int = 0, end: int = DATA_BYTES, *, dtype: object = "F32", shape: object = (9,)) -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_sound_file_is_read() -> None:
    entries = parse(FILE)
    assert {name: (found.dtype, found.shape, found.nbytes) for name, found in entries.items()} == {
        "a": ("F32", (2, 3), 24),
        "b": ("BF16", (4,), 8),
        "c": ("F32", (1,), 4),
    }
    assert parse(build({"x": entry()}))["x"].nbytes == DATA_BYTES


@pytest.mark.parametrize("length", [0, 7, 8, 30, len(FILE) - 1])
def test_a_truncated_file_is_refused(length: int) -> None:
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        parse(FILE[:length])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((1 << 63).to_bytes(8, "little") + bytes(64), "truncated"),
        (FILE + b"\0", "belong to no tensor"),
        (build(b"{"), "not valid JSON"),
        (build(b"\xff\xff"), "not valid JSON"),
        (build(b"[" * 100_000), "not valid JSON"),
        (build(b"9" * 10_000), "not valid JSON"),
        (build([]), "not a JSON object"),
        (build(b'{"x": {"dtype": "F32", "dtype": "F32"}}'), "occurs twice"),
        (build({"x": 3}), "not an object"),
        (build({"x": entry(dtype="F4")}), "dtype 'F4' is not supported"),
        (build({"x": entry(dtype=None)}), "is not supported"),
        (build({"x": entry(shape=[-9])}), "is not a shape"),
        (build({"x": entry(shape=[9.0])}), "is not a shape"),
        (build({"x": entry(shape=[True, 9])}), "is not a shape"),
        (build({"x": entry(shape="9")}), "is not a shape"),
        (build({"x": entry(shape=[1] * 17 + [9])}), "is not a shape"),
        (build({"x": entry(shape=[1 << 70])}), "is not a shape"),
        (build({"x": entry(shape=[1 << 61, 1 << 61])}), "do not hold a F32 tensor"),
        (build({"x": entry(shape=[8])}), "do not hold a F32 tensor"),
        (build({"x": entry(0, 1 << 40)}), "out of the file's range"),
        (build({"x": entry(20, 0)}), "out of the file's range"),
        (build({"x": {**entry(), "data_offsets": [0]}}), "are not data offsets"),
        (build({"x": {**entry(), "data_offsets": [-36, 0]}}), "are not data offsets"),
        (build({"x": entry(4, 36, shape=[8])}), "4 bytes before"),
        (build({"x": entry(), "y": entry(0, 4, shape=[1])}), "overlaps"),
        (build({"x": entry(), "y": entry()}), "overlaps"),
        (build({"x\n": entry()}), "unprintable"),
        (build({"\ud800": entry()}), "unprintable"),
    ],
)
def test_a_malformed_header_is_refused_with_the_files_name(data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^x\.safetensors.*{message}"):
        parse(data)


def test_a_header_over_the_limit_is_refused_before_it_is_read() -> None:
    class Unread(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size == 8, "only the length may be read"
            return super().read(size)

    length = MAX_HEADER_BYTES + 1
    with pytest.raises(CheckpointError, match="over the limit"):
        read_header(Unread(length.to_bytes(8, "little")), 1 << 40, "x.safetensors")


def sound(entries: dict[str, TensorEntry], data: bytes) -> bool:
    """Every tensor lies within the file, has its shape's bytes, and none overlaps another."""
    position = 8 + int.from_bytes(data[:8], "little")
    for found in sorted(entries.values(), key=lambda each: (each.begin, each.end)):
        count = ITEM_BYTES[found.dtype]
        for size in found.shape:
            count *= size
        if found.begin != position or found.nbytes != count:
            return False
        position = found.end
    return position == len(data)


@given(st.lists(st.tuples(st.integers(0, len(FILE) - 1), st.integers(0, 255)), max_size=6), st.integers(0, 40))
def test_any_bytes_changed_anywhere_are_read_soundly_or_refused(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(FILE)
    for place, value in changes:
        data[place] = value
    mutated = bytes(data[: len(data) - cut])
    try:
        entries = parse(mutated)
    except CheckpointError:
        return
    assert sound(entries, mutated)


_NUMBERS = st.integers(-2, 40) | st.sampled_from((1 << 31, 1 << 62, 1 << 64, 1.0, True, None, "4"))
_ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from((*ITEM_BYTES, "F4", "", None, 3)),
        "shape": st.lists(_NUMBERS, max_size=3) | st.none(),
        "data_offsets": st.lists(_NUMBERS, min_size=1, max_size=3) | st.none(),
    },
)


@given(st.dictionaries(st.sampled_from(("a", "b", "__metadata__", "\ud800", "")), _ENTRIES | st.none(), max_size=4))
def test_any_table_of_tensors_is_read_soundly_or_refused(header: dict[str, Any]) -> None:
    data = build(header)
    try:
        entries = parse(data)
    except CheckpointError:
        return
    assert sound(entries, data)


@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", exclude_categories=("C",)), min_size=1, max_size=12).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(
            st.sampled_from((torch.float32, torch.bfloat16, torch.int64, torch.uint8)),
            st.lists(st.integers(0, 3), max_size=3),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_the_library_writes_is_read(shapes: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    data = save({name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in shapes.items()})
    entries = parse(data)
    assert {name: list(found.shape) for name, found in entries.items()} == {
        name: shape for name, (_, shape) in shapes.items()
    }
    assert sound(entries, data)
