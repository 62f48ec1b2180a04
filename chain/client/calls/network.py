"""The token, the clock and emission: `client.token`, `client.epochs`, `client.rewards`."""

from __future__ import annotations

from dataclasses import dataclass

from eth_utils import to_canonical_address

from chain.client.actions import Action, Spend
from chain.client.core import Core
from chain.deploy import read_address
from chain.primitives import keccak256
from chain.units import check_amount

_PERMIT = keccak256(b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)")


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
    """EpochController: the clock. Setters are the owner's: give them to `client.owner.schedule`."""

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
        """Add `amount` wei, less the share that is burned, to the pot of an epoch that has not passed."""
        spend = Spend(self._core.deployment.address("RewardPool"), check_amount(amount))
        return self._core.action("RewardPool", "boost", model_id, epoch, amount, spend=spend)

    async def boost_of(self, model_id: int, epoch: int) -> int:
        return int(await self._core.view("RewardPool", "boostOf", model_id, epoch))

    async def emitted(self) -> int:
        """Wei emitted so far."""
        return int(await self._core.view("RewardPool", "emitted"))

    async def emission_cap(self) -> int:
        return int(await self._core.view("RewardPool", "EMISSION_CAP"))


__all__ = ["EpochStatus", "Epochs", "Permit", "Rewards", "Token"]
