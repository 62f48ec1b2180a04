"""The node's identity: peer ids that every libp2p agrees on, and a key file that is safe at rest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.identity import Identity, peer_id_of, public_key_of, verify


def test_a_peer_id_is_that_of_the_libp2p_specification() -> None:
    # The Ed25519 test vector of the libp2p peer id specification ("Test vectors").
    secret = bytes.fromhex(
        "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
        "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    )
    public = secret[36:]

    identity = Identity.from_protobuf(secret)

    assert identity.to_protobuf() == secret
    assert public_key_of(identity.peer_id) == public


def test_the_peer_id_is_the_one_that_py_libp2p_computes() -> None:
    # From py-libp2p 0.8.1's `ID.from_pubkey` for the specification's example key.
    public = "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    assert peer_id_of(bytes.fromhex(public)) == "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"


def test_a_signature_verifies_under_the_peer_id_alone() -> None:
    identity = Identity.generate()
    signature = identity.sign(b"work")

    assert verify(identity.peer_id, b"work", signature)
    assert not verify(identity.peer_id, b"other work", signature)
    assert not verify(Identity.generate().peer_id, b"work", signature)
    assert not verify(identity.peer_id, b"work", signature[:-1])
    assert not verify("nonsense", b"work", signature)


@given(st.binary(min_size=32, max_size=32))
def test_a_public_key_survives_the_peer_id(public: bytes) -> None:
    assert public_key_of(peer_id_of(public)) == public


BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@given(st.text(max_size=60) | st.text(BASE58, min_size=52, max_size=52))
def test_a_text_that_is_no_peer_id_is_a_value_error_or_round_trips(text: str) -> None:
    try:
        public = public_key_of(text)
    except ValueError:
        return
    assert peer_id_of(public) == text


def test_an_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "identity.key"

    first = Identity.load_or_create(path)

    assert Identity.load_or_create(path).peer_id == first.peer_id
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["identity.key"]


def test_processes_that_race_to_make_an_identity_agree_on_it(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    with ThreadPoolExecutor(8) as pool:
        peer_ids = set(pool.map(lambda _: Identity.load_or_create(path).peer_id, range(16)))

    assert len(peer_ids) == 1


def test_a_key_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    Identity.load_or_create(path)
    path.chmod(0o640)

    with pytest.raises(ConfigError, match="chmod 600"):
        Identity.load_or_create(path)


@pytest.mark.parametrize("damage", ["empty", "short", "long", "flipped"])
def test_a_corrupt_key_is_refused_and_left_alone(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "identity.key"
    Identity.load_or_create(path)
    good = path.read_bytes()
    bad = {
        "empty": b"",
        "short": good[:-1],
        "long": good + b"x",
        "flipped": good[:10] + bytes([good[10] ^ 1]) + good[11:],
    }
    path.write_bytes(bad[damage])

    with pytest.raises(ConfigError, match="corrupt"):
        Identity.load_or_create(path)
    assert path.read_bytes() == bad[damage]


def test_a_key_file_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")

    with pytest.raises(ConfigError, match="cannot be"):
        Identity.load_or_create(tmp_path / "file" / "identity.key")


def test_the_secret_does_not_show_in_the_representation() -> None:
    identity = Identity.generate()

    assert repr(identity) == f"Identity({identity.peer_id})"
