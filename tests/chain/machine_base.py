"""The common ground of the state machines: actors, one deployment, and `do`, which runs a call and compares."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from enum import IntEnum
from random import Random
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from chain.emission import HalvingSchedule
from chain.errors import ContractError
from chain.merkle import ContributionTree
from chain.primitives import MAX_UINT256, Address, Bytes32, keccak256, key_of, word
from chain.vouchers import address_of
from tests.chain.bare_evm import BareEvm, Contracts
from tests.chain.observe import Scope, observations, plain
from tests.chain.spec import Addresses, Genesis, Ledger, Tx

T = TypeVar("T")

KEYS = {address_of(key): key for key in (keccak256(b"actor" + word(i)) for i in range(6))}
ACTORS = tuple(KEYS)
SPARE = {address_of(key): key for key in (keccak256(b"spare" + word(i)) for i in range(3))}
SIGNING = KEYS | SPARE
OWNER = keccak256(b"owner")[12:]
PROVIDERS = ("p0", "p1", "p2", "g0")
GATEWAYS = ("g0", "g1", "g2")
"""A provider and a gateway share an id on purpose: nothing of the one may touch the other."""
PULLERS = ("escrow", "settlement", "disputes", "reward_pool", "gateway_staking", "providers", "gateways")
PURSE = 10**30 // 10**3
CHAIN_ID = 31337
INITIAL_BUDGET = 5000

COVERED: Counter[str] = Counter()
"""How often each function succeeded (`part.method`) or failed (`part.method!Error`), over all machines of this run."""


def weighted() -> list[str]:
    return [name for name, (_, weight) in ACTIONS.items() for _ in range(weight)]


def camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


def for_abi(value: Any) -> Any:
    """Arguments as eth_abi takes them."""
    if isinstance(value, IntEnum):
        return int(value)
    if is_dataclass(value) and not isinstance(value, type):
        return tuple(for_abi(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, (list, tuple)):
        return [for_abi(item) for item in value]
    return value


def pick(rng: Random, options: Sequence[T]) -> T:
    return options[rng.randrange(len(options))]


def mostly(rng: Random, one_in: int = 8) -> bool:
    """True but for one time in so many, which becomes an attempt that should fail."""
    return rng.randrange(one_in) != 0


Step = Callable[["Any", Random], None]
ACTIONS: dict[str, tuple[Step, int]] = {}
"""What an actor may try, with how often."""


def action(weight: int = 1) -> Callable[[Step], Step]:
    """Registers a method as something that `act` may choose."""

    def register(step: Step) -> Step:
        ACTIONS[step.__name__] = (step, weight)
        return step

    return register


class Base(RuleBasedStateMachine):
    """A ledger, and in a subclass contracts beside it. Time is a block number that only `tick` moves."""

    with_contracts = False
    look_again = 1
    """Where the ledger sees no change, the contracts are asked one time in so many; in the end always."""

    def __init__(self) -> None:
        super().__init__()
        self.block = 5
        self.contracts: Contracts | None = None
        self.transactions = 0
        self.called: set[str] = set()
        self.seen: dict[tuple[str, str, tuple[Any, ...]], Any] = {}
        self.trees: dict[tuple[Bytes32, int, int], ContributionTree] = {}
        self.promised: dict[tuple[str, str, int], int] = {}

    @initialize(
        epoch_length=st.integers(2, 6),
        locked=st.integers(1, 3),
        delay=st.integers(4, 5),
        more=st.integers(0, 2),
        scale=st.sampled_from([1, 10**15 + 37]),
        budget=st.sampled_from([9, 0, 10**30]),
        cap=st.sampled_from([1, 2]),
    )
    def deploy(self, epoch_length: int, locked: int, delay: int, more: int, scale: int, budget: int, cap: int) -> None:
        """Everybody is funded and has approved everything; two models, some staked providers and gateways."""
        self.scale = scale
        budget = min(budget * scale, 10**22)
        schedule = HalvingSchedule(budget, 6)
        settings: dict[str, Any] = {
            "owner": OWNER,
            "holder": OWNER,
            "supply": PURSE * 8,
            "chain_id": CHAIN_ID,
            "start_block": self.block,
            "epoch_length": epoch_length,
            "min_epochs_locked": locked,
            "epoch_reward_delay": delay,
            "wind_down_delay": delay + more,
            "min_gateway_stake": 1000 * scale,
            # Never less than some wei, or a budget of 0 could not be told from a cap of 0.
            "emission_cap": schedule.total * cap + 10**6 * scale,
            "schedule": schedule,
        }
        if self.with_contracts:
            self.contracts = Contracts(BareEvm(CHAIN_ID), Genesis(**settings), budget, 6)
            at = Addresses(**self.contracts.at)
            self.ledger = Ledger(Genesis(**settings, addresses=at), pool_of=self.contracts.next_pool)
        else:
            self.ledger = Ledger(Genesis(**settings))
        for actor in ACTORS:
            self.do("token", "transfer", OWNER, actor, PURSE)
            for part in PULLERS:
                self.do("token", "approve", actor, getattr(self.ledger, part).address, MAX_UINT256)
        for number, blocks in enumerate((3, 7)):
            price, royalty = (11 + number) * scale, (700, 0)[number]
            creator = ACTORS[number]
            arguments = (f"model {number}", word(number + 1), "ipfs://x", blocks, price, royalty, 500 * scale)
            self.do("models", "create_model", creator, *arguments)
            for actor in ACTORS:
                self.do("token", "approve", actor, self.ledger.router.pool(number + 1).address, MAX_UINT256)
        for number, provider in enumerate(PROVIDERS[:3]):
            self.do("providers", "register_and_stake", ACTORS[number], provider, 1 + number % 2, '{"url": "x"}')
        for number, gateway in enumerate(GATEWAYS[:2]):
            self.do("gateways", "register_and_stake", ACTORS[3 + number], gateway, "", 100_000 * scale)
            self.do("escrow", "top_up_credit", ACTORS[3 + number], gateway, 20_000 * scale)
            self.do("escrow", "deposit_and_reserve", ACTORS[number], gateway, 5000 * scale)
            lines = (list(PROVIDERS[:3]), [7000 * scale, 3000 * scale, 50 * scale])
            self.do("gateway_staking", "fund_lines", ACTORS[3 + number], gateway, *lines)

    # --- running a call ---

    @property
    def epoch(self) -> int:
        return self.ledger.epochs.current_epoch(self.block)

    def do(self, part: str, method: str, sender: Address, *arguments: Any) -> Any:
        """One transaction, in the ledger and, if they are there, in the contracts; None if it fails."""
        self.transactions += 1
        result, error = None, None
        target = self._part(part)
        try:
            result = getattr(target, method)(Tx(sender, self.block), *arguments)
        except ContractError as raised:
            error = raised
        name = part.split(" ")[0]
        self.called.add(name)
        COVERED[f"{name}.{method}" + (f"!{type(error).__name__}" if error else "")] += 1
        if self.contracts is not None:
            self._compare_call(part, method, sender, arguments, result, error)
        return None if error else (True if result is None else result)

    def _compare_call(
        self,
        part: str,
        method: str,
        sender: Address,
        arguments: tuple[Any, ...],
        result: Any,
        error: ContractError | None,
    ) -> None:
        assert self.contracts is not None
        converted = [for_abi(argument) for argument in arguments]
        try:
            given = self.contracts.transact(part, camel(method), sender, self.block, *converted)
        except ContractError as raised:
            assert error is not None, f"the ledger allows {part}.{method}{arguments}, the contract: {raised!r}"
            same = type(error) is type(raised) and error.arguments == raised.arguments
            assert same, f"{part}.{method}{arguments}: ledger {error!r}, contract {raised!r}"
            return
        assert error is None, f"the contract allows {part}.{method}{arguments}, the ledger: {error!r}"
        assert result is None or plain(result) == given, (part, method, arguments, result, given)

    def _part(self, part: str) -> Any:
        return self.ledger.router.pool(int(part.split(" ")[1])) if " " in part else getattr(self.ledger, part)

    # --- comparing state ---

    def scope(self, whole: bool) -> Scope:
        first = max(0, self.epoch - (30 if whole else 7))
        return Scope(
            accounts=(*ACTORS, OWNER),
            providers=PROVIDERS,
            gateways=GATEWAYS,
            epochs=range(first, self.epoch + 1),
            block=self.block,
            whole=whole,
            registries=frozenset(self.called),
        )

    def compare_state(self, whole: bool) -> None:
        if self.contracts is None or not hasattr(self, "ledger"):
            return
        for number, seen in enumerate(observations(self.ledger, self.scope(whole)), self.transactions):
            place = (seen.part, seen.function, seen.arguments)
            unchanged = place in self.seen and self.seen[place] == seen.expected
            self.seen[place] = seen.expected
            if unchanged and not whole and number % self.look_again:
                continue
            given = self.contracts.view(seen.part, seen.function, self.block, *seen.arguments)
            assert given == seen.expected, f"{seen.part}.{seen.function}{seen.arguments}: {given} ≠ {seen.expected}"

    @invariant()
    def nothing_is_broken(self) -> None:
        if hasattr(self, "ledger"):
            assert self.ledger.broken_invariants() == []
            # Nobody here sends tokens to a contract unasked, so none may hold a wei too much either.
            assert all(held == owed for held, owed in self.ledger.held_and_owed().values())
            if self.called:
                self.compare_state(whole=False)
                self.called.clear()

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.compare_state(whole=True)

    # --- steps ---

    @rule(name=st.deferred(lambda: st.sampled_from(weighted())), seed=st.integers(0, 2**24 - 1))
    def act(self, name: str, seed: int) -> None:
        """One thing that somebody tries; the seed decides its details."""
        ACTIONS[name][0](self, Random(f"{name} {seed}"))

    @action(3)
    def tick(self, rng: Random) -> None:
        self.block += rng.randint(1, 3)

    @action(8)
    def next_epoch(self, rng: Random) -> None:
        """To the first block of the next epoch, or the last one of this."""
        start = self.ledger.epochs.epoch_start_block(self.epoch + 1)
        self.block = max(self.block, start - (not mostly(rng, 6)))

    # --- choices that several rules make ---

    def caller(self, rng: Random, usual: Address) -> Address:
        return usual if usual in SIGNING and mostly(rng) else pick(rng, ACTORS)

    def owner_of_provider(self, provider: str) -> Address:
        found = self.ledger.providers.by_key(key_of(provider))
        return found.owner if found else ACTORS[0]

    def owner_of_gateway(self, gateway: str) -> Address:
        return self.ledger.gateways.owner_of(key_of(gateway))

    def model(self, rng: Random) -> int:
        return pick(rng, range(1, self.ledger.models.model_count + 1)) if mostly(rng, 20) else 99

    def amount(self, rng: Random) -> int:
        """Wei: often round, sometimes odd, rarely zero or more than anybody has."""
        usual = rng.randint(1, 3000) * self.scale
        return pick(rng, [usual] * 8 + [rng.randint(0, 5000)] * 3 + [0, 2**128])
