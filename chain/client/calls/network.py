"""The token, the clock, emission and models: `client.token`, `client.epochs`, `client.rewards`, `client.models`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from eth_utils import to_canonical_address

from chain.abi import Record
from chain.client.actions import Action, Spend
from chain.client.checks import check_id, check_metadata
from chain.client.core import Core
from chain.deploy import read_address
from chain.errors import InvalidArgument
from chain.primitives import keccak256
from chain.units import check_amount

_PERMIT = keccak256(b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)")


class RaterKind(IntEnum):
    """Who rates a model."""

    PROVIDER = 0
    GATEWAY = 1


@dataclass(frozen=True, slots=True)
class Permit:
    """A signed permission (ERC-2612) for `spender` to take `value` wei from `owner` until `deadline` (Unix time)."""

    owner: str
    spender: str
    value: int
    deadline: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class EpochStatus:
    """The clock at one block. `length` in blocks, delays in epochs."""

    block: int
    epoch: int
    length: int
    start_block: int
    next_start_block: int
    claimable_epoch: int
    min_epochs_locked: int
    reward_delay: int
    wind_down_delay: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as the marketplace shows it. Prices in wei for one weighted token, `rating` in hundredths of a star."""

    model_id: int
    name: str
    creator: str
    enabled: bool
    blocks: int
    price_per_token: int
    royalty_bps: int
    model_stake_amount: int
    manifest_hash: bytes
    metadata_uri: str
    units: int
    fees: int
    epochs_used: int
    rating: int | None
    rating_weight: int
    pool: str


class Token:
    """FuncToken: FUNC, ERC-20 with Permit."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def balance(self, address: str | None = None) -> int:
        """Wei of FUNC."""
        return int(await self._core.view("FuncToken", "balanceOf", address or self._core.address))

    async def allowance(self, spender: str, owner: str | None = None) -> int:
        """Wei that `spender` may take."""
        return int(await self._core.view("FuncToken", "allowance", owner or self._core.address, spender))

    async def total_supply(self) -> int:
        return int(await self._core.view("FuncToken", "totalSupply"))

    def approve(self, spender: str, amount: int) -> Action:
        """Let `spender` take `amount` wei; 0 takes it back. The calls that spend approve by themselves."""
        return self._core.action("FuncToken", "approve", spender, check_amount(amount, allow_zero=True))

    def transfer(self, to: str, amount: int) -> Action:
        return self._core.action("FuncToken", "transfer", read_address(to, argument="to"), check_amount(amount))

    def burn(self, amount: int) -> Action:
        return self._core.action("FuncToken", "burn", check_amount(amount))

    async def sign_permit(self, spender: str, amount: int, deadline: int) -> Permit:
        """Sign, without a transaction, what `approve` would do; anyone may submit it with `permit`."""
        owner = self._core.address
        nonce, separator = await self._core.views(
            [("FuncToken", "nonces", (owner,)), ("FuncToken", "DOMAIN_SEPARATOR", ())]
        )
        words = [
            bytes(12) + to_canonical_address(owner),
            bytes(12) + to_canonical_address(spender),
            check_amount(amount, allow_zero=True).to_bytes(32, "big"),
            int(nonce).to_bytes(32, "big"),
            deadline.to_bytes(32, "big"),
        ]
        digest = keccak256(b"\x19\x01" + separator + keccak256(_PERMIT + b"".join(words)))
        return Permit(owner, spender, amount, deadline, self._core.signer.account.sign_digest(digest))

    def permit(self, permit: Permit) -> Action:
        """Submit somebody's permit."""
        r, s, v = permit.signature[:32], permit.signature[32:64], permit.signature[64]
        return self._core.action(
            "FuncToken", "permit", permit.owner, permit.spender, permit.value, permit.deadline, v, r, s
        )


class Epochs:
    """EpochController: the clock. Setters are the owner's."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def current_epoch(self) -> int:
        return int(await self._core.view("EpochController", "currentEpoch"))

    async def claimable_epoch(self) -> int:
        """currentEpoch − epochRewardDelay, or 0."""
        return int(await self._core.view("EpochController", "claimableEpoch"))

    async def start_block(self, epoch: int) -> int:
        return int(await self._core.view("EpochController", "epochStartBlock", epoch))

    async def status(self) -> EpochStatus:
        """Everything about the clock, at one block."""
        block = await self._core.block_number()
        names = (
            "currentEpoch", "epochLength", "claimableEpoch", "minEpochsLocked", "epochRewardDelay", "windDownDelay",
        )  # fmt: skip
        epoch, length, claimable, locked, delay, winding = await self._core.views(
            [("EpochController", name, ()) for name in names], block=block
        )
        start, following = await self._core.views(
            [("EpochController", "epochStartBlock", (each,)) for each in (epoch, epoch + 1)], block=block
        )
        return EpochStatus(block, epoch, length, start, following, claimable, locked, delay, winding)

    def set_epoch_length(self, blocks: int) -> Action:
        return self._core.action("EpochController", "setEpochLength", blocks)

    def set_min_epochs_locked(self, epochs: int) -> Action:
        return self._core.action("EpochController", "setMinEpochsLocked", epochs)

    def set_epoch_reward_delay(self, epochs: int) -> Action:
        return self._core.action("EpochController", "setEpochRewardDelay", epochs)

    def set_wind_down_delay(self, epochs: int) -> Action:
        return self._core.action("EpochController", "setWindDownDelay", epochs)


class Rewards:
    """RewardPool: emission and boosts."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def boost(self, model_id: int, epoch: int, amount: int) -> Action:
        """Add `amount` wei to the pot of an epoch that has not passed."""
        spend = Spend(self._core.deployment.address("RewardPool"), check_amount(amount))
        return self._core.action("RewardPool", "boost", model_id, epoch, amount, spend=spend)

    async def boost_of(self, model_id: int, epoch: int) -> int:
        return int(await self._core.view("RewardPool", "boostOf", model_id, epoch))

    async def emitted(self) -> int:
        """Wei emitted so far."""
        return int(await self._core.view("RewardPool", "emitted"))

    async def emission_cap(self) -> int:
        return int(await self._core.view("RewardPool", "EMISSION_CAP"))


class Models:
    """ModelRegistry: the marketplace."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def create_model(
        self,
        name: str,
        manifest_hash: bytes,
        metadata_uri: str,
        *,
        blocks: int,
        price_per_token: int,
        royalty_bps: int,
        model_stake_amount: int,
    ) -> Action:
        """Publish a model. `manifest_hash` is the sha256 of the weights' manifest; prices and stake in wei.

        The result's `ModelCreated` event has the `model_id`.
        """
        check_id(name, "name")
        check_metadata(metadata_uri, "metadata_uri")
        check_amount(price_per_token, allow_zero=True, name="price_per_token")
        check_amount(model_stake_amount, name="model_stake_amount")
        if len(manifest_hash) != 32:
            raise InvalidArgument("a manifest hash has 32 bytes", argument="manifest_hash")
        return self._core.action(
            "ModelRegistry", "createModel", name, manifest_hash, metadata_uri, blocks, price_per_token, royalty_bps,
            model_stake_amount,
        )  # fmt: skip

    def enable(self, model_id: int) -> Action:
        return self._core.action("ModelRegistry", "enable", model_id)

    def disable(self, model_id: int) -> Action:
        return self._core.action("ModelRegistry", "disable", model_id)

    def update_price(self, model_id: int, price_per_token: int) -> Action:
        """A new price, from the next epoch on."""
        check_amount(price_per_token, allow_zero=True, name="price_per_token")
        return self._core.action("ModelRegistry", "updatePrice", model_id, price_per_token)

    def rate_model(self, model_id: int, kind: RaterKind, rater_id: str, score: int) -> Action:
        """Rate 1 … 5 with the stake of a provider or gateway of ours as weight."""
        return self._core.action("ModelRegistry", "rateModel", model_id, int(kind), check_id(rater_id), score)

    def refresh_rating(self, model_id: int, kind: RaterKind, rater_id: str) -> Action:
        return self._core.action("ModelRegistry", "refreshRating", model_id, int(kind), check_id(rater_id))

    async def model_count(self) -> int:
        return int(await self._core.view("ModelRegistry", "modelCount"))

    async def model_stake_amount(self, model_id: int) -> int:
        return int(await self._core.view("ModelRegistry", "modelStakeAmount", model_id))

    async def price_at(self, model_id: int, epoch: int) -> int:
        return int(await self._core.view("ModelRegistry", "priceAt", model_id, epoch))

    async def fee_for(self, model_id: int, epoch: int, units: int) -> int:
        """Wei that `units` of work cost in `epoch`."""
        return int(await self._core.view("ModelRegistry", "feeFor", model_id, epoch, units))

    async def show(self, model_id: int) -> ModelInfo:
        """Raises `UnknownModel`."""
        return (await self.list([model_id]))[0]

    async def list(self, ids: list[int] | None = None, *, most: int = 10_000) -> list[ModelInfo]:
        """Models in order of their number (at most `most`)."""
        if ids is None:
            ids = list(range(1, min(most, await self.model_count()) + 1))
        calls = [
            (contract, function, (model_id,))
            for model_id in ids
            for contract, function in (
                ("ModelRegistry", "model"),
                ("ModelRegistry", "pricePerToken"),
                ("ModelRegistry", "usage"),
                ("ModelRegistry", "rating"),
                ("Router", "stakingPool"),
            )
        ]
        answers = await self._core.views(calls)
        return [_model(model_id, *answers[5 * index : 5 * index + 5]) for index, model_id in enumerate(ids)]


def _model(model_id: int, model: Record, price: int, usage: Record, rating: Record, pool: str) -> ModelInfo:
    score_times_weight, weight = rating.values()
    return ModelInfo(
        model_id=model_id,
        name=model.name,
        creator=model.creator,
        enabled=model.enabled,
        blocks=model.blocks,
        price_per_token=price,
        royalty_bps=model.royalty_bps,
        model_stake_amount=model.model_stake_amount,
        manifest_hash=model.manifest_hash,
        metadata_uri=model.metadata_uri,
        units=usage.units,
        fees=usage.fees,
        epochs_used=usage.epochs,
        rating=100 * score_times_weight // weight if weight else None,
        rating_weight=weight,
        pool=pool,
    )


__all__ = ["EpochStatus", "Epochs", "ModelInfo", "Models", "Permit", "RaterKind", "Rewards", "Token"]
