"""Books on a disk that fails: full, read-only, damaged, without their -wal, of another version, used twice."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from mesh.client.payer_store import PayerStore
from mesh.errors import ConfigError, StorageUnavailable
from mesh.payment.accounts.store import AccountStore
from mesh.payment.credit.line import Pair
from mesh.payment.credit.store import PaymentJournal
from mesh.payment.database import Database
from mesh.payment.settlement.store import SettlementStore
from tests.full_disk import fill, no_room, small_disk

PAIR = Pair("gate", "ann", 5)
SIGNATURE = b"s" * 65


def open_store(kind: str, path: Path) -> Database:
    match kind:
        case "journal":
            return PaymentJournal(path, exclusive=True)
        case "settlement":
            return SettlementStore(path, exclusive=True)
        case "accounts":
            return AccountStore(path, "gate")
        case _:
            return PayerStore(path)


KINDS = pytest.mark.parametrize("kind", ["journal", "settlement", "accounts", "promises"])


def written(journal: PaymentJournal) -> list[int]:
    return [slot.voucher_units for slot in journal.slots("held")]


def test_a_disk_that_is_full_fails_what_is_written_and_takes_it_again_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as disk, PaymentJournal(disk / "books.sqlite", exclusive=True) as journal:
        journal.record_voucher("held", PAIR, "peer", 7, 10, SIGNATURE)
        filled = fill(disk)
        refused = 0
        for units in range(11, 61):
            try:
                journal.record_voucher("held", PAIR, "peer", 7, units, SIGNATURE)
            except StorageUnavailable as error:
                refused += 1
                assert "books.sqlite" in str(error)
            else:
                most = units
        assert refused >= 40, "the disk was not full"
        before = written(journal)
        assert before == ([10] if refused == 50 else [most]), "what was refused is not there, and what was not is"
        assert journal.failing() and not journal.probe()
        assert sum("cannot be written" in each.message for each in caplog.records) == 1, "said once"

        filled.unlink()
        assert journal.probe() and not journal.failing()
        assert journal.record_voucher("held", PAIR, "peer", 7, 100, SIGNATURE)
        assert written(journal) == [100]
        journal.close()
        with PaymentJournal(disk / "books.sqlite", exclusive=True) as again:
            assert written(again) == [100]


def test_a_disk_that_becomes_read_only_fails_what_is_written_until_it_is_not(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with PaymentJournal(disk / "books.sqlite") as journal:
            journal.record_voucher("held", PAIR, "peer", 7, 10, SIGNATURE)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(ConfigError, match=r"books\.sqlite cannot be opened"):
            PaymentJournal(disk / "books.sqlite")
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        with PaymentJournal(disk / "books.sqlite") as journal:
            assert written(journal) == [10]


@KINDS
def test_every_store_goes_on_after_its_disk_was_full(kind: str, tmp_path: Path) -> None:
    with open_store(kind, tmp_path / "books.sqlite") as store:
        assert store.probe()
        with no_room():
            assert not store.probe()
            assert not store.probe(), "a transaction that failed does not stay open"
        assert store.probe()
    with open_store(kind, tmp_path / "books.sqlite") as store:
        assert store.probe()


@KINDS
@pytest.mark.parametrize("damage", ["cut off", "overwritten", "another file"])
def test_a_damaged_file_is_refused_when_it_is_opened_with_what_to_do(kind: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / "books.sqlite"
    open_store(kind, path).close()
    raw = bytearray(path.read_bytes())
    assert len(raw) > 3 * 4096, "all of the schema is in the file itself, not in its -wal"
    if damage == "cut off":
        raw = raw[: len(raw) // 2]
    elif damage == "overwritten":
        raw[4096 : 3 * 4096] = b"\xff" * (2 * 4096)
    else:
        raw = bytearray(b"not a database" * 1000)
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=r"books\.sqlite cannot be opened.*restore it from a backup"):
        open_store(kind, path)
    assert path.read_bytes() == raw, "nothing was done to it"


@pytest.mark.parametrize("kind", ["journal", "settlement", "accounts"])
def test_a_file_that_became_empty_is_not_taken_for_a_new_one(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "books.sqlite"
    open_store(kind, path).close()
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"is empty, and was not: restore it from a backup"):
        open_store(kind, path)
    path.unlink()
    open_store(kind, path).close()


def test_a_file_without_its_wal_opens_with_what_is_in_it_and_says_that_something_may_be_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with PaymentJournal(tmp_path / "books.sqlite", exclusive=True) as journal:
        journal.record_voucher("held", PAIR, "peer", 7, 10, SIGNATURE)
        for name in ("books.sqlite", "books.sqlite.lock"):  # as a process leaves them that is killed
            (tmp_path / "later").mkdir(exist_ok=True)
            shutil.copy(tmp_path / name, tmp_path / "later" / name)
    with caplog.at_level(logging.WARNING), PaymentJournal(tmp_path / "later" / "books.sqlite", exclusive=True) as later:
        assert written(later) == []
    assert "its -wal file is gone" in caplog.text


@KINDS
@pytest.mark.parametrize("version", [99, -1])
def test_a_file_of_another_version_is_refused_untouched(kind: str, version: int, tmp_path: Path) -> None:
    path = tmp_path / "books.sqlite"
    open_store(kind, path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={version}")
    db.close()
    raw = path.read_bytes()
    wanted = "update this software" if version > 0 else "an older release"
    with pytest.raises(ConfigError, match=wanted):
        open_store(kind, path)
    assert path.read_bytes() == raw


@pytest.mark.parametrize("kind", ["journal", "settlement", "accounts"])
def test_two_processes_do_not_share_books(kind: str, tmp_path: Path) -> None:
    with (
        open_store(kind, tmp_path / "books.sqlite"),
        pytest.raises(ConfigError, match="another process uses"),
    ):
        open_store(kind, tmp_path / "books.sqlite")
    open_store(kind, tmp_path / "books.sqlite").close()
