"""The network: who is there, how bytes travel, how a request is driven. `from mesh import Client`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.client.client import Answer, Client
    from mesh.client.sync import SyncClient
    from mesh.client.types import Completion, ModelInfo, TextDelta
    from mesh.errors import MeshError

__all__ = ["Answer", "Client", "Completion", "MeshError", "ModelInfo", "SyncClient", "TextDelta"]

_HOME = {
    "Answer": "mesh.client.client",
    "Client": "mesh.client.client",
    "SyncClient": "mesh.client.sync",
    "Completion": "mesh.client.types",
    "ModelInfo": "mesh.client.types",
    "TextDelta": "mesh.client.types",
    "MeshError": "mesh.errors",
}


def __getattr__(name: str) -> Any:
    """Import on first use: pure parts of the package stay light."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
