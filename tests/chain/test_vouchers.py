"""Typed-data digests against eth_account, and signatures of which there is exactly one per message and key."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_keys.datatypes import Signature
from hypothesis import given
from hypothesis import strategies as st

from chain.primitives import MAX_UINT64, MAX_UINT256, checksummed, keccak256
from chain.vouchers import (
    CURVE_ORDER,
    CheckpointCommitment,
    ContributionReceipt,
    ContributionVoucher,
    Domain,
    Message,
    PaymentVoucher,
    SignatureError,
    SignerConsent,
    SlaReport,
    address_of,
    digest,
    is_signed_by,
    recover,
    sign,
)

KEY = keccak256(b"a key")
bytes32 = st.binary(min_size=32, max_size=32)
address = st.binary(min_size=20, max_size=20)
uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, MAX_UINT64)
uint256 = st.integers(0, MAX_UINT256)
domains = st.builds(Domain, uint256, address)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(ContributionVoucher, bytes32, bytes32, uint256, uint64, uint256),
    st.builds(ContributionReceipt, bytes32, bytes32, uint256, uint64, uint256),
    st.builds(PaymentVoucher, address, bytes32, uint256),
    st.builds(CheckpointCommitment, bytes32, uint256, uint64, bytes32, uint256, uint256, bytes32),
    st.builds(SlaReport, bytes32, bytes32, uint64, uint32, st.integers(0, 2**16 - 1), uint32),
    st.builds(SignerConsent, bytes32, address, address),
)


def typed_data(domain: Domain, message: Message) -> dict[str, Any]:
    """The same message as a wallet is asked to sign it."""
    name, _, listed = message.TYPE.rstrip(")").partition("(")
    fields = [field.split(" ") for field in listed.split(",")]
    attributes = [getattr(message, field.name) for field in dataclasses.fields(message)]
    values = {
        field: checksummed(value) if kind == "address" else value
        for (kind, field), value in zip(fields, attributes, strict=True)
    }
    return {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            name: [{"name": field, "type": kind} for kind, field in fields],
        },
        "primaryType": name,
        "domain": {
            "name": "InferenceMesh",
            "version": "1",
            "chainId": domain.chain_id,
            "verifyingContract": checksummed(domain.contract),
        },
        "message": values,
    }


@given(domains, messages)
def test_digests_are_those_that_a_wallet_computes(domain: Domain, message: Message) -> None:
    signable = encode_typed_data(full_message=typed_data(domain, message))
    assert digest(domain, message) == keccak256(b"\x19" + signable.version + signable.header + signable.body)


@given(domains, messages)
def test_a_wallets_signature_is_accepted_and_equal_to_ours(domain: Domain, message: Message) -> None:
    theirs = Account.sign_typed_data(KEY, full_message=typed_data(domain, message)).signature
    ours = sign(digest(domain, message), KEY)
    assert bytes(theirs) == ours
    assert checksummed(recover(digest(domain, message), ours)) == Account.from_key(KEY).address


@given(bytes32, st.integers(1, CURVE_ORDER - 1))
def test_what_is_signed_is_recovered_by_us_and_by_eth_keys(message: bytes, secret: int) -> None:
    key = secret.to_bytes(32)
    signature = sign(message, key)
    assert len(signature) == 65 and signature[64] in (27, 28)
    assert int.from_bytes(signature[32:64]) <= CURVE_ORDER // 2
    assert recover(message, signature) == address_of(key)
    plain = Signature(signature[:64] + bytes([signature[64] - 27]))
    assert plain.recover_public_key_from_msg_hash(message).to_canonical_address() == address_of(key)


@given(domains, domains, messages, messages)
def test_a_signature_counts_for_one_message_on_one_chain_and_contract(
    here: Domain, there: Domain, message: Message, other: Message
) -> None:
    signature = sign(digest(here, message), KEY)
    assert is_signed_by(digest(here, message), signature, address_of(KEY))
    if (there, message) != (here, message):
        assert not is_signed_by(digest(there, message), signature, address_of(KEY))
    if other != message:
        assert not is_signed_by(digest(here, other), signature, address_of(KEY))


def mutations(signature: bytes, rng: random.Random) -> bytes:
    """A signature that differs from the given one, in one of the ways an attacker would try."""
    r, s, v = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64]), signature[64]
    match rng.randrange(7):
        case 0:  # one bit
            bit = rng.randrange(65 * 8)
            return (int.from_bytes(signature) ^ (1 << bit)).to_bytes(65)
        case 1:  # the other half of the curve: valid mathematics, but malleable
            return r.to_bytes(32) + (CURVE_ORDER - s).to_bytes(32) + bytes([55 - v])
        case 2:  # shorter, longer, or in the compact form of ERC-2098
            compact = r.to_bytes(32) + (s | (v - 27) << 255).to_bytes(32)
            return rng.choice(
                [signature[: rng.randrange(65)], signature + rng.randbytes(rng.randrange(1, 40)), compact]
            )
        case 3:  # another recovery id
            return signature[:64] + bytes([rng.choice([b for b in range(256) if b != v])])
        case 4:  # r or s replaced
            at = rng.choice([0, 32])
            return signature[:at] + rng.randbytes(32) + signature[at + 32 :]
        case 5:  # r or s out of range
            large = rng.choice([0, CURVE_ORDER, CURVE_ORDER + 1, MAX_UINT256]).to_bytes(32)
            at = rng.choice([0, 32])
            return signature[:at] + large + signature[at + 32 :]
        case _:  # bytes in another order
            shuffled = list(signature)
            rng.shuffle(shuffled)
            return bytes(shuffled)


def test_of_ten_thousand_mutated_signatures_none_is_accepted() -> None:
    rng = random.Random(20261121)
    domain = Domain(1, bytes(19) + b"\x01")
    signer, tried = address_of(KEY), 0
    while tried < 10_000:
        message = digest(domain, PaymentVoucher(signer, rng.randbytes(32), rng.getrandbits(100)))
        signature = sign(message, KEY)
        assert is_signed_by(message, signature, signer)
        for _ in range(100):
            mutated = mutations(signature, rng)
            if mutated != signature:
                assert not is_signed_by(message, mutated, signer)
                tried += 1


@given(bytes32, st.binary(max_size=80))
def test_arbitrary_bytes_raise_nothing_but_a_signature_error(message: bytes, signature: bytes) -> None:
    try:
        recover(message, signature)
    except SignatureError:
        assert not is_signed_by(message, signature, address_of(KEY))


def test_no_signature_is_by_the_zero_address() -> None:
    message = bytes(32)
    for v in (0, 1, 26, 27, 28, 29, 255):
        assert not is_signed_by(message, bytes(64) + bytes([v]), bytes(20))


@pytest.mark.parametrize("key", [b"", bytes(32), b"\x01" * 31, CURVE_ORDER.to_bytes(32), b"\xff" * 32])
def test_what_is_no_private_key_is_refused(key: bytes) -> None:
    with pytest.raises(ValueError):
        sign(bytes(32), key)
    with pytest.raises(ValueError):
        address_of(key)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_what_is_no_digest_is_refused(length: int) -> None:
    with pytest.raises(ValueError):
        sign(bytes(length), KEY)
    with pytest.raises(ValueError, match="32 bytes"):
        recover(bytes(length), sign(bytes(32), KEY))


@pytest.mark.parametrize(
    "message",
    [
        PaymentVoucher(bytes(19), bytes(32), 1),
        PaymentVoucher(bytes(20), bytes(31), 1),
        PaymentVoucher(bytes(20), bytes(32), -1),
        PaymentVoucher(bytes(20), bytes(32), 2**256),
        ContributionVoucher(bytes(32), bytes(32), 1, 2**64, 1),
        SlaReport(bytes(32), bytes(32), 1, 2**32, 1, 1),
        SlaReport(bytes(32), bytes(32), 1, 1, 2**16, 1),
        SlaReport(bytes(32), bytes(32), 1, 1, 1, 2**32),
        SignerConsent(bytes(31), bytes(20), bytes(20)),
        SignerConsent(bytes(32), bytes(20), bytes(21)),
    ],
)
def test_a_message_whose_field_does_not_fit_its_type_has_no_digest(message: Message) -> None:
    with pytest.raises(ValueError):
        digest(Domain(1, bytes(20)), message)


def test_a_voucher_is_not_a_receipt() -> None:
    domain = Domain(1, bytes(20))
    fields = (bytes(32), bytes(32), 1, 2, 3)
    assert digest(domain, ContributionVoucher(*fields)) != digest(domain, ContributionReceipt(*fields))
