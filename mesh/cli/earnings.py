"""`mesh earnings`: what the wallet's providers, gateways and models have earned, by epoch and model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from chain.errors import ChainConfigError, ContractError
from chain.units import format_func
from mesh.cli.chain_session import Session, chain_command, chain_folder
from mesh.cli.console import err, out, print_json, safe
from mesh.payment.settlement.earnings import (
    AMOUNTS,
    Compensated,
    Earning,
    Pending,
    Recorded,
    as_csv,
    as_plot,
    as_rows,
    creator_earnings,
    gateway_earnings,
    provider_earnings,
)

if TYPE_CHECKING:
    from chain.client.calls.network import EpochStatus
    from chain.client.staking import StakingClient
    from mesh.payment.credit.store import Side, Slot

POSTED = 1
OTHER_FILES = ("-settlement",)
"""What else there is beside the journals of payments."""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    chain_command(app, "earnings")(earnings)


async def earnings(
    session: Session,
    first: Annotated[int, typer.Option("--from", min=1, help="First epoch.")] = 1,
    gateway: Annotated[
        list[str] | None, typer.Option("--gateway", help="Id of a gateway of yours; may be repeated.")
    ] = None,
    address: Annotated[str | None, typer.Option("--address", help="Whose.", show_default="the wallet's")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--payment-folder", help="Where receipts and vouchers are kept.", show_default="beside the wallets"
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the table to this file.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a plot (SVG) to this file.")] = None,
) -> None:
    """Show what was earned, claimed, and may be claimed: rewards, gateway shares and royalties, by epoch and model."""
    from chain.deploy import read_address

    if plot is not None and plot.suffix.lower() != ".svg":
        raise ChainConfigError(f"plots are SVG: give a file like {plot.with_suffix('.svg')}")
    owner = read_address(address) if address is not None else session.address()
    async with session.reading() as client:
        status = await client.epochs.status()
        since = await client.epochs.start_block(first)
        rows = await _providers(client, owner, first, since, folder or chain_folder())
        for each in gateway or _known_gateways(folder or chain_folder()):
            rows += await _gateway(client, each, owner, first, since, status)
        rows += await _creator(client, owner, first, since)
    rows.sort(key=lambda row: (row.epoch, row.role, row.id, row.model_id))
    if csv is not None:
        _write(csv, as_csv(rows))
    if plot is not None:
        if not rows:
            raise ChainConfigError("nothing was earned yet: there is nothing to plot")
        _write(plot, as_plot(rows))
    if session.as_json:
        print_json({"address": owner, "epoch": status.epoch, "earnings": as_rows(rows)})
    else:
        _show(owner, status.epoch, rows)


async def _providers(client: StakingClient, owner: str, first: int, since: int, folder: Path) -> list[Earning]:
    from chain.primitives import key_of
    from chain.text import Unreadable

    ids = [each for each in await client.providers.owned(owner) if not isinstance(each, Unreadable)]
    recorded: list[Recorded] = []
    compensated: list[Compensated] = []
    unclaimed: dict[tuple[str, int], int] = {}
    for provider in ids:
        topic = "0x" + key_of(provider).hex()
        _, model_id = (await client.core.view("ProviderRegistry", "ownerAndModel", key_of(provider))).values()
        pool = await client.core.pool(model_id)
        async for event in client.core.events(
            "ProviderStaking", "ContributionRecorded", at=pool, topics=(topic,), first=since
        ):
            found = event.arguments
            recorded.append(Recorded(provider, model_id, found.epoch, found.units, found.reward))
        async for event in client.core.events("Settlement", "ProviderCompensated", topics=(topic,), first=since):
            found = event.arguments
            compensated.append(Compensated(provider, found.model_id, found.epoch, found.amount))
        for epoch in {each.epoch for each in recorded if each.provider == provider}:
            unclaimed[provider, epoch] = (await client.providers.contribution(provider, epoch))[1]
    pending = await _pending(client, set(ids), folder)
    rows = provider_earnings(recorded, compensated, pending, unclaimed)
    return [row for row in rows if row.epoch >= first]


async def _pending(client: StakingClient, ids: set[str], folder: Path) -> list[Pending]:
    """Vouchers in this user's journals whose leaves are neither proven nor compensated."""
    from chain.primitives import key_of

    found = []
    for slot in _slots(folder, "held"):
        if slot.pair.provider not in ids:
            continue
        gateway, provider = key_of(slot.pair.gateway), key_of(slot.pair.provider)
        answers = await client.core.try_views(
            [
                ("Settlement", "provenUnits", (gateway, provider, slot.epoch)),
                ("Settlement", "compensatedUnits", (gateway, provider, slot.epoch)),
                ("Settlement", "debtUnits", (gateway, provider, slot.epoch)),
                ("ModelRegistry", "feeFor", (slot.pair.model_id, slot.epoch, slot.voucher_units)),
            ]
        )
        if any(isinstance(each, Exception) for each in answers):
            continue  # of another chain
        proven, compensated, debt, fee = answers
        units = slot.voucher_units - compensated - proven
        if units > 0:
            part, owed = (fee * each // slot.voucher_units for each in (units, min(debt, units)))
            found.append(Pending(slot.pair.provider, slot.pair.model_id, slot.epoch, units, part, owed))
    return found


def _slots(folder: Path, side: Side) -> list[Slot]:
    """Every voucher in this user's journals of one side."""
    from mesh.payment.credit.store import PaymentJournal

    role = "provider" if side == "held" else "gateway"
    found: list[Slot] = []
    for file in sorted(folder.glob(f"{role}-*.sqlite")):
        if file.stem.endswith(OTHER_FILES):
            continue
        with PaymentJournal(file) as journal:
            found += [slot for slot in journal.slots(side) if slot.voucher_units]
    return found


def _known_gateways(folder: Path) -> list[str]:
    """Those of whose vouchers this user has journals."""
    return sorted({slot.pair.gateway for slot in _slots(folder, "issued")})


async def _gateway(
    client: StakingClient, gateway: str, owner: str, first: int, since: int, status: EpochStatus
) -> list[Earning]:
    from chain.primitives import BPS, key_of

    key = key_of(gateway)
    try:
        found = await client.gateways.status(gateway)
    except ContractError as error:
        err.print(f"[yellow]warning:[/] gateway {safe(gateway)}: {safe(str(error))}")
        return []
    if found.owner != owner:
        err.print(f"[yellow]warning:[/] gateway {safe(gateway)} belongs to {found.owner}")
        return []
    shares: dict[int, int] = {}
    units: dict[int, int] = {}
    unclaimed: dict[int, int] = {}
    events = client.core.events("Settlement", "CheckpointPosted", topics=("0x" + key.hex(),), first=since)
    async for event in events:
        posted = event.arguments
        standing = await client.settlement.checkpoint(gateway, posted.model_id, posted.epoch)
        if standing.status != POSTED:
            continue
        parameters = await client.core.view("Settlement", "parameters", block=event.block)
        share = posted.total_fees * parameters.gateway_share_bps // BPS
        shares[posted.epoch] = shares.get(posted.epoch, 0) + share
        units[posted.epoch] = units.get(posted.epoch, 0) + posted.total_units
    for epoch in shares:
        unclaimed[epoch] = int(await client.core.view("Settlement", "gatewayShare", key, epoch))
    rows = gateway_earnings(gateway, shares, unclaimed, units, status.claimable_epoch)
    return [row for row in rows if row.epoch >= first]


async def _creator(client: StakingClient, owner: str, first: int, since: int) -> list[Earning]:
    rows: list[Earning] = []
    for model in await client.models.list():
        if model.creator != owner:
            continue
        topic = "0x" + model.model_id.to_bytes(32, "big").hex()
        epochs = []
        async for event in client.core.events("Settlement", "EpochFinalized", topics=(topic,)):
            sums = await client.settlement.model_epoch(model.model_id, event.arguments.epoch)
            epochs.append((event.arguments.epoch, sums.units, sums.fees))
        claimed = 0
        async for event in client.core.events("Settlement", "RoyaltyClaimed", topics=(topic,)):
            claimed += event.arguments.amount
        found = creator_earnings(model.name, model.model_id, epochs, model.royalty_bps, claimed)
        rows += [row for row in found if row.epoch >= first]
    return rows


def _show(owner: str, epoch: int, rows: Sequence[Earning]) -> None:
    if not rows:
        out.print(f"{owner} has earned nothing yet (epoch {epoch})")
        return
    table = Table(title=f"earnings of {owner}, in FUNC (epoch {epoch})", title_justify="left")
    for name in ("epoch", "as", "model", "units", *AMOUNTS):
        table.add_column(name, justify="left" if name in ("as", "model") else "right")
    for row in rows:
        amounts = [getattr(row, name) for name in AMOUNTS]
        shown = [format_func(each) if each else "" for each in amounts]
        model = str(row.model_id) if row.model_id else "all"
        table.add_row(str(row.epoch), safe(f"{row.role} {row.id}"), model, f"{row.units:,}", *shown)
    sums = [sum(getattr(row, name) for row in rows) for name in AMOUNTS]
    table.add_section()
    table.add_row("all", "", "", "", *[format_func(each) if each else "" for each in sums])
    out.print(table)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ChainConfigError(f"cannot write {path}: {error.strerror or error}") from error
