"""`mesh gateway-stake`: register, stake, wind down, claim and unstake as a gateway."""

from __future__ import annotations

from typing import Annotated

import typer

from chain.units import format_func
from mesh.cli.chain_session import (
    Amount,
    FromEpoch,
    GatewayId,
    Session,
    ToEpoch,
    chain_command,
    chain_group,
    last_claimable,
    pairs,
    read_amount,
    show,
    yes,
)
from mesh.cli.console import err, print_json

app = chain_group("Register, stake, guarantee lines to providers, claim, wind down and unstake as a gateway.")


@chain_command(app, "register", sends=True)
async def register(
    session: Session,
    identifier: GatewayId,
    metadata: Annotated[str, typer.Option("--metadata", help="Anything descriptive (at most 1024 bytes).")] = "",
    stake: Annotated[
        str | None, typer.Option("--stake", help="FUNC to stake in the same transaction (registerAndStake).")
    ] = None,
) -> None:
    """Register a gateway (register, or registerAndStake with --stake)."""
    async with session.signing() as client:
        if stake is None:
            await session.send(client.gateways.register(identifier, metadata))
        else:
            amount = read_amount(stake, name="--stake")
            sent = await client.gateways.sent_to()
            if sent:
                taken = format_func(min(sent, amount))
                err.print(f"{taken} FUNC are taken from what you had transferred to the GatewayRegistry")
            await session.send(client.gateways.register_and_stake(identifier, metadata, amount))


@chain_command(app, "stake", sends=True)
async def stake(session: Session, identifier: GatewayId, amount: Amount) -> None:
    """Add to a gateway's stake (stakeForGateway); the lock of all of it starts again."""
    async with session.signing() as client:
        await session.send(client.gateways.stake_for_gateway(identifier, read_amount(amount)))


@chain_command(app, "wind-down", sends=True)
async def wind_down(
    session: Session, identifiers: Annotated[list[str], typer.Argument(metavar="ID...", help="One or more gateways.")]
) -> None:
    """Start to wind gateways down, which comes before unstaking (windDownGateways)."""
    async with session.signing() as client:
        await session.send(client.gateways.wind_down_gateways(identifiers))


@chain_command(app, "restart", sends=True)
async def restart(session: Session, identifier: GatewayId) -> None:
    """End a wind-down without unstaking (restartGateway)."""
    async with session.signing() as client:
        await session.send(client.gateways.restart_gateway(identifier))


@chain_command(app, "unstake", sends=True)
async def unstake(session: Session, identifier: GatewayId) -> None:
    """Take the stake back after wind-down and lock, with all lines released and no debt (unstakeForGateway)."""
    async with session.signing() as client:
        await session.send(client.gateways.unstake_for_gateway(identifier))


@chain_command(app, "deactivate", sends=True)
async def deactivate(session: Session, identifier: GatewayId) -> None:
    """Take a gateway out of service without winding down."""
    async with session.signing() as client:
        await session.send(client.gateways.deactivate(identifier))


@chain_command(app, "reactivate", sends=True)
async def reactivate(session: Session, identifier: GatewayId) -> None:
    """Bring a deactivated gateway back."""
    async with session.signing() as client:
        await session.send(client.gateways.reactivate(identifier))


@chain_command(app, "claim", sends=True)
async def claim(session: Session, identifier: GatewayId, first: FromEpoch = 1, last: ToEpoch = None) -> None:
    """Claim a gateway's share of the fees of epochs (claimRewards)."""
    async with session.signing() as client:
        end = await last_claimable(client, last)
        begin = max(first, end - 511) if last is None else first
        await session.send(client.gateways.claim_rewards(identifier, begin, end))


@chain_command(app, "status")
async def status(session: Session, identifier: GatewayId) -> None:
    """Show a gateway: active and eligible or not, and why; its stake, lines, credit, debt and rewards."""
    async with session.reading() as client:
        found = await client.gateways.status(identifier)
        clock = await client.epochs.status()
        end = clock.claimable_epoch
        rewards = await client.gateways.view_rewards(identifier, max(1, end - 511), end) if end else 0
    if session.as_json:
        value = {field: getattr(found, field) for field in found.__dataclass_fields__}
        print_json({**value, "epoch": clock.epoch, "rewards": rewards})
        return
    winding = "no" if not found.wind_down_end else f"until epoch {found.wind_down_end}"
    lock = "none" if not found.unlock_epoch else f"until epoch {found.unlock_epoch}"
    show(
        session,
        found,
        pairs(
            f"gateway {found.id}",
            [
                ("active", yes(found.active)),
                ("  not deactivated", yes(not found.deactivated)),
                ("  not overdrawn", yes(not found.overdrawn)),
                ("  whitelisted", yes(found.whitelisted)),
                ("eligible for work", yes(found.eligible)),
                ("  staked enough", yes(found.effective_stake >= found.min_stake)),
                ("  not winding down", yes(not found.wind_down_end)),
                ("  not jailed", yes(found.jailed_until < clock.epoch)),
                ("stake", f"{format_func(found.stake)} FUNC"),
                ("in lines to providers", f"{format_func(found.reserved)} FUNC (`mesh gateway-stake lines`)"),
                (
                    "effective stake",
                    f"{format_func(found.effective_stake)} FUNC (at least {format_func(found.min_stake)})",
                ),
                ("lock", f"{lock} (now {clock.epoch})"),
                ("winding down", winding),
                ("credit", f"{format_func(found.credit)} FUNC, {format_func(found.credit_thawing)} of it thawing"),
                ("debt to providers", f"{format_func(found.debt)} FUNC"),
                ("claimable", f"{format_func(rewards)} FUNC through epoch {end}"),
                ("owner", found.owner),
                ("signer", found.signer),
                ("metadata", found.metadata),
            ],
        ),
    )
