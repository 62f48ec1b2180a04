"""hivemind and py-libp2p in one process, whichever comes first, each in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SPEAK = """
import hivemind, libp2p, sys
from hivemind.proto import auth_pb2, crypto_pb2 as ours, dht_pb2
from libp2p.crypto.pb import crypto_pb2 as theirs

assert ours.DESCRIPTOR.pool is not theirs.DESCRIPTOR.pool
sent = theirs.PublicKey(key_type=theirs.KeyType.Ed25519, data=b"k" * 32)
assert ours.PublicKey.FromString(sent.SerializeToString()).data == b"k" * 32
asked = dht_pb2.FindRequest(auth=auth_pb2.RequestAuthInfo(service_public_key=b"a"), keys=[b"b"])
assert dht_pb2.FindRequest.FromString(asked.SerializeToString()) == asked
print("both")
"""


def run(code: str) -> str:
    """What `code` prints in an interpreter of its own; fails the test when it fails."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("order", [("hivemind", "libp2p"), ("libp2p", "hivemind")], ids=" then ".join)
def test_both_can_be_imported_in_either_order(order: tuple[str, str]) -> None:
    first, second = order
    isolate = "from mesh.transport._protobuf import isolate_hivemind; isolate_hivemind(); isolate_hivemind()"
    assert run(f"{isolate}\nimport {first}\nimport {second}\n{SPEAK}") == "both\n"


@pytest.mark.parametrize("order", [("_hivemind", "_libp2p"), ("_libp2p", "_hivemind")], ids=" then ".join)
def test_the_doors_to_both_can_be_opened_in_either_order(order: tuple[str, str]) -> None:
    first, second = order
    doors = f"from mesh.transport import {first}, {second}\n{first}.load()\n{second}.load()\n"
    assert run(doors + SPEAK) == "both\n"


def test_keeping_them_apart_costs_no_import_of_hivemind() -> None:
    code = "import sys; from mesh.transport._protobuf import isolate_hivemind; isolate_hivemind(); print(*sys.modules)"
    loaded = run(code).split()
    assert "hivemind.proto.crypto_pb2" in loaded
    assert not {"hivemind", "hivemind.p2p", "torch", "libp2p"} & set(loaded)
