"""What a provider's plan is made from: the chain, our journals and leaves, looked at once a round."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, Final

from chain.abi import Record
from chain.client.staking import StakingClient
from chain.errors import ContractError
from chain.primitives import key_of
from mesh.payment.credit.line import Pair
from mesh.payment.credit.store import PaymentJournal, Slot
from mesh.payment.settlement.loop import Say
from mesh.payment.settlement.prices import ModelPrices
from mesh.payment.settlement.provider_plan import Challenge, ProviderSlot, ProviderView, SlotId, is_settled
from mesh.payment.settlement.shown_leaves import find_shown
from mesh.payment.settlement.store import KEPT_EPOCHS, SettlementStore
from mesh.payment.settlement.windows import MAX_RANGE, Clock, Status

REORG_BLOCKS: Final = 12
OPEN: Final = 1
MOST_CHALLENGES: Final = 8
"""Open challenges of one slot that are looked at, the largest first: with those decided, the rest brings nothing."""
ASK_AGAIN_SECONDS: Final = 10.0
SLOTS_AT_ONCE: Final = 20
_VIEWS: Final = ("compensatedUnits", "debtUnits", "shownUnits", "challengedUnits", "provenUnits")


class ProviderLook:
    """Looks for the providers of one wallet. What it keeps between looks saves questions, and may be lost."""

    def __init__(self, client: StakingClient, journal: PaymentJournal, store: SettlementStore, say: Say) -> None:
        self.slots: dict[SlotId, Slot] = {}
        """What the journal has of the slots that are not settled, as of the last look."""
        self.asked: dict[SlotId, float] = {}
        """When leaves were asked for in vain."""
        self._client = client
        self._journal = journal
        self._store = store
        self._say = say
        self._prices = ModelPrices(client)
        self._owned: set[str] = set()
        self._challenges: dict[tuple[bytes, bytes, int], dict[int, int]] = {}
        """Units by challenge, by keys of gateway and provider, and epoch."""
        self._ended: set[int] = set()
        self._searched: dict[SlotId, tuple[int, float]] = {}
        self._scanned = 0
        self._seen_rewards = False

    async def view(self, clock: Clock, block: int, *, claims: bool, floor: int) -> ProviderView:
        """Everything that the plan depends on. `block` is the latest one when `clock` was read."""
        self._store.prune(clock.now - KEPT_EPOCHS)
        held = [slot for slot in self._journal.slots("held") if slot.voucher_units and slot.epoch < clock.now]
        done = self._store.settled()
        # A leaf outlives its voucher in the journal: it may be proved at any time.
        known = {found: _without_voucher(found) for found in self._store.unsettled_leaves()}
        known |= {SlotId(s.pair.gateway, s.pair.provider, s.pair.model_id, s.epoch): s for s in held}
        ours = await self._ours({found.provider for found in known})
        self.slots = {found: slot for found, slot in known.items() if found not in done and found.provider in ours}
        await self._scan(block)
        slots: list[ProviderSlot] = []
        pending = list(self.slots)
        for at in range(0, len(pending), SLOTS_AT_ONCE):
            slots += await self._some_slots(pending[at : at + SLOTS_AT_ONCE], clock, block)
        parameters = await self._client.settlement.parameters()
        view = ProviderView(
            clock,
            tuple(slots),
            tuple(await self._rewards(clock, sorted(ours))) if claims else (),
            await self._client.settlement.payments_of() if claims else 0,
            claims,
            floor,
            parameters.bond_bps,
        )
        for slot in slots:
            if is_settled(view, slot):
                self._store.settle(slot.id)
        return view

    async def _ours(self, providers: set[str]) -> set[str]:
        """Those that our account owns: only for them rewards can be claimed."""
        for provider in sorted(providers - self._owned):
            owner, _ = (await self._client.core.view("ProviderRegistry", "ownerAndModel", key_of(provider))).values()
            if owner == self._client.address:
                self._owned.add(provider)
            else:
                self._say("trouble", f"owner/{provider}", f"{provider} is {owner}'s on this chain, not ours")
        return self._owned

    # --- slots ---

    async def _some_slots(self, wanted: Sequence[SlotId], clock: Clock, block: int) -> list[ProviderSlot]:
        asked: list[tuple[str, str, tuple[Any, ...]]] = []
        for each in wanted:
            gateway, work = key_of(each.gateway), (key_of(each.gateway), key_of(each.provider), each.epoch)
            asked.append(("Settlement", "checkpoint", (gateway, each.model_id, each.epoch)))
            asked += [("Settlement", name, work) for name in _VIEWS]
        answers = await self._client.core.try_views(asked)
        size = 1 + len(_VIEWS)
        found = []
        for index, each in enumerate(wanted):
            mine = answers[index * size : (index + 1) * size]
            refused = next((answer for answer in mine if isinstance(answer, Exception)), None)
            try:
                if refused is not None:
                    raise refused
                found.append(await self._slot(each, mine[0], dict(zip(_VIEWS, mine[1:], strict=True)), clock, block))
            except ContractError as error:
                self._say("trouble", f"slot/{path_of(each)}", f"{path_of(each)} cannot be settled: {error}")
        return found

    async def _slot(
        self, found: SlotId, posted: Record, units: dict[str, int], clock: Clock, block: int
    ) -> ProviderSlot:
        slot = self.slots[found]
        status = Status(posted.status)
        challenges = await self._open_challenges(found)
        leaf = await self._leaf(found, posted, units["shownUnits"], clock, block) if status is Status.POSTED else None
        return ProviderSlot(
            found,
            slot.voucher_units,
            status,
            await self._prices.at(found.model_id, found.epoch),
            leaf=leaf,
            asked=found in self.asked,
            shown=units["shownUnits"],
            compensated=units["compensatedUnits"],
            debt=units["debtUnits"],
            challenged=units["challengedUnits"],
            proven=units["provenUnits"],
            cover=await self._cover(found) if units["debtUnits"] else 0,
            challenges=tuple(challenges),
            safe=slot.safe_units,
            written_off=bool(slot.written_off),
        )

    async def _cover(self, found: SlotId) -> int:
        """Wei that a compensation can take now."""
        gateway, provider = key_of(found.gateway), key_of(found.provider)
        line, credit, effective = await self._client.core.views(
            [
                ("GatewayStaking", "lineOf", (gateway, provider)),
                ("Escrow", "creditOf", (gateway,)),
                ("GatewayStaking", "effectiveStakeOfKey", (gateway,)),
            ]
        )
        return int(line.amount + credit + effective)

    async def _leaf(self, found: SlotId, posted: Record, shown: int, clock: Clock, block: int) -> int | None:
        """Units of our leaf under the posted root, if we have its proof; looked for where the chain has seen one."""
        leaf = self._store.leaf(found)
        known = None if leaf is None or leaf.root != posted.root else leaf.units
        if shown <= (known or 0) or self._searched_lately(found, shown):
            return known
        first = await self._client.epochs.start_block(found.epoch + 1)
        last = min(block, await self._client.epochs.start_block(found.epoch + clock.delay + 1))
        better = await find_shown(self._client, found, posted, self._about(found), first, last)
        if better is None:
            text = f"the chain was shown a leaf of {shown} units of {path_of(found)}, but the node has no event of it"
            self._say("trouble", f"shown/{path_of(found)}", text)
            return known
        self._store.keep_leaf(found, better)
        return better.units

    def _searched_lately(self, found: SlotId, shown: int) -> bool:
        now = asyncio.get_running_loop().time()
        before = self._searched.get(found)
        if before is not None and before[0] == shown and now - before[1] < ASK_AGAIN_SECONDS:
            return True
        self._searched[found] = (shown, now)
        return False

    # --- challenges ---

    def _about(self, found: SlotId) -> dict[int, int]:
        return self._challenges.get((key_of(found.gateway), key_of(found.provider), found.epoch), {})

    async def _scan(self, block: int) -> None:
        """Which challenges there are about our providers."""
        if not self.slots:
            return
        oldest = min(slot.epoch for slot in self.slots)
        first = max(await self._client.epochs.start_block(oldest + 1), self._scanned - REORG_BLOCKS)
        for key in {key_of(slot.provider) for slot in self.slots}:
            events = self._client.core.events(
                "Settlement", "ChallengeOpened", topics=(None, None, "0x" + key.hex()), first=first, last=block
            )
            async for event in events:
                opened = event.arguments
                about = (opened.gateway, opened.provider, opened.epoch)
                self._challenges.setdefault(about, {})[opened.challenge_id] = opened.units
        self._scanned = block
        live = {(key_of(slot.gateway), key_of(slot.provider), slot.epoch) for slot in self.slots}
        self._challenges = {about: each for about, each in self._challenges.items() if about in live}
        self._ended &= {number for each in self._challenges.values() for number in each}

    async def _open_challenges(self, found: SlotId) -> list[Challenge]:
        """Ours, and the largest ones of others."""
        about = self._about(found)
        voucher = self.slots[found].voucher_units
        ordered = sorted(about.keys() - self._ended, key=lambda each: (about[each] != voucher, -about[each]))
        challenges: list[Challenge] = []
        for challenge_id in ordered:
            if len(challenges) >= MOST_CHALLENGES:
                break
            record = await self._client.settlement.challenge(challenge_id)
            if record.status != OPEN or record.model_id != found.model_id:
                self._ended.add(challenge_id)
                continue
            ours = record.challenger == self._client.address
            challenges.append(Challenge(challenge_id, record.units, record.answer_by, ours))
        return challenges

    # --- rewards ---

    async def _rewards(self, clock: Clock, providers: Collection[str]) -> list[tuple[str, int, int, int]]:
        """Ranges of epochs with unclaimed rewards: at the first look all, later the last one and those of our slots."""
        found = []
        for provider in providers:
            last = clock.claimable
            while last >= 1:
                first = max(1, last - MAX_RANGE + 1)
                recent = last == clock.claimable or any(first <= slot.epoch <= last for slot in self.slots)
                if recent or not self._seen_rewards:
                    amount = await self._client.providers.view_rewards(provider, first, last)
                    found.append((provider, first, last, amount))
                last = first - 1
        self._seen_rewards = True
        return found


def path_of(slot: SlotId) -> str:
    """The slot in names of steps."""
    return f"{slot.gateway}/{slot.provider}/{slot.model_id}/{slot.epoch}"


def _without_voucher(found: SlotId) -> Slot:
    pair = Pair(found.gateway, found.provider, found.model_id)
    return Slot(pair, found.epoch, "", 0, None, 0, None)
