"""`mesh escrow`: a developer's deposit, and what of it is reserved for which gateway."""

from __future__ import annotations

from typing import Annotated

import typer

from chain.units import format_func
from mesh.cli.chain_session import Amount, GatewayId, Session, chain_command, chain_group, pairs, read_amount, show

app = chain_group("Deposit FUNC, reserve it for the gateways that you use, and take back what is left.")


@chain_command(app, "deposit", sends=True)
async def deposit(
    session: Session,
    amount: Amount,
    payer: Annotated[str | None, typer.Option("--for", help="Deposit for this address instead of yourself.")] = None,
    gateway: Annotated[
        str | None, typer.Option("--reserve", metavar="GATEWAY", help="Reserve it for this gateway at once.")
    ] = None,
) -> None:
    """Deposit FUNC. It stays free until you reserve it for a gateway, which works for what is reserved only."""
    if payer is not None and gateway is not None:
        raise typer.BadParameter("only the owner of a deposit reserves it: leave out --for or --reserve")
    wei = read_amount(amount)
    async with session.signing() as client:
        if gateway is not None:
            await session.send(client.escrow.deposit_and_reserve(gateway, wei))
        else:
            await session.send(client.escrow.deposit(wei, payer))


@chain_command(app, "reserve", sends=True)
async def reserve(session: Session, gateway: GatewayId, amount: Amount) -> None:
    """Reserve free FUNC for a gateway: only your vouchers to that gateway can take it, until it has thawed."""
    async with session.signing() as client:
        await session.send(client.escrow.reserve(gateway, read_amount(amount)))


@chain_command(app, "thaw", sends=True)
async def thaw(session: Session, gateway: GatewayId, amount: Amount) -> None:
    """Begin to take back what is reserved for a gateway; it stays payable while it thaws, then `withdraw --from`."""
    async with session.signing() as client:
        await session.send(client.escrow.thaw(gateway, read_amount(amount)))


@chain_command(app, "cancel-thaw", sends=True)
async def cancel_thaw(session: Session, gateway: GatewayId) -> None:
    """Keep reserved for a gateway what was thawing."""
    async with session.signing() as client:
        await session.send(client.escrow.cancel_thaw(gateway))


@chain_command(app, "withdraw", sends=True)
async def withdraw(
    session: Session,
    amount: Annotated[
        str | None, typer.Argument(metavar="[AMOUNT]", help="Free FUNC to take out.", show_default="all that is free")
    ] = None,
    gateway: Annotated[
        str | None,
        typer.Option("--from", metavar="GATEWAY", help="Instead: all that has thawed of the reservation there."),
    ] = None,
) -> None:
    """Take out free FUNC at once, or what has thawed of a reservation."""
    if amount is not None and gateway is not None:
        raise typer.BadParameter("all that has thawed leaves a reservation: leave out the amount")
    wei = None if amount is None else read_amount(amount)
    async with session.signing() as client:
        if gateway is not None:
            await session.send(client.escrow.withdraw_reserved(gateway))
        else:
            await session.send(client.escrow.withdraw(wei if wei is not None else await client.escrow.free_of()))


@chain_command(app, "show")
async def show_(
    session: Session,
    address: Annotated[str | None, typer.Option("--address", help="Whose deposit.", show_default="yours")] = None,
) -> None:
    """Show a deposit: what is free, what is reserved for which gateway, and what is thawing."""
    from chain.deploy import read_address

    who = read_address(address) if address is not None else session.address()
    async with session.reading() as client:
        found = await client.escrow.deposit_of(who)
        epoch = await client.epochs.current_epoch()
    rows = [("free", f"{format_func(found.free)} FUNC")]
    for each in found.reservations:
        thawing = ""
        if each.thawing:
            when = "now" if epoch >= each.thaw_end else f"from epoch {each.thaw_end} on (now {epoch})"
            thawing = f", of which {format_func(each.thawing)} thaw, to be withdrawn {when}"
        rows.append((f"reserved for {each.gateway}", f"{format_func(each.amount)} FUNC{thawing}"))
    show(session, found, pairs(f"deposit of {who}", rows))
