"""A peer and an account on the chain, bound by the signatures of both keys (pure).

    binding = Ed25519 signature (64) | secp256k1 signature (65) | body (canonical msgpack map)

Both keys sign the same labelled body, so neither can claim the other alone. What the binding says is checked against
the chain by whoever relies on it: the address must be the signer of the id there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from chain.primitives import checksummed, keccak256
from chain.vouchers import SignatureError, recover
from chain.wallet import Account
from mesh.errors import BadRecord, ProtocolViolation
from mesh.identity import SIGNATURE_SIZE, Identity, verify
from mesh.wire import fields as f

Role = Literal["provider", "gateway"]

MAX_BINDING: Final = 1024
MAX_LIFETIME: Final = 7 * 86_400
_LABEL: Final = b"mesh account binding v1\n"
_HEAD: Final = SIGNATURE_SIZE + 65


@dataclass(frozen=True, slots=True)
class Binding:
    """«`peer` acts for `id` on this chain, and `address` signs for it», until `expires` (Unix time, seconds)."""

    role: Role
    id: str
    chain_id: int
    settlement: str
    """Address of the deployment's Settlement contract: which deployment is meant."""
    address: str
    peer: str
    expires: int


_READERS: Final = {
    "role": f.choice("provider", "gateway"),
    "id": f.text(64),
    "chain_id": f.integer(1, (1 << 63) - 1),
    "settlement": f.text(42),
    "address": f.text(42),
    "peer": f.peer_id,
    "expires": f.integer(0, 1 << 53),
}


def sign_binding(binding: Binding, identity: Identity, account: Account) -> bytes:
    """The binding on the wire; `identity` and `account` must be the peer and the address that it names."""
    if (binding.peer, binding.address) != (identity.peer_id, account.address):
        raise ValueError("a binding is signed by the keys that it names")
    body = f.pack({name: getattr(binding, name) for name in sorted(_READERS)})
    message = _LABEL + body
    return identity.sign(message) + account.sign_digest(keccak256(message)) + body


def read_binding(data: bytes, *, peer: str, now: float) -> Binding:
    """Check what `peer` presents. Raises `BadRecord` unless both keys signed it and it is valid at `now`."""
    if not _HEAD < len(data) <= MAX_BINDING:
        raise BadRecord(f"a binding of {len(data)} bytes", peer=peer)
    body = data[_HEAD:]
    message = _LABEL + body
    try:
        raw = f.unpack_map(body, limit=MAX_BINDING)
        values: dict[str, Any] = {name: f.take(raw, name, read) for name, read in _READERS.items()}
    except ProtocolViolation as error:
        raise BadRecord(f"the binding does not read: {error}", peer=peer) from error
    if raw.keys() - _READERS.keys():
        raise BadRecord("the binding has unknown fields", peer=peer)
    if f.pack({name: raw[name] for name in sorted(_READERS)}) != body:
        raise BadRecord("the binding is not in canonical form", peer=peer)
    binding = Binding(**values)
    if binding.peer != peer or not verify(peer, message, data[:SIGNATURE_SIZE]):
        raise BadRecord("the binding is not signed by this peer", peer=peer)
    try:
        signer = checksummed(recover(keccak256(message), data[SIGNATURE_SIZE:_HEAD]))
    except SignatureError as error:
        raise BadRecord(f"the binding's account signature: {error}", peer=peer) from error
    if signer != binding.address:
        raise BadRecord("the binding is not signed by the account that it names", peer=peer)
    if not now < binding.expires <= now + MAX_LIFETIME:
        raise BadRecord("the binding has expired, or lasts longer than one may", peer=peer)
    return binding
