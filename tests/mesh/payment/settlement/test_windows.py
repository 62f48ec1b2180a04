"""The windows of an epoch against the chain's conditions, for what is sent now and mined in either epoch of a seam."""

from __future__ import annotations

from itertools import product

from mesh.payment.settlement.windows import Clock

EPOCH = 50


def test_what_a_window_lets_out_the_chain_accepts_in_whatever_block_it_is_mined_next() -> None:
    for delay, now, seam in product((4, 5, 9), range(EPOCH - 2, EPOCH + 25), (0, 1)):
        clock = Clock(now, now + seam, delay, 9)
        for mined_in in (clock.now, clock.upcoming):  # a reorganisation may put it into the earlier one
            if clock.may_post(EPOCH):
                assert mined_in == EPOCH + 1
            if clock.may_challenge(EPOCH):
                assert EPOCH < mined_in <= EPOCH + delay
            if clock.may_open(EPOCH):
                assert EPOCH < mined_in <= EPOCH + delay - 1
            if clock.may_claim(EPOCH):
                assert mined_in >= EPOCH + delay
            if clock.may_enforce_sla(EPOCH):
                assert EPOCH + delay <= mined_in <= EPOCH + 2 * delay
            if clock.is_over(EPOCH):
                assert mined_in > EPOCH + delay


def test_away_from_a_seam_no_window_is_narrower_than_the_chain_s() -> None:
    for delay, now in product((4, 5, 9), range(EPOCH - 2, EPOCH + 25)):
        clock = Clock(now, now, delay, 9)
        assert clock.may_post(EPOCH) == (now == EPOCH + 1)
        assert clock.may_challenge(EPOCH) == (EPOCH < now <= EPOCH + delay)
        assert clock.may_open(EPOCH) == (EPOCH < now <= EPOCH + delay - 1)
        assert clock.may_claim(EPOCH) == (now >= EPOCH + delay)
        assert clock.may_enforce_sla(EPOCH) == (EPOCH + delay <= now <= EPOCH + 2 * delay)
        assert clock.is_over(EPOCH) == (now > EPOCH + delay)


def test_nothing_before_the_first_epoch_can_be_claimed() -> None:
    for now in range(10):
        clock = Clock(now, now, 4, 9)
        assert clock.claimable == max(0, now - 4) and not clock.may_claim(0)
