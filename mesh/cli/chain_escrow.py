"""`mesh escrow`: a developer's deposit."""

from __future__ import annotations

from typing import Annotated

import typer

from chain.units import format_func
from mesh.cli.chain_session import Amount, Session, chain_command, chain_group, pairs, read_amount, show

app = chain_group("Deposit FUNC to pay for requests, and take back what is left.")


@chain_command(app, "deposit", sends=True)
async def deposit(
    session: Session,
    amount: Amount,
    payer: Annotated[str | None, typer.Option("--for", help="Deposit for this address instead of yourself.")] = None,
) -> None:
    """Deposit FUNC, from which your vouchers are paid."""
    async with session.signing() as client:
        await session.send(client.escrow.deposit(read_amount(amount), payer))


@chain_command(app, "thaw", sends=True)
async def thaw(session: Session, amount: Amount) -> None:
    """Mark an amount for withdrawal; it stays payable while it thaws."""
    async with session.signing() as client:
        await session.send(client.escrow.thaw(read_amount(amount)))


@chain_command(app, "cancel-thaw", sends=True)
async def cancel_thaw(session: Session) -> None:
    """Keep in the deposit what was thawing."""
    async with session.signing() as client:
        await session.send(client.escrow.cancel_thaw())


@chain_command(app, "withdraw", sends=True)
async def withdraw(session: Session) -> None:
    """Take out what has thawed."""
    async with session.signing() as client:
        await session.send(client.escrow.withdraw())


@chain_command(app, "balance")
async def balance(
    session: Session,
    address: Annotated[str | None, typer.Option("--address", help="Whose deposit.", show_default="yours")] = None,
) -> None:
    """Show a deposit: what is in it, and what is thawing."""
    from chain.deploy import read_address

    who = read_address(address) if address is not None else session.address()
    async with session.reading() as client:
        found = await client.escrow.balance(who)
        epoch = await client.epochs.current_epoch()
    thawing = "nothing"
    if found.thawing:
        when = "now" if epoch >= found.thaw_end else f"from epoch {found.thaw_end} on (now {epoch})"
        thawing = f"{format_func(found.thawing)} FUNC, to be withdrawn {when}"
    rows = [
        ("balance", f"{format_func(found.balance)} FUNC"),
        ("available", f"{format_func(found.available)} FUNC"),
        ("thawing", thawing),
    ]
    show(session, found, pairs(f"deposit of {who}", rows))
