"""What is due for a gateway around an epoch's end (pure: state in, steps out)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mesh.payment.credit.units import ModelPrice
from mesh.payment.settlement.line_plan import LineStep, LineView, plan_lines
from mesh.payment.settlement.windows import Clock, Status


@dataclass(frozen=True, slots=True)
class Redeem:
    """Turn these developers' vouchers into credit."""

    payers: tuple[bytes, ...]


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
    """Show the leaf that a challenge asks for; with a lower one the rest is compensated at once."""

    challenge_id: int
    model_id: int
    epoch: int
    provider: str


@dataclass(frozen=True, slots=True)
class EndChallenge:
    """Have a challenge decided that nobody answered in time: it holds a part of a line that we want back."""

    challenge_id: int


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
    """Nothing to send: a checkpoint was not posted in time; providers will show their vouchers."""

    model_id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class InDebt:
    """Nothing to send: providers take `amount` wei from whatever credit or stake comes next."""

    amount: int


GatewayStep: TypeAlias = (
    Redeem | PostCheckpoint | AnswerChallenge | EndChallenge | ClaimShare | Uncovered | Missed | InDebt | LineStep
)


@dataclass(frozen=True, slots=True)
class GatewaySlot:
    """One model in one past epoch: what we signed (sealed: it cannot grow), and what the chain has."""

    model_id: int
    epoch: int
    leaves: tuple[tuple[str, int], ...]
    price: ModelPrice
    status: Status

    @property
    def units(self) -> int:
        return sum(units for _, units in self.leaves)

    @property
    def fees(self) -> int:
        """Wei that all leaves cost."""
        return self.price.fee(self.units)


@dataclass(frozen=True, slots=True)
class OpenChallenge:
    """An unanswered challenge against our gateway, the largest one of its slot. Numbers of units."""

    challenge_id: int
    model_id: int
    epoch: int
    provider: str
    """"" where we do not know it."""
    units: int
    answer_by: int
    leaf: int = 0
    """What our posted tree has for the provider."""
    shown: int = 0
    """What the chain has been shown of that."""


@dataclass(frozen=True, slots=True)
class Redeemable:
    """A developer's highest voucher, and what is reserved for it. Wei."""

    payer: bytes
    payable: int
    """What the voucher promises beyond what was redeemed, as far as the reservation goes."""
    staying: int = 0
    """The part of the reservation that does not thaw."""
    thaw_end: int = 0
    """The epoch from which the payer may withdraw the other part; 0 for never."""


@dataclass(frozen=True, slots=True)
class GatewayView:
    """Everything that a gateway's plan depends on. Amounts in wei."""

    clock: Clock
    credit: int = 0
    spare: int = 0
    """Effective stake above the least that a gateway must have."""
    slots: tuple[GatewaySlot, ...] = ()
    challenges: tuple[OpenChallenge, ...] = ()
    shares: tuple[tuple[int, int, int], ...] = ()
    """(first epoch, last epoch, wei) that wait for us."""
    redeemable: tuple[Redeemable, ...] = ()
    redeemed_in: int = 0
    """Epoch of our last redemption."""
    lines: tuple[LineView, ...] = ()
    debt: int = 0
    winding_down: bool = False
    claims: bool = True
    margin: int = 3
    """Blocks before the end of the posting window at which an uncovered checkpoint is posted in part."""
    floor: int = 0
    """What the redemption of one developer's voucher must bring to be worth its gas."""
    line: int = 0
    """The least line for a provider that we send work to."""

    @property
    def cover(self) -> int:
        """What checkpoints are paid from."""
        return self.credit + self.spare


def plan_gateway(view: GatewayView) -> list[GatewayStep]:
    """What is due, in order: answers before money, credit before what it pays for, checkpoints before lines."""
    clock = view.clock
    steps: list[GatewayStep] = [*_answers(view)]
    wanted = sum(slot.fees for slot in view.slots if slot.status is Status.NONE and clock.may_post(slot.epoch))
    fresh = view.redeemed_in < clock.now and any(_is_worth(view, each) for each in view.redeemable)
    steps += _redemption(view, fresh, wanted)
    cover = view.cover
    for slot in sorted(view.slots, key=lambda slot: (slot.fees, slot.model_id, slot.epoch)):
        if slot.status is not Status.NONE or not slot.units or slot.epoch >= clock.now:
            continue
        if clock.now > slot.epoch + 1:
            steps.append(Missed(slot.model_id, slot.epoch))
        elif not clock.may_post(slot.epoch):
            continue  # the seam between two epochs
        elif slot.fees <= cover:
            steps.append(PostCheckpoint(slot.model_id, slot.epoch, slot.leaves))
            cover -= slot.fees
        elif fresh:
            continue  # the credit may suffice in a moment
        else:
            steps.append(Uncovered(slot.model_id, slot.epoch, slot.fees, cover))
            part = fit(slot.leaves, slot.price, cover)
            if part and clock.blocks_left <= view.margin:
                steps.append(PostCheckpoint(slot.model_id, slot.epoch, part, whole=False))
                cover -= slot.price.fee(sum(units for _, units in part))
    # What checkpoints of this epoch still need is not given to lines.
    steps += plan_lines(
        clock,
        view.lines,
        spare=view.spare - max(0, wanted - view.credit),
        least=view.line,
        winding_down=view.winding_down,
    )
    if view.debt:
        steps.append(InDebt(view.debt))
    if view.claims:
        steps += [
            ClaimShare(first, last) for first, last, amount in view.shares if amount > 0 and clock.may_claim(last)
        ]
    return steps


def _answers(view: GatewayView) -> list[GatewayStep]:
    steps: list[GatewayStep] = []
    for each in sorted(view.challenges, key=lambda each: (each.answer_by, each.challenge_id)):
        if view.clock.upcoming <= each.answer_by:
            # Once the chain knows as much as we can show, another answer changes nothing.
            if each.provider and each.shown < min(each.leaf, each.units):
                steps.append(AnswerChallenge(each.challenge_id, each.model_id, each.epoch, each.provider))
        elif view.winding_down and view.clock.now > each.answer_by:
            steps.append(EndChallenge(each.challenge_id))
    return steps


def _redemption(view: GatewayView, fresh: bool, wanted: int) -> list[GatewayStep]:
    """Once an epoch; when a checkpoint needs the credit; and before a developer may withdraw what it has promised."""
    if wanted > view.cover:
        payers = [each.payer for each in view.redeemable if each.payable > 0]
    elif fresh:
        payers = [each.payer for each in view.redeemable if _is_worth(view, each)]
    else:
        payers = [each.payer for each in view.redeemable if _is_worth(view, each) and _is_leaving(view.clock, each)]
    return [Redeem(tuple(payers))] if payers else []


def _is_worth(view: GatewayView, each: Redeemable) -> bool:
    return each.payable > 0 and each.payable >= view.floor


def _is_leaving(clock: Clock, each: Redeemable) -> bool:
    return 0 < each.thaw_end <= clock.upcoming + 1 and each.payable > each.staying


def fit(leaves: Sequence[tuple[str, int]], price: ModelPrice, cover: int) -> tuple[tuple[str, int], ...]:
    """The leaves cut down alike until `cover` wei pay for them; nothing when it pays for no unit.

    Short leaves are an omission, and providers will be compensated from their lines; but what is posted is paid in the
    ordinary way and without a penalty, so a part is better for everybody than nothing.
    """
    total = sum(units for _, units in leaves)
    affordable = price.units(cover, total)
    cut = ((provider, units * affordable // total) for provider, units in leaves)
    return tuple((provider, units) for provider, units in cut if units)
