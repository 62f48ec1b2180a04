"""Lets hivemind and py-libp2p live in one process: hivemind's protobuf messages get a descriptor pool of their own.

Both register the symbols of libp2p's `crypto.proto`, and protobuf's default pool takes a symbol from one file only, so
whoever is imported second fails. Call `isolate_hivemind()` before anybody imports hivemind; py-libp2p, which may be
imported before or after, then has the default pool to itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGE = "hivemind.proto"


def isolate_hivemind() -> None:
    """Load hivemind's generated messages (not hivemind: it takes seconds) into a pool of their own.

    Does nothing when hivemind is imported already, or not installed. Idempotent.
    """
    spec = importlib.util.find_spec("hivemind") if "hivemind" not in sys.modules else None
    if _PACKAGE in sys.modules or spec is None or not spec.submodule_search_locations:
        return
    # What the generated modules import must itself be loaded under the default pool.
    for needed in ("descriptor", "runtime_version", "symbol_database", "internal.builder"):
        importlib.import_module(f"google.protobuf.{needed}")
    pools: Any = importlib.import_module("google.protobuf.descriptor_pool")
    own, default = pools.DescriptorPool(), pools.Default
    folder = Path(spec.submodule_search_locations[0], "proto")
    package = ModuleType(_PACKAGE)
    package.__path__ = [str(folder)]
    # With these two in place, importing a message does not run hivemind's own `__init__`.
    sys.modules.update({"hivemind": ModuleType("hivemind"), _PACKAGE: package})
    pools.Default = lambda: own
    try:
        for file in sorted(folder.glob("*_pb2.py")):
            importlib.import_module(f"{_PACKAGE}.{file.stem}")
    except BaseException:
        del sys.modules[_PACKAGE]
        raise
    finally:
        pools.Default = default
        del sys.modules["hivemind"]
