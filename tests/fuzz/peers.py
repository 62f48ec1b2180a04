"""Decoders of what peers say of themselves: certificates, peer ids, records, bindings to accounts."""

from __future__ import annotations

import base64
import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from random import Random

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace as change

from chain.primitives import checksummed, keccak256
from chain.vouchers import Domain
from chain.wallet import Account
from mesh.discovery.books import RecordBook
from mesh.discovery.index import (
    MAX_ENTRY_BYTES,
    IndexEntry,
    decode_entry,
    encode_entry,
    index_entry,
    index_key,
    may_name,
)
from mesh.discovery.record_check import RecordCheck
from mesh.discovery.records import (
    ProviderRecord,
    claimed_model,
    decode_record,
    encode_record,
    peer_key,
    provider_key,
)
from mesh.errors import BadRecord, ProtocolViolation
from mesh.identity import SIGNATURE_SIZE, Identity, peer_id_of, public_key_of, verify
from mesh.payment.credit import binding as bindings
from mesh.payment.credit.binding import Binding, read_binding, sign_binding
from mesh.payment.credit.terms import NotAccepted, accept_binding
from mesh.transport.direct.certificate import verify_certificate
from tests.fuzz.decoder import Decoder
from tests.fuzz.mutate import mutate_bytes, mutate_msgpack
from tests.mesh.sample_record import NOW, sample_record

ME, OTHER = (Identity(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)) for seed in (1, 2))
ACCOUNT = Account(b"\x07" * 32)
DOMAIN = Domain(31337, bytes(range(20)))
RECORD = replace(sample_record(ME.peer_id), account=b"b" * 200)
KEY = provider_key(RECORD.model_key)


def _decode(data: bytes) -> ProviderRecord:
    return decode_record(data, peer=ME.peer_id, key=KEY, now=NOW)


def _only_the_sample(sample: bytes, data: bytes, result: object) -> str | None:
    return None if data == sample else "a signature covers what its owner did not sign"


@cache
def _signer_of_keys() -> Callable[[bytes], bytes]:
    from mesh.discovery.records import _message

    return lambda body: ME.sign(_message(ME.peer_id, KEY, body)) + body


def _resigned(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """A hostile provider signs whatever it likes."""
    return _signer_of_keys()(mutate_msgpack(data[SIGNATURE_SIZE:], rng, [each[SIGNATURE_SIZE:] for each in others]))


def _decode_entry(data: bytes) -> IndexEntry:
    entry = decode_entry(data, peer=ME.peer_id, key=index_key(ME.peer_id), now=NOW)
    assert may_name(data, entry.model)
    return entry


@cache
def _signer_of_entries() -> Callable[[bytes], bytes]:
    from mesh.discovery.index import _message

    return lambda body: ME.sign(_message(ME.peer_id, body)) + body


def _resigned_entry(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    return _signer_of_entries()(mutate_msgpack(data[SIGNATURE_SIZE:], rng, [each[SIGNATURE_SIZE:] for each in others]))


def _entry_wrong(sample: bytes, data: bytes, entry: IndexEntry) -> str | None:
    if encode_entry(entry, ME) != data:
        return "an index entry with two spellings"
    return None if len(data) <= MAX_ENTRY_BYTES and NOW < entry.expires <= NOW + 3600 else "out of bounds"


def _record_wrong(sample: bytes, data: bytes, record: ProviderRecord) -> str | None:
    if encode_record(record, ME) != data:
        return "a record with two spellings"
    if not 0 <= record.span.start < record.span.end <= record.n_blocks or not NOW < record.expires <= NOW + 3600:
        return "out of bounds"
    book = RecordBook[ProviderRecord]()
    return None if book.offer(record, now=NOW) and book.records(now=NOW) in ((record,), ()) else "the book refuses it"


def _signed_body(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """The signature stays as it was, the body changes."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng, others)
    return data[:SIGNATURE_SIZE] + mutate_msgpack(data[SIGNATURE_SIZE:], rng)


def _records() -> list[bytes]:
    gone = replace(RECORD, state="gone", maddrs=(), files={}, account=b"")
    return [encode_record(each, ME) for each in (RECORD, gone)]


# --- the DHT's own envelope ---


def _hash_key(key: bytes) -> bytes:
    return keccak256(key)


def _entries() -> list[bytes]:
    entry, own = encode_entry(index_entry(RECORD), ME), encode_record(RECORD, ME, key=peer_key(ME.peer_id))
    return [
        _entry(KEY, msgpack.packb(ME.peer_id), msgpack.packb(_records()[0])),
        _entry(index_key(ME.peer_id), msgpack.packb(ME.peer_id), msgpack.packb(entry)),
        _entry(peer_key(ME.peer_id), msgpack.packb(ME.peer_id), msgpack.packb(own)),
    ]


def _entry(key: bytes, subkey: bytes, value: bytes) -> bytes:
    return _hash_key(key) + bytes([len(subkey)]) + subkey + value


def _stored(data: bytes) -> bool:
    size = data[32] if len(data) > 32 else 0
    key_id, subkey, value = data[:32], data[33 : 33 + size], data[33 + size :]
    if not RecordCheck(lambda: NOW).accepts(key_id, subkey, value, NOW + 30, hash_key=_hash_key):
        raise BadRecord("refused")
    return True


# --- certificates and keys ---


CERTIFIED = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC)
"""When the certificates of the two identities were made: fixed, so that an input has the same bytes everywhere."""
CERTIFICATES = (
    (
        "MIIBtTCCAVqgAwIBAgIUbkwYxs2ltIk293M0mFsP9MkXi7owCgYIKoZIzj0EAwIwGzEZMBcGA1UEBRMQZjBlMGNjZDI4NjY3ZjBkMzAe"
        "Fw0yNjExMjExMTAwMDBaFw0yNjExMjgxMjAwMDBaMBsxGTAXBgNVBAUTEGYwZTBjY2QyODY2N2YwZDMwWTATBgcqhkjOPQIBBggqhkjO"
        "PQMBBwNCAAQmdQA/bELGoIuTuHBP6AFFOmH1idjtsyDaDPnYncgl5ahdRkGJiOsrN2m56lmOQV+Oz62+ndFTeh76gpsAM5tao3wwejB4"
        "BgorBgEEAYOiWgEBBGowaAQkCAESIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29cBECYbt+byML+J3SDxfwyCYvSQV3l/rhV"
        "B7QnyHXpVhdmzUUqLhSkqHrbtPOKnov90VFswbC3NK1Vz+u2nKmxJ4QPMAoGCCqGSM49BAMCA0kAMEYCIQCW2bCWwhA/NUPDdJrt18vg"
        "Z4X98Tr6PraR/DNfLU7B4AIhAO2AYRvtU6Bfstjn3735aXQzUcmInQbfYPESDY+DePj/"
    ),
    (
        "MIIBszCCAVqgAwIBAgIUYMik5SyoA1Zd3JC8drA0EhVmWvgwCgYIKoZIzj0EAwIwGzEZMBcGA1UEBRMQOGE0N2Y4ZjA5ZTBhNGQ2MTAe"
        "Fw0yNjExMjExMTAwMDBaFw0yNjExMjgxMjAwMDBaMBsxGTAXBgNVBAUTEDhhNDdmOGYwOWUwYTRkNjEwWTATBgcqhkjOPQIBBggqhkjO"
        "PQMBBwNCAAS5WcN2yMdb1rRSO9Rou/0nyyUCdBbzEQiaMmzib3ML9oNLmB+7CYAiN5naLoNqWSPqVE0XDt1KxNdBOQAZ4yNPo3wwejB4"
        "BgorBgEEAYOiWgEBBGowaAQkCAESIIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOUBECxNpTxC74X4k1AIx+ytEQhtcQrA5pB"
        "3fExPCJtAgv82ro+cGhgw/s6b+CSvZzqnYSJ9vcddSWT1BlZTLARDN0JMAoGCCqGSM49BAMCA0cAMEQCIG9YUdqMHC/aeW1sl6LThybz"
        "5u8Aiw1t2sU7dflqMbIiAiBXDIcZu1iS+BQ5xpqDVdSUYe3w7GY28p5glHPDz3sMHQ=="
    ),
)


def _proved(sample: bytes, data: bytes, peer: str) -> str | None:
    return _only_the_sample(sample, data, peer) if peer in (ME.peer_id, OTHER.peer_id) else "a peer that never signed"


def _read_peer_id(data: bytes) -> bytes:
    return public_key_of(data.decode("utf-8", "surrogateescape"))


def _message_signed(data: bytes) -> None:
    """Peer id (52), signature (64), message."""
    if not verify(data[:52].decode("latin-1"), data[116:], data[52:116]):
        raise ProtocolViolation("not signed")


def _signed_messages() -> list[bytes]:
    return [each.peer_id.encode() + each.sign(b"a message") + b"a message" for each in (ME, OTHER)]


# --- bindings ---

BINDING = Binding(
    "gateway", "gate", DOMAIN.chain_id, checksummed(DOMAIN.contract), ACCOUNT.address, ME.peer_id, int(NOW) + 3600
)


def _binding(data: bytes) -> Binding:
    return read_binding(data, peer=ME.peer_id, now=NOW)


def _resigned_binding(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    body = mutate_msgpack(data[bindings._HEAD :], rng)
    message = bindings._LABEL + body
    return ME.sign(message) + ACCOUNT.sign_digest(keccak256(message)) + body


def _binding_wrong(sample: bytes, data: bytes, found: Binding) -> str | None:
    if sign_binding(found, ME, ACCOUNT) != data:
        return "a binding with two spellings"
    return None if NOW < found.expires <= NOW + bindings.MAX_LIFETIME else "out of time"


def _accepted(data: bytes) -> Binding:
    return accept_binding(data, peer=ME.peer_id, role="gateway", domain=DOMAIN)


def _current_bindings() -> list[bytes]:
    return [sign_binding(change(BINDING, expires=int(time.time()) + 86_400), ME, ACCOUNT)]


def decoders() -> list[Decoder]:
    """All of this module."""
    refused = (ProtocolViolation,)
    record = ("mesh.discovery.records:decode_record", "mesh.discovery.records:_parse", "mesh.discovery.fields:unpack")
    bound = ("mesh.payment.credit.binding:read_binding", "chain.vouchers:recover")
    return [
        Decoder("records", _records, _decode, refused, _only_the_sample, record, _signed_body),
        Decoder(
            "records, signed by a liar", lambda: _records()[:1], _decode, refused, _record_wrong, record, _resigned
        ),
        Decoder(
            "entries of the index",
            lambda: [encode_entry(index_entry(RECORD), ME)],
            _decode_entry,
            refused,
            _only_the_sample,
            ("mesh.discovery.index:decode_entry", "mesh.discovery.index:_parse"),
            _signed_body,
        ),
        Decoder(
            "entries of the index, signed by a liar",
            lambda: [encode_entry(index_entry(RECORD), ME)],
            _decode_entry,
            refused,
            _entry_wrong,
            ("mesh.discovery.index:decode_entry",),
            _resigned_entry,
        ),
        Decoder(
            "models that records claim",
            _records,
            lambda data: claimed_model(data, peer=ME.peer_id),
            refused,
            lambda sample, data, model: None if len(provider_key(model)) < 400 else "a long key",
            ("mesh.discovery.records:claimed_model",),
            _signed_body,
        ),
        Decoder(
            "entries of the DHT",
            _entries,
            _stored,
            refused,
            _only_the_sample,
            ("mesh.discovery.record_check:RecordCheck.accepts", "mesh.discovery.record_check:_unpacked"),
        ),
        Decoder(
            "certificates",
            lambda: [base64.b64decode(each) for each in CERTIFICATES],
            lambda data: verify_certificate(data, now=CERTIFIED),
            refused,
            _proved,
            ("mesh.transport.direct.certificate:verify_certificate", "mesh.transport.direct.certificate:_load"),
        ),
        Decoder(
            "peer ids",
            lambda: [ME.peer_id.encode(), OTHER.peer_id.encode()],
            _read_peer_id,
            (ValueError,),
            lambda sample, data, key: None if peer_id_of(key).encode() == data else "a second spelling",
            ("mesh.identity:public_key_of",),
        ),
        Decoder(
            "identity files",
            lambda: [ME.to_protobuf()],
            Identity.from_protobuf,
            (ValueError,),
            lambda sample, data, identity: None if identity.to_protobuf() == data else "another key",
            ("mesh.identity:Identity.from_protobuf", "mesh.identity:Identity.load"),
        ),
        Decoder(
            "signatures of peers",
            _signed_messages,
            _message_signed,
            refused,
            _only_the_sample,
            ("mesh.identity:verify",),
        ),
        Decoder("bindings", lambda: [sign_binding(BINDING, ME, ACCOUNT)], _binding, refused, _only_the_sample, bound),
        Decoder(
            "bindings, signed by a liar",
            lambda: [sign_binding(BINDING, ME, ACCOUNT)],
            _binding,
            refused,
            _binding_wrong,
            bound,
            _resigned_binding,
        ),
        Decoder(
            "bindings of gateways",
            _current_bindings,
            _accepted,
            (ProtocolViolation, NotAccepted),
            _only_the_sample,
            ("mesh.payment.credit.terms:accept_binding",),
        ),
    ]
