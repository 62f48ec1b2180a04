"""The ledger: all parts wired to each other, and the invariants that hold between any two calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields

from chain.emission import EmissionSchedule, HalvingSchedule
from chain.primitives import FUNC, Address, Bytes32, keccak256, word
from tests.chain.spec.clock import EpochController
from tests.chain.spec.disputes import Disputes
from tests.chain.spec.escrow import Escrow
from tests.chain.spec.gateway_staking import GatewayStaking
from tests.chain.spec.gateways import GatewayRegistry
from tests.chain.spec.invariants import broken_burns, broken_debts, broken_lines, broken_pots
from tests.chain.spec.journal import Journal
from tests.chain.spec.models import ModelRegistry
from tests.chain.spec.pools import ProviderStaking, Router
from tests.chain.spec.providers import ProviderRegistry
from tests.chain.spec.reward_pool import RewardPool
from tests.chain.spec.settlement import Settlement
from tests.chain.spec.slashing import Slashing
from tests.chain.spec.token import FuncToken

Wallet = Callable[[Bytes32, bytes], bool]
"""A contract account's answer to (digest, signature), as by ERC-1271. Must be pure."""

__all__ = ["Addresses", "Genesis", "Ledger", "Wallet"]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the contracts are, under the names of the directory's entries."""

    token: Address
    epochs: Address
    models: Address
    providers: Address
    router: Address
    gateways: Address
    gateway_staking: Address
    escrow: Address
    settlement: Address
    slashing: Address
    disputes: Address
    reward_pool: Address


def made_up_addresses() -> Addresses:
    """Addresses for a ledger that stands alone."""
    return Addresses(**{entry.name: keccak256(entry.name.encode())[12:] for entry in fields(Addresses)})


def made_up_hash(block: int) -> Bytes32:
    """A hash for each block of a chain that has none."""
    return keccak256(word(block))


@dataclass(frozen=True, slots=True)
class Genesis:
    """What a deployment fixes. `start_block`: where epoch 1 begins. Amounts in wei, delays in epochs."""

    owner: Address
    holder: Address
    supply: int = 10**9 * FUNC
    chain_id: int = 1
    start_block: int = 1
    epoch_length: int = 100
    min_epochs_locked: int = 2
    epoch_reward_delay: int = 4
    wind_down_delay: int = 4
    min_gateway_stake: int = 1000 * FUNC
    emission_cap: int = 10**9 * FUNC
    schedule: EmissionSchedule = field(default_factory=lambda: HalvingSchedule(1000 * FUNC, 1000))
    addresses: Addresses = field(default_factory=made_up_addresses)


class Ledger:
    """The executable specification. Every public call takes a `Tx` (sender and block) and raises a `ContractError`.

    `wallets`: accounts that are contracts, for ERC-1271. `pool_of`: the address of a model's pool, where it matters.
    `block_hash`: the hash of a block by its number, asked only for past blocks; tests may replace it.
    """

    def __init__(
        self,
        genesis: Genesis,
        wallets: Mapping[Address, Wallet] | None = None,
        pool_of: Callable[[int], Address] | None = None,
        block_hash: Callable[[int], Bytes32] = made_up_hash,
    ) -> None:
        at, owner, chain_id = genesis.addresses, genesis.owner, genesis.chain_id
        self.journal = Journal()
        self.wallets = dict(wallets or {})
        self.block_hash = block_hash
        self._pool_of = pool_of
        self.token = FuncToken(self, at.token, owner, genesis.holder, genesis.supply)
        self.epochs = EpochController(
            self,
            at.epochs,
            owner,
            genesis.start_block,
            genesis.epoch_length,
            genesis.min_epochs_locked,
            genesis.epoch_reward_delay,
            genesis.wind_down_delay,
        )
        self.models = ModelRegistry(self, at.models, owner)
        self.providers = ProviderRegistry(self, at.providers, owner, chain_id)
        self.router = Router(self, at.router, owner)
        self.gateways = GatewayRegistry(self, at.gateways, owner, chain_id)
        self.gateway_staking = GatewayStaking(self, at.gateway_staking, owner, genesis.min_gateway_stake)
        self.escrow = Escrow(self, at.escrow, owner, chain_id)
        self.settlement = Settlement(self, at.settlement, owner, chain_id)
        self.slashing = Slashing(self, at.slashing, owner, chain_id)
        self.disputes = Disputes(self, at.disputes, owner)
        self.reward_pool = RewardPool(self, at.reward_pool, owner, genesis.emission_cap, genesis.schedule)

    def pool_address(self, model_id: int) -> Address:
        """Where the pool of a model is or will be."""
        return self._pool_of(model_id) if self._pool_of else keccak256(b"pool" + word(model_id))[12:]

    def pools(self) -> Iterator[ProviderStaking]:
        return (self.router.pool(model_id) for model_id in range(1, self.models.model_count + 1))

    def held_and_owed(self) -> dict[str, tuple[int, int]]:
        """For each contract that holds tokens: wei held, wei owed. They are equal but for tokens sent unasked."""
        parts = {
            "escrow": (self.escrow.address, self.escrow.owed()),
            "settlement": (self.settlement.address, self.settlement.owed()),
            "disputes": (self.disputes.address, self.disputes.owed()),
            "reward_pool": (self.reward_pool.address, self.reward_pool.owed()),
            "gateway_staking": (
                self.gateway_staking.address,
                sum(stake.amount for stake in self.gateway_staking.stakes().values()),
            ),
        }
        for pool in self.pools():
            unpaid = sum(pot.amount - pot.allotted for pot in pool.pots().values())
            unpaid += sum(own.unclaimed for own in pool.contributions().values())
            parts[f"pool {pool.model_id}"] = (pool.address, pool.total_stake + unpaid + pool.carried)
        parts["gateways"] = (self.gateways.address, self.token.sent())
        for name in ("providers", "models", "slashing"):
            parts[name] = (getattr(self, name).address, 0)
        return {name: (self.token.balance_of(address), owed) for name, (address, owed) in parts.items()}

    def broken_invariants(self) -> list[str]:
        """What must never happen, as sentences; empty in every state that calls can reach."""
        broken = [
            f"{name} holds {held} wei and owes {owed}"
            for name, (held, owed) in self.held_and_owed().items()
            if held < owed
        ]
        balances = self.token.balances()
        if sum(balances.values()) != self.token.total_supply:
            broken.append("balances do not add up to the supply")
        if min(balances.values()) < 0:
            broken.append("a balance is negative")
        if self.reward_pool.emitted > self.reward_pool.emission_cap:
            broken.append("more was emitted than the cap")
        broken.extend(broken_lines(self))
        broken.extend(broken_debts(self))
        broken.extend(broken_burns(self))
        for pool in self.pools():
            broken.extend(broken_pots(pool))
        return broken
