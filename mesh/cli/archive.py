"""The archive of `mesh backup`: what is in it, how it is made while nodes run, and how it comes back.

A tar file of mode 0600: `manifest.json`, its SHA-256, then the files under the name of their root (`data/…` for the
data folder, `books-1/…` and `key-1/…` for what is elsewhere). Databases are copied by sqlite's own backup from
snapshots that are all taken first, within milliseconds, so that each copy is whole and they fit together.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mesh.errors import ConfigError
from mesh.version import VERSION

FORMAT: Final = 1
MANIFEST, CHECK = "manifest.json", "manifest.sha256"
MAX_MANIFEST: Final = 16 * 1024 * 1024
MAX_FILES: Final = 100_000
_SQLITE: Final = b"SQLite format 3\0"
_LEFT_OUT: Final = (".lock", "-wal", "-shm", "-journal")
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Root:
    """A folder (or one file, where it is a key) of which everything is kept, and what it is called in the archive."""

    name: str
    path: Path
    is_file: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """One file of an archive."""

    root: str
    path: str
    """Relative to the root, with slashes."""
    size: int
    sha256: str
    database: bool
    locked: bool
    """Nodes lock it: while it is put in its place, none may start with it."""

    @property
    def member(self) -> str:
        return f"{self.root}/{self.path}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive says of itself."""

    made: int
    """Unix seconds."""
    software: str
    roots: dict[str, str]
    """Where each root was."""
    files: tuple[Kept, ...]


def roots_of(data: Path, books: Sequence[Path], keys: Sequence[Path]) -> list[Root]:
    """The data folder, and what is kept elsewhere."""
    found = [Root("data", data)]
    found += [Root(f"books-{number}", path) for number, path in enumerate(books, 1)]
    return found + [Root(f"key-{number}", path, is_file=True) for number, path in enumerate(keys, 1)]


def make(archive: Path, roots: Sequence[Root]) -> Manifest:
    """Write an archive of the roots, whole or not at all; nodes may run meanwhile.

    Raises `ConfigError` where there is nothing to keep, a file is damaged or cannot be read, or `archive` exists.
    """
    if archive.exists():
        raise ConfigError(f"{archive} is there already: give another name")
    made = int(time.time())
    try:
        with tempfile.TemporaryDirectory(prefix=f".{archive.name}.", dir=archive.parent) as draft:
            files = list(_copied(Path(draft), roots))
            if not files:
                raise ConfigError(f"there is nothing to keep in {', '.join(str(root.path) for root in roots)}")
            manifest = Manifest(made, VERSION, {root.name: str(root.path.absolute()) for root in roots}, tuple(files))
            whole = Path(draft) / "archive"
            _pack(whole, Path(draft), manifest)
            os.link(whole, archive)  # unlike a rename, this never replaces a file
            sync_folder(archive.parent)
    except FileExistsError:
        raise ConfigError(f"{archive} is there already: give another name") from None
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"no backup was made: {error}") from error
    return manifest


def _copied(draft: Path, roots: Sequence[Root]) -> Iterator[Kept]:
    """Copy what is to be kept below `draft`: snapshots of all databases first, then the rest."""
    found = [(root, path) for path, root in {path: root for root in roots[::-1] for path in _files(root)}.items()]
    with ExitStack() as stack:
        snapshots = {path: stack.enter_context(closing(_snapshot(path))) for _, path in found if _is_database(path)}
        for root, path in found:
            name = path.name if root.is_file else path.relative_to(root.path).as_posix()
            target = draft / root.name / name
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            if path in snapshots:
                _copy_database(snapshots[path], path, target)
            else:
                try:
                    _copy_file(path, target)
                except FileNotFoundError:  # a file that its owner has replaced or removed meanwhile
                    target.unlink()
                    continue
            locked = path.suffix == ".key" or root.is_file or path.with_name(path.name + ".lock").exists()
            digest, size = _digest(target)
            yield Kept(root.name, name, size, digest, path in snapshots, locked)


def _files(root: Root) -> list[Path]:
    if root.is_file:
        if not root.path.is_file():
            raise ConfigError(f"{root.path} is no file")
        return [root.path]
    return sorted(
        path
        for path in root.path.rglob("*")
        if path.is_file() and not path.name.endswith(_LEFT_OUT) and not path.name.startswith(".")
    )


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _snapshot(path: Path) -> sqlite3.Connection:
    """The database as it is at this moment, whatever is written to it from now on. It is not changed by being read."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=10)
    try:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        db.close()
        raise ConfigError(f"{path} cannot be kept: {error}") from error
    return db


def _copy_database(snapshot: sqlite3.Connection, path: Path, target: Path) -> None:
    try:
        with closing(sqlite3.connect(target)) as copy:
            snapshot.backup(copy)
            wrong = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
            # One file that is all there is, whatever the copy's journal was to be.
            copy.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"{path} cannot be kept: {error}") from error
    if wrong != "ok":
        raise ConfigError(f"{path} is damaged, and would be so in the backup: {' '.join(str(wrong).split())}")


def _copy_file(path: Path, target: Path) -> None:
    with path.open("rb") as source, target.open("wb") as sink:
        while chunk := source.read(_CHUNK):
            sink.write(chunk)


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size


def _pack(archive: Path, draft: Path, manifest: Manifest) -> None:
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1).encode()
    with archive.open("xb") as file:
        archive.chmod(0o600)
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in ((MANIFEST, text), (CHECK, hashlib.sha256(text).hexdigest().encode())):
                tar.addfile(_member(name, len(data), manifest.made), io.BytesIO(data))
            for each in manifest.files:
                with (draft / each.root / each.path).open("rb") as source:
                    tar.addfile(_member(each.member, each.size, manifest.made), source)
        file.flush()
        os.fsync(file.fileno())


def _member(name: str, size: int, made: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, made, 0o600
    return info


def sync_folder(folder: Path) -> None:
    """Write down which files a folder has."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def opened(archive: Path) -> Iterator[tuple[Manifest, tarfile.TarFile]]:
    """An archive and its manifest. Raises `ConfigError` for what is none, or is damaged."""
    try:
        with tarfile.open(archive, mode="r:") as tar:
            text, check = _read(tar, MANIFEST, MAX_MANIFEST), _read(tar, CHECK, 64)
            if hashlib.sha256(text).hexdigest().encode() != check:
                raise ConfigError(f"{archive} is damaged: its list of files is not what it was")
            yield _parse(text), tar
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{archive} is no backup, or is damaged: {error}") from error
    except OSError as error:
        raise ConfigError(f"{archive} cannot be read: {error}") from error


def _read(tar: tarfile.TarFile, name: str, most: int) -> bytes:
    info = tar.next()
    source = None if info is None or info.name != name or info.size > most else tar.extractfile(info)
    if source is None:
        raise tarfile.ReadError(f"it does not begin with {name}")
    return source.read()


def _parse(text: bytes) -> Manifest:
    said: dict[str, Any] = json.loads(text)
    if said["format"] != FORMAT:
        raise ConfigError(f"the backup has format {said['format']}, this software knows {FORMAT}: update it")
    if len(said["files"]) > MAX_FILES:
        raise ValueError("too many files")
    files = tuple(Kept(**each) for each in said["files"])
    for each in files:
        parts = PurePosixPath(each.path).parts
        if each.root not in said["roots"] or not parts or parts[0] == "/" or ".." in parts or "\0" in each.path:
            raise ValueError(f"a file in a place where none may be: {each.member!r}")
    return Manifest(int(said["made"]), str(said["software"]), dict(said["roots"]), files)


def extract(tar: tarfile.TarFile, each: Kept, target: Path) -> None:
    """Write one file of an archive to a new place, mode 0600. Raises `ConfigError` where it is not what it was."""
    source = tar.extractfile(each.member)
    if source is None:
        raise ConfigError(f"the backup is damaged: {each.member} is no file in it")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = hashlib.sha256()
    handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "wb") as file:
        left = each.size
        while left and (chunk := source.read(min(_CHUNK, left))):
            digest.update(chunk)
            file.write(chunk)
            left -= len(chunk)
        file.flush()
        os.fsync(file.fileno())
    if left or source.read(1) or digest.hexdigest() != each.sha256:
        raise ConfigError(f"the backup is damaged: {each.member} is not what it was")
