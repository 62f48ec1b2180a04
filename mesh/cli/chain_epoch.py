"""`mesh epoch` and `mesh checkpoint`: the clock, and the work that an epoch's checkpoints prove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chain.errors import InvalidArgument
from chain.units import format_func
from mesh.cli.chain_session import Session, chain_command, chain_group, pairs, show

if TYPE_CHECKING:
    from chain.leaves import CheckpointLeaves

app = chain_group("The network's clock.")
checkpoints = chain_group("Post an epoch's checkpoint as a gateway; prove a contribution in it.")
LeavesFile = Annotated[Path, typer.Argument(metavar="LEAVES", help="File of leaves that a gateway publishes.")]


@chain_command(app, "status")
async def status(session: Session) -> None:
    """Show the epoch, its blocks, what is claimable, and the delays."""
    async with session.reading() as client:
        found = await client.epochs.status()
    left = found.next_start_block - found.block - 1
    show(
        session,
        found,
        pairs(
            f"epoch {found.epoch}",
            [
                ("block", f"{found.block:,}"),
                ("began with block", f"{found.start_block:,}"),
                ("blocks left", f"{left:,} of {found.length:,}"),
                ("claimable through", f"epoch {found.claimable_epoch}" if found.claimable_epoch else "no epoch yet"),
                ("stakes are locked for", f"{found.min_epochs_locked} epochs"),
                ("rewards wait for", f"{found.reward_delay} epochs"),
                ("winding down takes", f"{found.wind_down_delay} epochs"),
            ],
        ),
    )


@chain_command(checkpoints, "post", sends=True)
async def post(session: Session, leaves: LeavesFile) -> None:
    """Post the root of a file of leaves, in the epoch right after theirs (postCheckpoint)."""
    found = _read(leaves)
    async with session.signing() as client:
        await session.send(client.settlement.post_tree(found.tree(), found.data_hash()))


@chain_command(checkpoints, "prove", sends=True)
async def prove(
    session: Session,
    leaves: LeavesFile,
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="Id of the provider whose leaf to prove.")],
) -> None:
    """Prove a provider's contribution from a file of leaves, once the epoch is claimable (proveContribution)."""
    found = _read(leaves)
    units, proof = found.proof(provider)
    async with session.signing() as client:
        model_id = (await client.providers.status(provider)).model_id  # whose pool's events the result will hold
        if model_id != found.model_id:
            raise InvalidArgument(f"{provider} serves model {model_id}, these leaves are of model {found.model_id}")
        await session.send(client.settlement.prove_contribution_for(found.gateway, provider, found.epoch, units, proof))


@chain_command(checkpoints, "show")
async def show_(session: Session, leaves: LeavesFile) -> None:
    """Compare a file of leaves with what its gateway has posted."""
    found = _read(leaves)
    tree = found.tree()
    async with session.reading() as client:
        posted = await client.settlement.checkpoint(found.gateway, found.model_id, found.epoch)
    state = "posted" if posted.status else "not posted"
    same = posted.root == tree.root and posted.total_units == tree.total_units
    value = {
        "gateway": found.gateway,
        "model": found.model_id,
        "epoch": found.epoch,
        "state": state,
        "same": same,
        "root": "0x" + tree.root.hex(),
        "units": tree.total_units,
        "fees": posted.total_fees,
    }
    rows = [
        ("state", state if not posted.status else f"{state}, {'the same' if same else 'ANOTHER ROOT'}"),
        ("root", "0x" + tree.root.hex()),
        ("units", f"{tree.total_units:,} of {len(found.units)} providers"),
        ("fees", f"{format_func(posted.total_fees)} FUNC"),
    ]
    show(session, value, pairs(f"{found.gateway}, model {found.model_id}, epoch {found.epoch}", rows))


def _read(path: Path) -> CheckpointLeaves:
    from chain.leaves import MAX_FILE, CheckpointLeaves

    try:
        with path.open("rb") as file:
            return CheckpointLeaves.parse(file.read(MAX_FILE + 1))
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror or error}", argument="leaves") from error
