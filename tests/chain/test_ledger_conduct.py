"""Conduct rule by rule: equivocation, service levels by those who were served, and panels that nobody can choose."""

from __future__ import annotations

import pytest

from chain.contract_errors import (
    AlreadyPenalized,
    ChallengeWindowClosed,
    DrawTooEarly,
    EvidenceWindow,
    GatewayJailed,
    InvalidSignature,
    LengthMismatch,
    NoSla,
    NotEquivocation,
    NotServed,
    ReportsNotSorted,
    ServedIncomplete,
    SlaAlreadyPenalized,
    SlaKept,
    SlaRunning,
    StakeUnderDispute,
    TooFewReports,
    TooFewVerifiers,
    VotingOpen,
    WrongReport,
    WrongStatus,
)
from chain.merkle import ContributionTree, Leaf
from chain.primitives import Address, Bytes32, keccak256, key_of, word
from chain.vouchers import CheckpointCommitment, ContributionReceipt, SlaReport
from tests.chain.ledger_world import ALICE, BOB, DEV, GARY, OWNER, World
from tests.chain.spec.disputes import CaseStatus, drawn
from tests.chain.spec.lines import Line
from tests.chain.spec.settlement_state import Offence

G, A, B = key_of("g"), key_of("a"), key_of("b")
DELAY = 4


# --- equivocation ---


def commitment(root: bytes, units: int = 100, epoch: int = 2) -> CheckpointCommitment:
    return CheckpointCommitment(G, 1, epoch, root, units, 25 * units, bytes(32))


def test_two_signed_roots_cost_half_the_stake_that_no_line_reserves_and_jail_once() -> None:
    world = World()
    world.go_to(3)
    tree = world.post(100)
    ledger, settlement = world.ledger, world.ledger.settlement
    ledger.gateway_staking.fund_lines(world.by(GARY), "g", ["a"], [30_000])
    a, b = commitment(tree.root), commitment(word(5))
    signed = [world.signed(settlement.domain, each, GARY) for each in (a, b)]
    with pytest.raises(NotEquivocation):
        settlement.challenge_equivocation(world.by(BOB), a, signed[0], a, signed[0])
    with pytest.raises(NotEquivocation):
        settlement.challenge_posted(world.by(BOB), a, signed[0])
    world.go_to(2 + DELAY, last_block=True)
    settlement.challenge_equivocation(world.by(BOB), a, signed[0], b, signed[1])
    # Half of 47,500 is more than the 17,500 that lines leave.
    assert ledger.gateway_staking.effective_stake("g") == 0
    assert ledger.gateway_staking.line_of(G, A) == Line(30_000)
    assert settlement.payments_of(BOB) == 1750
    assert ledger.slashing.gateway_jailed_until(G) == 2 + DELAY + 16
    assert settlement.checkpoint(G, 1, 2).root == tree.root  # it stands, and pays
    with pytest.raises(AlreadyPenalized) as raised:
        settlement.challenge_posted(world.by(BOB), b, signed[1])
    assert raised.value.arguments == {"gateway": G, "offence": Offence.EQUIVOCATION}
    world.block += 1
    with pytest.raises(ChallengeWindowClosed):
        settlement.challenge_posted(world.by(BOB), b, signed[1])
    assert world.healthy()


def test_a_signed_total_that_was_not_posted_is_equivocation_too() -> None:
    world = World()
    world.go_to(3)
    tree = world.post(100)
    settlement = world.ledger.settlement
    other = commitment(tree.root, units=101)
    with pytest.raises(InvalidSignature):
        settlement.challenge_posted(world.by(BOB), other, world.signed(settlement.domain, other, BOB))
    settlement.challenge_posted(world.by(BOB), other, world.signed(settlement.domain, other, GARY))
    assert world.ledger.gateway_staking.effective_stake("g") == 47_500 - 23_750


def test_a_jailed_gateway_still_posts_and_does_not_leave() -> None:
    world = World()
    world.go_to(3)
    tree = world.post(100)
    settlement, staking = world.ledger.settlement, world.ledger.gateway_staking
    other = commitment(tree.root, units=101)
    settlement.challenge_posted(world.by(BOB), other, world.signed(settlement.domain, other, GARY))
    staking.wind_down_gateways(world.by(GARY), ["g"])
    assert world.ledger.gateways.is_active("g")
    assert not world.ledger.gateways.is_eligible("g", world.block)
    world.go_to(4)
    world.post(10)  # posting pays providers
    world.go_to(3 + 16, last_block=True)
    with pytest.raises(GatewayJailed):
        staking.unstake_for_gateway(world.by(GARY), "g")
    world.block += 1
    staking.unstake_for_gateway(world.by(GARY), "g")


# --- service levels ---

SERVED = {"g": (GARY, 50_000, 100), "h": (BOB, 30_000, 60), "i": (DEV, 12_000, 40)}
"""Gateways that `a` serves in epoch 2: who signs, the stake in wei, the units."""


def service() -> World:
    """A promise of `a` for epochs 2 to 4, and its work of epoch 2 proven in the first epoch of claims."""
    world = World()
    ledger = world.ledger
    for name, (owner, stake, _) in SERVED.items():
        if name != "g":
            ledger.gateways.register_and_stake(world.by(owner), name, "", stake)
    ledger.slashing.commit_sla(world.by(ALICE), "a", 9900, 50, 1000, 3)
    world.go_to(3)
    trees = {}
    for name, (owner, _, units) in SERVED.items():
        trees[name] = ContributionTree(key_of(name), 1, 2, [Leaf(A, units)])
        arguments = (1, 2, trees[name].root, units, 25 * units, bytes(32))
        ledger.settlement.post_checkpoint(world.by(owner), *arguments)
    world.go_to(2 + DELAY)
    for name, (_, _, units) in SERVED.items():
        ledger.settlement.prove_contribution_for(world.by(ALICE), name, "a", 2, units, ())
    return world


def bad(name: str, requests: int = 5, uptime: int = 9000, latency: int = 50, epoch: int = 2) -> SlaReport:
    return SlaReport(key_of(name), A, epoch, requests, uptime, latency)


def enforce(world: World, *reports: SlaReport, served: tuple[str, ...] = ("g", "h", "i"), units: int = 100) -> None:
    """With the reports in order, each signed by its gateway, and receipts of `a` over so many units each."""
    ordered = sorted(reports, key=lambda report: report.gateway)
    accuse(world, sorted(map(key_of, served)), ordered, units)


def accuse(world: World, served: list[Bytes32], reports: list[SlaReport], units: int = 100) -> None:
    """The same with the lists as they are; the epoch is the first report's."""
    slashing, epoch = world.ledger.slashing, reports[0].epoch if reports else 2
    owners = {key_of(name): owner for name, (owner, _, _) in SERVED.items()}
    signatures = [world.signed(slashing.domain, report, owners.get(report.gateway, BOB)) for report in reports]
    receipts = [receipt(world, report.gateway, units, epoch) for report in reports]
    counts = [units] * len(reports)
    slashing.enforce_sla(world.by(BOB), "a", epoch, served, reports, signatures, counts, receipts)


def receipt(world: World, gateway: Bytes32, units: int, epoch: int = 2, signer: Address = ALICE) -> bytes:
    """What `a` acknowledged."""
    return world.signed(world.ledger.settlement.domain, ContributionReceipt(gateway, A, 1, epoch, units), signer)


def test_a_majority_by_stake_and_by_work_penalises_once_and_ends_the_promise() -> None:
    world = service()
    ledger = world.ledger
    pool, supply = ledger.router.pool(1), ledger.token.total_supply
    enforce(world, bad("g"), bad("h", latency=51, uptime=9900))
    assert pool.stake_of_key(A).amount == 4500
    assert supply - ledger.token.total_supply == 500
    assert ledger.slashing.provider_jailed_until(A) == 6 + 4
    assert ledger.providers.is_active("a") is False  # its stake is below the model's now
    assert ledger.slashing.sla("a").until_epoch == 4
    world.go_to(7)
    with pytest.raises(SlaAlreadyPenalized):  # another epoch of the same promise
        enforce(world, bad("g", epoch=3), served=())
    assert world.healthy()


@pytest.mark.parametrize(
    ("reports", "missed", "everything"),
    [
        # Of 92,000 wei less fees of 5000 g has 47,500: a majority; h and i together have less.
        ((bad("h"), bad("i")), 28_500 + 11_000, 87_000),
        ((bad("g", requests=4), bad("h"), bad("i")), 28_500 + 11_000, 87_000),
        ((bad("g", uptime=9900), bad("h"), bad("i")), 28_500 + 11_000, 87_000),
        # By stake g alone is enough, by work (100 of 200 units) it is not.
        ((bad("g"),), 100, 200),
        ((), 0, 87_000),
    ],
)
def test_less_than_a_majority_is_a_promise_kept(reports: tuple[SlaReport, ...], missed: int, everything: int) -> None:
    world = service()
    with pytest.raises(SlaKept) as raised:
        enforce(world, *reports)
    assert tuple(raised.value.arguments.values()) == (missed, everything)


def test_reports_come_from_all_that_the_provider_has_proven_work_for_and_from_nobody_else() -> None:
    world = service()
    with pytest.raises(ServedIncomplete) as raised:
        enforce(world, bad("g"), bad("h"), served=("g", "h"))
    assert raised.value.arguments == {"sum": 160, "units": 200}
    world.ledger.gateways.register_and_stake(world.by(BOB), "j", "", 10**6)
    with pytest.raises(NotServed) as refused:
        enforce(world, bad("g"), served=("g", "h", "i", "j"))
    assert refused.value.arguments == {"gateway": key_of("j")}
    keys = sorted(map(key_of, SERVED))
    for odd in (keys[::-1], [keys[0], keys[0], *keys[1:]]):
        with pytest.raises(ReportsNotSorted):
            accuse(world, odd, [])
    world.ledger.slashing.set_quorum(world.by(OWNER), 4)
    with pytest.raises(TooFewReports):
        enforce(world, bad("g"), bad("h"))


def test_a_report_is_of_its_gateway_its_provider_and_its_epoch() -> None:
    world = service()
    slashing, keys = world.ledger.slashing, sorted(map(key_of, SERVED))
    first, second = (SlaReport(key, A, 2, 5, 1, 1) for key in keys[:2])
    odd: list[list[SlaReport]] = [
        [second, first],
        [first, first],
        [SlaReport(key_of("j"), A, 2, 5, 1, 1)],
        [SlaReport(keys[0], B, 2, 5, 1, 1)],
        [first, SlaReport(keys[1], A, 3, 5, 1, 1)],
    ]
    for reports in odd:
        with pytest.raises(WrongReport):
            accuse(world, keys, reports)
    owner = next(owner for name, (owner, _, _) in SERVED.items() if key_of(name) == keys[0])
    signed, said = world.signed(slashing.domain, first, owner), receipt(world, keys[0], 9)
    enforce_sla, by = slashing.enforce_sla, world.by(BOB)
    with pytest.raises(SlaKept):
        enforce_sla(by, "a", 2, keys, [first], [signed], [9], [said])
    for lists in (([], [9], [said]), ([signed], [], [said]), ([signed], [9], [])):
        with pytest.raises(LengthMismatch):
            enforce_sla(by, "a", 2, keys, [first], *lists)
    forged = [
        b"",
        receipt(world, keys[0], 9, signer=BOB),
        receipt(world, keys[1], 9),
        receipt(world, keys[0], 9, epoch=3),
    ]
    for lists in (([b""], [9], [said]), *(([signed], [9], [each]) for each in forged), ([signed], [10], [said])):
        with pytest.raises(InvalidSignature):
            enforce_sla(by, "a", 2, keys, [first], *lists)
    with pytest.raises(InvalidSignature):
        enforce_sla(by, "a", 2, keys, [first], [signed], [0], [receipt(world, keys[0], 0)])


def test_work_that_the_provider_never_acknowledged_accuses_it_of_nothing() -> None:
    """Anybody can post, and pay for, a leaf of a provider that it never asked for anything."""
    world = service()
    with pytest.raises(SlaKept) as raised:
        enforce(world, bad("g"), bad("h"), units=50)
    assert tuple(raised.value.arguments.values()) == (100, 200)
    enforce(world, bad("g"), bad("h"), units=51)


def test_evidence_comes_when_all_work_can_be_proven_and_the_stake_waits_for_it() -> None:
    world = service()
    pool = world.ledger.router.pool(1)
    early = World()
    early.ledger.slashing.commit_sla(early.by(ALICE), "a", 9900, 50, 1000, 3)
    early.go_to(2 + DELAY, last_block=False)
    early.block -= 1
    with pytest.raises(EvidenceWindow):
        enforce(early)
    world.go_to(2 + 2 * DELAY, last_block=True)
    with pytest.raises(SlaKept):
        enforce(world)
    world.block += 1
    with pytest.raises(EvidenceWindow):
        enforce(world)
    world.go_to(4 + 2 * DELAY, last_block=True)
    with pytest.raises(StakeUnderDispute):
        pool.unstake_provider(world.by(ALICE), "a")
    with pytest.raises(SlaRunning):
        world.ledger.slashing.commit_sla(world.by(ALICE), "a", 1, 1, 1, 1)
    world.block += 1
    pool.unstake_provider(world.by(ALICE), "a")


def test_who_promised_nothing_broke_nothing() -> None:
    world = World()
    world.go_to(DELAY)
    for epoch in (0, 1):
        with pytest.raises(NoSla):
            world.ledger.slashing.enforce_sla(world.by(BOB), "b", epoch, [], [], [], [], [])


# --- panels ---


def accused(verifiers: int = 6) -> tuple[World, list[Address]]:
    """Verifiers, and a case against `a` opened by the first of them in block 1."""
    world = World()
    listed = [keccak256(word(i))[12:] for i in range(verifiers)]
    for verifier in listed:
        world.ledger.disputes.set_verifier(world.by(OWNER), verifier, True)
    world.ledger.disputes.open_case(world.by(listed[0]), "a", 1, word(1))
    return world, listed


def test_a_panel_is_drawn_by_a_later_block_than_that_which_opens_the_case() -> None:
    world, listed = accused()
    disputes = world.ledger.disputes
    assert (disputes.case_of(0).status, disputes.case_of(0).panel) == (CaseStatus.DRAWING, ())
    world.ledger.block_hash = lambda block: word(block * 7)
    for world.block in (1, 2, 3):
        with pytest.raises(DrawTooEarly) as raised:
            disputes.draw_panel(world.by(BOB), 0)
        assert raised.value.arguments == {"draw_block": 3}
    with pytest.raises(WrongStatus):
        disputes.vote(world.by(listed[0]), 0, True)
    world.block = 4
    disputes.draw_panel(world.by(BOB), 0)
    case = disputes.case_of(0)
    assert case.panel == drawn(tuple(listed), word(21), 0)
    assert len(set(case.panel)) == 3 and set(case.panel) <= set(listed)
    assert (case.status, case.deadline) == (CaseStatus.VOTING, 1 + 4)
    with pytest.raises(WrongStatus):
        disputes.draw_panel(world.by(BOB), 0)


@pytest.mark.parametrize(("late", "drawn_now"), [(256, True), (257, False)])
def test_a_hash_that_the_chain_has_forgotten_only_moves_the_draw(late: int, drawn_now: bool) -> None:
    world, _ = accused()
    disputes = world.ledger.disputes
    world.block = 3 + late
    disputes.draw_panel(world.by(BOB), 0)
    case = disputes.case_of(0)
    assert (case.status is CaseStatus.VOTING) is drawn_now
    assert case.draw_block == (3 if drawn_now else world.block + 2)
    if not drawn_now:
        world.block = case.draw_block + 1
        disputes.draw_panel(world.by(BOB), 0)
        assert disputes.case_of(0).status is CaseStatus.VOTING


def test_the_draw_is_over_those_who_are_verifiers_by_then() -> None:
    world, listed = accused(4)
    disputes = world.ledger.disputes
    for verifier in listed[:2]:
        disputes.set_verifier(world.by(OWNER), verifier, False)
    world.block = 4
    with pytest.raises(TooFewVerifiers):
        disputes.draw_panel(world.by(BOB), 0)
    newcomer = keccak256(b"newcomer")[12:]
    disputes.set_verifier(world.by(OWNER), newcomer, True)
    disputes.draw_panel(world.by(BOB), 0)
    assert set(disputes.case_of(0).panel) == {*listed[2:], newcomer}


def test_a_case_that_nobody_can_draw_ends_by_itself_and_holds_no_stake() -> None:
    world, listed = accused(3)
    disputes, pool = world.ledger.disputes, world.ledger.router.pool(1)
    disputes.set_verifier(world.by(OWNER), listed[2], False)
    world.go_to(1 + 4, last_block=True)
    with pytest.raises(VotingOpen):
        disputes.close(world.by(ALICE), 0)
    with pytest.raises(StakeUnderDispute):
        pool.unstake_provider(world.by(ALICE), "a")
    world.block += 1
    disputes.close(world.by(ALICE), 0)
    assert disputes.case_of(0).status is CaseStatus.ACQUITTED
    pool.unstake_provider(world.by(ALICE), "a")
