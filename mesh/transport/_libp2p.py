"""The one door to py-libp2p: imported late, because that takes a second, and beside hivemind without a clash."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

from cryptography.exceptions import InvalidTag

from mesh.errors import ConfigError
from mesh.transport._protobuf import isolate_hivemind

_loaded: SimpleNamespace | None = None


def load() -> Any:
    """The parts of py-libp2p that the adapter uses, by name. The first call blocks for about a second.

    Raises `ConfigError` where it is not installed: it is an extra, since one of its dependencies wants a compiler.
    """
    global _loaded
    if _loaded is None:
        isolate_hivemind()
        try:
            _loaded = _import()
        except ModuleNotFoundError as error:
            raise ConfigError(
                "the transport libp2p needs py-libp2p: pip install 'inference-mesh[libp2p]' (one of its dependencies "
                f"wants a C compiler and libgmp-dev), or leave --transport out ({error})"
            ) from error
    return _loaded


def _import() -> SimpleNamespace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it and its dependencies use that is deprecated is not for us to mend
        from google.protobuf.message import DecodeError
        from libp2p.crypto.ed25519 import Ed25519PrivateKey
        from libp2p.crypto.keys import KeyPair
        from libp2p.crypto.x25519 import create_new_key_pair
        from libp2p.exceptions import BaseLibp2pError
        from libp2p.peer.id import ID
        from libp2p.security.noise.transport import Transport as Noise
        from nacl.exceptions import CryptoError
        from noise import exceptions as noise

    return SimpleNamespace(
        handshake_errors=(
            BaseLibp2pError,
            CryptoError,
            DecodeError,
            InvalidTag,
            TypeError,
            ValueError,
            noise.NoiseHandshakeError,
            noise.NoiseInvalidMessage,
            noise.NoiseValidationError,
            noise.NoiseValueError,
        ),
        NoiseInvalidMessage=noise.NoiseInvalidMessage,
        Ed25519PrivateKey=Ed25519PrivateKey,
        KeyPair=KeyPair,
        ID=ID,
        DecodeError=DecodeError,
        Noise=Noise,
        new_noise_key=create_new_key_pair,
    )
