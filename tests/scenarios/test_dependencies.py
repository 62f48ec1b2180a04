"""What a role does not depend on it does not touch while it runs."""

from __future__ import annotations

import inspect

from mesh.cli.generate import generate
from mesh.cli.relay import relay as relay_command
from tests.scenarios.processes import LOOPBACK, World


def test_a_relay_and_a_client_ask_no_chain_and_keep_no_books(world: World) -> None:
    relay = world.start("relay", "--host-maddrs", LOOPBACK, "--json")
    address = relay.event("relaying")["maddrs"][0]
    assert world.run("generate", "x", "--peers", address, "-n", "4").code == 1, "nobody serves anything"
    assert not list(world.folder.rglob("*.sqlite*"))
    for command in (relay_command, generate):
        assert not inspect.signature(command).parameters.keys() & {"rpc", "wallet", "deployment", "payment_folder"}
