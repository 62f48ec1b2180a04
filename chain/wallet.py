"""Keys on disk and in memory: keystore v3 files that only their owner can read, and the account that signs.

Passwords come from a prompt, a file or the environment, never from the command line, where `ps` would show them.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coincurve import PrivateKey

from chain import recursion_limit, safe_json, vouchers
from chain.errors import BadKeystore, InvalidArgument, WalletError, WalletExists, WrongPassword
from chain.primitives import checksummed
from chain.transactions import SignedTransaction, Transaction

PASSWORD_VARIABLE = "MESH_WALLET_PASSWORD"
MAX_FILE = 64 * 1024
MAX_PASSWORD = 1024
MAX_SCRYPT_MEMORY = 1 << 30
MAX_PBKDF2_ROUNDS = 10_000_000
SCRYPT_N = 1 << 18


class Account:
    """A key in memory, with its address. Its repr never shows the key."""

    __slots__ = ("_key", "address")

    def __init__(self, private_key: bytes) -> None:
        """Raises `InvalidArgument` unless it is 32 bytes and a key of secp256k1."""
        try:
            self.address = checksummed(vouchers.address_of(private_key))
            self._key = PrivateKey(private_key)
        except ValueError as error:
            raise InvalidArgument(str(error), argument="private_key") from error

    @classmethod
    def create(cls) -> Account:
        """A new random key."""
        while True:
            with contextlib.suppress(InvalidArgument):
                return cls(secrets.token_bytes(32))

    @property
    def canonical(self) -> bytes:
        """The address as twenty bytes."""
        return bytes.fromhex(self.address.removeprefix("0x"))

    @property
    def private_key(self) -> bytes:
        return bytes(self._key.secret)

    def sign_transaction(self, transaction: Transaction) -> SignedTransaction:
        """Deterministic: the same transaction and key give the same bytes (RFC 6979)."""
        with recursion_limit.kept():
            from eth_account import Account as Signer

        signed = Signer.sign_transaction(transaction.as_fields(), self.private_key)
        return SignedTransaction(bytes(signed.raw_transaction), bytes(signed.hash))

    def sign_digest(self, digest: bytes) -> bytes:
        """65 bytes `r ‖ s ‖ v` over a 32-byte digest."""
        return vouchers.sign(digest, self._key.secret)

    def __repr__(self) -> str:
        return f"Account({self.address})"


def create_keystore(path: Path, account: Account, password: str, *, cost: int | None = None) -> None:
    """Write a keystore v3 file (scrypt, n = `cost`) with mode 0600, whole or not at all, and never over another.

    A lower `cost` than `SCRYPT_N` is for keys that are thrown away soon.

    Raises `WalletExists`, `WalletError`, `InvalidArgument` for an empty password.
    """
    with recursion_limit.kept():
        from eth_keyfile import create_keyfile_json

    if not password:
        raise InvalidArgument("the password must not be empty", argument="password")
    if path.exists():
        raise WalletExists(f"there is a keystore at {path} already; it is never overwritten")
    document = create_keyfile_json(account.private_key, password.encode(), kdf="scrypt", iterations=cost or SCRYPT_N)
    document["address"] = account.address.lower().removeprefix("0x")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600 from the beginning
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(file.fileno())
            os.link(part, path)  # unlike a rename it fails when the path exists
        finally:
            Path(part).unlink(missing_ok=True)
        _sync_folder(path.parent)
    except FileExistsError:
        raise WalletExists(f"there is a keystore at {path} already; it is never overwritten") from None
    except OSError as error:
        raise WalletError(f"cannot write {path}: {error.strerror or error}") from error


def keystore_address(path: Path) -> str:
    """The address in a keystore file, without opening it. Raises `BadKeystore`, `WalletError`."""
    document = _read(path)
    address = document.get("address")
    if not isinstance(address, str):
        raise BadKeystore(f"{path} does not say its address")
    try:
        return checksummed(bytes.fromhex(address.removeprefix("0x")))
    except ValueError as error:
        raise BadKeystore(f"{path} does not say its address: {error}") from error


def open_keystore(path: Path, password: str) -> Account:
    """The account in a keystore file. Raises `BadKeystore`, `WrongPassword`, `WalletError`."""
    with recursion_limit.kept():
        from eth_keyfile import decode_keyfile_json

    document = _read(path)
    _check_cost(path, document)
    try:
        key = bytes(decode_keyfile_json(document, password.encode()))
    except ValueError as error:
        if "MAC" in str(error):
            raise WrongPassword(f"the password does not open {path}") from None
        raise BadKeystore(f"{path} cannot be read: {error}") from error
    # eth_keyfile also asserts what the file says.
    except (KeyError, TypeError, NotImplementedError, AttributeError, AssertionError, OverflowError) as error:
        raise BadKeystore(f"{path} is not a keystore of version 3") from error
    account = Account(key)
    if document.get("address") and keystore_address(path) != account.address:
        raise BadKeystore(f"{path} holds the key of another address than it says")
    return account


def read_private_key(text: str) -> Account:
    """An account from 64 hex digits, with or without 0x. Raises `InvalidArgument`, which never repeats the text."""
    digits = text.strip().removeprefix("0x")
    try:
        key = bytes.fromhex(digits) if len(digits) == 64 and digits.isascii() else b""
    except ValueError:
        key = b""
    if not key:
        raise InvalidArgument("a private key is 64 hex digits", argument="private_key")
    return Account(key)


def find_password(
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    prompt: Callable[[str], str] | None = None,
    confirm: bool = False,
    what: str = "wallet",
) -> str:
    """The password: from `file` (its first line), else the environment, else asked for where there is a terminal.

    `confirm` asks twice, for a new wallet. Raises `WalletError`.
    """
    if file is not None:
        try:
            with file.open("rb") as opened:
                raw = opened.read(MAX_PASSWORD + 1)
            password = raw.decode().splitlines()[0] if raw else ""
        except (OSError, UnicodeDecodeError) as error:
            raise WalletError(f"cannot read the password from {file}: {error}") from error
        return _checked(password, str(file))
    given = (environment or {}).get(PASSWORD_VARIABLE)
    if given is not None:
        return _checked(given, PASSWORD_VARIABLE)
    if prompt is None and not sys.stdin.isatty():
        raise WalletError(
            f"a password for the {what} is needed: set {PASSWORD_VARIABLE}, or give --password-file, or use a terminal"
        )
    ask = prompt or getpass.getpass
    password = _checked(ask(f"password for {what}: "), "the prompt")
    if confirm and ask("the same again: ") != password:
        raise WalletError("the two passwords differ")
    return password


def _checked(password: str, source: str) -> str:
    if not password or len(password) > MAX_PASSWORD:
        raise WalletError(f"the password from {source} must have 1 to {MAX_PASSWORD} characters")
    return password


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            raw = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise WalletError(f"there is no keystore at {path}: make one with `mesh wallet new`") from None
    except OSError as error:
        raise WalletError(f"cannot read {path}: {error.strerror or error}") from error
    if mode & 0o077:
        raise BadKeystore(f"{path} can be read by others (mode {mode:04o}): `chmod 600 {path}` and consider a new key")
    try:
        document = safe_json.parse(raw) if len(raw) <= MAX_FILE else None
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.get("version") != 3:
        raise BadKeystore(f"{path} is not a keystore of version 3")
    return document


def _check_cost(path: Path, document: Mapping[str, Any]) -> None:
    """A keystore from elsewhere must not make us take all memory, or run for hours."""
    crypto = document.get("crypto")
    params = crypto.get("kdfparams") if isinstance(crypto, dict) else None
    if not isinstance(crypto, dict) or not isinstance(params, dict):
        raise BadKeystore(f"{path} is not a keystore of version 3")
    numbers = [params.get(name, 1) for name in ("n", "r", "p", "c")]
    if not all(isinstance(number, int) and number > 0 for number in numbers):
        raise BadKeystore(f"{path} has no usable parameters for its key derivation")
    n, r, p, c = numbers
    if 128 * n * r * p > MAX_SCRYPT_MEMORY or c > MAX_PBKDF2_ROUNDS:
        raise BadKeystore(f"{path} asks for a key derivation that is too costly")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
