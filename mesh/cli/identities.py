"""Where a node keeps its key and its sockets, and the lock that keeps two nodes from being the same peer."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.errors import ConfigError
from mesh.identity import Identity

MAX_NODES_PER_USER = 64


def data_folder() -> Path:
    """Where this user's nodes keep their keys (XDG base directories)."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "inference-mesh"


def runtime_root() -> Path | None:
    """Where sockets of running nodes go (MESH_RUNTIME_DIR, a short path); None is the default."""
    chosen = os.environ.get("MESH_RUNTIME_DIR")
    return Path(chosen) if chosen else None


@contextmanager
def claim_identity(path: Path | None) -> Iterator[Identity]:
    """The identity of this process, locked while it runs; see `claim_key_file`."""
    with claim_key_file(path) as file:
        yield Identity.load_or_create(file)


@contextmanager
def claim_key_file(path: Path | None) -> Iterator[Path]:
    """Where the key of this process is, or will be, locked while it runs.

    Without a path it is the first key in the data folder that no running node uses, so that several nodes on one
    machine are several peers, each the same at its next start. Raises `ConfigError` when `path` is in use.
    """
    if path is not None:
        with _locked(path) as free:
            if not free:
                raise ConfigError(f"{path} is the identity of a node that is running: stop it or give another file")
            yield path
        return
    folder = data_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(1, MAX_NODES_PER_USER + 1):
        candidate = folder / ("identity.key" if number == 1 else f"identity-{number}.key")
        with _locked(candidate) as free:
            if free:
                yield candidate
                return
    raise ConfigError(f"{MAX_NODES_PER_USER} nodes of this user are running: give --identity for another")


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    lock = path.with_name(path.name + ".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use {path} as identity: {error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
