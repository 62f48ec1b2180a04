"""Who a node is: a persistent Ed25519 key and the libp2p peer id that follows from it (no libp2p needed).

The peer id is the base58 form of the *identity* multihash of the protobuf-encoded public key, so that the
public key can be read back from it; see the libp2p specification, "Peer Ids and Keys".
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mesh.errors import ConfigError

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS: Final = {character: value for value, character in enumerate(_ALPHABET)}

# Protobuf by hand, field 1 = key type 1 (Ed25519), field 2 = key bytes. Before the public key comes the
# multihash head: code 0 (identity) and the length of what follows (36).
_PUBLIC_HEAD: Final = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))
_PRIVATE_HEAD: Final = bytes((0x08, 0x01, 0x12, 0x40))
_PUBLIC_SIZE: Final = 32
_PEER_ID_SIZE: Final = 52  # characters; every Ed25519 peer id has this many
SIGNATURE_SIZE: Final = 64
"""Bytes of an Ed25519 signature."""


class Identity:
    """A private key and the peer id of its public key. Make one with `load_or_create` or `generate`."""

    __slots__ = ("_key", "peer_id")

    peer_id: str
    """Base58, as in `12D3KooW…`."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.peer_id = peer_id_of(key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"

    @classmethod
    def generate(cls) -> Self:
        """A fresh identity that is kept nowhere."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """The identity kept at `path`, made first if there is no such file (mode 0600, never half-written).

        Raises `ConfigError` when the file cannot be read or written, is no such key, or others may read it.
        """
        try:
            return cls.load(path)
        except FileNotFoundError:
            pass
        identity = cls.generate()
        try:
            created = _create_once(path, identity.to_protobuf())
        except OSError as error:
            raise ConfigError(f"the key file {path} cannot be created: {error.strerror or error}") from error
        return identity if created else cls.load(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The identity kept at `path`. Raises `FileNotFoundError`, or `ConfigError` like `load_or_create`."""
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                data = file.read(len(_PRIVATE_HEAD) + 2 * _PUBLIC_SIZE + 1)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ConfigError(f"the key file {path} cannot be read: {error.strerror or error}") from error
        if mode & 0o077 and os.name == "posix":
            raise ConfigError(
                f"the key file {path} can be read by others (mode {mode:04o}): anybody who has it can act in "
                f"this node's name. Run `chmod 600 {path}`, or remove it to get a new identity"
            )
        try:
            return cls.from_protobuf(data)
        except ValueError as error:
            raise ConfigError(
                f"the key file {path} is corrupt ({error}): restore it from a copy, or remove it to get a new identity"
            ) from error

    @classmethod
    def from_protobuf(cls, data: bytes) -> Self:
        """Read libp2p's `PrivateKey(type=Ed25519, data=private + public)`, 68 bytes. Raises `ValueError`."""
        head, private, public = data[:4], data[4:36], data[36:]
        if head != _PRIVATE_HEAD or len(public) != _PUBLIC_SIZE:
            raise ValueError("it is not an Ed25519 private key in libp2p's format")
        key = Ed25519PrivateKey.from_private_bytes(private)
        if key.public_key().public_bytes_raw() != public:
            raise ValueError("its public half does not belong to its private half")
        return cls(key)

    def to_protobuf(self) -> bytes:
        """The secret in libp2p's private key format, which p2pd and py-libp2p read too."""
        return _PRIVATE_HEAD + self._key.private_bytes_raw() + self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """A 64-byte Ed25519 signature (RFC 8032)."""
        return self._key.sign(message)


def verify(peer_id: str, message: bytes, signature: bytes) -> bool:
    """True when the owner of `peer_id` signed `message`; False also for a malformed peer id or signature."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key_of(peer_id))
        key.verify(signature, message)
    except (ValueError, InvalidSignature):
        return False
    return True


def peer_id_of(public_key: bytes) -> str:
    """The peer id of a raw 32-byte Ed25519 public key. Raises `ValueError`."""
    if len(public_key) != _PUBLIC_SIZE:
        raise ValueError(f"an Ed25519 public key has {_PUBLIC_SIZE} bytes, got {len(public_key)}")
    data = _PUBLIC_HEAD + public_key
    number = int.from_bytes(data, "big")
    characters = []
    while number:
        number, digit = divmod(number, 58)
        characters.append(_ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(characters))


def public_key_of(peer_id: str) -> bytes:
    """The raw 32-byte public key inside an Ed25519 peer id. Raises `ValueError` when it is anything else."""
    if len(peer_id) != _PEER_ID_SIZE:
        raise ValueError(f"not an Ed25519 peer id (those have {_PEER_ID_SIZE} characters): {peer_id[:80]!r}")
    number = 0
    for character in peer_id:
        digit = _DIGITS.get(character)
        if digit is None:
            raise ValueError(f"not a peer id: {character!r} is not a base58 character")
        number = number * 58 + digit
    size = len(_PUBLIC_HEAD) + _PUBLIC_SIZE
    if number.bit_length() > 8 * size:
        raise ValueError("not an Ed25519 peer id")
    data = number.to_bytes(size, "big")
    public = data[len(_PUBLIC_HEAD) :]
    # Comparing the re-encoded form refuses a second spelling of the same peer.
    if not data.startswith(_PUBLIC_HEAD) or peer_id_of(public) != peer_id:
        raise ValueError("not an Ed25519 peer id")
    return public


def _create_once(path: Path, data: bytes) -> bool:
    """Write a new file of mode 0600, whole or not at all. False when another process made it first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename, this never replaces a key
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True
