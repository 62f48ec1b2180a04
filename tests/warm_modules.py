"""What processes that start warm have loaded: all that `mesh` commands import, with nothing started by it."""

from __future__ import annotations

import mesh.cli.main
import mesh.client.client
import mesh.gateway.app
import mesh.node
import mesh.provider.join
import tests.settlement.crash_child
from mesh.transport import _hivemind

LOADED = (mesh, tests)

_hivemind.load()
