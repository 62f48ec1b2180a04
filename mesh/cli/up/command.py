"""`mesh up`: relay, providers and gateway of one `mesh.toml`, as processes that start and end together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.syntax import Syntax

from mesh.cli.chain_session import chain_group
from mesh.cli.console import out, print_json, run, set_up_logging, settled_on
from mesh.cli.environment import environment
from mesh.cli.options import AsJson, LogLevel, Peers
from mesh.cli.up.settings import NodeSettings, Said, read_file, settle
from mesh.errors import ConfigError

app = chain_group("The file that `mesh up` runs: write one, and see what comes out of it.")
FILE = Path("mesh.toml")

ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", envvar="MESH_CONFIG", help="The file that says what to run.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Over file and environment; may be repeated."),
]


def up(
    config: ConfigFile = FILE,
    sets: Sets = None,
    peers: Peers = None,
    wallet: Annotated[Path | None, typer.Option("--wallet", help="Over [node] wallet.")] = None,
    password_file: Annotated[Path | None, typer.Option("--password-file", help="Over [node] password_file.")] = None,
    rpc: Annotated[str | None, typer.Option("--rpc", help="Over [node] rpc.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before registering and staking.")] = False,
    as_json: AsJson = False,
    log_level: LogLevel = "info",
) -> None:
    """Run what mesh.toml says, a whole node of relay, providers and gateway, until Ctrl-C.

    They start one after the other, join through each other, and keep their identities under their names. A wallet's
    password is asked once. One that fails is started again, which is said with the reason. At Ctrl-C all leave as
    they do by themselves (sessions end or are handed over); at the second one they end at once.
    """
    set_up_logging(log_level)
    nodes = settled_on(lambda: read(config, sets or (), peers, wallet, password_file, rpc))
    from mesh.cli.up.running import RunningNode

    running = settled_on(lambda: RunningNode(nodes, yes=_allowed(nodes, yes), as_json=as_json))
    run(running.run(), ends_on_signal=True, ask=running.ask)
    if not as_json:
        out.print("every process has stopped")


def read(
    config: Path,
    sets: Sequence[str],
    peers: Sequence[str] | None = None,
    wallet: Path | None = None,
    password_file: Path | None = None,
    rpc: str | None = None,
) -> list[NodeSettings]:
    """What the file and all over it say. Raises `ConfigError`."""
    given = environment()
    said = {"wallet": wallet, "password_file": password_file, "rpc": rpc}
    options = {name: str(value) for name, value in said.items() if value is not None}
    # Typer cannot tell whether they are from the command line or MESH_PEERS, which we read ourselves.
    if peers and " ".join(peers) != " ".join(given.get("MESH_PEERS", "").split()):
        options["peers"] = " ".join(peers)
    return settle(read_file(config), config.absolute(), Said(options, sets, given))


def _allowed(nodes: Sequence[NodeSettings], yes: bool) -> bool:
    """Whether nodes may register and stake: they have no terminal to ask at. Raises `ConfigError`."""
    asking = [node.label for node in nodes if node.get("wallet") and not node.get("yes")]
    if yes or not asking:
        return yes
    if not sys.stdin.isatty():
        raise ConfigError(f"{', '.join(asking)} may have to register and stake: add --yes, or yes = true to the file")
    question = f"Let {', '.join(asking)} register, and stake what the models and the gateway's role ask for?"
    if not typer.confirm(question):
        raise ConfigError("without that they cannot work for money: leave the wallet out to work for free")
    return True


@app.command("show")
def show(
    config: ConfigFile = FILE,
    sets: Sets = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what has its default.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what `mesh up` would run, each value with where it is from."""
    nodes = settled_on(lambda: read(config, sets or ()))
    if as_json:
        print_json(
            [
                {
                    "label": node.label,
                    "role": node.role,
                    "values": {name: {"value": each.value, "from": each.source} for name, each in node.values.items()},
                }
                for node in nodes
            ]
        )
        return
    from mesh.cli.up.text import shown

    text = shown(nodes, with_defaults=everything)
    if out.is_terminal:
        out.print(Syntax(text, "toml", background_color="default", word_wrap=True))
    else:
        out.print(text, end="", markup=False)


@app.command("init")
def init(
    config: Annotated[Path, typer.Argument(help="The file to write.")] = FILE,
    force: Annotated[bool, typer.Option("--force", help="Write over one that is there.")] = False,
) -> None:
    """Write a file with every key explained, which runs as it is: a provider of tiny-python, and a gateway."""
    from mesh.cli.up.text import commented

    text = commented()

    def write() -> None:
        try:
            with config.open("w" if force else "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise ConfigError(f"{config} is there already: --force writes over it") from None
        except OSError as error:
            raise ConfigError(f"cannot write {config}: {error.strerror or error}") from error

    settled_on(write)
    out.print(f"wrote {config}: `mesh up` runs it", markup=False)
