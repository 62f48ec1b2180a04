"""`mesh backup` and `mesh restore`: all that a user's nodes cannot make again, in one file and back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.archive import Manifest, make, opened, roots_of
from mesh.cli.console import emit, out, safe, settled_on
from mesh.cli.identities import data_folder
from mesh.cli.options import AsJson
from mesh.cli.restoring import Placed, places
from mesh.cli.restoring import restore as put_back

Archive = Annotated[Path, typer.Argument(metavar="FILE", help="The archive.")]
Books = Annotated[
    list[Path] | None,
    typer.Option("--payment-folder", help="Books that are kept elsewhere (as for `mesh join`); may be repeated."),
]
Keys = Annotated[
    list[Path] | None, typer.Option("--identity", help="A node's key that is kept elsewhere; may be repeated.")
]
Replace = Annotated[bool, typer.Option("--replace", help="Move files that are in the way aside first.")]

MEANING = """
Nodes go on from here by what others hold signed. What this copy does not know any more, and who bears it:
  receipts and vouchers since then   come back from the other side; at most the credit of each pair is lost
  what developers used since then    a gateway does not charge for it
  promises since then (mesh pay)     the gateway shows your own signature: nothing is lost
Never run nodes from this copy beside the ones that it was made of: they would sign against each other.
""".strip()


def backup(archive: Archive, payment_folder: Books = None, identity: Keys = None, as_json: AsJson = False) -> None:
    """Keep keys, wallets and books in one file, while nodes run.

    It holds keys and is readable by you only: keep it like the machine's own disk. Models are not in it.
    """
    roots = roots_of(data_folder(), payment_folder or [], identity or [])
    manifest = settled_on(lambda: make(archive, roots))
    size = sum(each.size for each in manifest.files)
    if as_json:
        emit("kept", archive=str(archive), files=len(manifest.files), bytes=size, made=manifest.made)
        return
    for each in manifest.files:
        out.print(f"  {safe(each.member)}", soft_wrap=True)
    out.print(f"{len(manifest.files)} files ({size:,} bytes) are in {safe(str(archive))}", soft_wrap=True)


def restore(
    archive: Archive,
    payment_folder: Books = None,
    identity: Keys = None,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Put the files of `mesh backup` back, all or none, while no node uses them.

    What was kept from elsewhere goes to the --payment-folder and --identity that are given, in the order in which they
    were given to `mesh backup`.
    """
    manifest, placed = settled_on(lambda: _restore(archive, payment_folder or [], identity or [], replace=replace))
    age = max(0, int(time.time()) - manifest.made)
    if as_json:
        aside = [str(folder) for folder in placed.aside]
        emit("restored", archive=str(archive), files=placed.files, made=manifest.made, age=age, aside=aside)
        return
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.made))
    out.print(f"{placed.files} files are back, as they were {_shown(age)} ago ({when})")
    for folder in placed.aside:
        out.print(f"what was in the way is in {safe(str(folder))}", soft_wrap=True)
    out.print(MEANING)


def _restore(archive: Path, books: list[Path], keys: list[Path], *, replace: bool) -> tuple[Manifest, Placed]:
    with opened(archive) as (manifest, tar):
        roots = places(manifest, roots_of(data_folder(), books, keys))
        return manifest, put_back(tar, manifest, roots, replace=replace)


def _shown(seconds: int) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"
