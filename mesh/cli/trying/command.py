"""`mesh try`: the README's blocks as one command, step by step."""

from __future__ import annotations

import secrets
import time
from typing import Annotated

import typer

from mesh.cli.console import out, run, set_up_logging
from mesh.cli.identities import runtime_root
from mesh.cli.options import LogLevel
from mesh.cli.processes import children
from mesh.transport.runtime_dir import RuntimeDirectory


def try_(
    paid: Annotated[
        bool,
        typer.Option("--paid", help="For money: chain, wallets, stakes, deposit, key, and a reward that is claimed."),
    ] = False,
    log_level: LogLevel = "warning",
) -> None:
    """Go through what the README shows, on this machine: each step explained, its command shown and run.

    Everything is real (processes, a chain, transactions) and apart from all else here: it has folders, wallets and
    a swarm of its own, which are gone at the end.
    """
    set_up_logging(log_level)
    run(_try(paid))


async def _try(paid: bool) -> None:
    began = time.monotonic()
    # Its keys go where the next start of any node cleans up after us, should we be killed.
    with RuntimeDirectory(runtime_root()) as own:
        async with children() as family:
            from mesh.cli.trying import free
            from mesh.cli.trying import paid as for_money
            from mesh.cli.trying.steps import Walk

            family.prepare("join", *(("--wallet",) if paid else ()))
            walk = Walk(family, own.path, secrets.token_hex(16))
            await (for_money.walk(walk) if paid else free.walk(walk))
    out.print(f"every process has stopped; that took {time.monotonic() - began:.0f} s")
