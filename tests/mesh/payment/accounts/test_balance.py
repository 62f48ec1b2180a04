"""Accounts: nobody spends more than was signed and deposited, and no crash changes that."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chain.vouchers import PaymentVoucher
from mesh.payment.accounts.balance import Account, Charge, Tariff, VoucherRefused
from mesh.payment.accounts.store import AccountStore

PAYER = bytes(range(20))
GATEWAY = bytes(32)
SIGNATURE = bytes(65)


def funded(signed: int, backing: int | None = None) -> Account:
    return Account(PAYER, signed=signed, backing=signed if backing is None else backing)


def test_credit_is_what_is_signed_and_covered_less_what_is_charged() -> None:
    account = funded(100, backing=70)
    assert account.credit == 70
    charge = account.open("r")
    assert account.take(charge, 10, 10) == 10
    assert account.credit == 60
    account.backing = 5
    assert account.credit == 0


def test_a_voucher_must_be_higher_and_covered() -> None:
    account = funded(100)
    with pytest.raises(VoucherRefused) as caught:
        account.check_voucher(100, 1000)
    assert caught.value.code == "voucher_not_higher"
    with pytest.raises(VoucherRefused) as caught:
        account.check_voucher(1001, 1000)
    assert caught.value.code == "voucher_not_covered"
    account.check_voucher(1000, 1000)


def test_what_is_not_used_is_given_back() -> None:
    account = funded(100)
    charge = account.open("r")
    assert account.take(charge, 10, 40) == 40
    account.use(charge, 15)
    assert (account.charged, account.spent, account.held) == (40, 15, 25)
    account.settle(charge, 15)
    assert (account.charged, account.spent, account.credit) == (15, 15, 85)
    assert not account.running


def test_a_request_leaves_half_of_the_credit_to_the_others() -> None:
    account = funded(100)
    one, two = account.open("1"), account.open("2")
    assert account.take(one, 4, 80) == 50
    assert account.take(two, 4, 80) == 25
    assert account.take(one, 26, 80) is None


def test_nothing_is_handed_out_that_was_not_charged() -> None:
    account = funded(100)
    charge = account.open("r")
    account.take(charge, 10, 10)
    with pytest.raises(ValueError, match="11 wei used, 10 charged"):
        account.use(charge, 11)
    with pytest.raises(ValueError, match="ends at 11"):
        account.settle(charge, 11)
    with pytest.raises(ValueError, match="runs already"):
        account.open("r")


def test_a_generated_token_costs_four_times_a_prompt_token() -> None:
    tariff = Tariff(price=3, increment_tokens=64)
    assert tariff.cost(10, 5) == 3 * (10 + 4 * 5)
    assert (tariff.increment, tariff.step) == (192, 48)


class Bookkeeping(RuleBasedStateMachine):
    """A gateway's account with its store, as `mesh.gateway.bill` drives them, killed between any two steps."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="accounts-"))
        self.store = self.open()
        self.number = 0
        self.promised = 0
        """Highest voucher whose acceptance was confirmed."""
        self.offered = 0
        """Highest voucher that was ever sent to us."""
        self.owed: dict[str, int] = {}
        """What every request was really worth to its developer."""
        self.unsettled: dict[str, Charge] = {}

    def open(self) -> AccountStore:
        return AccountStore(self.folder / "accounts.sqlite", "gateway-1")

    @initialize(redeemed=st.integers(0, 50))
    def begin(self, redeemed: int) -> None:
        self.base = self.promised = self.offered = redeemed
        self.store.add_key(b"k" * 32, PAYER, b"r" * 32, issued=0, now=0, redeemed=redeemed, most=1)
        self.load()

    def load(self) -> None:
        account = self.store.account(PAYER)
        assert account is not None
        account.backing = 10**9
        self.account = account
        self.unsettled = {}

    def kill(self) -> None:
        """As kill -9: memory is gone, nothing is settled."""
        self.store.close()
        self.store = self.open()
        self.load()

    @rule(more=st.integers(-20, 400), crash=st.sampled_from(["", "before", "after"]))
    def voucher(self, more: int, crash: str) -> None:
        amount = max(0, self.promised + more)
        try:
            self.account.check_voucher(amount, self.account.backing)
        except VoucherRefused:
            assert amount <= self.account.signed
            return None
        if crash == "before":
            return self.kill()
        self.offered = max(self.offered, amount)
        assert self.store.put_voucher(PaymentVoucher(PAYER, GATEWAY, amount), SIGNATURE)
        if crash == "after":
            self.kill()
            assert self.account.signed == amount
            return None
        self.account.accept(amount)
        self.promised = amount
        return None

    @rule(prompt=st.integers(0, 100), crash=st.sampled_from(["", "before", "after"]))
    def request(self, prompt: int, crash: str) -> None:
        self.number += 1
        charge = self.account.open(f"r{self.number}")
        if self.account.take(charge, prompt, prompt) is None:
            self.account.settle(charge, 0)
            return None
        if crash == "before":
            return self.kill()
        self.store.write_charge(charge.id, PAYER, charge.written, begun=False, model="m", now=0)
        if crash == "after":
            return self.kill()
        self.account.use(charge, prompt)
        self.unsettled[charge.id] = charge
        return None

    @precondition(lambda self: self.unsettled)
    @rule(data=st.data(), tokens=st.integers(1, 60), crash=st.sampled_from(["", "before", "after"]))
    def stream(self, data: st.DataObject, tokens: int, crash: str) -> None:
        charge = self.unsettled[data.draw(st.sampled_from(sorted(self.unsettled)))]
        missing = tokens - charge.held
        if missing > 0:
            if self.account.take(charge, missing, max(missing, 64)) is None:
                return None
            if crash == "before":
                return self.kill()
        self.store.write_charge(charge.id, PAYER, charge.written, begun=True, model="m", now=0)
        if crash == "after":
            return self.kill()
        self.account.use(charge, tokens)
        self.owed[charge.id] = charge.used  # handed out, prompt included
        return None

    @precondition(lambda self: self.unsettled)
    @rule(data=st.data(), whole=st.booleans(), crash=st.sampled_from(["", "before", "after"]))
    def settle(self, data: st.DataObject, whole: bool, crash: str) -> None:
        charge = self.unsettled.pop(data.draw(st.sampled_from(sorted(self.unsettled))))
        final = charge.used if whole or charge.id in self.owed else 0
        self.account.settle(charge, final)
        if crash == "before":
            return self.kill()
        self.store.settle_charge(charge.id, PAYER, final, model="m", now=0)
        self.owed[charge.id] = final
        if crash == "after":
            self.kill()
        return None

    @rule()
    def restart(self) -> None:
        self.kill()

    @invariant()
    def nobody_spends_more_than_was_signed(self) -> None:
        if not hasattr(self, "base"):
            return
        assert self.base + sum(self.owed.values()) <= self.account.charged <= self.account.signed
        assert self.account.credit == self.account.signed - self.account.charged

    @invariant()
    def no_voucher_is_lost_and_none_is_invented(self) -> None:
        if hasattr(self, "base"):
            assert self.promised <= self.account.signed <= self.offered

    @invariant()
    def disk_and_memory_agree_on_what_is_charged(self) -> None:
        if hasattr(self, "base"):
            assert self.store.charged_total() == self.account.charged
            assert self.base + sum(each.amount for each in self.store.charges()) == self.account.charged

    def teardown(self) -> None:
        with contextlib.suppress(AttributeError):
            self.store.close()
        shutil.rmtree(self.folder, ignore_errors=True)


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
