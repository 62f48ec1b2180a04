"""`mesh model`: the marketplace of models."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from chain.errors import InvalidArgument
from chain.units import format_func
from mesh.cli.chain_session import Session, chain_command, chain_group, pairs, plain, read_amount, show, yes
from mesh.cli.console import out, print_json, safe
from mesh.cli.options import Quantize
from shards.model.precision import Precision

if TYPE_CHECKING:
    from chain.client.calls.models import ModelInfo

app = chain_group("Publish, find and rate models.")
ModelId = Annotated[int, typer.Argument(metavar="MODEL", min=1, help="The model's number.")]
MAX_MANIFEST = 64 << 20


@chain_command(app, "publish", sends=True)
async def publish(
    session: Session,
    name: Annotated[
        str, typer.Argument(help="A name nobody has yet (1 to 64 bytes): the one under which providers serve it.")
    ],
    price: Annotated[str, typer.Option("--price", help="FUNC for one weighted token through all blocks.")],
    stake: Annotated[str, typer.Option("--stake", help="FUNC that each provider must stake.")],
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", help="The checkpoint folder, or tiny-python: its digest and blocks are used."),
    ] = None,
    manifest: Annotated[
        str | None, typer.Option("--manifest", help="Instead of --checkpoint: a manifest file, or its sha256 in hex.")
    ] = None,
    blocks: Annotated[
        int | None, typer.Option("--blocks", min=1, max=4096, help="Decoder blocks of the model, with --manifest.")
    ] = None,
    quantize: Quantize = None,
    royalty: Annotated[float, typer.Option("--royalty", min=0, max=50, help="Your percentage of every fee.")] = 5.0,
    uri: Annotated[str, typer.Option("--uri", help="Where to read about it (at most 1024 bytes).")] = "",
) -> None:
    """Publish a model: its price, your royalty, and what providers must stake. Royalty and stake stay for good."""
    royalty_bps = round(royalty * 100)
    if abs(royalty_bps - royalty * 100) > 1e-6:
        raise typer.BadParameter("a royalty has at most two decimals", param_hint="--royalty")
    digest, n_blocks = _identify(name, checkpoint, manifest, blocks, quantize)
    async with session.signing() as client:
        await session.send(
            client.models.create_model(
                name,
                digest,
                uri,
                blocks=n_blocks,
                price_per_token=read_amount(price, allow_zero=True, name="--price"),
                royalty_bps=royalty_bps,
                model_stake_amount=read_amount(stake, name="--stake"),
            )
        )


@chain_command(app, "list")
async def list_(session: Session) -> None:
    """List models: the best rated first, then those for which most was burned."""
    from chain.client.calls.models import ranked

    async with session.reading() as client:
        models = ranked(await client.models.list())
    table = Table("model", "name", "enabled", "price/token", "royalty", "stake", "rating", "units", "fees", "burned")
    for model in models:
        table.add_row(
            str(model.model_id), safe(model.name), yes(model.enabled), format_func(model.price_per_token),
            f"{model.royalty_bps / 100:g}%", format_func(model.model_stake_amount), _rating(model),
            f"{model.units:,}", format_func(model.fees, decimals=4), format_func(model.burned, decimals=4),
        )  # fmt: skip
    if session.as_json:
        print_json({"models": plain(models)})
    else:
        out.print(table if models else "nobody has published a model yet: `mesh model publish …`")


@chain_command(app, "show")
async def show_(session: Session, model: ModelId) -> None:
    """Show a model: price, royalty, stake, use and rating."""
    async with session.reading() as client:
        found = await client.models.show(model)
    show(
        session,
        found,
        pairs(
            f"model {found.model_id}: {found.name}",
            [
                ("creator", found.creator),
                ("enabled", yes(found.enabled)),
                ("blocks", str(found.blocks)),
                ("price per token", f"{format_func(found.price_per_token)} FUNC"),
                ("royalty", f"{found.royalty_bps / 100:g}%"),
                ("stake per provider", f"{format_func(found.model_stake_amount)} FUNC"),
                ("staking pool", found.pool),
                ("manifest", "0x" + found.manifest_hash.hex()),
                ("about", found.metadata_uri),
                ("use", f"{found.units:,} units in {found.epochs_used} epochs, {format_func(found.fees)} FUNC"),
                ("burned for good", f"{format_func(found.burned)} FUNC"),
                ("rating", _rating(found)),
            ],
        ),
    )


@chain_command(app, "rate", sends=True)
async def rate(
    session: Session,
    model: ModelId,
    score: Annotated[int, typer.Argument(min=1, max=5, help="1 (bad) to 5 (good).")],
    gateway: Annotated[str, typer.Option("--gateway", help="Your gateway that has used the model.")],
) -> None:
    """Rate a model as a gateway of yours; its stake is the weight, at most what its fees burned for the model."""
    async with session.signing() as client:
        await session.send(client.models.rate_model(model, gateway, score))


@chain_command(app, "enable", sends=True)
async def enable(session: Session, model: ModelId) -> None:
    """Let new providers join a model again."""
    async with session.signing() as client:
        await session.send(client.models.enable(model))


@chain_command(app, "disable", sends=True)
async def disable(session: Session, model: ModelId) -> None:
    """Take a model out of service; stakes can still be taken back."""
    async with session.signing() as client:
        await session.send(client.models.disable(model))


@chain_command(app, "price", sends=True)
async def price(
    session: Session, model: ModelId, price: Annotated[str, typer.Argument(help="FUNC for one weighted token.")]
) -> None:
    """Set a model's price from the epoch after the next on."""
    async with session.signing() as client:
        await session.send(client.models.update_price(model, read_amount(price, allow_zero=True)))


@chain_command(app, "royalty", sends=True)
async def royalty(session: Session, model: ModelId) -> None:
    """Claim what a model of yours has earned."""
    async with session.signing() as client:
        await session.send(client.settlement.claim_royalty(model))


def _rating(model: ModelInfo) -> str:
    return "none" if model.rating is None else f"{model.rating / 100:.2f} of 5"


def _identify(
    name: str, checkpoint: str | None, manifest: str | None, blocks: int | None, quantize: Precision | None
) -> tuple[bytes, int]:
    """What tells the model's weights from others, and its blocks. Raises `typer.BadParameter`."""
    if checkpoint is not None:
        if manifest is not None or blocks is not None:
            raise typer.BadParameter("a checkpoint says its manifest and its blocks itself", param_hint="--checkpoint")
        from mesh.provider.model_files import read_model_files
        from shards.checkpoint.source import resolve

        files = read_model_files(name, resolve(checkpoint), quantize)
        return bytes.fromhex(files.digest), files.spec.n_blocks
    if quantize is not None:
        raise typer.BadParameter("goes with --checkpoint, whose digest depends on it", param_hint="--quantize")
    if manifest is None or blocks is None:
        raise typer.BadParameter("give --checkpoint, or --manifest and --blocks", param_hint="--checkpoint")
    return _manifest_hash(manifest), blocks


def _manifest_hash(text: str) -> bytes:
    digits = text.removeprefix("0x")
    if len(digits) == 64 and not Path(text).exists():
        try:
            return bytes.fromhex(digits)
        except ValueError:
            pass
    try:
        with Path(text).open("rb") as file:
            raw = file.read(MAX_MANIFEST + 1)
    except OSError as error:
        raise InvalidArgument(f"{text} is neither a file nor a sha256: {error.strerror or error}") from error
    if len(raw) > MAX_MANIFEST:
        raise InvalidArgument(f"{text} is too large for a manifest", argument="manifest")
    return hashlib.sha256(raw).digest()
