"""What a node stores for the swarm: bounded, entries under subkeys only, and never replaced by older ones."""

from __future__ import annotations

import time
from typing import Any

import pytest

from mesh.transport import _hivemind

NOW = time.time() + 3600  # far enough ahead that nothing expires while other tests run


@pytest.fixture
def storage() -> Any:
    _hivemind.load()
    from mesh.discovery._hivemind_dht import BoundedStorage

    return BoundedStorage(max_keys=2, max_key_bytes=100)


def entries(storage: Any, key: int) -> dict[str, bytes]:
    found = storage.get(key)
    return {} if found is None else {subkey: entry.value for subkey, entry in found.value.items()}


def test_a_newer_entry_takes_the_place_of_an_older_one(storage: Any) -> None:
    assert storage.store_subkey(1, "a", b"old", NOW + 30)
    assert storage.store_subkey(1, "a", b"new", NOW + 40)
    assert entries(storage, 1) == {"a": b"new"}


def test_a_replayed_older_entry_does_not_shorten_the_life_of_the_newer(storage: Any) -> None:
    soon = time.time() + 0.2
    storage.store_subkey(1, "a", b"new", NOW + 600)

    assert not storage.store_subkey(1, "a", b"old", soon)
    time.sleep(0.25)  # past the older entry's expiry, at which hivemind's own storage drops the newer one
    assert entries(storage, 1) == {"a": b"new"}


def test_a_value_without_a_subkey_is_not_stored(storage: Any) -> None:
    assert not storage.store(1, b"value", NOW + 30)
    assert not storage.store(1, {"a": b"value"}, NOW + 30)
    assert storage.get(1) is None


def test_a_full_storage_keeps_what_it_has(storage: Any) -> None:
    assert storage.store_subkey(1, "a", bytes(60), NOW + 30)
    assert not storage.store_subkey(1, "b", bytes(60), NOW + 900)
    assert storage.store_subkey(1, "b", bytes(40), NOW + 30)
    assert storage.store_subkey(2, "a", b"x", NOW + 30)
    assert not storage.store_subkey(3, "a", b"x", NOW + 900)
    assert storage.store_subkey(1, "a", bytes(60), NOW + 31)
    assert set(entries(storage, 1)) == {"a", "b"}
