"""Where a node keeps its key and its sockets, and the lock that keeps two nodes from being the same peer.

Who holds the lock is written in the lock's file, for `mesh leave`; the kernel frees the lock however the process ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from mesh.cli.environment import started_by
from mesh.errors import ConfigError
from mesh.identity import Identity

MAX_NODES_PER_USER = 64
MAX_HOLDER_BYTES: Final = 4096
LOOK_SECONDS: Final = 0.02
"""More than a look at who has a lock takes."""

Role = Literal["provider", "gateway", "relay"]
ROLES: Final = get_args(Role)


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that uses a key now."""

    key: Path
    role: Role
    pid: int
    parent: int
    """Of a stage: the process that runs all stages of its node."""
    place: str
    """The machine, and where that matters the container, in which its process id means something."""
    leaving: bool
    """It was asked to leave already."""

    @property
    def is_here(self) -> bool:
        """Whether it can be sent signals from here: data folders may be shared."""
        return self.place == _place()

    def same(self, other: Holder | None) -> bool:
        """Whether that is the same process."""
        return other is not None and (other.key, other.pid, other.place) == (self.key, self.pid, self.place)


@dataclass(frozen=True, slots=True)
class Claim:
    """A key that this process has, and nobody else meanwhile."""

    key: Path
    _lock: int
    _role: Role

    def identity(self) -> Identity:
        """The key's identity, made where there is none yet. Raises `ConfigError`."""
        return Identity.load_or_create(self.key)

    def noting(self, ask: Callable[[], bool]) -> Callable[[], bool]:
        """`ask`, which asks this process to leave, after writing down that it was asked."""

        def noted() -> bool:
            self.tell(leaving=True)
            return ask()

        return noted

    def tell(self, *, leaving: bool = False) -> None:
        """Write down who we are, for `mesh leave`."""
        said = {
            "role": self._role,
            "pid": os.getpid(),
            "parent": started_by(),
            "place": _place(),
            "leaving": leaving,
        }
        data = json.dumps(said).encode()
        os.pwrite(self._lock, data, 0)
        os.truncate(self._lock, len(data))


PINS = "models.json"
"""In the data folder: which digest each model name means to this user."""


def data_folder() -> Path:
    """Where this user's nodes keep their keys (XDG base directories)."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "inference-mesh"


def runtime_root() -> Path | None:
    """Where sockets of running nodes go (MESH_RUNTIME_DIR, a short path); None is the default."""
    chosen = os.environ.get("MESH_RUNTIME_DIR")
    return Path(chosen) if chosen else None


@contextmanager
def claim_key(path: Path | None, role: Role) -> Iterator[Claim]:
    """The key of this process, which exists or will, locked while it runs.

    Without a path it is the first key in the data folder that no running node uses, so that several nodes on one
    machine are several peers, each the same at its next start. Raises `ConfigError` when `path` is in use.
    """
    if path is not None:
        with _locked(path, role) as claim:
            if claim is None:
                raise ConfigError(f"{path} is the identity of a node that is running: stop it or give another file")
            yield claim
        return
    folder = data_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(1, MAX_NODES_PER_USER + 1):
        candidate = folder / ("identity.key" if number == 1 else f"identity-{number}.key")
        with _locked(candidate, role) as claim:
            if claim is not None:
                yield claim
                return
    raise ConfigError(f"{MAX_NODES_PER_USER} nodes of this user are running: give --identity for another")


def holder_of(key: Path) -> Holder | None:
    """Who uses this key now, if anybody."""
    try:
        handle = os.open(_lock_of(key), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_holder(key, os.read(handle, MAX_HOLDER_BYTES))
    finally:
        os.close(handle)
    return None


def holders_in(folder: Path) -> list[Holder]:
    """Who uses the keys in a folder, in the order of their names."""
    keys = sorted(path.with_suffix("") for path in folder.glob("*.key.lock"))
    return [holder for key in keys if (holder := holder_of(key)) is not None]


def _place() -> str:
    """Of Linux: this boot of this kernel, and our namespace of process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return platform.node()


def _lock_of(key: Path) -> Path:
    return key.with_name(key.name + ".lock")


def read_holder(key: Path, data: bytes) -> Holder | None:
    """What stands in a lock's file; None for what makes no sense, or is not whole yet."""
    try:
        said = json.loads(data)
        role, pid, parent = said["role"], said["pid"], said["parent"]
        place, leaving = said["place"], said["leaving"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    numbers = all(type(number) is int and 0 <= number < 1 << 31 for number in (pid, parent))
    if not numbers or not pid or not isinstance(place, str) or role not in ROLES or type(leaving) is not bool:
        return None
    return Holder(key, role, pid, parent, place, leaving)


@contextmanager
def _locked(path: Path, role: Role) -> Iterator[Claim | None]:
    lock = _lock_of(path)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use {path} as identity: {error}") from error
    try:
        if not _lock(handle):
            yield None
        else:
            claim = Claim(path, handle, role)
            claim.tell()
            yield claim
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Take the lock, unless somebody keeps it: `holder_of` has it for a moment."""
    for pause in (LOOK_SECONDS, 0.0):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
        else:
            return True
    return False
