"""Accounts on disk: what survives, what is refused, and what a key looks like there."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from chain.vouchers import PaymentVoucher
from chain.wallet import Account as Wallet
from mesh.errors import ConfigError
from mesh.payment.accounts.api_keys import KeyRequest, hash_key, make_key
from mesh.payment.accounts.store import AccountStore, KeyRefused

PAYER, GATEWAY = bytes(range(20)), bytes(range(32))
KEY = make_key(b"\x07" * 32)


def store(path: Path | None = None, gateway: str = "g") -> AccountStore:
    return AccountStore(path, gateway)


def with_account(opened: AccountStore, *, redeemed: int = 0) -> AccountStore:
    opened.add_key(hash_key(KEY), PAYER, b"r" * 32, issued=0, now=0, redeemed=redeemed, most=3)
    return opened


def test_keys_are_kept_as_hashes_in_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "accounts.sqlite"
    with store(path) as opened:
        with_account(opened)
        assert opened.payer_of(hash_key(KEY)) == PAYER
        assert opened.payer_of(hash_key(KEY + "0")) is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert all(KEY[8:].encode() not in file.read_bytes() for file in tmp_path.iterdir())


def test_a_request_for_a_key_is_good_once_and_keys_are_bounded() -> None:
    with with_account(store()) as opened:
        with pytest.raises(KeyRefused, match="used before"):
            opened.add_key(b"x" * 32, PAYER, b"r" * 32, issued=0, now=0, redeemed=0, most=3)
        for number in range(2):
            opened.add_key(bytes([number]) * 32, PAYER, bytes([number]) * 32, issued=0, now=0, redeemed=0, most=3)
        with pytest.raises(KeyRefused, match="3 keys"):
            opened.add_key(b"y" * 32, PAYER, b"s" * 32, issued=0, now=0, redeemed=0, most=3)
        assert opened.revoke_key(hash_key(KEY))
        assert not opened.revoke_key(hash_key(KEY))
        assert opened.payer_of(hash_key(KEY)) is None


def test_only_the_highest_voucher_is_kept_and_only_what_is_due_is_redeemed() -> None:
    high, low = PaymentVoucher(PAYER, GATEWAY, 2**100), PaymentVoucher(PAYER, GATEWAY, 5)
    with with_account(store()) as opened:
        assert opened.vouchers() == []
        assert opened.put_voucher(high, b"h" * 65)
        assert not opened.put_voucher(low, b"l" * 65)
        assert not opened.put_voucher(high, b"l" * 65)
        assert opened.vouchers() == [(PAYER, high, b"h" * 65, 2**100)]
        opened.mark_redeemed(PAYER, 7)
        opened.mark_redeemed(PAYER, 3)
        assert opened.redeemed(PAYER) == 7
        assert len(opened.vouchers(due=True)) == 1
        opened.mark_redeemed(PAYER, 2**100)
        assert opened.vouchers(due=True) == []
        assert not opened.put_voucher(PaymentVoucher(b"n" * 20, GATEWAY, 9), b"n" * 65), "no account, no voucher"


def test_after_the_loss_of_the_file_an_old_voucher_is_worth_nothing_again() -> None:
    with with_account(store(), redeemed=100) as opened:
        account = opened.account(PAYER)
        assert account is not None and (account.signed, account.charged) == (100, 100)
        assert not opened.put_voucher(PaymentVoucher(PAYER, GATEWAY, 100), b"o" * 65)


def test_what_ran_when_the_process_died_stands_if_it_was_handed_out_and_is_given_back_if_not(tmp_path: Path) -> None:
    path = tmp_path / "accounts.sqlite"
    with with_account(store(path)) as opened:
        opened.write_charge("begun", PAYER, 30, begun=True, model="m", now=1)
        opened.write_charge("waiting", PAYER, 50, begun=False, model="m", now=1)
        opened.settle_charge("done", PAYER, 7, model="m", now=1)
        opened.settle_charge("nothing", PAYER, 0, model="m", now=1)
        assert opened.charged_total() == 87
    for _ in range(2):
        with store(path) as opened:
            assert opened.charged_total() == 37
            assert {each.id: (each.amount, each.done) for each in opened.charges(PAYER)} == {
                "begun": (30, True),
                "waiting": (0, True),
                "done": (7, True),
            }


def test_a_write_that_comes_after_the_settlement_changes_nothing() -> None:
    with with_account(store()) as opened:
        opened.write_charge("r", PAYER, 30, begun=True, model="m", now=1)
        opened.settle_charge("r", PAYER, 10, model="m", now=1)
        opened.write_charge("r", PAYER, 30, begun=True, model="m", now=1)
        opened.settle_charge("r", PAYER, 20, model="m", now=1)
        assert opened.charged_total() == 10


def test_the_file_belongs_to_one_gateway_and_one_process(tmp_path: Path) -> None:
    path = tmp_path / "accounts.sqlite"
    with store(path), pytest.raises(ConfigError, match="another process uses"):
        store(path)
    with pytest.raises(ConfigError, match="of the gateway 'g'"):
        store(path, "other")
    with store(path):
        pass
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(ConfigError, match="version 9"):
        store(path)
    path.write_bytes(b"not a database, but long enough to be looked at" * 10)
    with pytest.raises(ConfigError, match="cannot be opened"):
        store(path)


def test_a_request_for_a_key_names_everything_that_it_is_for() -> None:
    wallet = Wallet(b"\x01" * 32)
    base = KeyRequest(wallet.canonical, "g", 1, bytes(20), 1000, bytes(32))
    others = [
        KeyRequest(bytes(20), "g", 1, bytes(20), 1000, bytes(32)),
        KeyRequest(wallet.canonical, 'g"\nchain: 2', 1, bytes(20), 1000, bytes(32)),
        KeyRequest(wallet.canonical, "g", 2, bytes(20), 1000, bytes(32)),
        KeyRequest(wallet.canonical, "g", 1, b"e" * 20, 1000, bytes(32)),
        KeyRequest(wallet.canonical, "g", 1, bytes(20), 1001, bytes(32)),
        KeyRequest(wallet.canonical, "g", 1, bytes(20), 1000, b"n" * 32),
    ]
    assert len({each.digest() for each in [base, *others]}) == 7
    assert all(each.text().count("\n") == 7 for each in [base, *others])
    assert base.is_current(1300) and not base.is_current(1301) and not base.is_current(699)
