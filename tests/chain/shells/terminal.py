"""`mesh …` as somebody types it: a process of its own, with its own wallet and folder."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests import warm
from tests.chain.shells.world import Net

SECONDS = 120
PASSWORD = "correct horse"


def _command(arguments: list[str], environment: dict[str, str], answer: Connection) -> None:
    """What the `mesh` script does, with its output sent back."""
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["mesh", *arguments]
    said, told = io.StringIO(), io.StringIO()
    status: object = 0
    try:
        with redirect_stdout(said), redirect_stderr(told):
            import chain.wallet
            from mesh.cli.console import out
            from mesh.cli.main import main

            out.width = int(environment["COLUMNS"])  # it was made before there was this environment
            # A second each time that a wallet is opened; what a keystore must cost is tested in test_wallet.
            chain.wallet.SCRYPT_N = 1 << 10
            main()
    except SystemExit as end:
        status = end.code
    answer.send((status if isinstance(status, int) else 1, said.getvalue(), told.getvalue()))
    answer.close()


class Terminal:
    """One user: their folder, their wallet, and the chain that they use."""

    def __init__(self, net: Net, folder: Path, account: int) -> None:
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "XDG_DATA_HOME": str(folder / "data"),
            "MESH_RPC": net.url,
            "MESH_DEPLOYMENT": str(net.chain.deployment_file),
            "MESH_WALLET_PASSWORD": PASSWORD,
            "COLUMNS": "200",
        }
        self.heard = ""
        """Standard error of the last command that ended well."""
        self.run("wallet", "import", "--devnet-account", str(account))
        self.address = str(self.json("wallet", "show")["address"])

    def run(self, *arguments: str, fails: bool = False) -> str:
        """Standard output of a command; its standard error if it is meant to fail."""
        ours, theirs = warm.CONTEXT.Pipe(duplex=False)
        process = warm.CONTEXT.Process(target=_command, args=(list(arguments), self.environment, theirs), daemon=True)
        process.start()
        theirs.close()
        assert ours.poll(SECONDS), f"mesh {' '.join(arguments)} hangs"
        status, said, told = ours.recv()
        process.join(SECONDS)
        ours.close()
        assert (status != 0) is fails, f"mesh {' '.join(arguments)} ended with {status}\n{said}\n{told}"
        self.heard = str(told)
        return str(told if fails else said)

    def json(self, *arguments: str) -> Any:
        """What a command says with --json."""
        return json.loads(self.run(*arguments, "--json"))

    def events(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """The events of a command that sends, by name."""
        return {event["event"]: event for event in self.json(*arguments)["events"]}
