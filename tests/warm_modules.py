"""What processes that start warm have loaded: all that `mesh` commands import, with nothing started by it."""

from __future__ import annotations

import eth_keyfile

import chain.client.provider
import chain.client.staking
import mesh.cli.main
import mesh.client.client
import mesh.gateway.app
import mesh.node
import mesh.provider.join
import tests.chain.shells.crash_child
import tests.settlement.crash_child
from mesh.transport import _hivemind

LOADED = (chain, eth_keyfile, mesh, tests)

_hivemind.load()
