"""The `mesh` command: its subcommands and what happens to errors that reach the top."""

from __future__ import annotations

from typing import Annotated

import typer

from mesh.cli.console import fail, out
from mesh.cli.demo import demo
from mesh.cli.gateway import gateway
from mesh.cli.generate import chat, generate
from mesh.cli.join import join
from mesh.cli.status import status
from mesh.errors import MeshError
from shards.errors import ShardError

app = typer.Typer(
    help="A peer-to-peer network in which strangers' machines together serve AI models that none could hold alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (demo, join, gateway, generate, chat, status):
    app.command()(command)


def _version(shown: bool) -> None:
    if shown:
        from mesh.version import VERSION

        out.print(VERSION)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """What comes before a subcommand."""


def main() -> None:
    """The console script. Known errors are one line on stderr; anything else is a bug and shows its traceback."""
    try:
        app()
    except (MeshError, ShardError) as error:
        raise SystemExit(fail(error).exit_code) from error
