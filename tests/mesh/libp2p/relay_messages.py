"""py-libp2p's own messages of the circuit relay: what ours are held against."""

from __future__ import annotations

import warnings
from typing import Any

from mesh.transport import _libp2p


def circuit_messages() -> Any:
    """The generated module, imported late because that takes a second."""
    _libp2p.load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from libp2p.relay.circuit_v2.pb import circuit_pb2
    return circuit_pb2
