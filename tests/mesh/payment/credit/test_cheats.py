"""What cheats gain: a provider that claims too much or sends garbage, a gateway that signs what is not its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace as change

from chain import vouchers
from chain.primitives import key_of
from chain.vouchers import ContributionVoucher
from chain.wallet import Account
from mesh.errors import BadRecord, PeerError, ProtocolViolation
from mesh.identity import Identity
from mesh.payment.credit.binding import read_binding
from mesh.payment.credit.customers import Customer
from mesh.payment.credit.units import weighted_tokens
from mesh.wire.paying import Voucher
from shards.model.span import Span
from tests.mesh.payment.credit.test_paid_ring import ask, held, money_of, paid_up
from tests.mesh.payment.money import DOMAIN, MODEL_ID, THREE, Money, bind
from tests.mesh.swarm_in_memory import MemorySwarm, memory_swarm, until

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(60)


def customer_of(swarm: MemorySwarm, number: int) -> Customer:
    """What a provider knows of the only gateway."""
    gate = swarm.providers[number].service.payment_gate
    assert gate is not None
    (customer,) = gate._collector._customers.values()
    return customer


def signed(
    account: Account, epoch: int, units: int, *, provider: str = "provider-0", domain: object = DOMAIN
) -> Voucher:
    voucher = ContributionVoucher(key_of("gateway"), key_of(provider), MODEL_ID, epoch, units)
    assert isinstance(domain, vouchers.Domain)
    return Voucher(epoch, units, account.sign_digest(vouchers.digest(domain, voucher)))


async def test_a_provider_that_claims_more_than_its_work_gets_vouchers_for_what_arrived(swarm: MemorySwarm) -> None:
    await swarm.generate(ask((1, 2, 3), 4))
    await paid_up(swarm, weighted_tokens(3, 4))
    customer_of(swarm, 0).line.open += 40  # it claims units that nobody has seen
    await swarm.generate(ask((1, 2, 3), 4))

    honest = 2 * weighted_tokens(3, 4)

    def heard() -> bool:
        slots = money_of(swarm).journal("gateway").slots("issued")
        return any(slot.pair.provider == "provider-0" and slot.receipt_units == honest * 2 + 40 for slot in slots)

    await until(heard)
    await until(lambda: held(swarm, 1) == honest * 2 and held(swarm, 0) >= honest * 2)
    assert held(swarm, 0) == honest * 2, "and not believed"


async def test_a_provider_that_sends_garbage_is_paid_at_most_its_credit(folder: Path) -> None:
    async with memory_swarm(folder, THREE, money=Money(), unverified=True) as swarm:
        service = swarm.providers[1].service
        engine = service.engine
        assert engine is not None
        submit = engine.submit

        def spoil(work: object) -> None:
            work.hidden.fill_(float("nan"))  # type: ignore[attr-defined]
            submit(work)  # type: ignore[arg-type]

        engine.submit = spoil  # type: ignore[method-assign,assignment]
        with pytest.raises(PeerError):
            await swarm.generate(ask([5] * 100, 20))

        assert held(swarm, 1) <= 64 * len(THREE[1])
        assert held(swarm, 0) <= 64 * len(THREE[0])


async def test_a_voucher_that_comes_again_is_worth_nothing(swarm: MemorySwarm) -> None:
    await swarm.generate(ask((1, 2, 3), 20))
    await paid_up(swarm, weighted_tokens(3, 20))
    customer, account = customer_of(swarm, 0), money_of(swarm).account("gateway")
    gate = swarm.providers[0].service.payment_gate
    assert gate is not None
    paid = held(swarm, 0)
    await until(lambda: customer.line.paid == paid)  # it counts a moment after it is written down

    await gate._collector.voucher(customer.peer, signed(account, 7, paid))
    await gate._collector.voucher(customer.peer, signed(account, 7, 1))

    assert customer.line.paid == paid
    assert held(swarm, 0) == 2 * weighted_tokens(3, 20)


async def test_a_voucher_of_another_key_provider_chain_or_epoch_is_refused(swarm: MemorySwarm) -> None:
    await swarm.generate(ask((1, 2, 3), 20))
    await paid_up(swarm, weighted_tokens(3, 20))
    customer, account = customer_of(swarm, 0), money_of(swarm).account("gateway")
    customer.line.epochs[7].receipted += 100  # so that a higher voucher could be true
    gate = swarm.providers[0].service.payment_gate
    assert gate is not None
    units = held(swarm, 0) + 50
    elsewhere = vouchers.Domain(1, DOMAIN.contract)
    other_contract = vouchers.Domain(DOMAIN.chain_id, bytes(20))

    for forged in (
        signed(Account.create(), 7, units),
        signed(account, 7, units, provider="provider-1"),
        signed(account, 7, units, domain=elsewhere),
        signed(account, 7, units, domain=other_contract),
        change(signed(account, 7, units), signature=bytes(65)),
        signed(account, 8, units),
        signed(account, 7, units + 1000),
    ):
        with pytest.raises(ProtocolViolation):
            await gate._collector.voucher(customer.peer, forged)
    assert held(swarm, 0) == 2 * weighted_tokens(3, 20)


async def test_two_gateways_with_one_id_cannot_both_work_with_a_provider(swarm: MemorySwarm) -> None:
    await swarm.generate(ask((1, 2, 3), 4))
    second = await swarm.client(gateway="gateway")

    with pytest.raises(PeerError, match="is here already"):
        await swarm.generate(ask((1, 2, 3), 4), backend=second)
    await swarm.generate(ask((1, 2, 3), 4))


async def test_a_gateway_cannot_present_another_ones_binding(swarm: MemorySwarm) -> None:
    money = money_of(swarm)
    victim, thief = Identity.generate(), Identity.generate()
    stolen = bind("gateway", "gateway", victim, money.account("gateway"))

    with pytest.raises(BadRecord):
        read_binding(stolen, peer=thief.peer_id, now=0)
    gate = swarm.providers[0].service.payment_gate
    assert gate is not None
    told: list[object] = []
    await gate._collector.greet(thief.peer_id, stolen, told.append)
    assert [type(message).__name__ for message in told] == ["Unwelcome"]


async def test_a_resumed_session_pays_only_for_what_is_new(folder: Path) -> None:
    async with memory_swarm(folder, (*THREE, Span(2, 4)), money=Money(), unverified=True) as swarm:
        async with swarm.backend.generate(ask((1, 2, 3), 30)) as generation:
            count = 0
            async for delta in generation:
                count += len(delta.tokens)
                if count == 10:
                    chosen = {report.peer for report in generation.hops}
                    middle = next(p for p in swarm.providers if p.span == THREE[1] and p.peer in chosen)
                    await middle.vanish()
        assert count == 30

        total = weighted_tokens(3, 30)
        # The hops that were there all along get all of it, once; the two middle ones share what they did.
        await until(lambda: held(swarm, 0) == 2 * total and held(swarm, 2) == total)
        assert held(swarm, 1) + held(swarm, 3) <= 2 * total
        assert min(held(swarm, 1), held(swarm, 3)) > 0
