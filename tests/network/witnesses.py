"""Public peers that do nothing but exist: libp2p believes in its public address once four others have told it.

    python -m tests.network.witnesses RUNTIME_FOLDER ADDRESS_OF_A_NODE IP…

Prints their addresses as a JSON list, and runs until it is killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from mesh.identity import Identity
from mesh.transport.daemon import Daemon
from mesh.transport.daemon_config import DaemonConfig
from mesh.transport.relay.service import Relay


async def main(folder: Path, node: str, ips: list[str]) -> None:
    """Start one daemon per address, all of them connected to `node`."""
    async with AsyncExitStack() as stack:
        maddrs = []
        for ip in ips:
            config = DaemonConfig(
                Identity.generate(),
                host_maddrs=(f"/ip4/{ip}/tcp/4001",),
                initial_peers=(node,),
                runtime_root=folder,
            )
            daemon = await stack.enter_async_context(Daemon(config))
            await stack.enter_async_context(Relay(daemon))  # as every node: the daemon's own relay is a trap
            maddrs += daemon.visible_maddrs
        print(json.dumps(maddrs), flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
