"""`mesh backup` and `mesh restore`: what is kept while it is written, what is refused,
and what is never overwritten."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import stat
import subprocess
import sys
import tarfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from mesh.cli.archive import Manifest, Root, make, opened, roots_of
from mesh.cli.identities import claim_key
from mesh.cli.restoring import Placed, places, restore
from mesh.errors import ConfigError
from mesh.identity import Identity
from mesh.payment.credit.store import PaymentJournal


class Books(PaymentJournal):
    """Notes that are only there twice or not at all."""

    def note(self, number: int) -> None:
        with self._transaction() as db:
            db.execute("CREATE TABLE IF NOT EXISTS notes (number INTEGER)")
            db.execute("INSERT INTO notes VALUES (?)", (number,))
            db.execute("INSERT INTO notes VALUES (?)", (-number,))


def notes(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        return [row[0] for row in db.execute("SELECT number FROM notes ORDER BY rowid")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a key, a wallet and closed books."""
    folder = tmp_path / "data"
    Identity.load_or_create(folder / "identity.key")
    (folder / "chain" / "wallets").mkdir(parents=True)
    (folder / "chain" / "wallets" / "default.json").write_text("{}")
    with Books(folder / "chain" / "provider-ann.sqlite", exclusive=True) as books:
        books.note(1)
    return folder


def put_back(archive: Path, *roots: Root, replace: bool = False) -> tuple[Manifest, Placed]:
    with opened(archive) as (manifest, tar):
        return manifest, restore(tar, manifest, places(manifest, roots), replace=replace)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


def test_all_that_a_user_has_is_back_after_its_folder_was_lost(data: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    with Books(elsewhere / "books" / "gateway-g.sqlite", exclusive=True) as books:
        books.note(2)
    key = elsewhere / "other.key"
    Identity.load_or_create(key)
    before = {path: path.read_bytes() for path in (data / "identity.key", key)}
    archive = tmp_path / "kept.tar"
    make(archive, roots_of(data, [elsewhere / "books"], [key]))
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600

    data.rename(tmp_path / "lost")
    elsewhere.rename(tmp_path / "lost too")
    with pytest.raises(ConfigError, match=r"--payment-folder"):
        put_back(archive, *roots_of(data, [], []))
    put_back(archive, *roots_of(data, [elsewhere / "books"], [key]))
    assert {path: path.read_bytes() for path in before} == before
    assert notes(data / "chain" / "provider-ann.sqlite") == [1, -1]
    assert notes(elsewhere / "books" / "gateway-g.sqlite") == [2, -2]
    for folder in (data, elsewhere):
        for path in folder.rglob("*"):
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
            assert not path.name.startswith("."), path
    with Books(data / "chain" / "provider-ann.sqlite", exclusive=True) as books:
        books.note(3)


def test_a_copy_that_is_made_while_books_are_written_is_whole(data: Path, tmp_path: Path) -> None:
    path = data / "chain" / "gateway-g.sqlite"
    ended = threading.Event()
    with Books(path, exclusive=True) as books:
        books.note(1)

        def write() -> None:
            number = 2
            while not ended.is_set():
                books.note(number)
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for index in range(3):
                make(tmp_path / f"{index}.tar", roots_of(data, [], []))
        finally:
            ended.set()
            writer.join()
        known = notes(path)
    for index in range(3):
        put_back(tmp_path / f"{index}.tar", Root("data", tmp_path / f"back-{index}"))
        copied = notes(tmp_path / f"back-{index}" / "chain" / "gateway-g.sqlite")
        assert copied == known[: len(copied)]
        assert len(copied) % 2 == 0, "half of a transaction"
        assert copied, "what is in the -wal file is kept too"


def test_nothing_is_restored_into_what_is_in_use_or_there_already(data: Path, tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar"
    make(archive, roots_of(data, [], []))
    key = (data / "identity.key").read_bytes()
    for replace in (False, True):
        with (
            claim_key(data / "identity.key", "provider"),
            pytest.raises(ConfigError, match=r"a process uses .*identity\.key"),
        ):
            put_back(archive, Root("data", data), replace=replace)
        with (
            Books(data / "chain" / "provider-ann.sqlite", exclusive=True),
            pytest.raises(ConfigError, match=r"a process uses .*provider-ann\.sqlite"),
        ):
            put_back(archive, Root("data", data), replace=replace)
    # A database that nobody locks as a whole (a payer's) is seen to be open all the same.
    code = f"""if True:
        import sqlite3, sys
        db = sqlite3.connect({str(data / "chain" / "provider-ann.sqlite")!r})
        print(db.execute("SELECT count(*) FROM notes").fetchall(), flush=True)
        sys.stdin.read()
    """
    reader = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        with pytest.raises(ConfigError, match=r"a process uses .*provider-ann\.sqlite"):
            put_back(archive, Root("data", data), replace=True)
        reader.communicate(b"")
    with pytest.raises(ConfigError, match=r"is there already: --replace"):
        put_back(archive, Root("data", data))
    assert (data / "identity.key").read_bytes() == key
    assert notes(data / "chain" / "provider-ann.sqlite") == [1, -1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "kept.tar"]


def test_what_is_in_the_way_is_moved_aside_with_its_wal(data: Path, tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar"
    make(archive, roots_of(data, [], []))
    path = data / "chain" / "provider-ann.sqlite"
    damaged = b"not a database" * 1000
    path.write_bytes(damaged)
    path.with_name(path.name + "-wal").write_bytes(b"of another file")
    (data / "models.json").write_text("{}")
    _, placed = put_back(archive, Root("data", data), replace=True)
    (aside,) = placed.aside
    assert (aside / "chain" / path.name).read_bytes() == damaged
    assert (aside / "chain" / (path.name + "-wal")).read_bytes() == b"of another file"
    assert notes(path) == [1, -1]
    assert (data / "models.json").exists(), "what the backup does not know stays"
    with Books(path, exclusive=True) as books:
        books.note(2)


def test_every_damage_of_an_archive_is_found_before_anything_is_in_place(data: Path, tmp_path: Path) -> None:
    archive, target = tmp_path / "kept.tar", tmp_path / "target"
    make(archive, roots_of(data, [], []))
    whole = archive.read_bytes()
    assert len(whole) % 512 == 0
    # A byte of every block of the archive, at a place that moves through the block; and every end.
    damaged = [(at, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]) for at in range(0, len(whole), 509)]
    damaged += [(size, whole[:size]) for size in range(0, len(whole) - 10_240, 2048)]
    unnoticed = []
    for at, data_ in damaged:
        archive.write_bytes(data_)
        try:
            put_back(archive, Root("data", target))
        except ConfigError:
            assert not contents(target)
        else:
            unnoticed.append(at)
            back = contents(target)
            archive.write_bytes(whole)
            put_back(archive, Root("data", tmp_path / f"right-{at}"))
            assert back == contents(tmp_path / f"right-{at}"), f"byte {at}"
            target.rename(tmp_path / f"wrong-{at}")
    # What is padding says nothing.
    assert len(unnoticed) < len(damaged) / 2


def test_damaged_books_are_no_backup_and_an_archive_is_not_overwritten(data: Path, tmp_path: Path) -> None:
    path = data / "chain" / "provider-ann.sqlite"
    archive = tmp_path / "kept.tar"
    archive.write_text("of last week")
    with pytest.raises(ConfigError, match="is there already"):
        make(archive, roots_of(data, [], []))
    assert archive.read_text() == "of last week"
    archive.unlink()
    raw = bytearray(path.read_bytes())
    raw[4096 : 2 * 4096] = os.urandom(4096)
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=r"provider-ann\.sqlite"):
        make(archive, roots_of(data, [], []))
    assert [each.name for each in tmp_path.iterdir()] == ["data"], "nothing half is left"
    with pytest.raises(ConfigError, match="nothing to keep"):
        make(archive, roots_of(tmp_path / "empty", [], []))


@pytest.mark.parametrize("path", ["../outside", "/outside", "a/../../outside", ""])
def test_an_archive_of_a_stranger_writes_nowhere_else(path: str, data: Path, tmp_path: Path) -> None:
    archive = tmp_path / "hostile.tar"
    content = b"x"
    digest = hashlib.sha256(content).hexdigest()
    kept = {"root": "data", "path": path, "size": 1, "sha256": digest, "database": False, "locked": False}
    text = json.dumps({"format": 1, "made": 0, "software": "", "roots": {"data": "/"}, "files": [kept]}).encode()
    check = hashlib.sha256(text).hexdigest().encode()
    with tarfile.open(archive, "w") as tar:
        for name, value in (("manifest.json", text), ("manifest.sha256", check), (f"data/{path}", content)):
            info = tarfile.TarInfo(name)
            info.size = len(value)
            tar.addfile(info, io.BytesIO(value))
    with pytest.raises(ConfigError, match="damaged"):
        put_back(archive, Root("data", tmp_path / "target"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data", "hostile.tar"]
