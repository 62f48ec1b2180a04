"""Paid work on a whole swarm in one process: what is counted, claimed and promised, and what happens when it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
import torch

from chain import vouchers
from chain.primitives import checksummed, key_of
from chain.vouchers import ContributionReceipt, ContributionVoucher
from mesh.client.backend import BackendConfig
from mesh.client.generation import Patience
from mesh.client.types import GenerateRequest
from mesh.errors import InvalidRequest, NoRoute, PeerError, UnknownModel
from mesh.payment.credit.line import Pair
from mesh.payment.credit.terms import CreditTerms
from mesh.payment.credit.units import weighted_tokens
from tests.mesh.payment.money import DOMAIN, MODEL_ID, THREE, Money
from tests.mesh.swarm_in_memory import MODEL, MemorySwarm, memory_swarm, until

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(60)

HASTY = BackendConfig(patience=Patience(attempts=1, route_seconds=0.5, resume_seconds=0.5))


def ask(prompt: Sequence[int], max_tokens: int = 12, **changes: object) -> GenerateRequest:
    request = GenerateRequest(MODEL, tuple(prompt), max_tokens, ignore_eos=True)
    return replace(request, **changes)  # type: ignore[arg-type]


def money_of(swarm: MemorySwarm) -> Money:
    assert swarm.money is not None
    return swarm.money


def held(swarm: MemorySwarm, number: int, *, epoch: int | None = None) -> int:
    """Units that a provider holds vouchers for."""
    slots = money_of(swarm).journal(f"provider-{number}").slots("held", epoch=epoch)
    return sum(slot.voucher_units for slot in slots)


async def paid_up(swarm: MemorySwarm, tokens: int, *, seconds: float = 5.0) -> None:
    """Wait until every provider holds vouchers for its share of so many weighted tokens."""
    await until(
        lambda: all(held(swarm, n) == tokens * len(p.span) for n, p in enumerate(swarm.providers)), seconds=seconds
    )


async def test_every_hop_gets_a_voucher_for_exactly_its_share(swarm: MemorySwarm) -> None:
    await swarm.generate(ask((3, 1, 4, 1, 5), 12))
    await swarm.generate(ask((9, 2, 6), 7))

    await paid_up(swarm, weighted_tokens(5, 12) + weighted_tokens(3, 7))


async def test_what_the_hops_still_have_of_a_prompt_is_paid_in_part(swarm: MemorySwarm) -> None:
    prompt = [(7 * number) % 290 for number in range(40)]
    first = await swarm.generate(ask(prompt, 4))
    second = await swarm.generate(ask(prompt, 4))

    assert second.tokens == first.tokens
    assert (first.completion.cached_tokens, second.completion.cached_tokens) == (0, 32)
    assert weighted_tokens(40, 4, 32) == 8 + 32 // 4 + 4 * 4
    await paid_up(swarm, weighted_tokens(40, 4) + weighted_tokens(40, 4, 32))


async def test_units_over_a_route_add_up_to_blocks_times_weighted_tokens(swarm: MemorySwarm) -> None:
    await asyncio.gather(*(swarm.generate(ask((1, 2, 3, n), 20)) for n in range(6)))
    total = 6 * weighted_tokens(4, 20)

    await paid_up(swarm, total)
    assert sum(held(swarm, n) for n in range(3)) == 5 * total


async def test_vouchers_and_receipts_are_what_the_contracts_take(swarm: MemorySwarm) -> None:
    await swarm.generate(ask((3, 1, 4), 20))
    await paid_up(swarm, weighted_tokens(3, 20))
    money = money_of(swarm)

    for number in range(3):
        pair = Pair("gateway", f"provider-{number}", MODEL_ID)
        (slot,) = money.journal(pair.provider).slots("held", pair=pair)
        (same,) = money.journal("gateway").slots("issued", pair=pair)
        assert slot.voucher_units == same.voucher_units == same.receipt_units
        keys = (key_of("gateway"), key_of(pair.provider), MODEL_ID, slot.epoch)
        voucher = ContributionVoucher(*keys, slot.voucher_units)
        receipt = ContributionReceipt(*keys, same.receipt_units)
        assert slot.voucher_signature is not None and same.receipt_signature is not None
        signer = vouchers.recover(vouchers.digest(DOMAIN, voucher), slot.voucher_signature)
        assert checksummed(signer) == money.account("gateway").address
        signer = vouchers.recover(vouchers.digest(DOMAIN, receipt), same.receipt_signature)
        assert checksummed(signer) == money.account(pair.provider).address


async def test_a_long_prompt_is_paid_for_piece_by_piece(swarm: MemorySwarm) -> None:
    """Its 300 tokens are almost five times the credit of 64."""
    answer = await swarm.generate(ask([n % 90 for n in range(300)], 4))

    assert len(answer.tokens) == 4
    await paid_up(swarm, weighted_tokens(300, 4))


async def test_no_provider_ever_gives_more_credit_than_it_said(swarm: MemorySwarm) -> None:
    worst = [0, 0, 0]

    async def watch() -> None:
        while True:
            for number, provider in enumerate(swarm.providers):
                gate = provider.service.payment_gate
                assert gate is not None
                for customer in gate._collector._customers.values():
                    line = customer.line
                    worst[number] = max(worst[number], (line.unpaid + line.running) / len(provider.span))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(swarm.generate(ask([n % 90 for n in range(100)], 30)) for _ in range(8)))
    watching.cancel()

    assert max(worst) <= money_of(swarm).terms.tokens + 100, "the credit, and one prompt"
    assert min(worst) > 0


async def test_sessions_that_are_left_in_the_middle_leave_nothing_that_blocks_the_next(swarm: MemorySwarm) -> None:
    for _ in range(30):
        async with swarm.backend.generate(ask((1, 2, 3), 50)) as generation:
            count = 0
            async for _delta in generation:
                count += 1
                if count == 4:
                    break

    answer = await swarm.generate(ask((1, 2, 3), 30))

    assert len(answer.tokens) == 30


async def test_the_next_epoch_starts_a_new_slot_and_nothing_is_lost_in_between(swarm: MemorySwarm) -> None:
    money = money_of(swarm)
    await swarm.generate(ask((1, 2, 3), 20))
    await paid_up(swarm, weighted_tokens(3, 20))
    money.chain.epoch += 1
    await swarm.generate(ask((1, 2, 3), 20))
    await paid_up(swarm, 2 * weighted_tokens(3, 20))

    for number, provider in enumerate(swarm.providers):
        blocks = len(provider.span)
        assert held(swarm, number, epoch=7) == held(swarm, number, epoch=8) == blocks * weighted_tokens(3, 20)


async def test_what_was_claimed_for_an_epoch_that_is_being_settled_is_paid_in_the_next(swarm: MemorySwarm) -> None:
    money = money_of(swarm)
    await swarm.generate(ask((1, 2, 3), 4))
    await paid_up(swarm, weighted_tokens(3, 4))
    money.journal("gateway").seal("gateway", 7)
    # The credit allows some work without a voucher; then the epoch turns.
    await swarm.generate(ask((1, 2, 3), 4))
    assert held(swarm, 0) == 2 * weighted_tokens(3, 4)
    money.chain.epoch += 1
    await swarm.generate(ask((1, 2, 3), 4))

    await paid_up(swarm, 3 * weighted_tokens(3, 4))
    assert held(swarm, 0, epoch=7) == 2 * weighted_tokens(3, 4)


async def test_a_gateway_that_is_not_staked_is_turned_away_with_a_reason(swarm: MemorySwarm) -> None:
    money = money_of(swarm)
    backend = await swarm.client(gateway="nobody")
    del money.chain.gateways["nobody"]

    with pytest.raises(PeerError, match="not eligible"):
        await swarm.generate(ask((1, 2, 3)), backend=backend)
    assert swarm.empty


async def test_a_client_that_does_not_pay_opens_no_session(swarm: MemorySwarm) -> None:
    backend = await swarm.client()

    with pytest.raises(InvalidRequest, match="staked gateway"):
        await swarm.generate(ask((1, 2, 3)), backend=backend)
    assert swarm.empty


async def test_a_provider_that_is_not_eligible_on_the_chain_is_not_routed_to(swarm: MemorySwarm) -> None:
    money = money_of(swarm)
    del money.chain.providers["provider-1"]

    with pytest.raises((NoRoute, UnknownModel)):
        await swarm.generate(ask((1, 2, 3)))


async def test_a_provider_staked_for_another_model_is_not_routed_to(swarm: MemorySwarm) -> None:
    chain = money_of(swarm).chain
    chain.providers["provider-1"] = replace(chain.providers["provider-1"], manifest=bytes(32))

    with pytest.raises((NoRoute, UnknownModel)):
        await swarm.generate(ask((1, 2, 3)))


async def test_a_provider_that_serves_a_model_under_another_name_is_not_routed_to(swarm: MemorySwarm) -> None:
    chain = money_of(swarm).chain
    chain.providers["provider-1"] = replace(chain.providers["provider-1"], name="org/llama")

    with pytest.raises((NoRoute, UnknownModel)):
        await swarm.generate(ask((1, 2, 3)))


async def test_a_gateway_that_stops_signing_is_paused_and_then_dropped_with_a_reason(folder: Path) -> None:
    async with memory_swarm(
        folder, THREE, backend=HASTY, money=Money(terms=CreditTerms(64, 0.3, 0.02)), unverified=True
    ) as swarm:
        await swarm.generate(ask((1, 2, 3), 4))
        issuer = swarm.backend.issuer
        assert issuer is not None
        issuer._sign = AsyncMock(return_value=False)  # type: ignore[method-assign]

        with pytest.raises(PeerError, match=r"unpaid|not paid"):
            await swarm.generate(ask((1, 2, 3), 200))

        for provider in swarm.providers:
            gate = provider.service.payment_gate
            assert gate is not None
            (customer,) = gate._collector._customers.values()
            assert customer.line.unpaid <= 64 * len(provider.span)
        await until(lambda: swarm.empty)


async def test_a_provider_that_is_killed_knows_its_vouchers_again(folder: Path) -> None:
    money = Money()
    async with memory_swarm(folder, THREE, money=money, unverified=True) as swarm:
        await swarm.generate(ask((1, 2, 3), 20))
        await paid_up(swarm, weighted_tokens(3, 20))
    async with memory_swarm(
        folder, THREE, money=money, unverified=True
    ) as swarm:  # the same accounts and journals, new processes
        await swarm.generate(ask((1, 2, 3), 20))
        await paid_up(swarm, 2 * weighted_tokens(3, 20))


async def test_a_session_that_nobody_reads_runs_only_a_window_ahead_and_others_go_on(folder: Path) -> None:
    slow = BackendConfig(window_tokens=8)
    async with memory_swarm(folder, THREE, backend=slow, money=Money(), unverified=True) as swarm:
        async with swarm.backend.generate(ask((1, 2, 3), 200)) as generation:
            deltas = aiter(generation)
            for _ in range(3):
                await anext(deltas)
            first = swarm.providers[0].service
            (live,) = first.table
            await until(lambda: live.parked is not None)

            other = await swarm.generate(ask((4, 5), 60))
            assert len(other.tokens) == 60
            assert live.parked is not None
            assert live.parked[0] <= 3 + 3 + 8, "prompt, what was read, and the window"
            rest = [delta async for delta in deltas]
        assert sum(len(delta.tokens) for delta in rest) == 197
        await paid_up(swarm, weighted_tokens(3, 200) + weighted_tokens(2, 60))


async def test_only_the_client_of_a_session_can_extend_it(folder: Path) -> None:
    async with (
        memory_swarm(folder, THREE, backend=BackendConfig(window_tokens=8), money=Money(), unverified=True) as swarm,
        swarm.backend.generate(ask((1, 2, 3), 100)) as generation,
    ):
        await anext(aiter(generation))
        first = swarm.providers[0].service
        (live,) = first.table
        await until(lambda: live.parked is not None)
        before = live.limit

        assert first.table.extend(live.id, "somebody else", 90, 0.0) is None
        assert live.limit == before


async def test_a_provider_that_leaves_is_paid_for_its_last_token(folder: Path) -> None:
    lazy = Money(terms=CreditTerms(tokens=4096, pause_seconds=5.0, receipt_seconds=60.0))
    async with memory_swarm(folder, THREE, money=lazy, unverified=True) as swarm:
        await swarm.generate(ask((1, 2, 3), 20))
        before = held(swarm, 0)

        await swarm.providers[0].service.drain(5.0)

        assert held(swarm, 0) == 2 * weighted_tokens(3, 20)
        assert before < held(swarm, 0), "no receipt was due yet"
