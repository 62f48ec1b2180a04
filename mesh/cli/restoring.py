"""Puts the files of an archive back: checked before any is in place, never into what is in use; nothing is deleted."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesh.cli.archive import Kept, Manifest, Root, extract, sync_folder
from mesh.errors import ConfigError

_BESIDE: Final = ("", "-wal", "-shm", "-journal")
"""A database and what belongs to it: an old -wal beside another file would change it."""

_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510
"""Where in a database's file sqlite keeps the locks of those that have it open (SHARED_FIRST of its os.h)."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What was done."""

    files: int
    aside: tuple[Path, ...]
    """Folders into which files that were in the way were moved."""


def places(manifest: Manifest, roots: Sequence[Root]) -> Mapping[str, Root]:
    """Where each root of the archive goes. Raises `ConfigError` unless every one has been given a place."""
    given = {root.name: root for root in roots}
    for name, was in manifest.roots.items():
        if name not in given:
            option = "--identity" if name.startswith("key-") else "--payment-folder"
            raise ConfigError(f"the backup also has what was in {was}: say with {option} where it goes")
    unknown = sorted(given.keys() - manifest.roots.keys())
    if unknown:
        raise ConfigError(f"the backup has nothing for {given[unknown[0]].path}")
    return given


def restore(tar: tarfile.TarFile, manifest: Manifest, roots: Mapping[str, Root], *, replace: bool) -> Placed:
    """Check every file, then put all in place. With `replace` files that are in the way are moved aside first.

    Raises `ConfigError`, and has changed nothing, where the archive is damaged, a place is taken or in use.
    """
    targets = {each: _target(roots[each.root], each) for each in manifest.files}
    if len(set(targets.values())) != len(targets):
        raise ConfigError("two files of the backup would go to one place")
    with ExitStack() as stack:
        try:
            drafts = _drafts(stack, roots)
            for each in manifest.files:
                extract(tar, each, drafts[each.root] / each.path)
            for each, target in targets.items():
                _claim(stack, each, target)
            aside = _clear(targets, roots, replace=replace)
            for each, target in targets.items():
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                (drafts[each.root] / each.path).rename(target)
            for folder in {target.parent for target in targets.values()}:
                sync_folder(folder)
        except OSError as error:
            raise ConfigError(f"it cannot be restored: {error}") from error
    return Placed(len(targets), aside)


def _target(root: Root, each: Kept) -> Path:
    return root.path if root.is_file else root.path / each.path


def _drafts(stack: ExitStack, roots: Mapping[str, Root]) -> dict[str, Path]:
    """A folder for each root on the file system on which it will be: so all that is left is renaming."""
    drafts = {}
    for name, root in roots.items():
        home = root.path.parent if root.is_file else root.path
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        drafts[name] = home / f".restoring-{secrets.token_hex(6)}"
        drafts[name].mkdir(mode=0o700)
        stack.callback(shutil.rmtree, drafts[name], ignore_errors=True)
    return drafts


def _claim(stack: ExitStack, each: Kept, target: Path) -> None:
    """Keep nodes from using a file until all are in place. Raises `ConfigError` when one uses it now."""
    if each.locked:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(target.with_name(target.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"a process uses {target}: stop it first") from None
        if each.database:
            os.ftruncate(lock, 0)  # what it says is of the file that was here before
    if each.database and target.exists():
        # Sqlite locks these bytes of a file as long as it is open. Opening it with sqlite would change it.
        handle = os.open(target, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, handle)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
        except (BlockingIOError, PermissionError):
            raise ConfigError(f"a process uses {target}: stop it first") from None


def _clear(targets: Mapping[Kept, Path], roots: Mapping[str, Root], *, replace: bool) -> tuple[Path, ...]:
    """Move what is in the way aside. Raises `ConfigError`, before anything is moved, unless `replace`."""
    in_the_way = [
        (each, path)
        for each, target in targets.items()
        for path in (target.with_name(target.name + end) for end in (_BESIDE if each.database else ("",)))
        if path.exists()
    ]
    if in_the_way and not replace:
        raise ConfigError(
            f"{in_the_way[0][1]} is there already: --replace moves what is in the way aside, and deletes nothing"
        )
    aside: dict[str, Path] = {}
    for each, path in in_the_way:
        root = roots[each.root]
        home = root.path.parent if root.is_file else root.path
        if each.root not in aside:
            aside[each.root] = home.with_name(f"{home.name}-before-restore-{secrets.token_hex(3)}")
        to = aside[each.root] / path.relative_to(home)
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.rename(to)
    return tuple(aside.values())
