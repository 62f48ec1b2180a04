"""What is due for a provider around an epoch's end (pure: state in, steps out)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from mesh.payment.credit.units import ModelPrice
from mesh.payment.settlement.windows import Clock, Status

BPS: Final = 10_000
GIVE_UP_EPOCHS: Final = 512
"""How long a debt is watched, and withheld leaves are asked for, after the work."""


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
class ChallengeOmission:
    """Show our voucher, and the lower leaf (0: there is no checkpoint)."""

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
class CollectDebt:
    """The gateway has money again: take what it still owes for this slot."""

    slot: SlotId
    units: int
    """That it owes for."""


@dataclass(frozen=True, slots=True)
class Prove:
    """Write our leaf on the chain, which allots the reward; again when a larger one is known."""

    slot: SlotId
    units: int


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
class MarkSafe:
    """Nothing to send: the first `units` of our voucher cannot be lost any more, so the line covers new work."""

    slot: SlotId
    units: int


@dataclass(frozen=True, slots=True)
class WriteOff:
    """Nothing to send: the windows have closed, and what is missing is no longer waited for."""

    slot: SlotId


@dataclass(frozen=True, slots=True)
class Lost:
    """Nothing to send: `units` of our vouchers can no longer be paid, or are not worth a challenge."""

    slot: SlotId
    units: int


ProviderStep: TypeAlias = (
    FetchLeaves
    | ChallengeOmission
    | OpenOmissionChallenge
    | ResolveChallenge
    | CollectDebt
    | Prove
    | ClaimRewards
    | WithdrawPayments
    | MarkSafe
    | WriteOff
    | Lost
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """An open omission challenge about a slot of ours, whoever opened it. `ours`: its bond comes back to us."""

    challenge_id: int
    units: int
    answer_by: int
    ours: bool = False


@dataclass(frozen=True, slots=True)
class ProviderSlot:
    """What we hold for a slot, and what the chain says about it. All numbers are units, but `cover`."""

    id: SlotId
    units: int
    """Of our highest voucher; 0 where only a leaf is left of it."""
    status: Status
    price: ModelPrice
    leaf: int | None = None
    """Our largest leaf in the posted tree with a proof at hand; 0: the tree has none; None: not known."""
    asked: bool = False
    """The leaves were asked for, in vain."""
    shown: int = 0
    """The leaf that challenges and answers have shown to the chain."""
    compensated: int = 0
    debt: int = 0
    """What the chain has recorded that the gateway owes for, because it could not pay."""
    challenged: int = 0
    """The highest voucher that the gateway was asked to answer."""
    proven: int = 0
    cover: int = 0
    """Wei that a compensation can take from the gateway now: our line, its credit, its effective stake."""
    challenges: tuple[Challenge, ...] = ()
    safe: int = 0
    """What our journal has marked as safe."""
    written_off: bool = False

    @property
    def paid(self) -> int:
        """Units that a leaf at hand or a compensation pays for."""
        return ((self.leaf or 0) if self.status is Status.POSTED else 0) + self.compensated

    @property
    def missing(self) -> int:
        return max(0, self.units - self.paid)

    @property
    def hidden(self) -> int:
        """What the chain would find missing in a challenge without a leaf."""
        return max(0, self.units - self.shown - self.compensated)


@dataclass(frozen=True, slots=True)
class ProviderView:
    """Everything that a provider's plan depends on. Amounts in wei."""

    clock: Clock
    slots: tuple[ProviderSlot, ...] = ()
    rewards: tuple[tuple[str, int, int, int], ...] = ()
    """(provider, first epoch, last epoch, wei) that wait for us."""
    payments: int = 0
    claims: bool = True
    floor: int = 0
    """What a dispute must bring to be worth its transactions."""
    bond_bps: int = 1000
    """The bond of a challenge that the gateway must answer, as a part of the fee."""


def plan_provider(view: ProviderView) -> list[ProviderStep]:
    """What is due, the most urgent first; proofs before the claims that take what they allot."""
    steps: list[ProviderStep] = []
    for slot in sorted(view.slots, key=lambda slot: (slot.id.epoch, slot.id.gateway, slot.id.provider)):
        if view.clock.now > slot.id.epoch:
            steps += _disputes(view, slot)
            steps += _work(view.clock, slot)
            steps += _books(view, slot)
    if view.claims:
        steps += [
            ClaimRewards(provider, first, last)
            for provider, first, last, amount in view.rewards
            if amount > 0 and view.clock.may_claim(last)
        ]
        if view.payments > 0 and view.payments >= view.floor:
            steps.append(WithdrawPayments(view.payments))
    return steps


def _disputes(view: ProviderView, slot: ProviderSlot) -> list[ProviderStep]:
    clock, epoch = view.clock, slot.id.epoch
    due = [each for each in _awaited(view, slot) if clock.now > each.answer_by]
    # What the largest one brings, smaller ones no longer bring; ours bring back their bonds.
    steps: list[ProviderStep] = [
        ResolveChallenge(slot.id, each.challenge_id) for each in due if each.ours or each is due[0]
    ]
    # The chain replaces a recorded debt by what a challenge finds missing, so that must be more.
    if slot.missing > slot.debt and clock.may_challenge(epoch) and _pays(view, slot, slot.missing):
        if slot.status is not Status.POSTED:
            if clock.now > epoch + 1:  # the gateway has the epoch after the work to post in
                steps.append(ChallengeOmission(slot.id, 0))
                return steps
        elif slot.leaf:
            steps.append(ChallengeOmission(slot.id, slot.leaf))
            return steps
        elif (
            clock.may_open(epoch)
            and slot.units > slot.challenged
            and slot.hidden > slot.debt
            and _is_hidden(clock, slot)
            and _opening_pays(view, slot)
        ):
            steps.append(OpenOmissionChallenge(slot.id))
    if _collectable(view, slot):
        steps.append(CollectDebt(slot.id, slot.debt))
    return steps


def _collectable(view: ProviderView, slot: ProviderSlot) -> bool:
    affordable = slot.price.units(slot.cover, slot.debt)
    return bool(affordable) and _pays(view, slot, affordable)


def _work(clock: Clock, slot: ProviderSlot) -> list[ProviderStep]:
    if slot.status is not Status.POSTED:
        return []
    if slot.leaf is None:
        waits = slot.compensated < slot.units and clock.now <= slot.id.epoch + GIVE_UP_EPOCHS
        return [FetchLeaves(slot.id)] if waits else []
    if slot.leaf > slot.proven and clock.may_claim(slot.id.epoch):
        return [Prove(slot.id, slot.leaf)]
    return []


def _books(view: ProviderView, slot: ProviderSlot) -> list[ProviderStep]:
    """What changes in our own books: the exposure that the gateway's line must cover."""
    steps: list[ProviderStep] = []
    safe = min(slot.units, slot.paid)
    if safe > slot.safe:
        steps.append(MarkSafe(slot.id, safe))
    if not slot.missing or _awaited(view, slot) or not view.clock.is_over(slot.id.epoch):
        return steps
    if slot.debt and view.clock.now <= slot.id.epoch + GIVE_UP_EPOCHS:
        return steps  # it stays counted: there is no more credit for a gateway in our debt
    if not slot.written_off:
        steps.append(WriteOff(slot.id))
    unknown = slot.status is Status.POSTED and slot.leaf is None
    if not unknown or view.clock.now > slot.id.epoch + GIVE_UP_EPOCHS:
        steps.append(Lost(slot.id, slot.missing))
    return steps


def _awaited(view: ProviderView, slot: ProviderSlot) -> list[Challenge]:
    """The open challenges that can still bring us something, the largest first; anybody may open more of them."""
    return [
        each
        for each in sorted(slot.challenges, key=lambda each: -each.units)
        if each.ours or _pays(view, slot, each.units - slot.shown - slot.compensated)
    ]


def _pays(view: ProviderView, slot: ProviderSlot, units: int) -> bool:
    fee = slot.price.fee(max(0, units))
    return fee > 0 and fee >= view.floor


def _opening_pays(view: ProviderView, slot: ProviderSlot) -> bool:
    fee = slot.price.fee(slot.hidden)
    return fee > max(1, fee * view.bond_bps // BPS) + view.floor


def _is_hidden(clock: Clock, slot: ProviderSlot) -> bool:
    """Withheld leaves get until the end of the posting epoch; a tree that lacks ours needs no patience."""
    return slot.leaf == 0 or (slot.leaf is None and slot.asked and clock.now >= slot.id.epoch + 2)


def is_settled(view: ProviderView, slot: ProviderSlot) -> bool:
    """Whether nothing can ever be due for this slot again, with as many epochs to spare as the windows last."""
    clock = view.clock
    if clock.now < slot.id.epoch + 2 * clock.delay or _awaited(view, slot):
        return False
    given_up = clock.now > slot.id.epoch + GIVE_UP_EPOCHS
    if slot.missing and not slot.written_off:
        return False
    if slot.debt and (not given_up or _collectable(view, slot)):
        return False
    if slot.status is not Status.POSTED:
        return True
    if slot.leaf is None:
        return given_up or slot.compensated >= slot.units
    return slot.leaf <= slot.proven
