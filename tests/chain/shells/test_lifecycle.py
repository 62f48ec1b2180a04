"""What to do next with a transaction: every case of the decision, without any chain."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.client import lifecycle
from chain.client.lifecycle import Attempt, Intent, Policy, Refusal, Seen, State, View, decide, read_refusal
from chain.client.retry import RetryPolicy, is_rate_limit, is_too_large
from chain.transactions import Fees

POLICY = Policy(confirmations=3, resend_after=10, stuck_after=60, max_fee=1000)
FIRST = Attempt(b"a" * 32, b"raw a", 5, Fees(100, 10), signed_at=1000.0)
SENT = replace(FIRST, sent_at=1000.0)
INTENT = Intent(
    id=1, key=None, session="s", sender="0xme", to=b"t" * 20, data=b"", value=0, gas=21_000, label="test",
    state=State.SIGNED, nonce=5, attempts=(FIRST,), created_at=1000.0,
)  # fmt: skip
UNDER_WAY = replace(INTENT, state=State.SENT, attempts=(SENT,))
QUIET = View(head=50, base_fee=20, nonce=5, deep_nonce=5, receipts={})


def seen(attempt: Attempt, block: int, *, good: bool = True, block_hash: bytes = b"h" * 32) -> dict[bytes, Seen]:
    return {attempt.hash: Seen(attempt.hash, block, block_hash, good)}


def test_what_was_signed_and_not_sent_is_sent() -> None:
    assert decide(INTENT, QUIET, POLICY, 1001.0) == lifecycle.Broadcast(FIRST)


def test_what_was_sent_is_waited_for_and_then_sent_again() -> None:
    assert decide(UNDER_WAY, QUIET, POLICY, 1009.0) == lifecycle.Wait()
    assert decide(UNDER_WAY, QUIET, POLICY, 1010.0) == lifecycle.Broadcast(SENT)


def test_what_is_stuck_is_replaced_with_higher_fees() -> None:
    step = decide(UNDER_WAY, QUIET, POLICY, 1060.0)
    assert step == lifecycle.Replace(Fees(113, 12))


def test_what_waits_for_an_earlier_nonce_is_not_replaced() -> None:
    assert decide(UNDER_WAY, replace(QUIET, nonce=4), POLICY, 1060.0) == lifecycle.Broadcast(SENT)


def test_fees_are_never_raised_above_the_limit() -> None:
    dear = replace(UNDER_WAY, attempts=(replace(SENT, fees=Fees(950, 10)),))
    assert decide(dear, QUIET, POLICY, 1060.0) == lifecycle.Broadcast(dear.current)


def test_replacing_ends_after_so_many_attempts() -> None:
    many = replace(UNDER_WAY, attempts=(SENT,) * POLICY.max_attempts)
    assert isinstance(decide(many, QUIET, POLICY, 1060.0), lifecycle.Broadcast)


def test_a_receipt_is_recorded_and_then_waited_on_until_it_is_deep_enough() -> None:
    view = replace(QUIET, nonce=6, receipts=seen(SENT, 49))
    step = decide(UNDER_WAY, view, POLICY, 1001.0)
    assert isinstance(step, lifecycle.Mined)
    mined = replace(UNDER_WAY, state=State.MINED, block_hash=b"h" * 32)
    assert decide(mined, view, POLICY, 1002.0) == lifecycle.Wait()
    assert isinstance(decide(mined, replace(view, head=51), POLICY, 1003.0), lifecycle.Finish)


def test_the_receipt_of_any_attempt_counts() -> None:
    later = replace(SENT, hash=b"b" * 32)
    both = replace(UNDER_WAY, attempts=(SENT, later))
    for attempt in both.attempts:
        step = decide(both, replace(QUIET, nonce=6, receipts=seen(attempt, 10)), POLICY, 1001.0)
        assert isinstance(step, lifecycle.Finish) and step.seen.hash == attempt.hash


def test_a_transaction_that_moved_to_another_block_is_recorded_anew() -> None:
    mined = replace(UNDER_WAY, state=State.MINED, block_hash=b"h" * 32)
    view = replace(QUIET, nonce=6, receipts=seen(SENT, 50, block_hash=b"x" * 32))
    assert isinstance(decide(mined, view, POLICY, 1001.0), lifecycle.Mined)


def test_a_transaction_that_was_reorganised_away_is_lost() -> None:
    mined = replace(UNDER_WAY, state=State.MINED, block_hash=b"h" * 32)
    assert decide(mined, QUIET, POLICY, 1001.0) == lifecycle.Lost()


def test_a_nonce_that_a_stranger_used_is_given_up_only_when_that_is_for_good() -> None:
    assert decide(UNDER_WAY, replace(QUIET, nonce=6), POLICY, 5000.0) == lifecycle.Wait()
    assert decide(UNDER_WAY, replace(QUIET, nonce=6, deep_nonce=6), POLICY, 1001.0) == lifecycle.Renumber()


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.integers(0, 10**12), st.integers(1, 10**14))
def test_raised_fees_satisfy_every_node_s_rule_for_replacements(most: int, tip: int, base: int, limit: int) -> None:
    before = Fees(max(most, tip), tip)
    after = lifecycle.raised(before, base, limit)
    if after is None:
        return
    assert after.max_fee <= limit
    assert after.max_fee * 10 >= before.max_fee * 11 and after.priority_fee * 10 >= before.priority_fee * 11
    assert after.max_fee >= after.priority_fee


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(1, 10**13))
def test_first_fees_pay_the_present_base_fee_within_the_limit(base: int, tip: int, limit: int) -> None:
    fees = lifecycle.first_fees(base, tip, limit)
    assert (fees is None) == (base + tip > limit)
    if fees is not None:
        assert base + tip <= fees.max_fee <= limit


@given(st.integers(0, 50), st.sets(st.integers(0, 60)))
def test_a_free_nonce_is_the_lowest_that_nobody_holds(floor: int, held: set[int]) -> None:
    nonce = lifecycle.free_nonce(floor, held)
    assert nonce >= floor and nonce not in held
    assert set(range(floor, nonce)) <= held


@pytest.mark.parametrize(
    ("held", "found"), [([], None), ([5], None), ([6], 5), ([5, 7], None), ([3, 4], None), ([6, 9], 5)]
)
def test_a_gap_is_the_next_nonce_that_nobody_holds_while_later_ones_wait(held: list[int], found: int | None) -> None:
    assert lifecycle.gap(5, held) == found


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ("already known", Refusal.KNOWN),
        ("nonce too low: next nonce 8, tx nonce 5", Refusal.NONCE_USED),
        ("replacement transaction underpriced", Refusal.UNDERPRICED),
        ("transaction underpriced: gas tip cap 0, minimum needed 1", Refusal.FEE_TOO_LOW),
        ("max fee per gas less than block base fee", Refusal.FEE_TOO_LOW),
        ("insufficient funds for gas * price + value", Refusal.FUNDS),
        ("txpool is full", Refusal.BUSY),
        ("exceeds block gas limit", Refusal.OTHER),
    ],
)
def test_a_node_s_words_are_understood(message: str, meaning: Refusal) -> None:
    assert read_refusal(message) is meaning


@given(st.integers(0, 100), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 100))
def test_waits_between_tries_grow_and_stay_bounded(attempt: int, jitter: float, after: float | None) -> None:
    policy = RetryPolicy(deadline=30, first=0.1, most=3)
    delay = policy.delay(attempt, jitter, after)
    assert 0.05 <= delay <= max(3.0, min(after or 0.0, 30.0))
    if after is not None:
        assert delay >= min(after, 30.0)


def test_too_many_results_is_not_taken_for_a_rate_limit() -> None:
    assert is_too_large(-32005, "query returned more than 10000 results")
    assert not is_rate_limit(-32005, "query returned more than 10000 results")
    assert is_rate_limit(-32005, "daily request count exceeded, request rate limited")
    assert is_rate_limit(429, "Too Many Requests")
