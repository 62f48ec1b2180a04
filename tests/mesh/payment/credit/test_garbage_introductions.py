"""Strangers that introduce themselves with garbage, and pay with garbage, to a provider that is paid."""

from __future__ import annotations

import asyncio
import random

import pytest
import torch

from mesh.errors import PeerError
from mesh.identity import Identity
from mesh.wire.messages import CONTROL_PROTOCOL, SessionRefused
from mesh.wire.paying import Hello, Unwelcome, Voucher
from tests.mesh.payment.credit.test_paid_ring import ask
from tests.mesh.payment.money import THREE, bind
from tests.mesh.stranger import Stranger, drain, stranger
from tests.mesh.swarm_in_memory import MemorySwarm

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(90)


async def test_garbage_is_turned_away_one_by_one_and_who_pays_is_served_meanwhile(swarm: MemorySwarm) -> None:
    rng = random.Random(1)
    money = swarm.money
    assert money is not None
    good = bind("gateway", "gateway", Identity.generate(), money.account("gateway"))
    villains = [await stranger(swarm, number % 3) for number in range(6)]

    async def misbehave(villain: Stranger) -> None:
        for number in range(30):
            data = bytearray(good)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            payload = (bytes(data), good, rng.randbytes(400), b"", rng.randbytes(2000))[number % 5]
            answer = await villain.ask(Hello(), payload)
            assert isinstance(answer, Unwelcome)
        await villain.say(Voucher(7, 1 << 40, bytes(65)))
        refused = await villain.ask(villain.opening(b"x" * 16, THREE[0]))
        assert isinstance(refused, SessionRefused)
        assert refused.code == "payment_required"

    async with asyncio.TaskGroup() as tasks:
        for villain in villains:
            tasks.create_task(misbehave(villain))
        answers = [await swarm.generate(ask((1, 2, 3), 8)) for _ in range(3)]

    assert len({answer.tokens for answer in answers}) == 1
    assert not swarm.backend._penalised
    assert all(not provider.task.done() for provider in swarm.providers)


async def test_too_many_introductions_at_once_end_the_channel(swarm: MemorySwarm) -> None:
    villain = await stranger(swarm)
    with pytest.raises(PeerError):
        async with asyncio.timeout(20):
            for _ in range(2000):
                await villain.say(Hello(), bytes(400))
            await drain(villain.control)
            raise AssertionError("it was listened to")
    second = await villain.transport.open(swarm.providers[0].peer, CONTROL_PROTOCOL)
    await second.aclose()
    assert len((await swarm.generate(ask((1, 2, 3), 4))).tokens) == 4
