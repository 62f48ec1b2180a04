"""Developers who pay a gateway, in virtual time: the real `Payer`, `Billing` and bills, over requests that get lost.

Both sides crash and come back with what they had on disk. No voucher that the gateway has acknowledged may be missing
afterwards, and neither side may ever be ahead of the other by more than was agreed.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, Self
from unittest.mock import patch

import mesh.client.payer as payer_module
from chain.vouchers import Domain, PaymentVoucher, digest
from chain.wallet import Account
from mesh.client.gateway_http import AccountState, _account, _refusal
from mesh.client.payer import Payer
from mesh.client.payer_store import PayerStore
from mesh.client.types import GenerateRequest, ModelInfo, TextDelta
from mesh.errors import MeshError, PaymentRefused, PeerTimeout, PeerUnreachable
from mesh.gateway.accounts_api import _increment, _until_due, account_json
from mesh.gateway.bill import AccountBill
from mesh.gateway.billing import Billing, BillingConfig
from mesh.gateway.errors import ApiFailure
from mesh.gateway.job import Job
from mesh.gateway.sessions import Piece
from mesh.payment.accounts.api_keys import hash_key
from mesh.payment.accounts.balance import STEPS_PER_INCREMENT
from mesh.payment.accounts.ports import Backing
from mesh.payment.accounts.store import AccountStore
from tests.mesh.gateway.paid import DOMAIN, GATEWAY, MemoryChain
from tests.simulation.hosts import account_of
from tests.simulation.loop import Clock, Machine, VirtualLoop, run_on
from tests.simulation.nature import nature

MODEL = ModelInfo("hash", "00" * 32, 4, 256, 48, True)
PRICE, K, KEY = 10, 64, "sk-mesh-key"
INCREMENT, STEP = PRICE * K, PRICE * K // STEPS_PER_INCREMENT
HTTP_SECONDS = 30.0
REST_SECONDS = 300.0


@dataclass(slots=True)
class PayingResult:
    """What became of a seed."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    handed_out: int = 0
    broken: list[str] = field(default_factory=list)


class PayingWorld:
    """One gateway, one developer with a deposit, his agent and his requests."""

    def __init__(self, loop: VirtualLoop, seed: int, result: PayingResult) -> None:
        self.loop, self.result = loop, result
        self.random = Random(f"{seed}/paying")
        self.account: Account = account_of("developer")
        self.store = AccountStore(None, GATEWAY)
        self.promises = PayerStore(None)
        self.chain = MemoryChain(prices={MODEL.name: PRICE})
        self.deposit = self.random.choice((10**6, 10**6, 4 * INCREMENT))
        self.chain.deposits[self.account.canonical] = Backing(self.deposit, 0)
        self.store.add_key(hash_key(KEY), self.account.canonical, bytes(32), issued=0, now=0, redeemed=0, most=4)
        self.gateway: Machine | None = None
        self.billing: Billing | None = None
        self.agent: Machine | None = None
        self.cut_until = 0.0
        self.loss = self.random.choice((0.0, 0.05, 0.3))
        self.acknowledged = 0
        """Highest voucher that the gateway said it has."""
        self.told = 0
        """Most that it ever said it had handed out."""
        self.handed_out = 0
        self.crashes = 0
        self.over = False

    def broken(self, text: str) -> None:
        if len(self.result.broken) < 10:
            self.result.broken.append(f"{self.loop.time():.3f}: {text}")

    # --- processes ---

    def start_gateway(self) -> None:
        self.gateway = Machine("gateway", self.loop, self.random, Clock())
        self.store._recover()  # what opening the file does
        self.billing = self.gateway.call(
            Billing, BillingConfig(increment_tokens=K), GATEWAY, DOMAIN, self.chain, self.chain, self.store
        )

    def kill_gateway(self) -> None:
        if self.gateway is not None:
            self.result.faults["kill_gateway"] += 1
            self.crashes += 1
            self.gateway.kill(self.random)
            self.gateway = self.billing = None
            self.check()
            self.loop.at(self.loop.time() + self.random.uniform(0.1, 8.0), self.start_gateway)

    def start_agent(self) -> None:
        self.agent = Machine("agent", self.loop, self.random, Clock())
        self.agent.spawn(self._pay(), "agent")

    def kill_agent(self) -> None:
        if self.agent is not None:
            self.result.faults["kill_agent"] += 1
            self.agent.kill(self.random)
            self.agent = None
            self.loop.at(self.loop.time() + self.random.uniform(0.1, 8.0), self.start_agent)

    async def _pay(self) -> None:
        """The developer's agent, for as long as its process lives; it is started again when it cannot begin."""
        while True:
            try:
                async with Payer(
                    "http://gateway", KEY, self.account, domain=DOMAIN, gateway=GATEWAY, beside=True
                ) as payer:
                    await payer.finished()
            except (PeerUnreachable, PeerTimeout):
                await asyncio.sleep(1.0)

    async def request(self, number: int) -> None:
        """One answer, token by token; nothing is handed out that is not paid for and written down."""
        prompt, wanted = self.random.choice((1, 20, 150)), self.random.choice((4, 40, 200))
        for attempt in itertools.count():
            while self.gateway is None:  # noqa: ASYNC110
                await asyncio.sleep(0.5)
            work = self.gateway.spawn(self._answer(f"{number}-{attempt}", prompt, wanted), f"request {number}")
            await asyncio.wait({work})
            if not work.cancelled() and work.exception() is None:
                return
            if not work.cancelled() and not isinstance(work.exception(), ApiFailure):
                self.broken(f"request {number} ended with {work.exception()!r}")
            await asyncio.sleep(self.random.uniform(0.5, 3.0))
            if self.over and self.deposit <= 4 * INCREMENT:
                return  # the deposit is used up

    async def _answer(self, name: str, prompt: int, wanted: int) -> None:
        billing, gateway = self.billing, self.gateway
        assert billing is not None and gateway is not None
        caller = billing.caller(KEY)
        assert caller is not None
        asked = GenerateRequest(MODEL.name, (2,) * prompt, wanted)
        job = Job(name, 0, MODEL, (asked,), SimpleNamespace(), prompt, stream=True, include_usage=False)  # type: ignore[arg-type]
        async with AccountBill(billing, caller, job, at_once=1) as bill:
            cost = PRICE * prompt
            for token in range(wanted):
                await bill.cover([Piece(0, TextDelta("", (token,)))])
                if not gateway.alive:
                    return
                cost += 4 * PRICE
                self.handed_out += 4 * PRICE + (PRICE * prompt if token == 0 else 0)
                self.result.checks["nothing is handed out that is not written down"] += 1
                written = next((c.amount for c in self.store.charges(newest=50) if c.id == name), 0)
                if written < cost:
                    self.broken(f"{name}: {cost} wei were handed out, {written} are written down")
                await asyncio.sleep(self.random.choice((0.0, 0.02)))
            await bill.settle()

    # --- the gateway's side of HTTP ---

    async def serve_account(self, wait: int, spent: int, pending: int = 0) -> dict[str, Any]:
        billing = self._billing()
        caller = billing.caller(KEY)
        assert caller is not None
        shop: Any = SimpleNamespace(models=self._models, places=SimpleNamespace(reserved={}))
        if wait:
            caller.holder.agents += 1
            try:
                increment = await _increment(shop, billing)
                await _until_due(caller.holder, spent, pending, increment // (2 * STEPS_PER_INCREMENT), wait)
            finally:
                caller.holder.agents -= 1
                billing.saw_agent(caller.holder)
        await billing.refresh(caller.holder)
        return await account_json(shop, billing, caller)

    async def serve_payment(self, voucher: PaymentVoucher, signature: bytes) -> dict[str, Any]:
        billing = self._billing()
        caller = billing.caller(KEY)
        assert caller is not None
        await billing.pay(caller, voucher, signature)
        return await self.serve_account(0, 0)

    async def _models(self) -> tuple[ModelInfo, ...]:
        return (MODEL,)

    def _billing(self) -> Billing:
        assert self.billing is not None
        return self.billing

    # --- what must hold ---

    def check(self) -> None:
        payer = self.account.canonical
        stored = max((v.highest for v in self.store.vouchers()), default=0)
        promised = self.promises.highest(DOMAIN, payer, GATEWAY)
        checks = self.result.checks
        checks["no voucher is lost"] += 1
        if stored < self.acknowledged:
            self.broken(f"a voucher over {self.acknowledged} was acknowledged, {stored} is on disk")
        checks["what is promised is written down first"] += 1
        if stored > promised:
            self.broken(f"the gateway holds {stored}, the payer has written down {promised}")
        checks["no more is promised than the deposit"] += 1
        if promised > self.deposit:
            self.broken(f"{promised} wei are promised of a deposit of {self.deposit}")
        checks["no more is charged than is signed"] += 1
        if self.store.charged_total() > stored:
            self.broken(f"{self.store.charged_total()} wei are charged, {stored} signed")
        billing = self.billing
        holder = billing._holders.get(payer) if billing is not None else None
        if holder is not None and holder.account.signed > stored:
            self.broken(f"a voucher over {holder.account.signed} counts, {stored} is on disk")

    def check_payment(self, amount: int) -> None:
        self.result.checks["no more is signed than one increment ahead"] += 1
        if amount > self.told + INCREMENT:
            self.broken(f"{amount} wei are signed, {self.told} were handed out or are needed for prompts")
        if amount > self.promises.highest(DOMAIN, self.account.canonical, GATEWAY):
            self.broken(f"{amount} wei are promised and not written down")

    # --- the course of events ---

    async def main(self) -> None:
        self.start_gateway()
        self.start_agent()
        requests = [self.loop.create_task(self._later(number)) for number in range(self.random.randint(3, 8))]
        faults = {
            self.kill_gateway: self.random.random() < 0.6,
            self.kill_agent: self.random.random() < 0.6,
            self._cut: self.random.random() < 0.6,
        }
        kinds = [kind for kind, drawn in faults.items() if drawn] or [self._cut]
        for _ in range(self.random.randint(5, 15)):
            self.loop.at(self.random.uniform(0.5, 30.0), self.random.choice(kinds))
        while self.loop.time() < 32.0:
            self.check()
            await asyncio.sleep(0.5)
        self.loss, self.cut_until, self.over = 0.0, 0.0, True
        _, late = await asyncio.wait(requests, timeout=REST_SECONDS)
        for task in late:
            self.broken("a request has not ended")
            task.cancel()
        await asyncio.sleep(5.0)
        self._check_the_end()
        for machine in (self.agent, self.gateway):
            if machine is not None:
                machine.end()
        await asyncio.sleep(5.0)
        self.result.handed_out = self.handed_out

    def _check_the_end(self) -> None:
        self.check()
        charged = self.store.charged_total()
        self.result.checks["who hands out is paid, and for no more"] += 1
        # What a crash cuts off keeps what was charged for it: its prompt, and tokens an increment ahead at most.
        most = self.handed_out + self.crashes * 8 * (150 * PRICE + INCREMENT)
        if not self.handed_out <= charged <= most:
            self.broken(f"{self.handed_out} wei were handed out, {charged} charged")
        running = [charge for charge in self.store.charges() if not charge.done]
        if running:
            self.broken(f"{len(running)} charges are still running")

    async def _later(self, number: int) -> None:
        await asyncio.sleep(self.random.uniform(0.5, 28.0))
        await self.request(number)

    def _cut(self) -> None:
        self.result.faults["cut"] += 1
        self.cut_until = self.loop.time() + self.random.choice((0.2, 3.0, 40.0))


def _http(world: PayingWorld) -> type:
    class SimHttp:
        """Takes the place of `GatewayHttp`: requests and answers get lost, late and doubled on their way."""

        def __init__(self, url: str, api_key: str | None = None) -> None:
            self.url = url

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def account(self, *, wait: int = 0, spent: int = 0, pending: int = 0) -> AccountState:
            return await self._ask(lambda: world.serve_account(wait, spent, pending))

        async def pay(self, account: Account, voucher: PaymentVoucher, domain: Domain) -> AccountState | None:
            world.check_payment(voucher.cumulative_amount)
            signature = account.sign_digest(digest(domain, voucher))
            try:
                state = await self._ask(lambda: world.serve_payment(voucher, signature))
            except PaymentRefused as error:
                if error.code == "voucher_not_higher":
                    return None
                raise
            world.acknowledged = max(world.acknowledged, voucher.cumulative_amount)
            return state

        async def _ask(self, serve: Any) -> AccountState:
            random, counts = world.random, world.result.faults
            if world.loop.time() < world.cut_until:
                await asyncio.sleep(random.choice((0.0, HTTP_SECONDS)))
                raise PeerTimeout("nothing goes through")
            await asyncio.sleep(random.uniform(0.001, 0.2))
            if random.random() < world.loss:
                counts["request_lost"] += 1
                raise PeerUnreachable("the request was lost")
            gateway = world.gateway
            if gateway is None:
                raise PeerUnreachable("nobody listens")
            work = gateway.spawn(serve(), "http")
            if random.random() < world.loss:
                counts["request_doubled"] += 1
                gateway.spawn(_quietly(serve()), "http")
            await asyncio.wait({work}, timeout=HTTP_SECONDS)
            if not work.done():
                raise PeerTimeout("no answer in time")
            if work.cancelled():
                raise PeerUnreachable("the connection broke")
            if random.random() < world.loss:
                counts["answer_lost"] += 1
                work.exception()
                raise PeerUnreachable("the answer was lost")
            error = work.exception()
            if isinstance(error, ApiFailure):
                refusal = error.error
                raise _refusal(self.url, refusal.status, {"error": {"message": refusal.message, "code": refusal.code}})
            if error is not None:
                raise error
            await asyncio.sleep(random.uniform(0.001, 0.2))
            state = _account(work.result())
            world.told = max(world.told, state.spent + state.pending)
            return state

    return SimHttp


async def _quietly(work: Any) -> None:
    with suppress(ApiFailure, MeshError):
        await work


def simulate_paying(seed: int) -> PayingResult:
    """Run one seed."""
    result = PayingResult(seed)
    loop = VirtualLoop()
    with nature(loop, f"{seed}/paying") as errors:
        world = PayingWorld(loop, seed, result)
        stores = patch.object(payer_module, "PayerStore", lambda path: _Kept(world.promises))
        with stores, patch.object(payer_module, "GatewayHttp", _http(world)):
            run_on(loop, world.main())
        world.store.close()
        world.promises.__exit__(None, None, None)
    result.broken += [f"unhandled: {text}" for text in (*loop.failures, *errors.lines)]
    return result


class _Kept:
    """The payer's store, which outlives its process."""

    def __init__(self, store: PayerStore) -> None:
        self._store = store
        self.highest, self.followed, self.promise = store.highest, store.followed, store.promise
        self.identity, self.remember = store.identity, store.remember

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
