"""The `mesh` command: its subcommands and what happens to errors that reach the top."""

from __future__ import annotations

from typing import Annotated

import typer

from mesh.cli import (
    chain_epoch,
    chain_escrow,
    chain_lines,
    chain_models,
    chain_owner,
    chain_provider,
    chain_up,
    chain_wallet,
)
from mesh.cli.audit import audit
from mesh.cli.backup import backup, restore
from mesh.cli.console import KNOWN_ERRORS, fail, out
from mesh.cli.dashboard import dashboard
from mesh.cli.demo import demo
from mesh.cli.doctor.command import doctor
from mesh.cli.earnings import add_to as add_earnings
from mesh.cli.environment import take_secrets
from mesh.cli.gateway import gateway
from mesh.cli.generate import chat, generate
from mesh.cli.help import GroupedCommands
from mesh.cli.join import join
from mesh.cli.leave import leave
from mesh.cli.pay import app as key_app
from mesh.cli.pay import pay
from mesh.cli.relay import relay
from mesh.cli.status import status
from mesh.cli.trying.command import try_
from mesh.cli.up.command import app as config_app
from mesh.cli.up.command import up

app = typer.Typer(
    help="Strangers' machines together serve AI models that none could hold alone.",
    cls=GroupedCommands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    demo,
    up,
    join,
    leave,
    gateway,
    generate,
    chat,
    status,
    audit,
    doctor,
    dashboard,
    relay,
    pay,
    backup,
    restore,
):
    app.command()(command)
app.command("try")(try_)
add_earnings(app)
app.add_typer(chain_up.app, name="chain")
app.add_typer(chain_wallet.app, name="wallet")
app.add_typer(chain_models.app, name="model")
app.add_typer(chain_provider.app, name="provider")
app.add_typer(chain_lines.app, name="gateway-stake")
app.add_typer(chain_epoch.app, name="epoch")
app.add_typer(chain_epoch.checkpoints, name="checkpoint")
app.add_typer(chain_escrow.app, name="escrow")
app.add_typer(chain_owner.app, name="owner")
app.add_typer(key_app, name="key")
app.add_typer(config_app, name="config")


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
    take_secrets()


def main() -> None:
    """The console script. Known errors are one line on stderr; anything else is a bug and shows its traceback."""
    try:
        app()
    except KNOWN_ERRORS as error:
        raise SystemExit(fail(error).exit_code) from error
