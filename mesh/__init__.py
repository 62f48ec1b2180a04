"""The network: who is there, how bytes travel, how a request is driven. `from mesh import Client`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.client.client import Answer, Client, Options, TextGeneration
    from mesh.client.payer import Payer
    from mesh.client.sync import SyncClient
    from mesh.client.types import Completion, HopReport, ModelInfo, TextDelta, TokenLogprob
    from mesh.errors import (
        Cancelled,
        ConfigError,
        ContextLengthExceeded,
        InvalidRequest,
        MeshError,
        ModelChanged,
        ModelFault,
        NoRoute,
        PaymentRefused,
        PeerError,
        PeerTimeout,
        PeerUnreachable,
        Refused,
        UnknownModel,
    )

_HOME = {
    "mesh.client.client": ("Answer", "Client", "Options", "TextGeneration"),
    "mesh.client.payer": ("Payer",),
    "mesh.client.sync": ("SyncClient",),
    "mesh.client.types": ("Completion", "HopReport", "ModelInfo", "TextDelta", "TokenLogprob"),
    "mesh.errors": (
        "Cancelled",
        "ConfigError",
        "ContextLengthExceeded",
        "InvalidRequest",
        "MeshError",
        "ModelChanged",
        "ModelFault",
        "NoRoute",
        "PaymentRefused",
        "PeerError",
        "PeerTimeout",
        "PeerUnreachable",
        "Refused",
        "UnknownModel",
    ),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Answer",
    "Cancelled",
    "Client",
    "Completion",
    "ConfigError",
    "ContextLengthExceeded",
    "HopReport",
    "InvalidRequest",
    "MeshError",
    "ModelChanged",
    "ModelFault",
    "ModelInfo",
    "NoRoute",
    "Options",
    "Payer",
    "PaymentRefused",
    "PeerError",
    "PeerTimeout",
    "PeerUnreachable",
    "Refused",
    "SyncClient",
    "TextDelta",
    "TextGeneration",
    "TokenLogprob",
    "UnknownModel",
]


def __getattr__(name: str) -> Any:
    """Import on first use: pure parts of the package stay light."""
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULE[name]), name)
