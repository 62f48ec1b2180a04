"""What a node stores for the swarm: bounded, entries under subkeys only, and never replaced by older ones."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.transport import _hivemind

NOW = time.time() + 3600  # far enough ahead that nothing expires while other tests run


def make(**bounds: Any) -> Any:
    _hivemind.load()
    from mesh.discovery._hivemind_dht import BoundedStorage

    return BoundedStorage(**bounds)


@pytest.fixture
def storage() -> Any:
    return make(room=4, total=6)


def entries(storage: Any, key: int) -> dict[str, bytes]:
    found = storage.get(key)
    return {} if found is None else {subkey: entry.value for subkey, entry in found.value.items()}


def test_a_newer_entry_takes_the_place_of_an_older_one(storage: Any) -> None:
    assert storage.store_subkey(1, "a", b"old", NOW + 30)
    assert storage.store_subkey(1, "a", b"new", NOW + 40)
    assert entries(storage, 1) == {"a": b"new"}


def test_an_entry_that_is_there_already_is_no_failure_and_another_with_its_expiry_is(storage: Any) -> None:
    soon = time.time() + 60
    assert storage.store_subkey(1, "a", b"value", soon)
    assert storage.store_subkey(1, "a", b"value", soon)
    assert not storage.store_subkey(1, "a", b"other", soon)
    assert entries(storage, 1) == {"a": b"value"}


def test_a_replayed_older_entry_does_not_shorten_the_life_of_the_newer(storage: Any) -> None:
    soon = time.time() + 0.2
    storage.store_subkey(1, "a", b"new", time.time() + 60)

    assert not storage.store_subkey(1, "a", b"old", soon)
    time.sleep(0.25)  # past the older entry's expiry, at which hivemind's own storage drops the newer one
    assert entries(storage, 1) == {"a": b"new"}


def test_an_entry_that_was_taken_while_our_clock_was_ahead_makes_room_for_the_right_one(storage: Any) -> None:
    storage.store_subkey(1, "a", b"stamped an hour ahead", time.time() + 3630)
    storage.store_subkey(1, "b", b"of another", time.time() + 30)

    assert storage.store_subkey(1, "a", b"right", time.time() + 30)
    assert storage.get(1).value.get("a").value == b"right"
    assert storage.get(1).value.get("b").value == b"of another"


def test_a_value_without_a_subkey_is_not_stored(storage: Any) -> None:
    assert not storage.store(1, b"value", NOW + 30)
    assert not storage.store(1, {"a": b"value"}, NOW + 30)
    assert storage.get(1) is None


def test_a_full_storage_keeps_those_that_were_there_first_and_draws_the_other_places(storage: Any) -> None:
    first, second = ("first-1", "first-2"), ("second-1", "second-2")
    for subkey in (*first, *second):
        assert storage.store_subkey(1, subkey, b"x", NOW + 30)
    came = 0
    for number in range(300):
        came += storage.store_subkey(1, f"flood-{number}", b"x", NOW + 900)
        assert len(entries(storage, 1)) == 4
        assert set(first) <= set(entries(storage, 1)), "half of the room is for those that came first"
    assert 0 < came < 40, "each of those that come later is as likely as the other"
    assert storage.store_subkey(1, "first-1", b"renewed", NOW + 31)
    assert entries(storage, 1)["first-1"] == b"renewed"


def test_all_keys_together_are_bounded_too(storage: Any) -> None:
    for key in range(50):
        for subkey in "abc":
            storage.store_subkey(key, subkey, b"x", NOW + 30)
        assert sum(len(entries(storage, each)) for each in range(50)) <= 6
    assert len(storage) <= 6


def test_what_has_expired_gives_its_place_back(storage: Any) -> None:
    soon = time.time() + 0.2
    for number in range(4):
        assert storage.store_subkey(1, f"short-{number}", b"x", soon)
    assert storage.is_full(1)
    time.sleep(0.25)
    storage._purge_at = 0.0
    for number in range(4):
        assert storage.store_subkey(1, f"new-{number}", b"x", NOW)
    assert set(entries(storage, 1)) == {f"new-{number}" for number in range(4)}


def test_a_large_entry_takes_the_room_of_several(storage: Any) -> None:
    assert storage.store_subkey(1, "large", bytes(8192), NOW + 30)
    assert storage.is_full(1)
    assert not storage.store_subkey(2, "larger than all", bytes(8193), NOW + 30)
    assert storage.store_subkey(2, "small", bytes(2048), NOW + 30)


def test_the_index_has_a_room_of_its_own() -> None:
    _hivemind.load()
    from mesh.discovery import _hivemind_dht as h
    from mesh.discovery.index import INDEX_KEYS
    from mesh.discovery.records import peer_key

    storage = h.bounded_storage()
    for key, room in ((INDEX_KEYS[0], h.INDEX_ROOM), (peer_key("somebody"), h.ROOM)):
        for number in range(room + 100):
            storage.store_subkey(h.key_id(key), f"peer-{number}", bytes(300), NOW)
        assert len(entries(storage, h.key_id(key))) == room


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from("abcdefgh"), st.integers(1, 7000), st.floats(0, 100)),
        max_size=80,
    )
)
def test_whatever_is_stored_the_bounds_hold_and_the_sums_are_right(
    asked: list[tuple[int, str, int, float]],
) -> None:
    storage = make(room=5, total=12)
    for key, subkey, size, life in asked:
        stored = storage.store_subkey(key, subkey, bytes(size), NOW + life)
        held = {(each, name): len(value) for each in range(6) for name, value in entries(storage, each).items()}
        assert not stored or (key, subkey) in held
        units = {place: -(-length // 2048) for place, length in held.items()}
        assert sum(units.values()) == storage._all.used <= 12
        for each in range(6):
            assert sum(count for (other, _), count in units.items() if other == each) <= 5
