"""Keystores: standard, private, never overwritten; passwords that no process list shows."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import rlp
import typer
from coincurve import PrivateKey
from eth_account import Account as Independent

from chain.devnet.accounts import MNEMONIC, faucet, faucets
from chain.errors import BadKeystore, InvalidArgument, WalletError, WalletExists, WrongPassword
from chain.primitives import keccak256
from chain.transactions import Fees, Transaction
from chain.wallet import (
    Account,
    create_keystore,
    find_password,
    keystore_address,
    open_keystore,
    read_private_key,
)
from mesh.cli.main import app


@pytest.fixture
def keystore(tmp_path: Path) -> tuple[Path, Account]:
    account = Account.create()
    path = tmp_path / "wallets" / "a.json"
    create_keystore(path, account, "secret")
    return path, account


def test_a_keystore_opens_with_its_password_and_no_other(keystore: tuple[Path, Account]) -> None:
    path, account = keystore
    assert open_keystore(path, "secret").private_key == account.private_key
    assert keystore_address(path) == account.address
    with pytest.raises(WrongPassword):
        open_keystore(path, "Secret")


def test_only_its_owner_can_read_a_keystore(keystore: tuple[Path, Account]) -> None:
    path, _ = keystore
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]
    path.chmod(0o640)
    with pytest.raises(BadKeystore, match="can be read by others"):
        open_keystore(path, "secret")


def test_a_keystore_is_never_overwritten(keystore: tuple[Path, Account]) -> None:
    path, account = keystore
    with pytest.raises(WalletExists):
        create_keystore(path, Account.create(), "other")
    assert keystore_address(path) == account.address


def test_other_software_opens_our_keystores(keystore: tuple[Path, Account]) -> None:
    path, account = keystore
    assert bytes(Independent.decrypt(path.read_text(), "secret")) == account.private_key


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
def test_we_open_other_software_s_keystores(tmp_path: Path, kdf: Any) -> None:
    account = Account.create()
    path = tmp_path / "theirs.json"
    path.touch(0o600)
    path.write_text(json.dumps(Independent.encrypt(account.private_key, "pw", kdf=kdf, iterations=4096)))
    assert open_keystore(path, "pw").address == account.address


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", "not json", '{"version": 1}', '{"version": 3}', '{"version": 3, "crypto": {"kdfparams": 5}}',
     '{"version": 3, "crypto": {"kdfparams": {}, "kdf": "scrypt"}}', "x" * 100_000],
)  # fmt: skip
def test_what_is_no_keystore_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(BadKeystore):
        open_keystore(path, "pw")


def test_a_keystore_cannot_make_us_take_all_memory(keystore: tuple[Path, Account]) -> None:
    path, _ = keystore
    document = json.loads(path.read_text())
    document["crypto"]["kdfparams"]["n"] = 2**30
    path.write_text(json.dumps(document))
    with pytest.raises(BadKeystore, match="too costly"):
        open_keystore(path, "secret")


def test_a_keystore_that_names_another_address_is_refused(keystore: tuple[Path, Account]) -> None:
    path, _ = keystore
    document = json.loads(path.read_text())
    document["address"] = "00" * 20
    path.write_text(json.dumps(document))
    with pytest.raises(BadKeystore, match="another address"):
        open_keystore(path, "secret")


def test_a_missing_keystore_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(WalletError, match="mesh wallet new"):
        open_keystore(tmp_path / "none.json", "pw")


def test_passwords_come_from_a_file_the_environment_or_a_prompt(tmp_path: Path) -> None:
    file = tmp_path / "pw"
    file.write_text("from the file\n")
    variables = {"MESH_WALLET_PASSWORD": "from the environment"}
    assert find_password(file=file, environment=variables) == "from the file"
    assert find_password(environment=variables) == "from the environment"
    assert find_password(prompt=lambda _: "typed") == "typed"
    answers = iter(["one", "other"])
    with pytest.raises(WalletError, match="differ"):
        find_password(prompt=lambda _: next(answers), confirm=True)


def test_without_any_source_of_a_password_we_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        with pytest.raises(WalletError, match="MESH_WALLET_PASSWORD"):
            find_password(environment={})


def test_no_command_takes_a_password_or_a_key_as_argument() -> None:
    """Whatever is on the command line can be seen by every user of the machine."""
    seen = []
    stack: list[Any] = [typer.main.get_command(app)]
    while stack:
        command = stack.pop()
        stack += getattr(command, "commands", {}).values()
        for parameter in command.params:
            names = [name for name in parameter.opts if "password" in name or "private" in name or name == "--key-file"]
            seen += names
            assert all(name.endswith("-file") for name in names), (command.name, names)
    assert "--password-file" in seen and "--key-file" in seen


def test_a_repr_never_shows_the_key() -> None:
    account = faucet(3)
    assert account.private_key.hex() not in repr(account) + str(account)


@pytest.mark.parametrize("text", ["", "0x", "12", "zz" * 32, "00" * 32, "ff" * 32, "٣" * 64])
def test_what_is_no_private_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read_private_key(text)
    assert not text or text not in str(raised.value)


def test_a_signed_transaction_has_the_bytes_that_the_standard_says() -> None:
    account = Account.create()
    for to, data, nonce in ((b"\x01" * 20, b"abc", 3), (b"", b"\x60\x00", 0), (b"\x02" * 20, b"", 2**40)):
        ours = account.sign_transaction(Transaction(31337, nonce, Fees(30 * 10**9, 2), 21_000, to, 5, data))
        # EIP-1559 spelled out: the type, then the RLP of the fields and of the signature over them.
        fields = [31337, nonce, 2, 30 * 10**9, 21_000, to, 5, data, []]
        signature = PrivateKey(account.private_key).sign_recoverable(
            keccak256(b"\x02" + rlp.encode(fields)), hasher=None
        )
        parts = [signature[64], int.from_bytes(signature[:32]), int.from_bytes(signature[32:64])]
        assert ours.raw == b"\x02" + rlp.encode([*fields, *parts])
        assert ours.hash == keccak256(ours.raw)
        assert Independent.recover_transaction(ours.raw) == account.address


def test_the_devnet_s_accounts_are_those_of_the_phrase_that_anvil_uses_too() -> None:
    Independent.enable_unaudited_hdwallet_features()
    for index, account in enumerate(faucets()):
        theirs = Independent.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}")
        assert account.address == theirs.address
