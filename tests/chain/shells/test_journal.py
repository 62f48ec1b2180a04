"""The journal: what it records is there after a crash, and several processes share nonces without a clash."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from chain.client.journal import Journal
from chain.client.lifecycle import Intent, Seen, State
from chain.devnet.accounts import faucet
from chain.errors import JournalError
from chain.transactions import Fees, SignedTransaction, Transaction

ACCOUNT = faucet(1)
FEES = Fees(100, 1)
ALIVE = 30.0


def sign(nonce: int, fees: Fees = FEES) -> tuple[SignedTransaction, Fees]:
    return ACCOUNT.sign_transaction(Transaction(1, nonce, fees, 21_000, b"t" * 20, 0, b"")), fees


def add(journal: Journal, floor: int = 0, key: str | None = None, data: bytes = b"") -> Intent:
    return journal.record_signed(
        key=key,
        sender=ACCOUNT.address,
        to=b"t" * 20,
        data=data,
        value=0,
        gas=21_000,
        label="test",
        floor=floor,
        sign=sign,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path, "chain") as opened:
        yield opened


def test_nonces_follow_each_other_from_the_chain_s(journal: Journal) -> None:
    assert [add(journal, floor=7).nonce for _ in range(3)] == [7, 8, 9]
    assert add(journal, floor=0).nonce == 0


def test_a_refused_transaction_s_nonce_is_used_next(journal: Journal) -> None:
    first, _ = add(journal), add(journal)
    refused = journal.record_refused(first)
    assert refused.state is State.REFUSED and refused.state.final
    assert [add(journal).nonce, add(journal).nonce] == [0, 2]


def test_a_node_that_lags_behind_does_not_make_us_use_a_nonce_twice(journal: Journal) -> None:
    intent = add(journal, floor=4)
    journal.record_end(intent, Seen(intent.current.hash, 9, b"h" * 32, True))
    assert add(journal, floor=4).nonce == 5


def test_a_life_is_recorded_step_by_step(journal: Journal) -> None:
    intent = add(journal)
    assert intent.state is State.SIGNED and intent.current.raw == sign(0)[0].raw
    sent = journal.record_sent(intent, intent.current)
    assert sent.state is State.SENT and sent.current.sent_at is not None
    replaced = journal.record_replacement(sent, *sign(0, Fees(200, 2)))
    assert replaced.state is State.SIGNED and [each.fees.max_fee for each in replaced.attempts] == [100, 200]
    seen = Seen(replaced.attempts[0].hash, 9, b"h" * 32, False)
    mined = journal.record_mined(replaced, seen)
    assert (mined.state, mined.block_number, mined.mined_hash) == (State.MINED, 9, seen.hash)
    lost = journal.record_lost(mined)
    assert lost.state is State.SIGNED and lost.block_hash is None and lost.current.sent_at is None
    renumbered = journal.record_renumbered(lost, 3, sign)
    assert renumbered.nonce == 3 and renumbered.current.nonce == 3
    ended = journal.record_end(renumbered, Seen(renumbered.current.hash, 12, b"i" * 32, False))
    assert ended.state is State.FAILED and journal.held_nonces(ACCOUNT.address) == set()
    found = journal.ended_with(ACCOUNT.address, 3)
    assert found is not None and found.id == intent.id


def test_a_key_stands_for_one_intent(journal: Journal) -> None:
    intent = add(journal, key="k")
    found = journal.by_key(ACCOUNT.address, "k")
    assert found is not None and found.id == intent.id
    assert journal.by_key(ACCOUNT.address, "other") is None
    with pytest.raises(JournalError):
        add(journal, key="k", data=b"x")


def test_chains_and_senders_do_not_see_each_other(path: Path, journal: Journal) -> None:
    add(journal)
    with Journal(path, "another chain") as other:
        assert other.held_nonces(ACCOUNT.address) == set() and other.history(ACCOUNT.address) == []
    assert journal.held_nonces(faucet(2).address) == set()


def test_the_journal_is_private_and_keeps_its_version(path: Path, journal: Journal) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    journal.close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(JournalError, match="another version"):
        Journal(path, "chain")


def test_a_file_that_is_no_journal_is_refused(path: Path) -> None:
    path.write_bytes(b"something else" * 100)
    with pytest.raises(JournalError):
        Journal(path, "chain")


def test_what_a_living_session_has_under_way_is_left_to_it(path: Path, journal: Journal) -> None:
    intent = add(journal)
    with Journal(path, "chain") as other:
        assert other.orphans(ACCOUNT.address) == []
        assert add(other).nonce == intent.nonce + 1
    with Journal(path, "chain") as third:
        # The second session has ended, the first has not.
        assert [each.nonce for each in third.orphans(ACCOUNT.address)] == [1]


def _die_with_one_signed(path: Path) -> None:
    add(Journal(path, "chain"))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_session_s_transactions_are_found_and_taken_over(path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die_with_one_signed, args=(path,))
    process.start()
    process.join(ALIVE)
    assert process.exitcode == -signal.SIGKILL
    with Journal(path, "chain") as journal:
        (orphan,) = journal.orphans(ACCOUNT.address)
        assert orphan.current.raw == sign(0)[0].raw
        (ours,) = journal.adopt([orphan])
        assert ours.session == journal.session
        assert [each.id for each in journal.live(ACCOUNT.address)] == [orphan.id] and not journal.orphans(
            ACCOUNT.address
        )
    assert sorted(each.name for each in path.parent.iterdir() if each.suffix == ".lock") == []


def _add_many(path: Path, count: int) -> None:
    with Journal(path, "chain") as journal:
        for index in range(count):
            add(journal, data=index.to_bytes(4, "big") + os.getpid().to_bytes(4, "big"))


def test_processes_that_share_a_journal_never_share_a_nonce(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add_many, args=(path, 25)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(ALIVE)
        assert process.exitcode == 0
    with Journal(path, "chain") as journal:
        assert sorted(journal.held_nonces(ACCOUNT.address)) == list(range(75))
