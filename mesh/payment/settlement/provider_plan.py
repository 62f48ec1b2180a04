"""What is due for a provider around an epoch's end (pure: state in, steps out)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from mesh.payment.settlement.windows import Clock, Status


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
        if slot.leaf is None and not slot.proven and not slot.barred:
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
