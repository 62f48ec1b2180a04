"""The plans of both sides against a model of the chain's rules, under any schedule of absences and any cheating."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.payment.settlement.provider_plan import is_settled
from mesh.payment.settlement.windows import Status
from tests.mesh.payment.settlement.epoch_model import LENGTH, UNITS, Chain, Gateway, Provider


@given(st.data())
def test_under_any_schedule_of_absences_nothing_is_refused_and_nothing_that_can_be_had_is_lost(
    data: st.DataObject,
) -> None:
    delay = data.draw(st.integers(4, 7), label="delay")
    chain = Chain(delay, money=data.draw(st.sampled_from([0, 30, 1000]), label="money"))
    leaves = data.draw(st.sampled_from([(), (40,), (UNITS,), (7, UNITS), (7, 40)]), label="leaves")
    gateway = Gateway(
        chain, leaves, data.draw(st.booleans(), label="publishes"), data.draw(st.booleans(), label="answers")
    )
    provider = Provider(chain, gateway)
    # For so many blocks: whom each finds at home, whether the provider was started anew, and whether the gateway opens
    # a challenge against itself; in the end everybody is at home.
    present = st.tuples(st.integers(1, LENGTH), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2 * UNITS))
    spells = data.draw(st.lists(present, max_size=2 * delay), label="schedule")
    seen_deciding = seen_opening = False
    for blocks, gateway_here, provider_here, restarted, own_challenge in spells:
        for _ in range(blocks):
            if gateway_here:
                gateway.act()
                owes = own_challenge - chain.shown - chain.compensated > chain.debt
                if chain.status and own_challenge > chain.challenged and chain.mined_in <= delay and owes:
                    chain.open(own_challenge, ours=False)
            if restarted:
                provider.restart()
            if provider_here:
                before = chain.clock
                provider.act()
                seen_deciding |= before.now >= 3 and before.may_challenge(1)
                seen_opening |= before.now >= 3 and before.may_open(1)
            chain.block += 1
    chain.block = max(chain.block, LENGTH * (2 * delay + 1))
    for _ in range(4):
        gateway.act()
        provider.act()
        chain.block += 1
    owed = chain.debt
    assert chain.claimed + owed >= UNITS or not (seen_deciding if chain.status is Status.NONE else seen_opening)
    chain.money += owed  # credit that comes late
    provider.act()
    provider.act()
    assert chain.posts <= 1 and not chain.debt
    if chain.status is Status.POSTED:
        assert chain.share_claimed
        assert chain.proven == (provider.known or 0)  # a leaf never expires
        if gateway.publishes and len(leaves) < 2 and chain.compensated < UNITS:
            assert chain.proven == sum(leaves)
    if chain.status is Status.NONE and seen_deciding:
        assert chain.claimed == UNITS
    if chain.status is Status.POSTED and seen_opening:
        assert chain.claimed >= UNITS
    assert chain.unclaimed == chain.payments == 0
    # The books agree: all is safe, or what is not has been written off and lost.
    assert provider.safe == min(UNITS, provider.state().paid)
    assert (provider.safe == UNITS) != provider.written_off or chain.claimed >= UNITS
    assert provider.lost in (0, UNITS - provider.safe)
    unknown = chain.status is Status.POSTED and provider.known is None and chain.compensated < UNITS
    assert (
        is_settled(provider.view(), provider.state())
        or unknown
        or any(ours or units > chain.shown + chain.compensated for units, ours in chain.challenges.values())
    )
