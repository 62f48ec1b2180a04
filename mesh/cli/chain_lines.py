"""`mesh gateway-stake` continued: lines to providers, the gateway's credit, and the key that signs for it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from chain.units import format_func
from mesh.cli.chain_gateway import app
from mesh.cli.chain_session import (
    Amount,
    Consent,
    GatewayId,
    Session,
    chain_command,
    pairs,
    plain,
    read_amount,
    read_consent,
    show,
)
from mesh.cli.console import out, print_json, safe

__all__ = ["app"]
LineProvider = Annotated[str, typer.Argument(metavar="PROVIDER", help="The provider's id (1 to 64 bytes).")]


# --- lines ---


@chain_command(app, "lines")
async def lines(session: Session, identifier: GatewayId) -> None:
    """Show what of a gateway's stake is guaranteed to which provider. A provider works on credit within its line."""
    async with session.reading() as client:
        found = await client.gateways.lines(identifier)
        status = await client.gateways.status(identifier)
        epoch = await client.epochs.current_epoch()
    spare = max(0, status.effective_stake - status.min_stake)
    if session.as_json:
        print_json({"gateway": identifier, "spare": spare, "epoch": epoch, "lines": plain(found)})
        return
    table = Table("provider", "guaranteed", "thawing", "held", title=safe(f"lines of {identifier}, in FUNC"))
    for line in found:
        thawing = f"{format_func(line.thawing)} until epoch {line.thaw_end}" if line.thawing else ""
        table.add_row(safe(line.provider), format_func(line.guaranteed), thawing, format_func(line.held))
    out.print(table if found else f"{safe(identifier)} guarantees nothing to any provider yet")
    out.print(f"{format_func(spare)} FUNC of the stake are spare for lines (`mesh gateway-stake fund-line`)")


@chain_command(app, "fund-line", sends=True)
async def fund_line(session: Session, identifier: GatewayId, provider: LineProvider, amount: Amount) -> None:
    """Guarantee a part of the stake to a provider: only what you owe it can take that (fundLines)."""
    async with session.signing() as client:
        await session.send(client.gateways.fund_lines(identifier, {provider: read_amount(amount)}))


@chain_command(app, "thaw-line", sends=True)
async def thaw_line(session: Session, identifier: GatewayId, provider: LineProvider, amount: Amount) -> None:
    """Begin to take an amount back from a line; the provider counts on it no longer. Then `release-line`."""
    async with session.signing() as client:
        await session.send(client.gateways.thaw_line(identifier, provider, read_amount(amount)))


@chain_command(app, "release-line", sends=True)
async def release_line(session: Session, identifier: GatewayId, provider: LineProvider) -> None:
    """Make stake again of what has thawed of a line and no challenge holds."""
    async with session.signing() as client:
        await session.send(client.gateways.release_line(identifier, provider))


@chain_command(app, "return-sent", sends=True)
async def return_sent(session: Session) -> None:
    """Take back FUNC that you have transferred to the GatewayRegistry contract and not staked."""
    async with session.signing() as client:
        await session.send(client.gateways.return_sent())


# --- credit ---


@chain_command(app, "credit")
async def credit(session: Session, identifier: GatewayId) -> None:
    """Show a gateway's credit, from which its fees are paid before its stake, and what it owes."""
    async with session.reading() as client:
        found = await client.escrow.credit(identifier)
        debt = await client.settlement.debt_of(identifier)
        epoch = await client.epochs.current_epoch()
    if session.as_json:
        print_json({**plain(found), "debt": debt, "epoch": epoch})
        return
    thawing = f"{format_func(found.thawing)} FUNC, from epoch {found.thaw_end} on (now {epoch})"
    rows = [
        ("credit", f"{format_func(found.amount)} FUNC"),
        ("thawing", thawing if found.thawing else "nothing"),
        ("debt", f"{format_func(debt)} FUNC"),
    ]
    show(session, found, pairs(f"credit of {identifier}", rows))


@chain_command(app, "top-up-credit", sends=True)
async def top_up_credit(session: Session, identifier: GatewayId, amount: Amount) -> None:
    """Add FUNC of yours to a gateway's credit (topUpCredit)."""
    async with session.signing() as client:
        await session.send(client.escrow.top_up_credit(identifier, read_amount(amount)))


@chain_command(app, "thaw-credit", sends=True)
async def thaw_credit(session: Session, identifier: GatewayId, amount: Amount) -> None:
    """Begin to take credit out; fees can still take it while it thaws. Then `withdraw-credit`."""
    async with session.signing() as client:
        await session.send(client.escrow.thaw_credit(identifier, read_amount(amount)))


@chain_command(app, "withdraw-credit", sends=True)
async def withdraw_credit(session: Session, identifier: GatewayId) -> None:
    """Take out what has thawed of a gateway's credit; not while it owes anything to providers."""
    async with session.signing() as client:
        await session.send(client.escrow.withdraw_credit(identifier))


# --- the key that signs ---


@chain_command(app, "set-signer", sends=True)
async def set_signer(
    session: Session,
    identifier: GatewayId,
    signer: Annotated[str, typer.Argument(help="Address that signs vouchers and posts checkpoints.")],
    consent: Consent = "",
) -> None:
    """Let another key sign for a gateway from the next epoch on. It has to consent: see `consent`."""
    async with session.signing() as client:
        await session.send(client.gateways.set_signer(identifier, signer, read_consent(consent)))


@chain_command(app, "consent", sends=True)
async def consent_(
    session: Session,
    identifier: GatewayId,
    owner: Annotated[str, typer.Option("--owner", help="Address that owns the gateway.")],
) -> None:
    """Sign, with the signer's wallet, that it agrees to sign for a gateway; nothing is sent."""
    async with session.signing() as client:
        signature = "0x" + client.gateways.sign_consent(identifier, owner).hex()
        if session.as_json:
            print_json({"signer": client.address, "consent": signature})
        else:
            out.print(f"the owner gives this to `mesh gateway-stake set-signer … {client.address} --consent`:")
            out.print(signature)
