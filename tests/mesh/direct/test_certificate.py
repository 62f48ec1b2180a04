"""Certificates of libp2p identities: what is accepted, what is refused, and that py-libp2p agrees."""

from __future__ import annotations

import datetime
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.errors import ProtocolViolation
from mesh.identity import Identity, public_key_of
from mesh.transport.direct.certificate import BACKDATED, EXTENSION, VALIDITY, Credentials, verify_certificate

IDENTITY = Identity.generate()
GOOD = Credentials.create(IDENTITY)
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def signed_key(identity: Identity, message: bytes) -> bytes:
    public = bytes((0x08, 0x01, 0x12, 0x20)) + public_key_of(identity.peer_id)
    body = bytes((0x04, len(public))) + public + bytes((0x04, 64)) + identity.sign(message)
    return bytes((0x30, len(body))) + body


def build(
    *,
    key: Key | None = None,
    signer: Key | None = None,
    extension: Callable[[bytes], bytes] | None = lambda public: signed_key(IDENTITY, b"libp2p-tls-handshake:" + public),
    critical: bool = False,
    extra: x509.ExtensionType | None = None,
    begins: datetime.timedelta = -DAY,
    ends: datetime.timedelta = DAY,
    hashed: hashes.HashAlgorithm | None = None,
) -> bytes:
    """A certificate that is fine but for what the arguments change."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(7)
        .not_valid_before(NOW + begins)
        .not_valid_after(NOW + ends)
        .public_key(key.public_key())
    )
    if extension is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(EXTENSION, extension(public)), critical=critical)
    if extra is not None:
        builder = builder.add_extension(extra, critical=True)
    return builder.sign(signer or key, hashed or hashes.SHA256()).public_bytes(Encoding.DER)


def test_our_certificate_proves_our_peer_id() -> None:
    assert verify_certificate(GOOD.certificate) == IDENTITY.peer_id
    assert verify_certificate(build()) == IDENTITY.peer_id


def test_a_critical_identity_extension_and_other_curves_are_fine() -> None:
    assert verify_certificate(build(critical=True)) == IDENTITY.peer_id
    assert verify_certificate(build(key=ec.generate_private_key(ec.SECP384R1()))) == IDENTITY.peer_id


def test_every_certificate_has_a_key_of_its_own() -> None:
    other = Credentials.create(IDENTITY)
    assert other.certificate != GOOD.certificate
    assert other.key.private_numbers() != GOOD.key.private_numbers()
    assert "key" not in repr(other)


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        (lambda: build(begins=-2 * DAY, ends=-DAY), "valid from"),
        (lambda: build(begins=DAY, ends=2 * DAY), "valid from"),
        (lambda: build(extension=None), "no libp2p identity"),
        (lambda: build(extension=lambda public: signed_key(IDENTITY, public)), "did not sign"),
        (lambda: build(extension=lambda _: signed_key(IDENTITY, b"libp2p-tls-handshake:other key")), "did not sign"),
        (
            lambda: build(
                extension=lambda public: (
                    signed_key(Identity.generate(), b"libp2p-tls-handshake:" + public)[:8]
                    + public_key_of(IDENTITY.peer_id)
                    + signed_key(Identity.generate(), b"libp2p-tls-handshake:" + public)[40:]
                )
            ),
            "did not sign",
        ),
        (lambda: build(extension=lambda _: b""), "no Ed25519 key"),
        (lambda: build(extension=lambda public: signed_key(IDENTITY, public) + b"\0"), "no Ed25519 key"),
        (lambda: build(signer=ec.generate_private_key(ec.SECP256R1())), "not signed with its own key"),
        (lambda: build(key=rsa.generate_private_key(65537, 2048)), "none that we take"),
        (lambda: build(hashed=hashes.SHA224()), "hash that we do not take"),
        (
            lambda: build(extra=x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.53594.9.9"), b"x")),
            "critical extension",
        ),
        (lambda: build() + b"\0", "not a certificate"),
        (lambda: build()[:-1], "not a certificate"),
        (lambda: b"", "not a certificate"),
        (lambda: bytes(5000), "over the limit"),
    ],
)
def test_a_certificate_that_proves_nothing_is_refused(certificate: Callable[[], bytes], why: str) -> None:
    with pytest.raises(ProtocolViolation, match=why):
        verify_certificate(certificate())


def test_a_certificate_is_refused_after_its_time_and_tolerates_clocks_that_are_behind() -> None:
    fresh = Credentials.create(IDENTITY, now=NOW)
    assert verify_certificate(fresh.certificate, now=NOW - BACKDATED + DAY / 1440) == IDENTITY.peer_id
    with pytest.raises(ProtocolViolation, match="valid from"):
        verify_certificate(fresh.certificate, now=NOW - BACKDATED - DAY / 1440)
    with pytest.raises(ProtocolViolation, match="valid from"):
        verify_certificate(fresh.certificate, now=NOW + VALIDITY + DAY / 1440)


@given(st.integers(0, len(GOOD.certificate) - 1), st.integers(1, 255))
@example(15, 128)  # a negative serial number, of which cryptography only warns
@settings(max_examples=200, deadline=200)
def test_a_changed_certificate_is_refused(index: int, flip: int) -> None:
    mutated = bytearray(GOOD.certificate)
    mutated[index] ^= flip
    with pytest.raises(ProtocolViolation):
        verify_certificate(bytes(mutated))


@given(st.binary(max_size=600))
@settings(max_examples=200, deadline=200)
def test_any_bytes_are_refused_in_good_time(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        verify_certificate(data)


def test_the_key_is_left_in_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(Path("/proc/self/fd").iterdir()) if sys.platform == "linux" else set()
    GOOD.context(None, server=True)
    monkeypatch.setattr(sys, "platform", "other")
    GOOD.context(GOOD.certificate, server=False)
    assert list(tmp_path.iterdir()) == []
    assert not before or set(Path("/proc/self/fd").iterdir()) == before


LIBP2P = """
import sys, warnings
warnings.simplefilter("ignore")
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from libp2p.crypto.ed25519 import Ed25519PrivateKey
from libp2p.peer.id import ID
from libp2p.security.tls.certificate import create_cert_template, generate_certificate, verify_certificate_chain
ours = x509.load_der_x509_certificate(bytes.fromhex(sys.argv[1]))
print(ID.from_pubkey(verify_certificate_chain([ours])))
key = Ed25519PrivateKey.new() if hasattr(Ed25519PrivateKey, "new") else None
pem, _ = generate_certificate(key, create_cert_template())
print(ID.from_pubkey(key.get_public_key()))
print(x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER).hex())
"""


def test_py_libp2p_reads_our_certificates_and_we_read_its() -> None:
    # In a process of its own, as anybody would use py-libp2p.
    run = subprocess.run(
        [sys.executable, "-c", LIBP2P, GOOD.certificate.hex()], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    read, theirs, certificate = run.stdout.split()
    assert read == IDENTITY.peer_id
    assert verify_certificate(bytes.fromhex(certificate)) == theirs
