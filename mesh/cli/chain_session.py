"""What the chain's commands share: options, connecting, sending or dry-running, and how results are shown."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from chain.errors import ChainConfigError, InvalidArgument
from chain.units import format_func, parse_func
from mesh.cli.console import err, out, print_json, run, safe, set_up_logging
from mesh.cli.environment import environment
from mesh.cli.identities import data_folder
from mesh.cli.options import AsJson, LogLevel

if TYPE_CHECKING:
    from chain.client.actions import Action, DryRun, Result
    from chain.client.staking import StakingClient

DEFAULT_RPC = "http://127.0.0.1:8545"

RpcUrl = Annotated[str, typer.Option("--rpc", envvar="MESH_RPC", help="JSON-RPC address of the chain.")]
DeploymentFile = Annotated[
    Path | None,
    typer.Option(
        "--deployment",
        envvar="MESH_DEPLOYMENT",
        help="Where the contracts are.",
        show_default="as `mesh chain up` wrote",
    ),
]
WalletFile = Annotated[
    Path | None,
    typer.Option("--wallet", envvar="MESH_WALLET", help="Keystore file.", show_default="the default wallet"),
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        envvar="MESH_WALLET_PASSWORD_FILE",
        help="File with the wallet's password; else MESH_WALLET_PASSWORD, else you are asked.",
    ),
]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Estimate the gas; send nothing.")]
Confirmations = Annotated[
    int, typer.Option("--confirmations", envvar="MESH_CONFIRMATIONS", min=1, help="Blocks to wait for.")
]
Timeout = Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait for confirmation.")]
Key = Annotated[
    str | None,
    typer.Option("--key", help="A name for this transaction; a second run with the same name does not send another."),
]
Amount = Annotated[str, typer.Argument(metavar="AMOUNT", help="FUNC, as 12 or 0.5; or with a unit, as 250wei.")]
ProviderId = Annotated[str, typer.Argument(metavar="ID", help="The provider's id (1 to 64 bytes).")]
GatewayId = Annotated[str, typer.Argument(metavar="ID", help="The gateway's id (1 to 64 bytes).")]
Consent = Annotated[
    str, typer.Option("--consent", help="What the signer's own `… consent` printed; not needed for your own address.")
]
FromEpoch = Annotated[int, typer.Option("--from", min=1, help="First epoch.")]
ToEpoch = Annotated[int | None, typer.Option("--to", min=1, help="Last epoch.", show_default="the last claimable")]


@dataclass(frozen=True, slots=True)
class Session:
    """The options of one chain command."""

    rpc: str
    deployment: Path
    wallet: Path
    password_file: Path | None
    as_json: bool
    dry_run: bool = False
    confirmations: int = 1
    timeout: float = 180.0
    key: str | None = None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[StakingClient]:
        """A client without a key."""
        from chain.client.staking import StakingClient
        from chain.deploy import Deployment

        async with StakingClient(self.rpc, Deployment.read(self.deployment)) as client:
            yield client

    @asynccontextmanager
    async def signing(self) -> AsyncIterator[StakingClient]:
        """A client with the wallet's key and its journal."""
        from chain.client.lifecycle import Policy
        from chain.client.staking import StakingClient
        from chain.deploy import Deployment
        from chain.wallet import find_password, keystore_address, open_keystore

        deployment = Deployment.read(self.deployment)
        address = keystore_address(self.wallet)
        password = find_password(file=self.password_file, environment=environment(), what=f"wallet {address}")
        client = StakingClient(
            self.rpc,
            deployment,
            account=open_keystore(self.wallet, password),
            journal=None if self.dry_run else chain_folder() / "journal.sqlite",
            policy=Policy(confirmations=self.confirmations),
            timeout=self.timeout,
            on_approval=self._say_approval,
        )
        async with client:
            if client.transactor.recovered:
                err.print(f"[dim]looking after {len(client.transactor.recovered)} transactions of an earlier run[/]")
            yield client

    def address(self) -> str:
        """The wallet's address; no password is needed."""
        from chain.wallet import keystore_address

        return keystore_address(self.wallet)

    async def send(self, action: Action) -> Result | None:
        """Carry out or dry-run an action and show what came of it; None for a dry run."""
        if self.dry_run:
            show_dry_run(self, await action.dry_run())
            return None
        result = await action.execute(key=self.key)
        if self.as_json:
            print_json(result_json(result))
        else:
            show_result(result)
        return result

    def _say_approval(self, contract: str, amount: int, tx_hash: str) -> None:
        if not self.as_json:
            out.print(f"approved {format_func(amount)} FUNC for {contract} [dim]({tx_hash})[/]")


_COMMON: tuple[tuple[str, Any, Any], ...] = (
    ("rpc", RpcUrl, DEFAULT_RPC),
    ("deployment", DeploymentFile, None),
    ("wallet", WalletFile, None),
    ("as_json", AsJson, False),
    ("log_level", LogLevel, "warning"),
)
_SENDING: tuple[tuple[str, Any, Any], ...] = (
    ("password_file", PasswordFile, None),
    ("dry_run", DryRunFlag, False),
    ("confirmations", Confirmations, 1),
    ("timeout", Timeout, 180.0),
    ("key", Key, None),
)


def chain_command(
    app: typer.Typer, name: str, *, sends: bool = False
) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Callable[..., Coroutine[Any, Any, None]]]:
    """Add an async function of a `Session` and its own parameters to a group, with the options that all share."""

    def add(function: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
        common = (*_COMMON, *(_SENDING if sends else ()))
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        parameters = own + [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for option, kind, default in common
        ]

        def command(**given: Any) -> None:
            options = {option: given.pop(option) for option, _, _ in common}
            set_up_logging(options.pop("log_level"))
            session = Session(
                **options
                | {
                    "deployment": options["deployment"] or default_deployment(),
                    "wallet": options["wallet"] or default_wallet(),
                    "password_file": options.get("password_file"),
                }
            )
            run(function(session, **given))

        command.__doc__ = function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name)(command)
        return function

    return add


def chain_group(help_text: str) -> typer.Typer:
    """An empty group of commands in our style."""
    return typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None)


# --- where things are ---


def chain_folder() -> Path:
    """Where this user's deployment file, wallets and journal are."""
    return data_folder() / "chain"


def default_deployment() -> Path:
    return chain_folder() / "deployment.json"


def default_wallet() -> Path:
    return chain_folder() / "wallets" / "default.json"


# --- reading arguments ---


def read_amount(text: str, *, allow_zero: bool = False, name: str = "AMOUNT") -> int:
    """Wei. Raises `typer.BadParameter`."""
    try:
        return parse_func(text, allow_zero=allow_zero)
    except InvalidArgument as error:
        raise typer.BadParameter(str(error), param_hint=name) from error


def read_consent(text: str) -> bytes:
    """The signature that `consent` printed, or nothing. Raises `typer.BadParameter`."""
    digits = text.strip().removeprefix("0x")
    if digits and not re.fullmatch(r"[0-9a-fA-F]{130}", digits):
        raise typer.BadParameter("a consent is 0x and 130 hex digits, as `… consent` prints it", param_hint="--consent")
    return bytes.fromhex(digits)


async def last_claimable(client: StakingClient, last: int | None) -> int:
    """`last`, or the last epoch that may be claimed now. Raises `ChainConfigError` if none may."""
    if last is not None:
        return last
    claimable = await client.epochs.claimable_epoch()
    if not claimable:
        raise ChainConfigError("no epoch is claimable yet: see `mesh epoch status`")
    return claimable


# --- showing ---


def show(session: Session, value: Any, table: Table) -> None:
    """The value as JSON (amounts stay integers of wei) or as a table."""
    if session.as_json:
        print_json(plain(value))
    else:
        out.print(table)


def plain(value: Any) -> Any:
    """Dataclasses, mappings, bytes and sequences as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def pairs(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    """A table of names and values, which may be strangers' text."""
    table = Table(title=safe(title), title_justify="left", show_header=False)
    for name, value in rows:
        table.add_row(safe(name), safe(value))
    return table


def yes(value: bool) -> str:
    return "yes" if value else "no"


def result_json(result: Result) -> dict[str, Any]:
    """A result for scripts; amounts are integers of wei."""
    return {
        "transaction": result.tx_hash,
        "block": result.block,
        "gas_used": result.gas_used,
        "cost_wei": result.outcome.cost,
        "resumed": result.outcome.resumed,
        "approvals": [each.tx_hash for each in result.approvals],
        "events": [event.as_json() for event in result.events],
    }


def show_result(result: Result) -> None:
    """A result for people."""
    resumed = ", sent by an earlier run" if result.outcome.resumed else ""
    out.print(
        f"[green]done:[/] {result.outcome.label} in block {result.block}, {result.gas_used:,} gas "
        f"[dim]({result.tx_hash}{resumed})[/]"
    )
    table = Table("event", "", title_justify="left")
    for event in result.events:
        if event.name not in ("Transfer", "Approval"):
            values = ", ".join(f"{safe(name)} {_short(name, value)}" for name, value in event.arguments.items())
            table.add_row(event.name, values)
    if table.row_count:
        out.print(table)


def show_dry_run(session: Session, dry: DryRun) -> None:
    """What an action would cost; `cost` is in the chain's own coin, in which gas is paid."""
    if session.as_json:
        steps = [{"call": label, "gas": quote.gas if quote else None} for label, quote in dry.steps]
        print_json({"dry_run": True, "steps": steps, "gas": dry.gas, "cost_wei": dry.cost, "exact": dry.exact})
        return
    table = Table("would send", "gas", "cost (ETH)", title="dry run: nothing was sent", title_justify="left")
    for label, quote in dry.steps:
        if quote is None:
            table.add_row(label, "unknown before the approval", "")
        else:
            table.add_row(label, f"{quote.gas:,}", format_func(quote.cost, decimals=9))
    table.add_row("in all", f"{dry.gas:,}", format_func(dry.cost, decimals=9))
    out.print(table)


_AMOUNTS = (
    "amount",
    "paid",
    "outstanding",
    "model_stake_amount",
    "reserved",
    "penalty",
    "reward",
    "emission",
    "boost",
    "pot",
)


def _short(name: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and name in _AMOUNTS:
        return f"{format_func(value)} FUNC"
    if isinstance(value, bytes):
        return f"0x{value.hex()[:8]}…"
    return safe(value)
