"""Leaves of ours that challenges and answers have shown to the whole world, found in the chain's events and checked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from chain import merkle
from chain.abi import Record
from chain.client.staking import StakingClient
from chain.merkle import MAX_PROOF, Sibling
from chain.primitives import MAX_UINT96, key_of
from mesh.payment.settlement.provider_plan import SlotId
from mesh.payment.settlement.store import OwnLeaf


def checked_leaf(slot: SlotId, posted: Record, units: Any, proof: Sequence[Any]) -> OwnLeaf | None:
    """The leaf, if it is in the posted tree of that slot."""
    if not isinstance(units, int) or not 1 <= units <= MAX_UINT96 or len(proof) > MAX_PROOF:
        return None
    siblings = tuple(Sibling(bytes(each.hash), int(each.units)) for each in proof)
    leaf = merkle.leaf_hash(key_of(slot.gateway), key_of(slot.provider), slot.model_id, slot.epoch, units)
    if not merkle.verify(posted.root, posted.total_units, leaf, units, siblings):
        return None
    return OwnLeaf(posted.root, units, siblings)


async def find_shown(
    client: StakingClient, slot: SlotId, posted: Record, challenges: Collection[int], first: int, last: int
) -> OwnLeaf | None:
    """The largest leaf of a slot that the chain was shown between two blocks, in whatever transaction.

    `challenges` are the numbers of those about the slot.
    """
    topics = ("0x" + key_of(slot.gateway).hex(), "0x" + key_of(slot.provider).hex(), topic(slot.epoch))
    found: list[OwnLeaf | None] = []
    async for event in client.core.events("Settlement", "LeafShown", topics=topics, first=first, last=last):
        shown = event.arguments
        found.append(checked_leaf(slot, posted, shown.units, shown.proof))
    if challenges:
        async for event in client.core.events("Settlement", "OmissionAnswered", first=first, last=last):
            shown = event.arguments
            if shown.challenge_id in challenges:
                found.append(checked_leaf(slot, posted, shown.units, shown.proof))
    return max((each for each in found if each is not None), key=lambda each: each.units, default=None)


def topic(value: int) -> str:
    """A number as events index it."""
    return "0x" + value.to_bytes(32, "big").hex()
