"""The provider's side of an epoch's end: check our leaf, challenge what is short, prove, claim, by `provider_plan`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from eth_abi import abi as eth_abi
from eth_abi.exceptions import DecodingError

from chain import abi, merkle
from chain.client.answers import data
from chain.client.staking import StakingClient
from chain.contract_errors import LeafBarred
from chain.errors import BadAnswer, InvalidArgument
from chain.leaves import CheckpointLeaves
from chain.primitives import MAX_UINT96, key_of
from chain.units import format_func
from chain.vouchers import ContributionVoucher
from mesh.errors import MeshError
from mesh.payment.credit.store import PaymentJournal, Slot
from mesh.payment.settlement.leaves import CheckedLeaves, check_leaves, fetch_leaves
from mesh.payment.settlement.loop import POLL_SECONDS, SettlementEvent, SettlementLoop, Tell
from mesh.payment.settlement.provider_plan import (
    Challenge,
    ChallengeOmission,
    ChallengeSum,
    ClaimRewards,
    FetchLeaves,
    Lost,
    OpenOmissionChallenge,
    Prove,
    ProviderSlot,
    ProviderStep,
    ProviderView,
    ResolveChallenge,
    SlotId,
    WithdrawPayments,
    is_settled,
    plan_provider,
)
from mesh.payment.settlement.store import OwnLeaf, SettlementStore
from mesh.payment.settlement.windows import MAX_RANGE, Clock, Status
from mesh.transport.port import Transport

REORG_BLOCKS = 12
OMISSION = 0
OPEN = 1
ASK_AGAIN_SECONDS = 10.0

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

    With `claims` False rewards are proved but not claimed: that never expires.
    """

    def __init__(
        self,
        client: StakingClient,
        journal: PaymentJournal,
        store: SettlementStore,
        fetch: Fetch,
        *,
        claims: bool = True,
        poll: float = POLL_SECONDS,
        tell: Tell | None = None,
    ) -> None:
        super().__init__(client, f"provider/{client.address}", tell, poll)
        self._journal = journal
        self._store = store
        self._fetch = fetch
        self._claims = claims
        self._slots: dict[SlotId, Slot] = {}
        self._owned: set[str] = set()
        self._asked: dict[SlotId, float] = {}
        self._wrong: dict[SlotId, CheckpointLeaves] = {}
        """Leaves that do not add up to the posted total."""
        self._barred: set[SlotId] = set()
        self._challenges: dict[bytes, set[int]] = {}
        self._answers: dict[int, str] = {}
        self._scanned = 0
        self._seen_rewards = False
        self._epoch = 0
        self._news = False

    async def _round(self) -> int:
        sent = 0
        # What was fetched decides about challenges, and what was proved about claims: look again after each.
        for _ in range(5):
            view = await self._look()
            steps = plan_provider(view)
            self._news = False
            now = 0
            for step in steps:
                now += await self._carry_out(step)
            sent += now
            if not now and not self._news:
                break
        return sent

    # --- looking ---

    async def _look(self) -> ProviderView:
        clock = await self._clock()
        self._epoch = clock.now
        held = [slot for slot in self._journal.slots("held") if slot.voucher_units and slot.epoch < clock.now]
        ours = await self._ours({slot.pair.provider for slot in held})
        done = self._store.settled()
        self._slots = {}
        for slot in held:
            found = SlotId(slot.pair.gateway, slot.pair.provider, slot.pair.model_id, slot.epoch)
            if found not in done and found.provider in ours:
                self._slots[found] = slot
        await self._scan(clock)
        slots = []
        for found, slot in self._slots.items():
            state = await self._slot(found, slot)
            if is_settled(clock, state):
                self._store.settle(found)
            slots.append(state)
        rewards = await self._rewards(clock, sorted(ours)) if self._claims else []
        payments = await self._client.settlement.payments_of() if self._claims else 0
        return ProviderView(clock, tuple(slots), tuple(rewards), payments, self._claims)

    async def _ours(self, providers: set[str]) -> set[str]:
        """Those that our account owns: only for them rewards can be claimed."""
        for provider in sorted(providers - self._owned):
            owner, _ = (await self._client.core.view("ProviderRegistry", "ownerAndModel", key_of(provider))).values()
            if owner == self._client.address:
                self._owned.add(provider)
            else:
                self._once("trouble", f"owner/{provider}", f"{provider} is {owner}'s on this chain, not ours")
        return providers & self._owned

    async def _slot(self, found: SlotId, slot: Slot) -> ProviderSlot:
        gateway, provider = key_of(found.gateway), key_of(found.provider)
        posted, compensated, proven, sealed = await self._client.core.views(
            [
                ("Settlement", "checkpoint", (gateway, found.model_id, found.epoch)),
                ("Settlement", "compensatedUnits", (gateway, provider, found.epoch)),
                ("Settlement", "isProven", (gateway, provider, found.epoch)),
                ("Settlement", "isSealed", (found.epoch,)),
            ]
        )
        challenge = await self._challenge(found, posted.root)
        leaf = self._store.leaf(found)
        if leaf is not None and leaf.root != posted.root:
            leaf = None
        return ProviderSlot(
            found,
            slot.voucher_units,
            Status(posted.status),
            leaf=None if leaf is None else leaf.units,
            asked=found in self._asked,
            compensated=compensated,
            proven=proven,
            barred=found in self._barred,
            sealed=sealed,
            wrong_sum=found in self._wrong,
            challenge=challenge,
        )

    async def _scan(self, clock: Clock) -> None:
        """Challenges about our providers, and their answers."""
        if not self._slots:
            return
        oldest = min(slot.epoch for slot in self._slots)
        first = max(await self._client.epochs.start_block(oldest + 1), self._scanned - REORG_BLOCKS)
        ours = {key_of(slot.provider) for slot in self._slots}
        for key in ours:
            events = self._client.core.events(
                "Settlement",
                "ChallengeOpened",
                topics=(None, None, "0x" + key.hex()),
                first=first,
                last=self._block,
            )
            async for event in events:
                self._challenges.setdefault(key, set()).add(event.arguments.challenge_id)
        if any(self._challenges.values()):
            answered = self._client.core.events("Settlement", "ChallengeAnswered", first=first, last=self._block)
            async for event in answered:
                self._answers[event.arguments.challenge_id] = event.tx_hash
        self._scanned = self._block

    async def _challenge(self, found: SlotId, root: bytes) -> Challenge | None:
        """The challenge of omission about a slot. Its answer has shown our leaf to the whole world: keep it."""
        latest = None
        for challenge_id in sorted(self._challenges.get(key_of(found.provider), ())):
            record = await self._client.settlement.challenge(challenge_id)
            if record.kind != OMISSION or (record.gateway, record.epoch) != (key_of(found.gateway), found.epoch):
                continue
            latest = Challenge(challenge_id, record.status == OPEN, record.answer_by)
            if challenge_id in self._answers and self._store.leaf(found) is None:
                leaf = await self._answered_leaf(found, root, self._answers[challenge_id])
                if leaf is not None:
                    self._store.keep_leaf(found, leaf)
        return latest

    async def _answered_leaf(self, found: SlotId, root: bytes, tx_hash: str) -> OwnLeaf | None:
        transaction = await self._client.core.rpc.call("eth_getTransactionByHash", tx_hash)
        if not isinstance(transaction, dict):
            return None
        try:
            return leaf_in_call(data(transaction.get("input")), found, root)
        except BadAnswer:
            return None

    async def _rewards(self, clock: Clock, providers: Sequence[str]) -> list[tuple[str, int, int, int]]:
        """Ranges of epochs with unclaimed rewards: at the first look all, later the last one and those of our slots."""
        found = []
        for provider in providers:
            last = clock.claimable
            while last >= 1:
                first = max(1, last - MAX_RANGE + 1)
                recent = last == clock.claimable or any(first <= slot.epoch <= last for slot in self._slots)
                if recent or not self._seen_rewards:
                    amount = await self._client.providers.view_rewards(provider, first, last)
                    found.append((provider, first, last, amount))
                last = first - 1
        self._seen_rewards = True
        return found

    # --- acting ---

    async def _carry_out(self, step: ProviderStep) -> int:
        match step:
            case FetchLeaves(slot):
                await self._fetch_leaves(slot)
                return 0
            case Lost(slot, units):
                text = f"{units} units of epoch {slot.epoch} at {slot.gateway} can no longer be paid"
                self._once("lost", f"lost/{_path(slot)}", text)
                return 0
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

    async def _dispute_or_prove(
        self, step: ChallengeSum | ChallengeOmission | OpenOmissionChallenge | ResolveChallenge | Prove
    ) -> int:
        slot = step.slot
        settlement = self._client.settlement
        leaf = self._store.leaf(slot)
        path = _path(slot)
        match step:
            case ChallengeSum():
                leaves = self._wrong[slot].tree().leaves
                action = settlement.challenge_sum(slot.gateway, slot.model_id, slot.epoch, leaves)
                what, text = "challenge_sum", "the leaves do not add up to the total"
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
            case Prove():
                if leaf is None:
                    return 0
                await self._client.core.pool(slot.model_id)  # whose events the result will hold
                action = settlement.prove_contribution_for(
                    slot.gateway, slot.provider, slot.epoch, leaf.units, leaf.proof
                )
                what, text = "prove", f"{leaf.units} units at {slot.gateway}"
        event = SettlementEvent(
            "sent",
            what,
            f"{text} (epoch {slot.epoch}, model {slot.model_id})",
            epoch=slot.epoch,
            model_id=slot.model_id,
            gateway=slot.gateway,
            provider=slot.provider,
        )
        result = await self._send(f"{what}/{path}", action, event)
        if isinstance(self._refusals.get(f"{what}/{path}"), LeafBarred):
            self._barred.add(slot)
        return int(result is not None)

    def _voucher(self, found: SlotId) -> tuple[ContributionVoucher, bytes]:
        slot = self._slots[found]
        if slot.voucher_signature is None:
            raise InvalidArgument("a slot without a voucher", argument="slot")
        voucher = ContributionVoucher(
            key_of(found.gateway), key_of(found.provider), found.model_id, found.epoch, slot.voucher_units
        )
        return voucher, slot.voucher_signature

    async def _fetch_leaves(self, found: SlotId) -> None:
        now = asyncio.get_running_loop().time()
        if found in self._asked and now - self._asked[found] < ASK_AGAIN_SECONDS:
            return
        self._news = True
        gateway = key_of(found.gateway)
        posted = await self._client.settlement.checkpoint(found.gateway, found.model_id, found.epoch)
        data_hash = await self._data_hash(gateway, found)
        try:
            checked = await self._fetch(self._slots[found], posted.root, data_hash)
        except MeshError as error:
            self._asked[found] = now
            text = f"no leaves of epoch {found.epoch}, model {found.model_id} from {found.gateway}: {error}"
            self._once("trouble", f"fetch/{_path(found)}", text)
            return
        self._asked.pop(found, None)
        if sum(checked.leaves.units.values()) != posted.total_units:
            self._wrong[found] = checked.leaves
        if found.provider in checked.leaves.units:
            units, proof = await asyncio.to_thread(checked.leaves.proof, found.provider)
            self._store.keep_leaf(found, OwnLeaf(posted.root, units, proof))
        else:
            self._store.keep_leaf(found, OwnLeaf(posted.root, 0, ()))

    async def _data_hash(self, gateway: bytes, found: SlotId) -> bytes | None:
        """From the event of the post, in the epoch after the work."""
        first = await self._client.epochs.start_block(found.epoch + 1)
        last = await self._client.epochs.start_block(found.epoch + 2)
        topics = ("0x" + gateway.hex(), _topic(found.model_id), _topic(found.epoch))
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


def leaf_in_call(called: bytes, found: SlotId, root: bytes) -> OwnLeaf | None:
    """The leaf that a gateway proved in a call of `answerOmission`; None where the bytes are no such call."""
    function = abi.load("Settlement").function("answerOmission")
    if called[:4] != function.selector:
        return None
    try:
        _, units, proof = eth_abi.decode([param.type for param in function.inputs], called[4:])
    except (DecodingError, OverflowError):
        return None
    return _checked_leaf(found, root, units, tuple(bytes(each) for each in proof))


def _checked_leaf(found: SlotId, root: bytes, units: Any, proof: Sequence[bytes]) -> OwnLeaf | None:
    if not isinstance(units, int) or not 1 <= units <= MAX_UINT96:
        return None
    leaf = merkle.leaf_hash(key_of(found.gateway), key_of(found.provider), found.model_id, found.epoch, units)
    return OwnLeaf(root, units, tuple(proof)) if merkle.verify(root, leaf, proof) else None


def _topic(value: int) -> str:
    return "0x" + value.to_bytes(32, "big").hex()


def _path(slot: SlotId) -> str:
    return f"{slot.gateway}/{slot.provider}/{slot.model_id}/{slot.epoch}"
