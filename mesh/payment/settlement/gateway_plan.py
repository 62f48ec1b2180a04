"""What is due for a gateway around an epoch's end (pure: state in, steps out)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mesh.payment.settlement.windows import Clock, Status


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
