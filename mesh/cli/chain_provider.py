"""`mesh provider`: register, stake, claim and unstake as a compute provider."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from chain.units import format_func
from mesh.cli.chain_session import (
    FromEpoch,
    ProviderId,
    Session,
    ToEpoch,
    chain_command,
    chain_group,
    last_claimable,
    pairs,
    result_json,
    show,
    show_result,
    yes,
)
from mesh.cli.console import out

app = chain_group("Register, stake, claim and unstake as a compute provider.")


@chain_command(app, "register", sends=True)
async def register(
    session: Session,
    identifier: ProviderId,
    model: Annotated[int, typer.Option("--model", min=1, help="Number of the model to serve.")],
    url: Annotated[str | None, typer.Option("--url", help="Where your node is reached.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="A name for people.")] = None,
    metadata: Annotated[
        str | None, typer.Option("--metadata", help="Instead of --url and --name: JSON with a `url` field.")
    ] = None,
    stake: Annotated[bool, typer.Option("--stake", help="Stake what the model asks in the same transaction.")] = False,
) -> None:
    """Register a provider of a model (register, or registerAndStake with --stake)."""
    from chain.client.calls.providers import provider_metadata

    if (url is None) == (metadata is None):
        raise typer.BadParameter("give either --url or --metadata")
    text = metadata if metadata is not None else provider_metadata(url or "", name)
    async with session.signing() as client:
        call = client.providers.register_and_stake if stake else client.providers.register
        await session.send(call(identifier, model, text))


@chain_command(app, "stake", sends=True)
async def stake(session: Session, identifier: ProviderId) -> None:
    """Stake what a registered provider still lacks (stakeForProvider)."""
    async with session.signing() as client:
        await session.send(client.providers.stake_for_provider(identifier))


@chain_command(app, "unstake", sends=True)
async def unstake(session: Session, identifier: ProviderId) -> None:
    """Take the stake back once its lock is over (unstakeProvider)."""
    async with session.signing() as client:
        await session.send(client.providers.unstake_provider(identifier))


@chain_command(app, "deactivate", sends=True)
async def deactivate(session: Session, identifier: ProviderId) -> None:
    """Take a provider out of service without unstaking."""
    async with session.signing() as client:
        await session.send(client.providers.deactivate(identifier))


@chain_command(app, "reactivate", sends=True)
async def reactivate(session: Session, identifier: ProviderId) -> None:
    """Bring a deactivated provider back."""
    async with session.signing() as client:
        await session.send(client.providers.reactivate(identifier))


@chain_command(app, "claim", sends=True)
async def claim(
    session: Session,
    identifier: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One provider; without it, all of yours (claimRewardsCluster).")
    ] = None,
    first: FromEpoch = 1,
    last: ToEpoch = None,
) -> None:
    """Claim rewards of epochs (claimRewards, or claimRewardsCluster for all of your providers)."""
    async with session.signing() as client:
        end = await last_claimable(client, last)
        begin = max(first, end - 511) if last is None else first
        if identifier is not None:
            await session.send(client.providers.claim_rewards(identifier, begin, end))
            return
        for owned in await client.providers.owned():
            await client.core.pool((await client.providers.status(owned)).model_id)
        action = client.providers.claim_rewards_cluster(begin, end)
        if session.dry_run:
            await session.send(action)
            return
        result = await action.execute(key=session.key)
        cluster = client.providers.cluster_claim(result)
    failed = {identifier: str(error) for identifier, error in cluster.failed.items()}
    if session.as_json:
        out.print_json(json.dumps({**result_json(result), "amount_wei": cluster.amount, "failed": failed}))
        return
    show_result(result)
    out.print(f"claimed {format_func(cluster.amount)} FUNC")
    for failing, why in failed.items():
        out.print(f"  {failing} got nothing: {why}", markup=False)


@chain_command(app, "status")
async def status(session: Session, identifier: ProviderId) -> None:
    """Show a provider: active or not and why, its stake, its lock, its rewards."""
    async with session.reading() as client:
        found = await client.providers.status(identifier)
        clock = await client.epochs.status()
        model = await client.models.show(found.model_id)
        end = clock.claimable_epoch
        rewards = await client.providers.view_rewards(identifier, max(1, end - 511), end) if end else 0
    lock = "none" if not found.unlock_epoch else f"until epoch {found.unlock_epoch}"
    if session.as_json:
        value = {field: getattr(found, field) for field in found.__dataclass_fields__}
        out.print_json(json.dumps({**value, "epoch": clock.epoch, "model_enabled": model.enabled, "rewards": rewards}))
        return
    show(
        session,
        found,
        pairs(
            f"provider {found.id}",
            [
                ("active", yes(found.active)),
                ("  not deactivated", yes(not found.deactivated)),
                ("  staked enough", yes(found.stake >= found.needed_stake)),
                ("  whitelisted", yes(found.whitelisted)),
                ("  model enabled", yes(model.enabled)),
                ("  not jailed", yes(found.jailed_until < clock.epoch)),
                ("model", f"{found.model_id} ({model.name})"),
                ("stake", f"{format_func(found.stake)} of {format_func(found.needed_stake)} FUNC"),
                ("lock", f"{lock} (now {clock.epoch})"),
                ("claimable", f"{format_func(rewards)} FUNC through epoch {end}"),
                ("owner", found.owner),
                ("signer", found.signer),
                ("metadata", found.metadata),
            ],
        ),
    )
