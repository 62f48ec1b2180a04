"""`mesh provider`: register, stake, claim and unstake as a compute provider."""

from __future__ import annotations

from typing import Annotated

import typer

from chain.units import format_func
from mesh.cli.chain_session import (
    Consent,
    FromEpoch,
    ProviderId,
    Session,
    ToEpoch,
    chain_command,
    chain_group,
    last_claimable,
    pairs,
    read_consent,
    result_json,
    show,
    show_result,
    yes,
)
from mesh.cli.console import err, out, print_json, safe

app = chain_group("Register, stake, claim and unstake as a compute provider.")


@chain_command(app, "register", sends=True)
async def register(
    session: Session,
    identifier: ProviderId,
    model: Annotated[int, typer.Option("--model", min=1, help="Number of the model to serve.")],
    url: Annotated[str | None, typer.Option("--url", help="Where your node is reached.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="A name for people.")] = None,
    metadata: Annotated[
        str | None,
        typer.Option("--metadata", help="Instead of --url and --name: JSON with a `url` field, or a bare address."),
    ] = None,
    stake: Annotated[bool, typer.Option("--stake", help="Stake what the model asks in the same transaction.")] = False,
) -> None:
    """Register a provider of a model (register, or registerAndStake with --stake)."""
    from chain.client.calls.providers import provider_metadata

    if (url is None) == (metadata is None):
        raise typer.BadParameter("give either --url or --metadata")
    text = metadata if metadata is not None else provider_metadata(url or "", name)
    _hint(text)
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
        actions = await client.providers.cluster_claims(begin, end)
        if session.dry_run:
            for action in actions:
                await session.send(action)
            return
        # One transaction, or as many as the gas of a block asks for.
        keys = [session.key and (session.key if not at else f"{session.key} {at + 1}") for at in range(len(actions))]
        results = [await action.execute(key=key) for action, key in zip(actions, keys, strict=True)]
        cluster = client.providers.cluster_claim(*results)
    failed = {identifier: str(error) for identifier, error in cluster.failed.items()}
    if session.as_json:
        sent = [result_json(result) for result in results]
        events = [event for each in sent for event in each["events"]]
        print_json({**sent[-1], "events": events, "calls": sent, "amount_wei": cluster.amount, "failed": failed})
        return
    for result in results:
        show_result(result)
    out.print(f"claimed {format_func(cluster.amount)} FUNC in {len(results)} calls")
    for failing, why in failed.items():
        out.print(f"  {safe(failing)} got nothing: {safe(why)}")


@chain_command(app, "update", sends=True)
async def update(
    session: Session,
    identifier: ProviderId,
    metadata: Annotated[str, typer.Argument(help="JSON with a `url` field.")],
) -> None:
    """Change a provider's metadata: where its node is reached (updateMetadata)."""
    _hint(metadata)
    async with session.signing() as client:
        await session.send(client.providers.update_metadata(identifier, metadata))


@chain_command(app, "collect-debt", sends=True)
async def collect_debt(
    session: Session,
    identifier: ProviderId,
    gateway: Annotated[str, typer.Argument(metavar="GATEWAY", help="Id of the gateway that owes.")],
    epoch: Annotated[int, typer.Option("--epoch", min=1, help="Epoch of the work.")],
) -> None:
    """Collect what a gateway owes a provider for an epoch, from the money that it has by now (collectDebt)."""
    async with session.signing() as client:
        await session.send(client.settlement.collect_debt(gateway, identifier, epoch))


@chain_command(app, "set-signer", sends=True)
async def set_signer(
    session: Session,
    identifier: ProviderId,
    signer: Annotated[str, typer.Argument(help="Address that signs receipts.")],
    consent: Consent = "",
) -> None:
    """Let another key sign for a provider from the next epoch on. It has to consent: see `consent`."""
    async with session.signing() as client:
        await session.send(client.providers.set_signer(identifier, signer, read_consent(consent)))


@chain_command(app, "consent", sends=True)
async def consent_(
    session: Session,
    identifier: ProviderId,
    owner: Annotated[str, typer.Option("--owner", help="Address that owns the provider.")],
) -> None:
    """Sign, with the signer's wallet, that it agrees to sign for a provider; nothing is sent."""
    async with session.signing() as client:
        signature = "0x" + client.providers.sign_consent(identifier, owner).hex()
        if session.as_json:
            print_json({"signer": client.address, "consent": signature})
        else:
            out.print(f"the owner gives this to `mesh provider set-signer … {client.address} --consent`:")
            out.print(signature)


def _hint(metadata: str) -> None:
    """Say where metadata that is allowed does not let peers find the node."""
    from chain.text import metadata_hint

    hint = metadata_hint(metadata)
    if hint is not None:
        err.print(f"[yellow]note:[/] {safe(hint)}")


@chain_command(app, "status")
async def status(session: Session, identifier: ProviderId) -> None:
    """Show a provider: active and eligible or not, and why; its stake, its lock, its rewards."""
    async with session.reading() as client:
        found = await client.providers.status(identifier)
        clock = await client.epochs.status()
        model = await client.models.show(found.model_id)
        end = clock.claimable_epoch
        rewards = await client.providers.view_rewards(identifier, max(1, end - 511), end) if end else 0
    lock = "none" if not found.unlock_epoch else f"until epoch {found.unlock_epoch}"
    if session.as_json:
        value = {field: getattr(found, field) for field in found.__dataclass_fields__}
        print_json({**value, "epoch": clock.epoch, "model_enabled": model.enabled, "rewards": rewards})
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
                ("eligible for work", yes(found.eligible)),
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
