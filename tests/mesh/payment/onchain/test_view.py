"""How long the view believes what the chain said: seconds, within its epoch, and a while longer when it is silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from chain.errors import NodeUnreachable
from chain.wallet import Account
from mesh.identity import Identity
from mesh.payment.credit.binding import Binding
from mesh.payment.credit.terms import NotAccepted
from mesh.payment.credit.units import ModelPrice
from mesh.payment.onchain import view as view_module
from mesh.payment.onchain.view import StakingView

ACCOUNT = Account.create()
PEER = Identity.generate().peer_id


@dataclass
class FakeChain:
    """A chain's answers, by the name of the view; those that are functions are called with the arguments."""

    answers: dict[str, Any] = field(default_factory=dict)
    epoch: int = 7
    silent: bool = False
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.core = self.epochs = self
        self.deployment = SimpleNamespace(chain_id=31337, address=lambda name: "0x" + "11" * 20)

    async def current_epoch(self) -> int:
        self._ask("currentEpoch")
        return self.epoch

    async def views(self, calls: Sequence[tuple[str, str, Sequence[Any]]]) -> list[Any]:
        return [await self.view(contract, name, *arguments) for contract, name, arguments in calls]

    async def view(self, contract: str, name: str, *arguments: Any) -> Any:
        await asyncio.sleep(0)
        self._ask(name)
        answer = self.answers[name]
        return answer(*arguments) if isinstance(answer, Callable) else answer  # type: ignore[arg-type]

    def _ask(self, name: str) -> None:
        self.asked.append(name)
        if self.silent:
            raise NodeUnreachable("nobody listens")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which tests move."""
    moment = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    return moment


async def view_of(chain: FakeChain) -> StakingView:
    view = StakingView(chain)  # type: ignore[arg-type]
    await view.start()
    return view


def gate() -> Binding:
    return Binding("gateway", "gate", 31337, "0x", ACCOUNT.address, PEER, 1 << 40)


async def test_an_answer_stands_for_some_seconds(now: list[float]) -> None:
    chain = FakeChain({"guaranteed": 5})
    view = await view_of(chain)
    assert await view.guarantee("gate", "ann") == 5
    chain.answers["guaranteed"] = 3
    now[0] += 4.9
    assert await view.guarantee("gate", "ann") == 5
    now[0] += 0.2
    assert await view.guarantee("gate", "ann") == 3


async def test_an_answer_from_before_something_that_we_know_is_not_taken(now: list[float]) -> None:
    chain = FakeChain({"guaranteed": 5})
    view = await view_of(chain)
    await view.guarantee("gate", "ann")
    chain.answers["guaranteed"] = 3
    now[0] += 1.0
    assert await view.guarantee("gate", "ann", since=now[0]) == 3

    chain.silent = True
    now[0] += 1.0
    with pytest.raises(NotAccepted, match="does not answer"):
        await view.guarantee("gate", "ann", since=now[0])


async def test_an_answer_of_an_earlier_epoch_is_asked_for_anew(now: list[float]) -> None:
    chain = FakeChain({"isEligibleKey": True, "signerAt": ACCOUNT.address})
    view = await view_of(chain)
    await view.check_gateway(gate())
    chain.answers["isEligibleKey"] = False
    await view.check_gateway(gate())
    chain.epoch = 8
    await view.start()

    with pytest.raises(NotAccepted, match="not eligible"):
        await view.check_gateway(gate())


async def test_while_the_chain_is_silent_an_answer_stands_for_two_minutes_and_no_longer(now: list[float]) -> None:
    chain = FakeChain({"isEligibleKey": True, "signerAt": ACCOUNT.address})
    view = await view_of(chain)
    await view.check_gateway(gate())
    chain.silent = True
    now[0] += 119.0
    await view.check_gateway(gate())
    now[0] += 2.0
    with pytest.raises(NotAccepted, match="does not answer"):
        await view.check_gateway(gate())

    chain.silent = False
    await view.check_gateway(gate())


async def test_what_is_not_known_and_not_answered_is_refused() -> None:
    chain = FakeChain()
    view = await view_of(chain)
    chain.silent = True
    with pytest.raises(NotAccepted, match="does not answer"):
        await view.tariff(1, 7)


async def test_a_tariff_is_asked_for_once_and_not_before_it_is_fixed(now: list[float]) -> None:
    chain = FakeChain({"priceAt": lambda model, epoch: 100 * epoch, "model": SimpleNamespace(blocks=4)})
    view = await view_of(chain)
    for _ in range(3):
        assert await view.tariff(1, 8) == ModelPrice(800, 4)
        now[0] += 1000.0
    assert chain.asked.count("priceAt") == 1
    with pytest.raises(NotAccepted, match="not fixed"):
        await view.tariff(1, 9)


async def test_many_who_ask_at_once_are_one_question() -> None:
    chain = FakeChain({"guaranteed": 5})
    view = await view_of(chain)
    await asyncio.gather(*(view.guarantee("gate", "ann") for _ in range(100)))

    assert chain.asked.count("guaranteed") == 1


async def test_the_number_of_facts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module, "MAX_FACTS", 10)
    chain = FakeChain({"guaranteed": 5})
    view = await view_of(chain)
    for number in range(100):
        await view.guarantee("gate", f"provider-{number}")
    assert len(view._facts) == 10


async def test_the_epoch_never_goes_back_and_a_silent_chain_is_asked_again() -> None:
    chain = FakeChain(epoch=7)
    view = StakingView(chain, poll_seconds=0.005)  # type: ignore[arg-type]
    await view.start()
    following = asyncio.create_task(view.run())
    try:
        chain.epoch = 6
        await asyncio.sleep(0.05)
        assert view.epoch == 7
        chain.silent = True
        await asyncio.sleep(0.05)
        chain.silent, chain.epoch = False, 9
        async with asyncio.timeout(5):
            while view.epoch != 9:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    finally:
        following.cancel()


async def test_strangers_however_many_have_the_chain_asked_seldom_and_a_few_at_a_time(now: list[float]) -> None:
    running, most = 0, 0

    class Slow(FakeChain):
        async def views(self, calls: Sequence[tuple[str, str, Sequence[Any]]]) -> list[Any]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(3):
                await asyncio.sleep(0)
            running -= 1
            return await super().views(calls)

    chain = Slow({"isEligible": False, "signerAt": "0x", "ownerAndModel": SimpleNamespace(values=lambda: ("0x", 0))})
    view = await view_of(chain)
    crowd = [Binding("provider", f"nobody-{n}", 31337, "0x", ACCOUNT.address, PEER, 1 << 40) for n in range(100)]

    async def refused(binding: Binding) -> None:
        with pytest.raises(NotAccepted):
            await view.check_provider(binding)

    for _ in range(5):  # five looks at the directory, each after the facts of others would be old
        await asyncio.gather(*(refused(each) for each in crowd))
        now[0] += view_module.FACT_SECONDS + 0.1

    assert chain.asked.count("isEligible") == len(crowd)
    assert most == view_module.AT_ONCE
    now[0] += view_module.FACT_SECONDS * view_module.STRANGER_FACTS
    await asyncio.gather(*(refused(each) for each in crowd[:1]))
    assert chain.asked.count("isEligible") == len(crowd) + 1, "who stakes later is seen"
