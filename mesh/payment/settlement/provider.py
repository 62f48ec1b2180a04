"""The provider's side of an epoch's end: check our leaf, challenge what is short, prove, claim, by `provider_plan`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from chain.client.staking import StakingClient
from chain.errors import InvalidArgument
from chain.primitives import FUNC, key_of
from chain.units import format_func
from chain.vouchers import ContributionVoucher
from mesh.errors import MeshError
from mesh.payment.credit.line import Pair
from mesh.payment.credit.store import PaymentJournal, Slot
from mesh.payment.settlement.leaves import CheckedLeaves, check_leaves, fetch_leaves
from mesh.payment.settlement.loop import POLL_SECONDS, SettlementEvent, SettlementLoop, Tell
from mesh.payment.settlement.provider_look import ASK_AGAIN_SECONDS, ProviderLook, path_of
from mesh.payment.settlement.provider_plan import (
    ChallengeOmission,
    ClaimRewards,
    CollectDebt,
    FetchLeaves,
    Lost,
    MarkSafe,
    OpenOmissionChallenge,
    Prove,
    ProviderStep,
    ResolveChallenge,
    SlotId,
    WithdrawPayments,
    WriteOff,
    plan_provider,
)
from mesh.payment.settlement.shown_leaves import checked_leaf, topic
from mesh.payment.settlement.store import OwnLeaf, SettlementStore
from mesh.transport.port import Transport

FLOOR: Final = FUNC // 100
"""What a dispute must bring: less is not worth its transactions."""
MOST_LOOKS: Final = 5
FETCHES_AT_ONCE: Final = 4

Fetch = Callable[[Slot, bytes, bytes | None], Awaitable[CheckedLeaves]]
"""Leaves of a slot with this root (and hash of their text, where known). Raises `PeerError`s."""


def fetch_over(transport: Transport) -> Fetch:
    """Fetch from the gateway's peer that gave us the vouchers."""

    async def fetch(slot: Slot, root: bytes, data_hash: bytes | None) -> CheckedLeaves:
        return await fetch_leaves(
            transport,
            slot.peer,
            gateway=slot.pair.gateway,
            model_id=slot.pair.model_id,
            epoch=slot.epoch,
            root=root,
            data_hash=data_hash,
        )

    return fetch


class ProviderSettlement(SettlementLoop):
    """Settles for the providers of one wallet, from the vouchers in its journal.

        settlement = ProviderSettlement(client, journal, store, fetch_over(transport), claims=True, tell=print)
        tasks.create_task(settlement.run())

    With `claims` False rewards are proved but not claimed: that never expires. No dispute is begun for less than
    `floor` wei.
    """

    def __init__(
        self,
        client: StakingClient,
        journal: PaymentJournal,
        store: SettlementStore,
        fetch: Fetch,
        *,
        claims: bool = True,
        floor: int = FLOOR,
        poll: float = POLL_SECONDS,
        tell: Tell | None = None,
    ) -> None:
        super().__init__(client, f"provider/{client.address}", tell, poll)
        self._journal = journal
        self._store = store
        self._fetch = fetch
        self._claims = claims
        self._floor = floor
        self._look = ProviderLook(client, journal, store, self._once)
        self._epoch = 0
        self._news = False

    async def _round(self) -> int:
        sent = 0
        # What was fetched decides about challenges, and what was proved about claims: look again after each.
        for _ in range(MOST_LOOKS):
            clock = await self._clock()
            self._epoch = clock.now
            view = await self._look.view(clock, self._block, claims=self._claims, floor=self._floor)
            self._news = False
            steps = plan_provider(view)
            now = await self._carry_out_all(
                (step for step in steps if not isinstance(step, FetchLeaves)), self._carry_out
            )
            await self._fetch_all([step.slot for step in steps if isinstance(step, FetchLeaves)])
            sent += now
            if not now and not self._news:
                break
        return sent

    async def _carry_out(self, step: ProviderStep) -> int:
        match step:
            case FetchLeaves(slot):
                await self._fetch_leaves(slot)
            case MarkSafe(slot, units):
                self._journal.mark_safe(_pair(slot), slot.epoch, units)
            case WriteOff(slot):
                self._journal.write_off(_pair(slot), slot.epoch)
            case Lost(slot, units):
                text = f"{units} units of epoch {slot.epoch} at {slot.gateway} can no longer be paid"
                self._once("lost", f"lost/{path_of(slot)}", text)
            case ClaimRewards(provider, first, last):
                amount = await self._client.providers.view_rewards(provider, first, last)
                text = f"rewards of {provider}, epochs {first} to {last}: {format_func(amount)} FUNC"
                event = SettlementEvent("sent", "claim", text, epoch=last, provider=provider, amount=amount)
                action = self._client.providers.claim_rewards(provider, first, last)
                return int(await self._send(f"claim/{provider}/{first}-{last}", action, event) is not None)
            case WithdrawPayments(amount):
                text = f"what challenges brought: {format_func(amount)} FUNC"
                event = SettlementEvent("sent", "withdraw", text, amount=amount)
                sent = await self._send(f"withdraw/{self._epoch}", self._client.settlement.withdraw_payments(), event)
                return int(sent is not None)
            case _:
                return await self._dispute_or_prove(step)
        return 0

    async def _dispute_or_prove(
        self, step: ChallengeOmission | OpenOmissionChallenge | ResolveChallenge | CollectDebt | Prove
    ) -> int:
        # Gateways' ids are whatever they registered: our own checks of ids must not cost us our pay.
        slot = step.slot
        settlement = self._client.settlement
        leaf = self._store.leaf(slot)
        path = path_of(slot)
        match step:
            case ChallengeOmission(_, units):
                voucher, signature = self._voucher(slot)
                proof = leaf.proof if units and leaf is not None else ()
                action = settlement.challenge_omission(voucher, signature, units, proof)
                what = "challenge"
                text = f"our voucher says {voucher.cumulative_units} units, the checkpoint {units}"
                path += f"/{voucher.cumulative_units}-{units}"
            case OpenOmissionChallenge():
                voucher, signature = self._voucher(slot)
                action = settlement.open_omission_challenge(voucher, signature)
                what, text = "open_challenge", f"{slot.gateway} hides our leaf of {voucher.cumulative_units} units"
            case ResolveChallenge(_, challenge_id):
                action = settlement.resolve_challenge(challenge_id)
                what, text = "resolve", f"challenge {challenge_id} was not answered"
                path = str(challenge_id)
            case CollectDebt(_, units):
                action = self._client.core.action("Settlement", "collectDebt", slot.gateway, slot.provider, slot.epoch)
                what, text = "collect_debt", f"{slot.gateway} has money again and owes for {units} units"
                path += f"/{units}"
            case Prove(_, units):
                if leaf is None:
                    return 0
                await self._client.core.pool(slot.model_id)  # whose events the result will hold
                action = self._client.core.action(
                    "Settlement",
                    "proveContributionFor",
                    slot.gateway,
                    slot.provider,
                    slot.epoch,
                    leaf.units,
                    list(leaf.proof),
                )
                what, text = "prove", f"{units} units at {slot.gateway}"
                path += f"/{units}"
        event = SettlementEvent(
            "sent",
            what,
            f"{text} (epoch {slot.epoch}, model {slot.model_id})",
            epoch=slot.epoch,
            model_id=slot.model_id,
            gateway=slot.gateway,
            provider=slot.provider,
        )
        return int(await self._send(f"{what}/{path}", action, event) is not None)

    def _voucher(self, found: SlotId) -> tuple[ContributionVoucher, bytes]:
        slot = self._look.slots[found]
        if slot.voucher_signature is None:
            raise InvalidArgument("a slot without a voucher", argument="slot")
        voucher = ContributionVoucher(
            key_of(found.gateway), key_of(found.provider), found.model_id, found.epoch, slot.voucher_units
        )
        return voucher, slot.voucher_signature

    # --- leaves ---

    async def _fetch_all(self, slots: Sequence[SlotId]) -> None:
        """Some at a time, after everything else: gateways that keep us waiting delay nothing but their own leaves."""
        places = asyncio.Semaphore(FETCHES_AT_ONCE)

        async def fetch(slot: SlotId) -> None:
            async with places:
                await self._fetch_leaves(slot)

        for outcome in await asyncio.gather(*map(fetch, slots), return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def _fetch_leaves(self, found: SlotId) -> None:
        now = asyncio.get_running_loop().time()
        asked = self._look.asked
        if found in asked and now - asked[found] < ASK_AGAIN_SECONDS:
            return
        self._news = True
        posted = await self._client.core.view(
            "Settlement", "checkpoint", key_of(found.gateway), found.model_id, found.epoch
        )
        data_hash = await self._data_hash(found)
        try:
            checked = await self._fetch(self._look.slots[found], posted.root, data_hash)
        except MeshError as error:
            asked[found] = now
            text = f"no leaves of epoch {found.epoch}, model {found.model_id} from {found.gateway}: {error}"
            self._once("trouble", f"fetch/{path_of(found)}", text)
            return
        asked.pop(found, None)
        leaf = None
        if found.provider in checked.leaves.units:
            units, proof = await asyncio.to_thread(checked.leaves.proof, found.provider)
            leaf = checked_leaf(found, posted, units, proof)
        # Not there, or under another total than the posted one: nothing of ours can be proved in this tree.
        self._store.keep_leaf(found, leaf or OwnLeaf(posted.root, 0, ()))

    async def _data_hash(self, found: SlotId) -> bytes | None:
        """From the event of the post, in the epoch after the work."""
        first = await self._client.epochs.start_block(found.epoch + 1)
        last = await self._client.epochs.start_block(found.epoch + 2)
        topics = ("0x" + key_of(found.gateway).hex(), topic(found.model_id), topic(found.epoch))
        events = self._client.core.events(
            "Settlement", "CheckpointPosted", topics=topics, first=first, last=min(last, self._block)
        )
        async for event in events:
            return bytes(event.arguments.data_hash)
        return None


def leaves_from_bytes(body: bytes, slot: Slot, root: bytes, data_hash: bytes | None) -> CheckedLeaves:
    """Leaves that came another way than over the mesh (HTTP, a file), checked alike. Raises `ProtocolViolation`."""
    pair = slot.pair
    return check_leaves(
        body, gateway=pair.gateway, model_id=pair.model_id, epoch=slot.epoch, root=root, data_hash=data_hash
    )


def _pair(slot: SlotId) -> Pair:
    return Pair(slot.gateway, slot.provider, slot.model_id)
