"""The one door to hivemind: imported late, because that takes seconds, and made to log as we do."""

from __future__ import annotations

import logging
import warnings
from types import SimpleNamespace
from typing import Any

from mesh.transport._lazy_package import defer
from mesh.transport._protobuf import isolate_hivemind

_loaded: SimpleNamespace | None = None


def load() -> Any:
    """The parts of hivemind that the adapters use, by name. The first call blocks for 2 to 3 seconds."""
    global _loaded
    if _loaded is None:
        isolate_hivemind()
        defer("hivemind")  # its averaging and its optimizers, which nobody here needs, bring scipy: 48 MB
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it and torch use that is deprecated is not for us to mend
            from hivemind.p2p import P2P, PeerID
            from hivemind.p2p.p2p_daemon_bindings.control import P2PDaemonError, read_pbmsg_safe, write_pbmsg
            from hivemind.proto import p2pd_pb2
            from hivemind.utils.logging import use_hivemind_log_handler
            from hivemind.utils.multiaddr import Multiaddr

        # hivemind has a handler of its own on standard error; ours decide instead, and only see warnings.
        use_hivemind_log_handler("nowhere")
        logging.getLogger("hivemind").setLevel(logging.WARNING)
        _loaded = SimpleNamespace(
            P2P=P2P,
            PeerID=PeerID,
            P2PDaemonError=P2PDaemonError,
            Multiaddr=Multiaddr,
            p2pd_pb2=p2pd_pb2,
            read_message=read_pbmsg_safe,
            write_message=write_pbmsg,
        )
    return _loaded
