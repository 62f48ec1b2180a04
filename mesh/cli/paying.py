"""Options of the commands that work for money, and how they become a `PaymentConfig`."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.chain_session import DEFAULT_RPC, chain_folder, default_deployment
from mesh.cli.console import emit, err, out
from mesh.cli.environment import environment

if TYPE_CHECKING:
    from mesh.payment.onchain.registration import Ask, PaymentConfig
    from mesh.payment.settlement.loop import SettlementEvent

RpcUrl = Annotated[
    str | None,
    typer.Option(
        "--rpc",
        help="JSON-RPC address of the chain on which to be paid, with --wallet.",
        show_default="MESH_RPC, else this machine",
    ),
]
Wallet = Annotated[
    Path | None, typer.Option("--wallet", help="Keystore file of the account to work with; without it, serve for free.")
]
Deployment = Annotated[
    Path | None,
    typer.Option("--deployment", envvar="MESH_DEPLOYMENT", help="Where the contracts are.", show_default="the default"),
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        envvar="MESH_WALLET_PASSWORD_FILE",
        help="File with the wallet's password; else MESH_WALLET_PASSWORD, else you are asked.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before registering and staking.")]
Claim = Annotated[bool, typer.Option("--claim/--no-claim", help="Claim what was earned as soon as it may be claimed.")]
Credit = Annotated[
    int,
    typer.Option("--credit", min=64, max=1 << 20, help="Weighted tokens that a gateway may owe before it must pay."),
]
ChainPoll = Annotated[
    float, typer.Option("--chain-poll", min=0.05, help="Seconds between two looks at the chain for what is due.")
]
PaymentFolder = Annotated[
    Path | None,
    typer.Option("--payment-folder", help="Where receipts and vouchers are kept.", show_default="beside the wallets"),
]


def read_payment(
    *,
    rpc: str | None,
    wallet: Path | None,
    deployment: Path | None,
    password_file: Path | None,
    identifier: str | None,
    credit: int,
    folder: Path | None,
    claims: bool = True,
    chain_poll: float = 2.0,
    stake: int | None = None,
) -> PaymentConfig | None:
    """The account to work with, or None where neither --wallet nor --rpc was given.

    Raises `ChainConfigError`, `WalletError`, and `typer.BadParameter` for --rpc without --wallet.
    """
    if wallet is None:
        if rpc is not None:
            raise typer.BadParameter(
                "give the --wallet to work with too (`mesh wallet new` makes one)", param_hint="--rpc"
            )
        return None
    from chain.deploy import Deployment as DeploymentRecord
    from chain.wallet import find_password, keystore_address, open_keystore
    from mesh.payment.credit.terms import CreditTerms
    from mesh.payment.onchain.registration import PaymentConfig
    from mesh.payment.onchain.view import POLL_SECONDS

    found = DeploymentRecord.read(deployment or default_deployment())
    address = keystore_address(wallet)
    password = find_password(file=password_file, environment=environment(), what=f"wallet {address}")
    return PaymentConfig(
        rpc=rpc or environment().get("MESH_RPC") or DEFAULT_RPC,
        deployment=found,
        account=open_keystore(wallet, password),
        folder=folder or chain_folder(),
        identifier=identifier,
        stake=stake,
        claims=claims,
        settle_seconds=chain_poll,
        poll_seconds=min(POLL_SECONDS, chain_poll),
        terms=CreditTerms(tokens=credit),
    )


def show_settlement(event: SettlementEvent, *, as_json: bool) -> None:
    """Something that settlement did or met, as a line; transactions with their hash."""
    if as_json:
        emit("settlement", **{name: value for name, value in asdict(event).items() if value is not None})
    elif event.kind in ("sent", "notice"):
        shown = f" [dim]({event.tx_hash})[/]" if event.tx_hash else ""
        out.print(event.text.replace("[", "\\[") + shown)
    else:
        err.print(f"[yellow]{event.kind}:[/] " + event.text.replace("[", "\\["))


def asker(yes: bool) -> Ask:
    """Asks at the terminal; without one, or with --yes, see what it says."""

    async def ask(what: str) -> bool:
        if yes:
            return True
        if not sys.stdin.isatty():
            err.print(f"to {what}, run this at a terminal or add --yes")
            return False
        return await asyncio.to_thread(typer.confirm, f"{what[0].upper()}{what[1:]}?")

    return ask
