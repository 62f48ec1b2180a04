"""The world of the search: the ledger, the accounts on it, a log of the work that was really done, and signatures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from chain import vouchers
from chain.emission import HalvingSchedule
from chain.errors import ContractError
from chain.merkle import Proof
from chain.primitives import MAX_UINT256, Address, Bytes32, keccak256, key_of
from chain.vouchers import ContributionVoucher, PaymentVoucher, address_of
from mesh.payment.credit.units import ModelPrice
from mesh.payment.settlement.windows import Clock
from tests.chain.spec import Genesis, Ledger, Tx
from tests.profit.trees import AnyTree

OWNER: Final = keccak256(b"owner")[12:]
BLOCKS: Final = 4
"""Decoder blocks of every model: a token through all of them is so many units."""
PRICE: Final = 1_000_000
"""Wei of a token of the honest creator's model."""
START: Final = 5
EPOCH_LENGTH: Final = 8
DELAY: Final = 4
MIN_STAKE: Final = 200 * PRICE
STAKE: Final = 2_000 * PRICE
PURSE: Final = 1_000_000 * PRICE
DEPOSIT: Final = 2_000 * PRICE
PULLERS: Final = ("escrow", "settlement", "disputes", "reward_pool", "gateway_staking", "providers", "gateways")


BUDGET: Final = 10**20
EPOCHS_PER_HALVING: Final = 1000
SETTINGS: Final[dict[str, Any]] = {
    "owner": OWNER,
    "holder": OWNER,
    "supply": 10**27,
    "chain_id": 31337,
    "start_block": START,
    "epoch_length": EPOCH_LENGTH,
    "min_epochs_locked": 2,
    "epoch_reward_delay": DELAY,
    "wind_down_delay": DELAY + 1,
    "min_gateway_stake": MIN_STAKE,
    "emission_cap": 10**27,
    "schedule": HalvingSchedule(BUDGET, EPOCHS_PER_HALVING),
}


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody with a key."""

    name: str
    key: bytes
    address: Address


@lru_cache(maxsize=256)
def account(name: str) -> Account:
    key = keccak256(b"profit " + name.encode())
    return Account(name, key, address_of(key))


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens that a provider computed for a gateway, which delivered them to a developer (None: to itself)."""

    developer: str | None
    gateway: str
    provider: str
    model_id: int
    epoch: int
    tokens: int

    @property
    def units(self) -> int:
        return BLOCKS * self.tokens


@dataclass(frozen=True, slots=True)
class Posted:
    """A checkpoint's tree, and whether its gateway shows the leaves to those who ask."""

    tree: AnyTree
    shown: bool


@dataclass(slots=True)
class World:
    """A ledger on which everybody is funded and has approved everything; `block` is the one that runs now."""

    honest: tuple[str, ...]
    coalition: tuple[str, ...]
    ledger: Ledger = field(init=False)
    block: int = START
    work: list[Work] = field(default_factory=list)
    posted: dict[tuple[str, int, int], Posted] = field(default_factory=dict)
    """By gateway, model and epoch."""
    creators: dict[int, str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    """Account that owns an id, where the id is not its owner's name."""
    seen: set[tuple[str, str]] = field(default_factory=set)
    """Which calls went through after which: how a search tells that a play was of a new kind."""
    last: str = ""

    def __post_init__(self) -> None:
        self.ledger = self._found()
        for name in (*self.honest, *self.coalition):
            self.do("token", "transfer", None, account(name).address, PURSE)
            for part in PULLERS:
                self.do("token", "approve", name, getattr(self.ledger, part).address, MAX_UINT256)

    def _found(self) -> Ledger:
        return Ledger(Genesis(**SETTINGS))

    # --- time ---

    @property
    def epoch(self) -> int:
        return epoch_of(self.block)

    def start_of(self, epoch: int) -> int:
        return START + EPOCH_LENGTH * (epoch - 1)

    def clock(self) -> Clock:
        """What software sees now: the block before this one is the latest, and what it sends is in this one."""
        now = epoch_of(max(START, self.block - 1))
        return Clock(now, self.epoch, DELAY, self.start_of(self.epoch + 1) - self.block)

    # --- calls ---

    def do(self, part: str, method: str, who: str | None, *arguments: Any) -> Any:
        """One call; `pool N` is the staking pool of model N. Raises `ContractError`."""
        sender = OWNER if who is None else account(who).address
        target = self.ledger.router.pool(int(part[5:])) if part.startswith("pool ") else getattr(self.ledger, part)
        result = getattr(target, method)(Tx(sender, self.block), *arguments)
        done = f"{'' if who in self.honest else 'our '}{method}"
        self.seen.add((self.last, done))
        self.last = done
        return result

    def tries(self, part: str, method: str, who: str, *arguments: Any) -> bool:
        """Whether the call went through."""
        try:
            self.do(part, method, who, *arguments)
        except ContractError:
            return False
        return True

    def create_model(self, creator: str, name: str, price: int, royalty_bps: int) -> int:
        model_id: int = self.do(
            "models", "create_model", creator, name, keccak256(name.encode()), "", BLOCKS, price, royalty_bps, PRICE
        )
        self.creators[model_id] = creator
        for who in (*self.honest, *self.coalition):
            self.do("token", "approve", who, self.ledger.router.pool(model_id).address, MAX_UINT256)
        return model_id

    def prices(self, model_id: int) -> dict[int, int]:
        """Of a token, in the epochs that matter now."""
        models = self.ledger.models
        return {epoch: models.price_at(model_id, epoch) for epoch in range(max(1, self.epoch - 3), self.epoch + 2)}

    def price(self, model_id: int, epoch: int) -> ModelPrice:
        return ModelPrice(self.ledger.models.price_at(model_id, epoch), BLOCKS)

    def name_of(self, key: Bytes32) -> str:
        """The id of a provider."""
        return next((name for name in (*self.honest, *self.owners) if key_of(name) == key), "")

    def proof(self, gateway: str, model_id: int, epoch: int, provider: str, units: int) -> Proof | None:
        """Of a leaf in a posted tree; None where there is none."""
        posted = self.posted.get((gateway, model_id, epoch))
        key = key_of(provider)
        if posted is None or not any((leaf.provider, leaf.units) == (key, units) for leaf in posted.tree.leaves):
            return None
        return posted.tree.proof(key, units)

    # --- what is signed ---

    def contribution(
        self, signer: str, gateway: str, provider: str, model_id: int, epoch: int, units: int
    ) -> tuple[ContributionVoucher, bytes]:
        voucher = ContributionVoucher(key_of(gateway), key_of(provider), model_id, epoch, units)
        return voucher, sign(self.ledger.settlement.domain, voucher, signer)

    def payment(self, signer: str, payer: str, gateway: str, amount: int) -> tuple[PaymentVoucher, bytes]:
        voucher = PaymentVoucher(account(payer).address, key_of(gateway), amount)
        return voucher, sign(self.ledger.escrow.domain, voucher, signer)

    def post(
        self, signer: str, gateway: str, model_id: int, epoch: int, leaves: Iterable[tuple[str, int]], shown: bool
    ) -> bool:
        """Post a checkpoint of these leaves; whether the chain took it."""
        tree = AnyTree(key_of(gateway), model_id, epoch, [(key_of(provider), units) for provider, units in leaves])
        fees = self.ledger.models.fee_for(model_id, epoch, tree.total_units)
        done = self.tries(
            "settlement", "post_checkpoint", signer, model_id, epoch, tree.root, tree.total_units, fees, bytes(32)
        )
        if done:
            self.posted[gateway, model_id, epoch] = Posted(tree, shown and tree.is_plain)
        return done

    # --- money ---

    def wealth(self, names: Iterable[str]) -> int:
        """Tokens in these accounts."""
        return sum(self.ledger.token.balance_of(account(name).address) for name in names)


def epoch_of(block: int) -> int:
    """As the chain counts, whose epochs keep their length here."""
    return 1 + (block - START) // EPOCH_LENGTH


@lru_cache(maxsize=1 << 16)
def sign(domain: vouchers.Domain, message: vouchers.Message, signer: str) -> bytes:
    """Signed by an account's key; remembered, since the same things are signed in many runs."""
    return vouchers.sign(vouchers.digest(domain, message), account(signer).key)
