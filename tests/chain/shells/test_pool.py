"""The devnet's pool: order, replacement, and what it refuses, in geth's words."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.devnet.pool import Pool, PoolRefused

GAS_LIMIT = 1_000_000


@dataclass(frozen=True)
class Tx:
    """What the pool looks at."""

    sender: bytes = b"a"
    nonce: int = 0
    max_fee_per_gas: int = 100
    max_priority_fee_per_gas: int = 10
    gas: int = 21_000
    value: int = 0
    intrinsic_gas: int = 21_000

    @property
    def hash(self) -> bytes:
        return repr(self).encode()


def pool(nonce: int = 0, balance: int = 10**12) -> Pool:
    return Pool(lambda _: nonce, lambda _: balance, GAS_LIMIT)


def test_transactions_of_a_sender_run_in_order_whatever_they_pay() -> None:
    full = pool()
    for nonce in (2, 0, 1):
        full.add(Tx(nonce=nonce, max_priority_fee_per_gas=nonce))
    assert [tx.nonce for tx in full.ready(50, GAS_LIMIT)] == [0, 1, 2]
    assert full.pending_nonce(b"a") == 3


def test_what_waits_behind_a_gap_is_not_ready() -> None:
    full = pool()
    full.add(Tx(nonce=1))
    assert full.ready(50, GAS_LIMIT) == [] and full.pending_nonce(b"a") == 0


def test_the_best_tip_goes_first_and_a_low_fee_waits() -> None:
    full = pool()
    full.add(Tx(sender=b"a", max_priority_fee_per_gas=1))
    full.add(Tx(sender=b"b", max_priority_fee_per_gas=9))
    full.add(Tx(sender=b"c", max_fee_per_gas=49))
    assert [tx.sender for tx in full.ready(50, GAS_LIMIT)] == [b"b", b"a"]


def test_a_block_is_not_filled_beyond_its_limit() -> None:
    full = pool()
    for nonce in range(5):
        full.add(Tx(nonce=nonce, gas=300_000))
    assert len(full.ready(50, GAS_LIMIT)) == 3


def test_a_replacement_must_pay_a_tenth_more_of_both() -> None:
    full = pool()
    full.add(Tx())
    for cheap in (
        Tx(max_fee_per_gas=110),
        Tx(max_priority_fee_per_gas=20),
        Tx(max_fee_per_gas=109, max_priority_fee_per_gas=11),
    ):
        with pytest.raises(PoolRefused, match="replacement transaction underpriced"):
            full.add(cheap)
    full.add(Tx(max_fee_per_gas=110, max_priority_fee_per_gas=11))
    assert len(full) == 1


@pytest.mark.parametrize(
    ("tx", "words"),
    [
        (Tx(nonce=4), "nonce too low"),
        (Tx(nonce=5, gas=GAS_LIMIT + 1), "exceeds block gas limit"),
        (Tx(nonce=5, gas=20_000), "intrinsic gas too low"),
        (Tx(nonce=5, max_priority_fee_per_gas=101), "higher than max fee"),
        (Tx(nonce=5, value=10**13), "insufficient funds"),
    ],
)
def test_what_can_never_run_is_refused(tx: Tx, words: str) -> None:
    with pytest.raises(PoolRefused, match=words):
        pool(nonce=5).add(tx)


def test_the_same_transaction_again_is_already_known() -> None:
    full = pool()
    full.add(Tx())
    with pytest.raises(PoolRefused, match="already known"):
        full.add(Tx())


def test_one_sender_cannot_fill_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chain.devnet.pool.MAX_PER_SENDER", 3)
    full = pool()
    for nonce in range(3):
        full.add(Tx(nonce=nonce))
    with pytest.raises(PoolRefused, match="account limit"):
        full.add(Tx(nonce=3))


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 6), st.integers(1, 200)), max_size=30))
def test_what_is_ready_never_skips_a_nonce_nor_a_fee(wanted: list[tuple[bytes, int, int]]) -> None:
    full = pool()
    for sender, nonce, fee in wanted:
        try:
            full.add(Tx(sender=sender, nonce=nonce, max_fee_per_gas=fee, max_priority_fee_per_gas=1))
        except PoolRefused:
            continue
    ready = full.ready(50, GAS_LIMIT)
    for sender in (b"a", b"b", b"c"):
        assert [tx.nonce for tx in ready if tx.sender == sender] == list(
            range(sum(tx.sender == sender for tx in ready))
        )
    assert all(tx.max_fee_per_gas >= 50 for tx in ready)
