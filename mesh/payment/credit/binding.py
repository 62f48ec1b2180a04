"""A peer and an account on the chain, bound by the signatures of both keys (pure).

    binding = Ed25519 signature (64) | secp256k1 signature (65) | body (canonical msgpack map)

Both keys sign the same labelled body, so neither can claim the other alone. What the binding says is checked against
the chain by whoever relies on it: the address must be the signer of the id there.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from chain.primitives import checksummed, keccak256
from chain.vouchers import SignatureError, recover
from chain.wallet import Account
from mesh.errors import BadRecord, ProtocolViolation
from mesh.identity import SIGNATURE_SIZE, Identity, verify
from mesh.wire.codec import PeerText, read

Role = Literal["provider", "gateway"]

MAX_BINDING: Final = 1024
MAX_LIFETIME: Final = 7 * 86_400
_LABEL: Final = b"mesh account binding v1\n"
_HEAD: Final = SIGNATURE_SIZE + 65


class Binding(Struct, frozen=True, forbid_unknown_fields=True):
    """«`peer` acts for `id` on this chain, and `address` signs for it», until `expires` (Unix time, seconds)."""

    role: Role
    id: Annotated[str, Meta(max_length=64)]
    chain_id: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
    settlement: Annotated[str, Meta(max_length=42)]
    """Address of the deployment's Settlement contract: which deployment is meant."""
    address: Annotated[str, Meta(max_length=42)]
    peer: PeerText
    expires: Annotated[int, Meta(ge=0, le=1 << 53)]


_encoder: Final = msgspec.msgpack.Encoder(order="sorted")
_decoder: Final = msgspec.msgpack.Decoder(Binding)


def sign_binding(binding: Binding, identity: Identity, account: Account) -> bytes:
    """The binding on the wire; `identity` and `account` must be the peer and the address that it names."""
    if (binding.peer, binding.address) != (identity.peer_id, account.address):
        raise ValueError("a binding is signed by the keys that it names")
    body = _encoder.encode(binding)
    message = _LABEL + body
    return identity.sign(message) + account.sign_digest(keccak256(message)) + body


def read_binding(data: bytes, *, peer: str, now: float) -> Binding:
    """Check what `peer` presents. Raises `BadRecord` unless both keys signed it and it is valid at `now`."""
    if not _HEAD < len(data) <= MAX_BINDING:
        raise BadRecord(f"a binding of {len(data)} bytes", peer=peer)
    body = data[_HEAD:]
    message = _LABEL + body
    try:
        binding: Binding = read(_decoder, body)
    except ProtocolViolation as error:
        raise BadRecord(f"the binding does not read: {error}", peer=peer) from error
    if _encoder.encode(binding) != body:
        raise BadRecord("the binding is not in canonical form", peer=peer)
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
