"""X.509 certificates that carry a libp2p identity, after the libp2p TLS specification (github.com/libp2p/specs, tls/).

The certificate has a short-lived key of its own. An extension holds the peer's public key and its signature over the
certificate's public key, so whoever proves the certificate's key in a TLS handshake is that peer.
"""

from __future__ import annotations

import datetime
import os
import secrets
import ssl
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.utils import CryptographyDeprecationWarning

from mesh.errors import ProtocolViolation
from mesh.identity import Identity, peer_id_of, public_key_of, verify
from mesh.wire.direct import MAX_CERTIFICATE

EXTENSION: Final = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
SIGNATURE_PREFIX: Final = b"libp2p-tls-handshake:"
# SignedKey ::= SEQUENCE { publicKey OCTET STRING, signature OCTET STRING }. For an Ed25519 identity every length is
# fixed: 36 bytes of protobuf (type 1, 32 bytes of key) and 64 of signature.
_SIGNED_KEY_HEAD: Final = bytes((0x30, 0x68, 0x04, 0x24, 0x08, 0x01, 0x12, 0x20))
_SIGNED_KEY_MIDDLE: Final = bytes((0x04, 0x40))
_SIGNED_KEY_SIZE: Final = 8 + 32 + 2 + 64

BACKDATED: Final = datetime.timedelta(hours=1)
"""How much a peer's clock may be behind."""
VALIDITY: Final = datetime.timedelta(days=7)
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Our certificate and its key, which never leaves the process."""

    certificate: bytes
    """DER."""
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    expires: datetime.datetime

    @classmethod
    def create(cls, identity: Identity, *, now: datetime.datetime | None = None) -> Credentials:
        """A fresh key (ECDSA, P-256) and a certificate for it that `identity` signs for."""
        now = now or datetime.datetime.now(datetime.UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        name = x509.Name([x509.NameAttribute(x509.NameOID.SERIAL_NUMBER, secrets.token_hex(8))])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + VALIDITY)
            .public_key(key.public_key())
            .add_extension(
                x509.UnrecognizedExtension(
                    EXTENSION,
                    _SIGNED_KEY_HEAD
                    + public_key_of(identity.peer_id)
                    + _SIGNED_KEY_MIDDLE
                    + identity.sign(SIGNATURE_PREFIX + public),
                ),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        return cls(certificate.public_bytes(Encoding.DER), key, now + VALIDITY)

    def context(self, trusted: bytes | None, *, server: bool) -> ssl.SSLContext:
        """TLS 1.3 only; presents our certificate and takes no other than `trusted` (DER) from the peer.

        Without `trusted` it takes none at all, and every handshake fails.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # there are no names: the certificate itself is what we expect
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
        if server:
            context.num_tickets = 0  # no session is resumed, so each one proves the key anew
        with self._pem() as (path, password):
            context.load_cert_chain(path, password=password)
        if trusted is not None:
            context.load_verify_locations(cadata=trusted)
        return context

    @contextmanager
    def _pem(self) -> Iterator[tuple[str, bytes | None]]:
        """Certificate and key as a file, since Python's ssl reads them from nowhere else: in memory where it can."""
        certificate = ssl.DER_cert_to_PEM_cert(self.certificate).encode()
        if sys.platform == "linux":
            data = certificate + self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            descriptor = os.memfd_create("mesh-certificate", os.MFD_CLOEXEC)
            try:
                os.write(descriptor, data)
                yield f"/proc/self/fd/{descriptor}", None
            finally:
                os.close(descriptor)
        else:
            password = secrets.token_hex(32).encode()
            data = certificate + self.key.private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)
            )
            with tempfile.TemporaryDirectory(prefix="mesh-") as folder:
                path = Path(folder) / "certificate.pem"
                path.write_bytes(data)
                yield str(path), password


def verify_certificate(der: bytes, *, now: datetime.datetime | None = None) -> str:
    """The peer id that a certificate proves, once its key is proved too. Raises `ProtocolViolation`.

    Checked: size, one self-signed X.509 v3 certificate with an elliptic-curve key and no extension that we do not
    know but would have to, its time, and that the identity signed for its key.
    """
    if len(der) > MAX_CERTIFICATE:
        raise ProtocolViolation(f"a certificate of {len(der)} bytes is over the limit of {MAX_CERTIFICATE}")
    now = now or datetime.datetime.now(datetime.UTC)
    try:
        certificate = _load(der)
        if certificate.public_bytes(Encoding.DER) != der:
            raise ProtocolViolation("the certificate is not in canonical form")
        if not der.endswith(b"\0" + certificate.signature):
            raise ProtocolViolation("the certificate's signature is not a whole number of bytes")
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise ProtocolViolation(
                f"the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to "
                f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, which is not now: is a clock wrong?"
            )
        _check_self_signed(certificate)
        signed_key = _signed_key(certificate)
        public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension) as error:
        raise ProtocolViolation(f"not a certificate of a peer: {error}") from error
    peer = peer_id_of(signed_key[8:40])
    if not verify(peer, SIGNATURE_PREFIX + public, signed_key[42:]):
        raise ProtocolViolation("the identity in the certificate did not sign for its key")
    return peer


def _load(der: bytes) -> x509.Certificate:
    """Raises `ValueError` also for what cryptography only warns of still, like a serial number that is not positive."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CryptographyDeprecationWarning)
        try:
            return x509.load_der_x509_certificate(der)
        except CryptographyDeprecationWarning as warning:
            raise ValueError(str(warning)) from warning


def _check_self_signed(certificate: x509.Certificate) -> None:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        raise ProtocolViolation("the certificate's key is none that we take (ECDSA over P-256, P-384 or P-521)")
    algorithm = certificate.signature_hash_algorithm
    if not isinstance(algorithm, _HASHES):
        raise ProtocolViolation("the certificate is signed with a hash that we do not take")
    try:
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(algorithm))
    except InvalidSignature:
        raise ProtocolViolation("the certificate is not signed with its own key") from None


def _signed_key(certificate: x509.Certificate) -> bytes:
    found = None
    for extension in certificate.extensions:
        if extension.oid == EXTENSION and isinstance(extension.value, x509.UnrecognizedExtension):
            found = extension.value.value
        elif extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
            raise ProtocolViolation(f"the certificate has a critical extension that we do not know: {extension.oid}")
    if found is None:
        raise ProtocolViolation("the certificate carries no libp2p identity")
    if len(found) != _SIGNED_KEY_SIZE or found[:8] != _SIGNED_KEY_HEAD or found[40:42] != _SIGNED_KEY_MIDDLE:
        raise ProtocolViolation("the certificate's libp2p identity is no Ed25519 key with its signature")
    return found
