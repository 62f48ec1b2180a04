"""What of the environment the command keeps to itself, what foreign programs get, and what its own children get."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.wallet import Account, create_keystore
from mesh.cli.environment import SECRETS, environment, for_children, take_secrets
from mesh.cli.join_stages import ask_password
from mesh.transport.foreign import NEEDED, NEEDED_PREFIXES, foreign_environment


def test_the_password_is_taken_out_of_the_environment_and_still_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_WALLET_PASSWORD", "secret")
    monkeypatch.setenv("MESH_PEERS", "address")
    take_secrets()
    assert "MESH_WALLET_PASSWORD" not in os.environ
    assert environment()["MESH_WALLET_PASSWORD"] == "secret"
    assert environment()["MESH_PEERS"] == "address"
    take_secrets()
    assert "MESH_WALLET_PASSWORD" not in environment(), "of another command in the same process"


def test_children_get_secrets_only_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("MESH_PEERS", "address")
    assert not SECRETS & set(for_children())
    assert for_children()["MESH_PEERS"] == "address"
    given = for_children({"MESH_WALLET_PASSWORD": "theirs"})
    assert given["MESH_WALLET_PASSWORD"] == "theirs"
    assert "MESH_API_KEY" not in given


def test_only_stages_with_a_wallet_and_no_password_file_get_the_password(tmp_path: Path) -> None:
    ours = {"MESH_WALLET_PASSWORD": "secret", "MESH_API_KEY": "another"}
    wallet = tmp_path / "wallet.json"
    create_keystore(wallet, Account.create(), "secret", cost=1 << 12)
    assert ask_password(None, None, ours) == {}
    assert ask_password(wallet, tmp_path / "password", ours) == {}
    assert ask_password(wallet, None, ours) == {"MESH_WALLET_PASSWORD": "secret"}


@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,20}", fullmatch=True) | st.sampled_from(sorted(NEEDED)), st.text()))
def test_a_foreign_program_gets_what_is_listed_and_what_is_said(ours: dict[str, str]) -> None:
    theirs = foreign_environment(ours, EXTRA="more")
    assert theirs.pop("EXTRA") == "more"
    assert theirs.items() <= ours.items()
    assert all(name in NEEDED or name.startswith(NEEDED_PREFIXES) for name in theirs)
    assert {name for name in ours if name in NEEDED} <= set(theirs)
    for word in ("PASSWORD", "SECRET", "TOKEN", "KEY", "MESH_"):
        assert not any(word in name for name in theirs if not name.startswith(NEEDED_PREFIXES))
