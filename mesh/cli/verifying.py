"""Options of a gateway that sees to it that what it pays for is the models' work, and the weights for that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from mesh.client.audit_hop import Replayer
    from mesh.client.trials import Verification

Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        help="A model as `mesh join --model` takes it: its providers are paid once they have shown its work.",
        show_default="none",
    ),
]
ServeUnverified = Annotated[
    bool,
    typer.Option("--serve-unverified", help="Pay providers of other models for whatever they send."),
]
REFUSED: Final = (
    "nothing here can tell whether what you pay providers for is the model's work: give the models' weights "
    "(--weights MODEL, as `mesh join --model` takes them; blocks are run again here, those of one provider at a time), "
    "or say --serve-unverified"
)


def check_verified(weights: list[str] | None, *, serve_unverified: bool, paid: bool) -> None:
    """Raises `typer.BadParameter` where work would be paid for that nothing can verify, and nobody said so."""
    if paid and not weights and not serve_unverified:
        raise typer.BadParameter(REFUSED, param_hint="--weights")


def local_replayers(weights: list[str], *, show_bars: bool) -> dict[str, Replayer]:
    """What runs the blocks of these models again, by digest: as they are, and as `mesh join --quantize` makes them.

    Weights that are not here are fetched, and those that nobody has hashed yet are hashed. Raises `ShardError`s.
    """
    from mesh.cli.console import ProgressBars
    from mesh.provider.model_files import model_name, read_model_files
    from mesh.verification.local_blocks import LocalBlocks
    from shards.checkpoint.source import resolve
    from shards.errors import ShardError
    from shards.model.precision import Precision
    from shards.model.span import Span

    found: dict[str, Replayer] = {}
    with ProgressBars(enabled=show_bars) as progress:
        for asked in weights:
            folder = resolve(asked, progress=progress)
            files = read_model_files(model_name(asked, folder), folder, progress=progress)
            folder = resolve(asked, span=Span(0, files.spec.n_blocks), progress=progress)
            found[files.digest] = LocalBlocks(folder)
            for precision in Precision:
                try:
                    made = read_model_files(model_name(asked, folder, precision), folder, precision)
                except ShardError:  # it is quantised already, or cannot be
                    continue
                found[made.digest] = LocalBlocks(folder, precision)
    return found


@contextmanager
def verification(
    weights: list[str] | None, book: Path | None, *, serve_unverified: bool, show_bars: bool
) -> Iterator[Verification | None]:
    """How a gateway verifies; None where nothing was asked for. `book` None: what is found out is forgotten in the end.

    Raises `ShardError`s, and `ConfigError` for a book that cannot be opened.
    """
    if not weights and book is None:
        yield None
        return
    from mesh.client.trial_book import TrialBook
    from mesh.client.trials import Verification

    replayers = local_replayers(weights, show_bars=show_bars) if weights else {}
    with TrialBook(book) as opened:
        yield Verification(opened, replayers, serve_others=serve_unverified)
