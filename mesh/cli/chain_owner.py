"""`mesh owner`: what the owner of the contracts does, announced in the timelock before it takes effect."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from chain.errors import InvalidArgument
from mesh.cli.chain_session import Session, chain_command, chain_group, plain
from mesh.cli.console import out, print_json, safe

if TYPE_CHECKING:
    from chain.abi import Function
    from chain.client.calls.owner import Operation
    from chain.client.staking import StakingClient

app = chain_group("Schedule, execute and look at what the contracts' owner changes; everything waits for a delay.")
OperationId = Annotated[str, typer.Argument(metavar="OPERATION", help="Its number, as `mesh owner pending` shows it.")]


@chain_command(app, "pending")
async def pending(session: Session) -> None:
    """Show what is announced and not done yet, and the delay that everything waits for."""
    async with session.reading() as client:
        operations = await client.owner.pending()
        delay = await client.owner.delay()
    if session.as_json:
        shown = [{**plain(each), "state": each.state.name.lower(), "arguments": _words(each)} for each in operations]
        print_json({"delay": delay, "operations": shown})
        return
    table = Table("operation", "contract", "call", "ready")
    for each in operations:
        when = datetime.fromtimestamp(each.ready_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        ready = "now" if each.state.name == "READY" else when
        table.add_row(each.id.hex()[:12], safe(each.contract), safe(f"{each.function}({_words(each)})"), ready)
    out.print(table if operations else "nothing is announced")
    out.print(f"every change waits for {delay:,} seconds")


@chain_command(app, "schedule", sends=True)
async def schedule(
    session: Session,
    contract: Annotated[str, typer.Argument(help="Contract, like EpochController.")],
    function: Annotated[str, typer.Argument(help="Its function, like setMinEpochsLocked.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="What to call it with.")] = None,
) -> None:
    """Announce a call of the contracts' owner."""
    from chain import abi

    given = arguments or []
    values = read_arguments(abi.load(contract).function(function, len(given)), given)
    async with session.signing() as client:
        await session.send(client.owner.schedule(client.core.action(contract, function, *values)))


@chain_command(app, "execute", sends=True)
async def execute(session: Session, operation: OperationId) -> None:
    """Carry out what was announced, once its delay is over."""
    async with session.signing() as client:
        await session.send(client.owner.execute(await _find(client, operation)))


@chain_command(app, "cancel", sends=True)
async def cancel(session: Session, operation: OperationId) -> None:
    """Call off what was announced."""
    async with session.signing() as client:
        await session.send(client.owner.cancel(await _find(client, operation)))


async def _find(client: StakingClient, number: str) -> Operation:
    found = [each for each in await client.owner.pending() if each.id.hex().startswith(number.removeprefix("0x"))]
    if len(found) != 1 or not number:
        raise InvalidArgument(f"{len(found)} operations begin with {number!r}: see `mesh owner pending`")
    return found[0]


def _words(operation: Operation) -> str:
    return ", ".join(f"{name} {value}" for name, value in operation.arguments.items())


def read_arguments(function: Function, words: list[str]) -> list[object]:
    """Arguments from the command line, as a function's types want them. Raises `InvalidArgument`."""
    values: list[object] = []
    for param, word in zip(function.inputs, words, strict=True):
        try:
            if param.type == "bool":
                values.append({"true": True, "false": False}[word.lower()])
            elif param.type.startswith(("uint", "int")):
                values.append(int(word.replace(",", "").replace("_", "")))
            elif param.type.startswith("bytes"):
                values.append(bytes.fromhex(word.removeprefix("0x")))
            else:
                values.append(word)
        except (KeyError, ValueError):
            raise InvalidArgument(f"{param.name} of {function.name} is a {param.type}, got {word!r}") from None
    return values
