"""Files of a model's folder, which may be a stranger's archive: nothing outside of it is ever read or written.

A name is a plain one, and its file a regular one that lies in the folder itself. Symbolic links are refused, but for
those of a hub's cache: there `models--NAME/snapshots/COMMIT/FILE` links to `models--NAME/blobs/HASH`. What is opened
is looked at by its descriptor, and folders are walked by theirs, so that nothing can be exchanged in between. (A hard
link is a file like any other, and making one needs the right to the file that it names.)
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from shards.errors import CheckpointError

_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)  # a FIFO would wait for a writer
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_DIRECTORY", 0)


@contextmanager
def opened(path: Path, *, buffering: int = 0) -> Iterator[BinaryIO]:
    """A regular file of a model's folder, open for reading. Raises `CheckpointError` also for what the system says.

    Unbuffered unless told otherwise, so that exactly the bytes that are asked for are read.
    """
    with _explained(path):
        handle = _open(path)
        try:
            file = os.fdopen(handle, "rb", buffering=buffering)
        except BaseException:
            os.close(handle)
            raise
    with file, _explained(path):
        yield file


Identity = tuple[int, int, int]
"""By which a file is known again: it was neither exchanged nor written to."""


def identity(file: BinaryIO) -> Identity:
    """Of an open file."""
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_into(view: memoryview, path: Path, known: Identity, begin: int, what: str) -> None:
    """Fill `view` with the bytes from `begin` on and read nothing else, of the file that was `known`.

    `what` is for messages. Raises `CheckpointError` also when the file was changed since, or ends too early.
    """
    with opened(path) as file:
        if identity(file) != known:
            raise CheckpointError(f"{path} was changed while it was in use")
        file.seek(begin)
        while view:
            got = file.readinto(view)  # type: ignore[attr-defined]
            if not got:
                raise CheckpointError(f"{path} is truncated: {len(view)} bytes of {what} are missing")
            view = view[got:]


def read(path: Path, limit: int) -> bytes:
    """A whole small file. Raises `CheckpointError` when it is missing, over `limit` bytes, or none of the folder's."""
    with opened(path, buffering=-1) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise CheckpointError(f"{path} is over the limit of {limit} bytes")
    return data


def find(path: Path, limit: int) -> bytes | None:
    """`read`, or None where there is nothing of this name."""
    return read(path, limit) if exists(path) else None


def exists(path: Path) -> bool:
    """True when the folder has anything of this name, even what `opened` then refuses."""
    return os.path.lexists(path)


def names_in(folder: Path) -> set[str]:
    """Of all that the folder holds. Raises `CheckpointError` where it cannot be looked into."""
    with _explained(folder):
        return {path.name for path in folder.iterdir()}


def write(path: Path, data: bytes) -> None:
    """Put a whole file into the folder, in place of what has the name. Raises `CheckpointError`."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    with _explained(path):
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o644)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _open(path: Path) -> int:
    if path.name in ("", ".", "..") or "\0" in path.name:
        raise CheckpointError(f"{path} is not the name of a file")
    folder = os.open(path.parent, _FOLDER)
    try:
        try:
            handle = os.open(path.name, _READ | _NOFOLLOW, dir_fd=folder)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EMLINK):  # what systems say to a link that is not to be followed
                raise
            handle = _open_blob(path, folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise CheckpointError(f"{path} is not a regular file")
    return handle


def _open_blob(path: Path, folder: int) -> int:
    """The file that a link in a hub's cache leads to. Raises `CheckpointError` for any other link."""
    here = Path(os.path.realpath(path.parent))
    target = Path(os.path.normpath(here / os.readlink(path.name, dir_fd=folder)))
    model = here.parent.parent
    if here.parent.name != "snapshots" or not model.name.startswith("models--") or target.parent != model / "blobs":
        raise CheckpointError(f"{path} is a symbolic link that leads out of the model's folder: put the file there")
    snapshots = os.open("..", _FOLDER, dir_fd=folder)
    try:
        model_folder = os.open("..", _FOLDER, dir_fd=snapshots)
        try:
            blobs = os.open("blobs", _FOLDER | _NOFOLLOW, dir_fd=model_folder)
            try:
                return os.open(target.name, _READ | _NOFOLLOW, dir_fd=blobs)
            finally:
                os.close(blobs)
        finally:
            os.close(model_folder)
    finally:
        os.close(snapshots)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: download it") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise CheckpointError(f"{path} is a symbolic link that leads out of the model's folder") from error
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
