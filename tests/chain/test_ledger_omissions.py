"""Omissions rule by rule: what is left out is paid from line, credit and stake in turn, or stays a debt.

A unit costs 25 wei; of a fee 10 % are royalty, 15 % burned, 75 % the provider's; the penalty is as much again.
"""

from __future__ import annotations

import pytest

from chain.contract_errors import (
    AlreadyChallenged,
    AlreadyProven,
    AnswerWindowClosed,
    AnswerWindowOpen,
    ChallengeNotOpen,
    ChallengeWindowClosed,
    ChallengeWindowNotOpen,
    InsufficientCover,
    InvalidProof,
    InvalidSignature,
    NoCheckpoint,
    NothingMissing,
    OutOfBounds,
    SafeCastOverflowedUintDowncast,
    UnknownChallenge,
    WrongModel,
)
from chain.merkle import ContributionTree, Leaf, Sibling, leaf_hash, parent
from chain.primitives import key_of
from chain.vouchers import ContributionVoucher
from tests.chain.ledger_world import ALICE, BOB, CREATOR, DEV, GARY, OWNER, World
from tests.chain.spec.lines import Line
from tests.chain.spec.settlement_state import ChallengeStatus

G, A, B = key_of("g"), key_of("a"), key_of("b")
DELAY = 4


def left_out(units: int = 100) -> tuple[World, ContributionTree]:
    """In epoch 3, after the gateway has posted epoch 2 with so many units for a and none for b."""
    world = World()
    world.go_to(3)
    return world, world.post(units)


# --- shown at once ---


def test_an_omission_is_paid_from_the_line_then_credit_then_stake() -> None:
    world, tree = left_out()
    ledger = world.ledger
    staking = ledger.gateway_staking
    staking.fund_lines(world.by(GARY), "g", ["a"], [1000])
    ledger.escrow.top_up_credit(world.by(DEV), "g", 700)
    supply, stake = ledger.token.total_supply, staking.stake_of_key(G).amount
    world.omit("a", 180, 2, tree)  # 80 units: 2000 wei
    assert staking.line_of(G, A) == Line()
    assert ledger.escrow.credit_of(G) == 0
    # 1000 from the line, 300 and the penalty of 2000 from the effective stake.
    assert staking.stake_of_key(G).amount == stake - 1000 - 300 - 2000
    assert staking.stake_of_key(G).reserved == 0
    assert ledger.settlement.payments_of(ALICE) == 1500
    assert ledger.settlement.payments_of(BOB) == 200  # the challenger's tenth of the penalty
    assert ledger.settlement.royalty_of(1) == 200
    assert supply - ledger.token.total_supply == 300 + 1800
    assert ledger.settlement.compensated_units(G, A, 2) == 80
    assert ledger.settlement.debt_of(G) == 0
    with pytest.raises(NothingMissing):
        world.omit("a", 180, 2, tree)
    assert world.healthy()


def test_another_providers_line_is_never_taken() -> None:
    world, _ = left_out()
    staking, settlement = world.ledger.gateway_staking, world.ledger.settlement
    staking.fund_lines(world.by(GARY), "g", ["b"], [46_000])
    world.omit("a", 10_000, 1)  # 250,000 wei: all that is not b's
    assert staking.line_of(G, B) == Line(46_000)
    assert staking.effective_stake("g") == 0
    # The stake of 50,000 less 2500 of fees and b's 46,000 is worth 60 units.
    assert settlement.compensated_units(G, A, 1) == 60
    world.omit("b", 1840, 1)  # and b gets what was guaranteed to it
    assert settlement.compensated_units(G, B, 1) == 1840
    assert staking.line_of(G, B) == Line()


def test_a_leaf_must_be_shown_where_there_is_a_checkpoint_and_none_where_there_is_not() -> None:
    world, tree = left_out()
    challenge = world.ledger.settlement.challenge_omission
    with pytest.raises(InvalidProof):  # no leaf of b is there to be shown
        world.omit("b", 5, 2)
    for units, proof in ((0, tree.proof(A)), (99, tree.proof(A)), (100, (*tree.proof(A), Sibling(bytes(32), 0)))):
        with pytest.raises(InvalidProof):
            challenge(world.by(BOB), *world.voucher("a", 500, 2), units, proof)
    for units, shown in ((1, ()), (0, (Sibling(bytes(32), 0),))):
        with pytest.raises(InvalidProof):
            challenge(world.by(BOB), *world.voucher("a", 500, 1), units, shown)
    challenge(world.by(BOB), *world.voucher("a", 500, 1), 0, ())


def test_an_omission_is_shown_through_the_first_epoch_of_claims_and_not_a_block_longer() -> None:
    world, tree = left_out()
    world.go_to(2 + DELAY, last_block=True)
    world.omit("a", 101, 2, tree)
    world.block += 1
    with pytest.raises(ChallengeWindowClosed):
        world.omit("a", 102, 2, tree)


def test_a_checkpoint_can_be_posted_until_its_epoch_of_posting_is_over() -> None:
    world = World()
    world.go_to(2, last_block=True)
    with pytest.raises(ChallengeWindowNotOpen):
        world.omit("a", 5, 1)
    with pytest.raises(ChallengeWindowNotOpen):
        world.omit("a", 5, 3)
    world.block += 1
    world.omit("a", 5, 1)


def test_a_voucher_is_looked_at_before_anything_else_is() -> None:
    world, tree = left_out()
    settlement = world.ledger.settlement
    voucher, signature = world.voucher("a", 500, 2)
    shown = (100, tree.proof(A))
    with pytest.raises(OutOfBounds):
        world.omit("a", 0, 2, tree)
    with pytest.raises(OutOfBounds):
        world.omit("a", 2**96, 2, tree)
    other = ContributionVoucher(G, A, 2, 2, 500)
    with pytest.raises(WrongModel):
        settlement.challenge_omission(world.by(BOB), other, signature, *shown)
    forged = world.signed(settlement.domain, voucher, BOB)
    with pytest.raises(InvalidSignature):
        settlement.challenge_omission(world.by(BOB), voucher, forged, *shown)


# --- debt ---


def test_what_cannot_be_paid_is_a_debt_that_later_money_pays() -> None:
    world = World()
    ledger, settlement = world.ledger, world.ledger.settlement
    world.go_to(3)
    world.omit("a", 2100, 1)  # 52,500 wei of a stake of 50,000
    assert settlement.compensated_units(G, A, 1) == 2000
    assert (settlement.debt_units(G, A, 1), settlement.debt_of(G)) == (100, 2500)
    with pytest.raises(NothingMissing):  # the same voucher says nothing new
        world.omit("a", 2100, 1)
    with pytest.raises(InsufficientCover) as raised:
        settlement.collect_debt(world.by(BOB), "g", "a", 1)
    assert raised.value.arguments == {"wanted": 2500, "available": 0}
    with pytest.raises(NothingMissing):
        settlement.collect_debt(world.by(BOB), "g", "b", 1)
    world.go_to(30)  # no window ends a debt
    ledger.escrow.top_up_credit(world.by(DEV), "g", 1024)
    settlement.collect_debt(world.by(BOB), "g", "a", 1)
    assert (settlement.debt_units(G, A, 1), settlement.debt_of(G)) == (60, 1500)
    assert ledger.escrow.credit_of(G) == 24
    ledger.gateway_staking.stake_for_gateway(world.by(GARY), "g", 10_000)
    settlement.collect_debt(world.by(BOB), "g", "a", 1)
    assert settlement.debt_of(G) == 0
    assert settlement.compensated_units(G, A, 1) == 2100
    assert ledger.gateway_staking.effective_stake("g") == 10_000 + 24 - 1500 - 1500  # the fee, and the penalty for it
    assert world.healthy()


def test_debts_of_several_add_up_and_a_higher_voucher_replaces_its_own() -> None:
    world = World()
    settlement = world.ledger.settlement
    world.go_to(3)
    world.omit("a", 2100, 1)
    world.omit("b", 40, 1)
    assert settlement.debt_of(G) == 25 * 140
    world.omit("a", 2150, 1)
    assert settlement.debt_units(G, A, 1) == 150
    assert settlement.debt_of(G) == 25 * 190
    assert world.healthy()


def test_a_small_challenge_does_not_replace_a_large_debt() -> None:
    """Else a gateway could forgive itself by a voucher of its own, once nobody can show the large one any more."""
    world, tree = left_out()
    settlement = world.ledger.settlement
    number = settlement.open_omission_challenge(world.by(GARY), *world.voucher("a", 110, 2))
    world.omit("a", 3000, 2, tree)
    debt = settlement.debt_units(G, A, 2)
    assert debt == 2900 - settlement.compensated_units(G, A, 2) > 10
    world.go_to(3 + DELAY)
    settlement.resolve_challenge(world.by(GARY), number)
    assert settlement.debt_units(G, A, 2) == debt
    assert world.healthy()


def test_a_voucher_for_more_than_any_stake_does_not_make_the_challenge_fail() -> None:
    world = World()
    world.go_to(3)
    world.omit("a", 2**96 - 1, 1)
    assert world.ledger.settlement.compensated_units(G, A, 1) == 2000
    assert world.ledger.settlement.debt_of(G) == 25 * (2**96 - 2001)
    assert world.healthy()


def test_work_that_costs_nothing_is_never_missing() -> None:
    world = World()
    world.ledger.models.update_price(world.by(CREATOR), 1, 0)  # from epoch 3 on
    world.go_to(4)
    tree = world.post(3)
    with pytest.raises(NothingMissing):
        world.ledger.settlement.open_omission_challenge(world.by(ALICE), *world.voucher("b", 500, 3))
    with pytest.raises(NothingMissing):
        world.omit("a", 500, 3, tree)


# --- asked for ---


def test_an_interactive_challenge_costs_a_tenth_of_what_it_can_bring_and_holds_that_of_the_line() -> None:
    world, _ = left_out()
    ledger, settlement = world.ledger, world.ledger.settlement
    ledger.gateway_staking.fund_lines(world.by(GARY), "g", ["b"], [900])
    before = ledger.token.balance_of(BOB)
    number = settlement.open_omission_challenge(world.by(BOB), *world.voucher("b", 80, 2))
    challenge = settlement.challenges()[number]
    assert (challenge.bond, challenge.held, challenge.answer_by) == (200, 900, 2 + DELAY)
    assert ledger.token.balance_of(BOB) == before - 200
    assert ledger.gateway_staking.line_of(G, B) == Line(900, held=900)
    assert ledger.gateway_staking.effective_stake("g") == 50_000 - 2500 - 900  # nothing else is held
    with pytest.raises(AlreadyChallenged):
        settlement.open_omission_challenge(world.by(GARY), *world.voucher("b", 80, 2))
    second = settlement.open_omission_challenge(world.by(GARY), *world.voucher("b", 81, 2))
    assert settlement.challenges()[second].held == 0  # all of the line is held already
    assert world.healthy()


@pytest.mark.parametrize("challenger", [BOB, GARY])
def test_an_answered_challenge_burns_its_bond_so_nobody_gains_by_it(challenger: bytes) -> None:
    world, tree = left_out()
    ledger, settlement = world.ledger, world.ledger.settlement
    number = settlement.open_omission_challenge(world.by(challenger), *world.voucher("a", 100, 2))
    supply = ledger.token.total_supply
    world.go_to(2 + DELAY, last_block=True)
    settlement.answer_omission(world.by(DEV), number, 100, tree.proof(A))
    assert supply - ledger.token.total_supply == 250
    assert settlement.challenges()[number].status is ChallengeStatus.ANSWERED
    assert settlement.shown_units(G, A, 2) == 100
    assert settlement.payments_of(BOB) == settlement.payments_of(GARY) == 0
    with pytest.raises(ChallengeNotOpen):
        settlement.answer_omission(world.by(DEV), number, 100, tree.proof(A))
    assert world.healthy()


def test_an_answer_with_a_smaller_leaf_shows_what_is_missing() -> None:
    world, tree = left_out()
    settlement = world.ledger.settlement
    number = settlement.open_omission_challenge(world.by(BOB), *world.voucher("a", 140, 2))
    with pytest.raises(InvalidProof):
        settlement.answer_omission(world.by(GARY), number, 0, ())
    with pytest.raises(InvalidProof):
        settlement.answer_omission(world.by(GARY), number, 140, tree.proof(A))
    settlement.answer_omission(world.by(GARY), number, 100, tree.proof(A))
    assert settlement.challenges()[number].status is ChallengeStatus.UPHELD
    assert settlement.compensated_units(G, A, 2) == 40
    assert settlement.payments_of(ALICE) == 750
    assert settlement.payments_of(BOB) == 350 + 100  # the bond and a tenth of the penalty
    with pytest.raises(NothingMissing):
        world.omit("a", 140, 2, tree)
    assert world.healthy()


def test_what_nobody_answers_is_upheld_by_anybody_at_any_time() -> None:
    world, tree = left_out()
    ledger, settlement = world.ledger, world.ledger.settlement
    ledger.gateway_staking.fund_lines(world.by(GARY), "g", ["b"], [5000])
    number = settlement.open_omission_challenge(world.by(BOB), *world.voucher("b", 80, 2))
    world.go_to(2 + DELAY, last_block=True)
    with pytest.raises(AnswerWindowOpen):
        settlement.resolve_challenge(world.by(DEV), number)
    # Meanwhile nobody else waits: the pot is filled and paid.
    world.prove(ContributionTree(G, 1, 2, [Leaf(A, 100)]), "a", 100)
    assert ledger.router.pool(1).claim_rewards(world.by(ALICE), "a", 2, 2) > 0
    world.go_to(40)
    with pytest.raises(AnswerWindowClosed):
        settlement.answer_omission(world.by(GARY), number, 100, tree.proof(A))
    settlement.resolve_challenge(world.by(DEV), number)
    assert ledger.gateway_staking.line_of(G, B) == Line(3000)
    assert settlement.payments_of(BOB) == 1500 + 200 + 200  # pay, bond and reward
    with pytest.raises(ChallengeNotOpen):
        settlement.resolve_challenge(world.by(DEV), number)
    with pytest.raises(UnknownChallenge):
        settlement.resolve_challenge(world.by(DEV), number + 1)
    assert world.healthy()


def test_an_interactive_challenge_leaves_an_epoch_for_its_answer() -> None:
    world, tree = left_out()
    settlement = world.ledger.settlement
    world.go_to(2 + DELAY - 1, last_block=True)
    number = settlement.open_omission_challenge(world.by(BOB), *world.voucher("a", 100, 2))
    world.block += 1
    with pytest.raises(ChallengeWindowClosed):
        settlement.open_omission_challenge(world.by(BOB), *world.voucher("a", 200, 2))
    settlement.answer_omission(world.by(GARY), number, 100, tree.proof(A))


def test_only_a_posted_slot_is_asked_for_a_leaf() -> None:
    world, _ = left_out()
    with pytest.raises(NoCheckpoint):
        world.ledger.settlement.open_omission_challenge(world.by(BOB), *world.voucher("a", 10, 1))


def test_a_bond_beyond_128_bits_is_refused() -> None:
    world = World()
    world.ledger.models.update_price(world.by(CREATOR), 1, 4 * 10**11)  # from epoch 3 on
    world.ledger.token.transfer(world.by(OWNER), DEV, 10**11)
    world.ledger.escrow.top_up_credit(world.by(DEV), "g", 10**11)
    world.go_to(4)
    world.post(1)
    with pytest.raises(SafeCastOverflowedUintDowncast):
        world.ledger.settlement.open_omission_challenge(world.by(BOB), *world.voucher("b", 2**96 - 1, 3))


# --- proofs ---


def test_a_small_leaf_of_a_provider_does_not_bar_a_larger_one() -> None:
    world = World()
    world.go_to(2)
    small, large = (Sibling(leaf_hash(G, A, 1, 1, units), units) for units in (1, 99))
    root, total = parent(small, large)
    world.ledger.settlement.post_checkpoint(world.by(GARY), 1, 1, root, total, 2500, bytes(32))
    world.go_to(5)
    prove = world.ledger.settlement.prove_contribution
    prove(world.by(GARY), "a", 1, 1, [large])
    prove(world.by(ALICE), "a", 1, 99, [small])
    assert world.ledger.settlement.proven_units(G, A, 1) == 99
    assert world.ledger.router.pool(1).contribution("a", 1).units == 99
    for units, sibling in ((1, large), (99, small)):
        with pytest.raises(AlreadyProven):
            prove(world.by(ALICE), "a", 1, units, [sibling])
    assert world.healthy()
