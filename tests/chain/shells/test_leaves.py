"""Files of leaves: canonical, and nothing in one is trusted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import InvalidArgument
from chain.leaves import CheckpointLeaves
from chain.merkle import leaf_hash, verify
from chain.primitives import key_of

IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=16)


@given(
    IDS,
    st.integers(1, 2**64 - 1),
    st.integers(1, 2**64 - 1),
    st.dictionaries(IDS, st.integers(1, 2**96 - 1), min_size=1),
)
def test_a_file_is_read_back_as_it_was_written(gateway: str, model: int, epoch: int, units: dict[str, int]) -> None:
    leaves = CheckpointLeaves(gateway, model, epoch, units)
    again = CheckpointLeaves.parse(leaves.text().encode())
    assert again == leaves
    assert again.data_hash() == leaves.data_hash()


def test_the_order_in_which_leaves_were_added_does_not_change_the_hash() -> None:
    one = CheckpointLeaves("g", 1, 2, {"a": 1, "b": 2})
    other = CheckpointLeaves("g", 1, 2, {"b": 2, "a": 1})
    assert one.data_hash() == other.data_hash() and one.tree().root == other.tree().root


def test_each_leaf_is_proven() -> None:
    leaves = CheckpointLeaves("g", 1, 2, {f"p{i}": i + 1 for i in range(5)})
    for provider in leaves.units:
        units, proof = leaves.proof(provider)
        leaf = leaf_hash(key_of("g"), key_of(provider), 1, 2, units)
        assert verify(leaves.tree().root, leaves.tree().total_units, leaf, units, proof)
    with pytest.raises(InvalidArgument):
        leaves.proof("p9")


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"gateway": ""}, {"gateway": "x" * 65}, {"gateway": 5}, {"model": 0}, {"model": "x"},
     {"epoch": 2**64},
     {"units": {}}, {"units": []}, {"units": {"a": "-1"}}, {"units": {"a": "1" * 31}}, {"units": {"a": 1.5}},
     {"units": {"a": True}}, {"units": {"": "1"}}, {"units": {"a": "٣"}}, {"units": {"a": str(2**96)}}],
)  # fmt: skip
def test_what_is_no_file_of_leaves_is_refused(change: dict[str, object]) -> None:
    value = {"version": 1, "gateway": "g", "model": 1, "epoch": 1, "units": {"a": "1"}, **change}
    with pytest.raises(InvalidArgument):
        CheckpointLeaves.parse(json.dumps(value).encode())


@given(st.binary(max_size=200))
def test_no_bytes_can_make_reading_fail_otherwise(raw: bytes) -> None:
    with pytest.raises(InvalidArgument):
        CheckpointLeaves.parse(raw)
