"""What is due around an epoch's end, for a gateway and for a provider (pure: state in, steps out).

Work is done in epoch e; its checkpoint is posted in e + 1; challenges that the gateway must answer open through
e + d − 2 and are answered through e + d − 1; the others are decided at once, through e + d − 1; claims begin with
e + d and never end (docs/chain-rules.md, sections 6 and 7; d is `epochRewardDelay`). Every plan is made from what the
chain says now, so a step that has been taken is not due again, and a process that was away simply plans what is left.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

MAX_RANGE = 512
"""Most epochs that one claim may name."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The chain's time. What is sent now is mined in epoch `upcoming` at the earliest.

    Windows open by `now` and close by `upcoming`: at the seam between two epochs both sides are careful.
    """

    now: int
    """Epoch of the latest block."""
    upcoming: int
    """Epoch of the next block."""
    delay: int
    """`epochRewardDelay`, in epochs."""
    blocks_left: int
    """Blocks that `upcoming` still has."""

    @property
    def claimable(self) -> int:
        """Last epoch that may be claimed; 0 for none."""
        return max(0, self.now - self.delay)

    def may_post(self, epoch: int) -> bool:
        return self.now == self.upcoming == epoch + 1

    def may_challenge(self, epoch: int) -> bool:
        """Whether a challenge that the chain decides at once is accepted."""
        return epoch + 1 <= self.now and self.upcoming <= epoch + self.delay - 1

    def may_open(self, epoch: int) -> bool:
        """Whether a challenge that the gateway must answer is accepted."""
        return epoch + 1 <= self.now and self.upcoming <= epoch + self.delay - 2

    def may_claim(self, epoch: int) -> bool:
        return 1 <= epoch <= self.claimable

    def is_over(self, epoch: int) -> bool:
        """Whether every window but that of claims has closed."""
        return self.now >= epoch + self.delay


class Status(enum.IntEnum):
    """Of a checkpoint, as the chain counts them."""

    NONE = 0
    POSTED = 1
    VOIDED = 2


# --- the gateway ---


@dataclass(frozen=True, slots=True)
class Redeem:
    """Turn the developers' vouchers into credit."""


@dataclass(frozen=True, slots=True)
class PostCheckpoint:
    """Post these leaves. `whole`: all that we signed; otherwise as much as our cover pays for."""

    model_id: int
    epoch: int
    leaves: tuple[tuple[str, int], ...]
    """Units by provider id."""
    whole: bool = True


@dataclass(frozen=True, slots=True)
class AnswerChallenge:
    """Show the leaf (omission) or the provider's receipt (leaf) that a challenge asks for."""

    challenge_id: int
    kind: ChallengeKind
    model_id: int
    epoch: int
    provider: str


@dataclass(frozen=True, slots=True)
class ClaimShare:
    """Take our routing share of epochs `first … last`."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Uncovered:
    """Nothing to send: `fees` are more than `cover`; more credit or stake is needed before the epoch ends."""

    model_id: int
    epoch: int
    fees: int
    cover: int


@dataclass(frozen=True, slots=True)
class Missed:
    """Nothing to send: a checkpoint was not posted in time, or may not be; providers will redeem by themselves."""

    model_id: int
    epoch: int
    reason: Literal["the window has closed", "jailed or overdrawn"]


ChallengeKind: TypeAlias = Literal["omission", "leaf"]
GatewayStep: TypeAlias = Redeem | PostCheckpoint | AnswerChallenge | ClaimShare | Uncovered | Missed


@dataclass(frozen=True, slots=True)
class GatewaySlot:
    """One model in one past epoch: what we signed (sealed: it cannot grow), and what the chain has."""

    model_id: int
    epoch: int
    leaves: tuple[tuple[str, int], ...]
    fees: int
    """Wei that all leaves cost."""
    price: int
    """Wei of one weighted token in that epoch."""
    blocks: int
    """Of the model."""
    status: Status

    @property
    def units(self) -> int:
        return sum(units for _, units in self.leaves)


@dataclass(frozen=True, slots=True)
class OpenChallenge:
    """Against our gateway. `answerable`: we hold what it asks for."""

    challenge_id: int
    kind: ChallengeKind
    model_id: int
    epoch: int
    provider: str
    answer_by: int
    answerable: bool


@dataclass(frozen=True, slots=True)
class GatewayView:
    """Everything that a gateway's plan depends on. Amounts in wei."""

    clock: Clock
    cover: int
    """Credit, and effective stake above the least that a gateway must have."""
    bonded: bool
    """Neither jailed nor overdrawn."""
    slots: tuple[GatewaySlot, ...] = ()
    challenges: tuple[OpenChallenge, ...] = ()
    shares: tuple[tuple[int, int, int], ...] = ()
    """(first epoch, last epoch, wei) that wait for us."""
    redeemable: int = 0
    """What vouchers promise beyond what was redeemed, as far as the deposits go."""
    redeemed_in: int = 0
    """Epoch of our last redemption."""
    claims: bool = True
    margin: int = 3
    """Blocks before the end of the posting window at which an uncovered checkpoint is posted in part."""


def plan_gateway(view: GatewayView) -> list[GatewayStep]:
    """What is due, in order: answers before money, credit before what it pays for."""
    clock = view.clock
    steps: list[GatewayStep] = [
        AnswerChallenge(each.challenge_id, each.kind, each.model_id, each.epoch, each.provider)
        for each in sorted(view.challenges, key=lambda each: (each.answer_by, each.challenge_id))
        if each.answerable and clock.upcoming <= each.answer_by
    ]
    wanted = sum(slot.fees for slot in view.slots if slot.status is Status.NONE and clock.may_post(slot.epoch))
    fresh = view.redeemable > 0 and view.redeemed_in < clock.now
    if fresh or (view.redeemable > 0 and wanted > view.cover):
        steps.append(Redeem())
    cover = view.cover
    for slot in sorted(view.slots, key=lambda slot: (slot.fees, slot.model_id, slot.epoch)):
        if slot.status is not Status.NONE or not slot.units or slot.epoch >= clock.now:
            continue
        if clock.now > slot.epoch + 1:
            steps.append(Missed(slot.model_id, slot.epoch, "the window has closed"))
        elif not clock.may_post(slot.epoch):
            continue  # the seam between two epochs
        elif not view.bonded:
            steps.append(Missed(slot.model_id, slot.epoch, "jailed or overdrawn"))
        elif slot.fees <= cover:
            steps.append(PostCheckpoint(slot.model_id, slot.epoch, slot.leaves))
            cover -= slot.fees
        elif fresh:
            continue  # the credit may suffice in a moment
        else:
            steps.append(Uncovered(slot.model_id, slot.epoch, slot.fees, cover))
            part = fit(slot.leaves, price=slot.price, blocks=slot.blocks, cover=cover)
            if part and clock.blocks_left <= view.margin:
                steps.append(PostCheckpoint(slot.model_id, slot.epoch, part, whole=False))
                cover -= fee_for(sum(units for _, units in part), slot.price, slot.blocks)
    if view.claims:
        steps += [
            ClaimShare(first, last) for first, last, amount in view.shares if amount > 0 and clock.may_claim(last)
        ]
    return steps


def fee_for(units: int, price: int, blocks: int) -> int:
    """`feeFor` of the chain: wei that `units` cost, rounded up."""
    return -(-units * price // blocks)


def fit(leaves: Sequence[tuple[str, int]], *, price: int, blocks: int, cover: int) -> tuple[tuple[str, int], ...]:
    """The leaves cut down alike until `cover` wei pay for them; nothing when it pays for no unit.

    Short leaves are an omission, and providers will be compensated from what is left of the stake; but what is posted
    is paid in the ordinary way and without a penalty, so a part is better for everybody than nothing.
    """
    total = sum(units for _, units in leaves)
    affordable = total if price == 0 else min(total, cover * blocks // price)
    cut = ((provider, units * affordable // total) for provider, units in leaves)
    return tuple((provider, units) for provider, units in cut if units)


# --- the provider ---


@dataclass(frozen=True, slots=True)
class SlotId:
    """Our provider at one gateway in one epoch."""

    gateway: str
    provider: str
    model_id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class FetchLeaves:
    """Ask the gateway for the leaves that it posted, and look for ours."""

    slot: SlotId


@dataclass(frozen=True, slots=True)
class ChallengeSum:
    """The leaves do not add up to the posted total: that is fraud, and voids the checkpoint."""

    slot: SlotId


@dataclass(frozen=True, slots=True)
class ChallengeOmission:
    """Show our voucher, and the lower leaf (0: there is no valid checkpoint)."""

    slot: SlotId
    leaf: int


@dataclass(frozen=True, slots=True)
class OpenOmissionChallenge:
    """Our leaf is nowhere to be found: the gateway must show it, or pay. Takes a bond."""

    slot: SlotId


@dataclass(frozen=True, slots=True)
class ResolveChallenge:
    """Nobody answered in time."""

    slot: SlotId
    challenge_id: int


@dataclass(frozen=True, slots=True)
class Prove:
    """Write our leaf on the chain, which allots the reward."""

    slot: SlotId


@dataclass(frozen=True, slots=True)
class ClaimRewards:
    """Take what proofs have allotted for epochs `first … last`."""

    provider: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class WithdrawPayments:
    """Take what challenges have credited to us."""

    amount: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Nothing to send: the windows have closed, and `units` of our vouchers can no longer be paid."""

    slot: SlotId
    units: int


ProviderStep: TypeAlias = (
    FetchLeaves
    | ChallengeSum
    | ChallengeOmission
    | OpenOmissionChallenge
    | ResolveChallenge
    | Prove
    | ClaimRewards
    | WithdrawPayments
    | Lost
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """An omission challenge about a slot of ours, whoever opened it."""

    challenge_id: int
    open: bool
    answer_by: int


@dataclass(frozen=True, slots=True)
class ProviderSlot:
    """What we hold for a slot, and what the chain says about it."""

    id: SlotId
    units: int
    """Of our highest voucher."""
    status: Status
    leaf: int | None = None
    """Units of our leaf in the posted tree, with a proof at hand; 0: the tree has none; None: not known."""
    asked: bool = False
    """The leaves were asked for, in vain."""
    compensated: int = 0
    proven: bool = False
    barred: bool = False
    sealed: bool = False
    """The epoch takes no more challenges, whatever the time."""
    wrong_sum: bool = False
    challenge: Challenge | None = None

    @property
    def missing(self) -> int:
        """Units that neither the leaf nor a compensation pays for."""
        leaf = (self.leaf or 0) if self.status is Status.POSTED else 0
        return max(0, self.units - leaf - self.compensated)


@dataclass(frozen=True, slots=True)
class ProviderView:
    """Everything that a provider's plan depends on. Amounts in wei."""

    clock: Clock
    slots: tuple[ProviderSlot, ...] = ()
    rewards: tuple[tuple[str, int, int, int], ...] = ()
    """(provider, first epoch, last epoch, wei) that wait for us."""
    payments: int = 0
    claims: bool = True


def plan_provider(view: ProviderView) -> list[ProviderStep]:
    """What is due, the most urgent first; proofs before the claims that take what they allot."""
    steps: list[ProviderStep] = []
    for slot in sorted(view.slots, key=lambda slot: (slot.id.epoch, slot.id.gateway, slot.id.provider)):
        steps += _slot_steps(view.clock, slot)
    if view.claims:
        steps += [
            ClaimRewards(provider, first, last)
            for provider, first, last, amount in view.rewards
            if amount > 0 and view.clock.may_claim(last)
        ]
        if view.payments > 0:
            steps.append(WithdrawPayments(view.payments))
    return steps


def _slot_steps(clock: Clock, slot: ProviderSlot) -> list[ProviderStep]:
    steps: list[ProviderStep] = []
    epoch, challenge = slot.id.epoch, slot.challenge
    if clock.now <= epoch:
        return steps
    if challenge is not None and challenge.open and clock.now > challenge.answer_by:
        steps.append(ResolveChallenge(slot.id, challenge.challenge_id))
    decides = clock.may_challenge(epoch) and not slot.sealed
    if slot.status is not Status.POSTED:
        # Without a checkpoint the gateway still has the epoch after to post one.
        waits = slot.status is Status.NONE and clock.now <= epoch + 1
        if slot.missing and decides and not waits:
            steps.append(ChallengeOmission(slot.id, 0))
    else:
        if slot.leaf is None:
            steps.append(FetchLeaves(slot.id))
        if slot.wrong_sum and decides:
            steps.append(ChallengeSum(slot.id))
        elif slot.leaf and slot.missing and decides:
            steps.append(ChallengeOmission(slot.id, slot.leaf))
        elif (
            slot.missing and challenge is None and not slot.sealed and clock.may_open(epoch) and _is_hidden(clock, slot)
        ):
            steps.append(OpenOmissionChallenge(slot.id))
        if slot.leaf and not slot.proven and not slot.barred and clock.may_claim(epoch):
            steps.append(Prove(slot.id))
    disputed = challenge is not None and challenge.open
    unknown = slot.status is Status.POSTED and slot.leaf is None
    if clock.is_over(epoch) and slot.missing and not disputed and not unknown:
        steps.append(Lost(slot.id, slot.missing))
    return steps


def _is_hidden(clock: Clock, slot: ProviderSlot) -> bool:
    """Withheld leaves get until the end of the posting epoch; a tree that lacks ours needs no patience."""
    return slot.leaf == 0 or (slot.leaf is None and slot.asked and clock.now >= slot.id.epoch + 2)


def is_settled(clock: Clock, slot: ProviderSlot) -> bool:
    """Whether nothing can ever be due for this slot again, with as many epochs to spare as the windows last."""
    if clock.now < slot.id.epoch + 2 * clock.delay or (slot.challenge is not None and slot.challenge.open):
        return False
    return slot.status is not Status.POSTED or slot.proven or slot.barred or slot.leaf == 0


def spans(epochs: Iterable[int]) -> list[tuple[int, int]]:
    """The epochs in as few ranges (first, last) as claims allow."""
    found: list[tuple[int, int]] = []
    for epoch in sorted(set(epochs)):
        if found and epoch - found[-1][0] < MAX_RANGE:
            found[-1] = (found[-1][0], epoch)
        else:
            found.append((epoch, epoch))
    return found
