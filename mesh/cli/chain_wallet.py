"""`mesh wallet`: keystore files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.chain_session import (
    DEFAULT_RPC,
    DeploymentFile,
    PasswordFile,
    RpcUrl,
    Session,
    WalletFile,
    chain_group,
    default_deployment,
    default_wallet,
    pairs,
)
from mesh.cli.console import out, run
from mesh.cli.environment import environment
from mesh.cli.options import AsJson

app = chain_group("Make, show and import the keys that sign transactions.")


@app.command("new")
def new(wallet: WalletFile = None, password_file: PasswordFile = None, as_json: AsJson = False) -> None:
    """Make a new key and write it into a keystore file that only you can read."""
    from chain.wallet import Account

    _write(Account.create(), wallet, password_file, as_json)


@app.command("import")
def import_(
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", help="File with a private key in hex; `-` or nothing reads standard input."),
    ] = None,
    devnet_account: Annotated[
        int | None, typer.Option("--devnet-account", min=0, max=9, help="A well-known account of the devnet instead.")
    ] = None,
    wallet: WalletFile = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Write an existing key into a keystore file. The key is never an argument, where `ps` would show it."""
    from chain.errors import WalletError
    from chain.wallet import MAX_FILE, read_private_key

    if devnet_account is not None:
        from chain.devnet.accounts import faucet

        account = faucet(devnet_account)
    else:
        try:
            if key_file is None or str(key_file) == "-":
                if sys.stdin.isatty():
                    import getpass

                    text = getpass.getpass("private key: ")
                else:
                    text = sys.stdin.read(MAX_FILE)
            else:
                with key_file.open(encoding="ascii", errors="replace") as file:
                    text = file.read(MAX_FILE)
        except OSError as error:
            raise WalletError(f"cannot read {key_file}: {error.strerror or error}") from error
        account = read_private_key(text)
    _write(account, wallet, password_file, as_json)


@app.command("show")
def show(
    wallet: WalletFile = None,
    rpc: RpcUrl = DEFAULT_RPC,
    deployment: DeploymentFile = None,
    balances: Annotated[bool, typer.Option("--balances", help="Ask the chain for balances too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a wallet's address, and what it holds. Needs no password."""
    from chain.units import format_func
    from chain.wallet import keystore_address

    path = wallet or default_wallet()
    address = keystore_address(path)
    value: dict[str, str | int] = {"address": address, "wallet": str(path)}
    rows = [("address", address), ("wallet", str(path))]
    if balances:
        session = Session(rpc, deployment or default_deployment(), path, None, as_json)
        found = run(_balances(session, address))
        if found is not None:
            value |= {"func_wei": found[0], "native_wei": found[1]}
            rows += [("FUNC", format_func(found[0])), ("for gas (ETH)", format_func(found[1], decimals=6))]
    if as_json:
        out.print_json(json.dumps(value))
    else:
        out.print(pairs("wallet", rows))


async def _balances(session: Session, address: str) -> tuple[int, int]:
    async with session.reading() as client:
        return await client.token.balance(address), await client.core.native_balance(address)


def _write(account: object, wallet: Path | None, password_file: Path | None, as_json: bool) -> None:
    from chain.wallet import Account, create_keystore, find_password

    assert isinstance(account, Account)
    path = wallet or default_wallet()
    password = find_password(file=password_file, environment=environment(), confirm=True, what="new wallet")
    create_keystore(path, account, password)
    if as_json:
        out.print_json(json.dumps({"address": account.address, "wallet": str(path)}))
    else:
        out.print(f"{account.address} is in {path}; keep the password, there is no other way to the key")
