"""The gateway's side of an epoch's end: seal, redeem, post, publish, answer, claim, by the plan of `gateway_plan`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from eth_utils import to_canonical_address

from chain.client.staking import StakingClient
from chain.leaves import CheckpointLeaves
from chain.primitives import checksummed, keccak256, key_of
from chain.units import format_func
from chain.vouchers import Domain, PaymentVoucher
from mesh.payment.credit.store import PaymentJournal, Slot
from mesh.payment.settlement.gateway_plan import (
    AnswerChallenge,
    ClaimShare,
    GatewaySlot,
    GatewayStep,
    GatewayView,
    Missed,
    OpenChallenge,
    PostCheckpoint,
    Redeem,
    Uncovered,
    plan_gateway,
)
from mesh.payment.settlement.loop import POLL_SECONDS, SettlementEvent, SettlementLoop, Tell
from mesh.payment.settlement.store import SettlementStore
from mesh.payment.settlement.windows import MAX_RANGE, Clock, Status

REDEEM_BATCH = 40
REORG_BLOCKS = 12
OPEN = 1
KINDS = ("omission", "leaf")


class RedeemSource(Protocol):
    """Where the developers' vouchers are; the accounts of a gateway."""

    async def vouchers(self) -> Sequence[tuple[PaymentVoucher, bytes]]:
        """The highest voucher of every payer of our gateway, with its signature."""

    async def redeemed(self, voucher: PaymentVoucher, total: int) -> None:
        """The chain has paid `total` wei of this payer's vouchers to us, ever. May be told again."""


class ServiceReports(Protocol):
    """What a gateway saw of its providers."""

    def signed(self, gateway: str, epoch: int, domain: Domain, sign: Callable[[bytes], bytes]) -> bytes | None:
        """The signed reports of an epoch (JSON), or None when there are none. `domain` is Slashing's."""


class GatewaySettlement(SettlementLoop):
    """Settles for one gateway, whose signer and owner is the client's account.

        settlement = GatewaySettlement(client, "my-gateway", journal, store, accounts, tell=print)
        tasks.create_task(settlement.run())

    Fees come from the credit that vouchers brought, then from the stake above the least one. Where both do not suffice
    it says so (`Uncovered`) and waits for a deposit or more stake, and in the last `margin` blocks of the posting
    window posts every leaf cut down alike to what is covered: providers then show their vouchers for the rest.
    """

    def __init__(
        self,
        client: StakingClient,
        gateway: str,
        journal: PaymentJournal,
        store: SettlementStore,
        source: RedeemSource | None = None,
        *,
        sla: ServiceReports | None = None,
        claims: bool = True,
        margin: int = 3,
        poll: float = POLL_SECONDS,
        tell: Tell | None = None,
    ) -> None:
        super().__init__(client, f"gateway/{gateway}", tell, poll)
        self.gateway = gateway
        self._key = key_of(gateway)
        self._journal = journal
        self._store = store
        self._source = source
        self._sla = sla
        self._claims = claims
        self._margin = margin
        self._sealed: dict[int, list[Slot]] = {}
        self._redeemed_in = 0
        self._redeem: list[tuple[PaymentVoucher, bytes]] = []
        self._paid: dict[bytes, int] = {}
        self._challenges: set[int] = set()
        self._scanned = 0
        self._all_claims_seen = False

    async def _round(self) -> int:
        view = await self._look()
        sent = 0
        for step in plan_gateway(view):
            sent += await self._carry_out(step, view.clock)
        return sent

    # --- looking ---

    async def _look(self) -> GatewayView:
        clock = await self._clock()
        window = range(max(1, clock.now - clock.delay), clock.now)
        # What is sealed does not change any more; the rest of the journal cannot be posted.
        self._sealed = {
            epoch: self._sealed[epoch] if epoch in self._sealed else self._journal.seal(self.gateway, epoch)
            for epoch in window
        }
        self._sign_reports(clock)
        slots = await self._slots()
        credit, effective, least, overdrawn, jailed = await self._client.core.views(
            [
                ("Escrow", "creditOf", (self._key,)),
                ("GatewayStaking", "effectiveStake", (self.gateway,)),
                ("GatewayStaking", "minGatewayStake", ()),
                ("GatewayStaking", "isOverdrawn", (self._key,)),
                ("Slashing", "isGatewayJailed", (self._key,)),
            ]
        )
        return GatewayView(
            clock,
            cover=credit + max(0, effective - least),
            bonded=not overdrawn and not jailed,
            slots=tuple(slots),
            challenges=tuple(await self._open_challenges(clock)),
            shares=tuple(await self._shares(clock)) if self._claims else (),
            redeemable=await self._redeemable(),
            redeemed_in=self._redeemed_in,
            claims=self._claims,
            margin=self._margin,
        )

    def _sign_reports(self, clock: Clock) -> None:
        epoch = clock.now - 1
        if self._sla is None or epoch < 1 or self._store.reports(self.gateway, epoch) is not None:
            return
        deployment = self._client.deployment
        domain = Domain(deployment.chain_id, to_canonical_address(deployment.address("Slashing")))
        signed = self._sla.signed(self.gateway, epoch, domain, self._client.transactor.account.sign_digest)
        if signed is not None:
            self._store.keep_reports(self.gateway, epoch, signed)

    async def _slots(self) -> list[GatewaySlot]:
        by_slot: dict[tuple[int, int], list[Slot]] = {}
        for epoch, slots in self._sealed.items():
            for slot in slots:
                by_slot.setdefault((slot.pair.model_id, epoch), []).append(slot)
        found = []
        for (model_id, epoch), slots in sorted(by_slot.items()):
            leaves = tuple(sorted((slot.pair.provider, slot.voucher_units) for slot in slots))
            total = sum(units for _, units in leaves)
            answers = await self._client.core.try_views(
                [
                    ("ModelRegistry", "model", (model_id,)),
                    ("ModelRegistry", "priceAt", (model_id, epoch)),
                    ("ModelRegistry", "feeFor", (model_id, epoch, total)),
                    ("Settlement", "checkpoint", (self._key, model_id, epoch)),
                ]
            )
            refused = [each for each in answers if isinstance(each, Exception)]
            if refused:
                self._once("trouble", f"slot/{model_id}/{epoch}", f"model {model_id} cannot be settled: {refused[0]}")
                continue
            model, price, fees, posted = answers
            status = Status(posted.status)
            if status is Status.POSTED and self._store.posted_root(self.gateway, model_id, epoch) != posted.root:
                if self._store.published(self.gateway, model_id, epoch, posted.root) is None:
                    text = f"epoch {epoch}, model {model_id} was posted by another process with our key: run only one"
                    self._once("trouble", f"stranger/{model_id}/{epoch}", text)
                self._store.mark_posted(self.gateway, model_id, epoch, posted.root)
            found.append(GatewaySlot(model_id, epoch, leaves, fees, price, model.blocks, status))
        return found

    async def _redeemable(self) -> int:
        """What may be redeemed now; keeps the vouchers for the step, and tells the source what the chain has paid."""
        self._redeem = []
        if self._source is None:
            return 0
        due = 0
        for voucher, signature in await self._source.vouchers():
            payer = checksummed(voucher.payer)
            total, deposit = await self._client.core.views(
                [("Escrow", "redeemed", (payer, self._key)), ("Escrow", "depositOf", (payer,))]
            )
            if self._paid.get(voucher.payer) != total:
                await self._source.redeemed(voucher, total)
                self._paid[voucher.payer] = total
            payable = min(voucher.cumulative_amount - total, deposit.balance)
            if payable > 0:
                due += payable
                self._redeem.append((voucher, signature))
        return due

    async def _open_challenges(self, clock: Clock) -> list[OpenChallenge]:
        first = await self._client.epochs.start_block(max(1, clock.now - clock.delay))
        events = self._client.core.events(
            "Settlement",
            "ChallengeOpened",
            topics=(None, "0x" + self._key.hex()),
            first=max(first, self._scanned - REORG_BLOCKS),
            last=self._block,
        )
        self._challenges |= {event.arguments.challenge_id async for event in events}
        self._scanned = self._block
        found = []
        for challenge_id in sorted(self._challenges):
            record = await self._client.settlement.challenge(challenge_id)
            if record.status != OPEN or record.gateway != self._key:
                self._challenges.discard(challenge_id)
                continue
            found.append(self._open_challenge(challenge_id, record))
        return found

    def _open_challenge(self, challenge_id: int, record: Any) -> OpenChallenge:
        kind = KINDS[record.kind]
        slot = self._slot_of(record.provider, record.model_id, record.epoch)
        provider = slot.pair.provider if slot is not None else ""
        if kind == "omission":
            leaves = self._leaves(record.model_id, record.epoch)
            answerable = leaves is not None and leaves.units.get(provider, 0) >= record.units
        else:
            answerable = slot is not None and slot.receipt_units >= record.units and slot.receipt_signature is not None
        return OpenChallenge(
            challenge_id,
            "omission" if kind == "omission" else "leaf",
            record.model_id,
            record.epoch,
            provider,
            record.answer_by,
            answerable,
        )

    def _slot_of(self, provider_key: bytes, model_id: int, epoch: int) -> Slot | None:
        for slot in self._journal.slots("issued", epoch=epoch):
            pair = slot.pair
            if (pair.gateway, pair.model_id, key_of(pair.provider)) == (self.gateway, model_id, provider_key):
                return slot
        return None

    def _leaves(self, model_id: int, epoch: int) -> CheckpointLeaves | None:
        body = self._store.published(self.gateway, model_id, epoch)
        return None if body is None else CheckpointLeaves.parse(body)

    async def _shares(self, clock: Clock) -> list[tuple[int, int, int]]:
        """Ranges of epochs with an unclaimed share: at the first look all, later the last ones."""
        ranges = []
        last = clock.claimable
        while last >= 1:
            ranges.append((max(1, last - MAX_RANGE + 1), last))
            last -= MAX_RANGE
            if self._all_claims_seen:
                break
        self._all_claims_seen = True
        return [
            (low, high, await self._client.gateways.view_rewards(self.gateway, low, high)) for low, high in ranges[::-1]
        ]

    # --- acting ---

    async def _carry_out(self, step: GatewayStep, clock: Clock) -> int:
        match step:
            case Redeem():
                return await self._redeem_all(clock)
            case PostCheckpoint():
                return await self._post(step)
            case AnswerChallenge():
                return await self._answer(step)
            case ClaimShare(first, last):
                text = f"our share of epochs {first} to {last}"
                amount = await self._client.gateways.view_rewards(self.gateway, first, last)
                event = SettlementEvent("sent", "claim_share", text, epoch=last, gateway=self.gateway, amount=amount)
                action = self._client.gateways.claim_rewards(self.gateway, first, last)
                return int(await self._send(f"share/{first}-{last}", action, event) is not None)
            case Uncovered(model_id, epoch, fees, cover):
                text = (
                    f"the work of epoch {epoch} on model {model_id} costs {format_func(fees)} FUNC, but credit and "
                    f"stake cover {format_func(cover)}: add {format_func(fees - cover)} FUNC (stake, or credit in the "
                    "escrow) before the epoch ends, or providers will claim it from the stake with a penalty"
                )
                self._once("trouble", f"cover/{model_id}/{epoch}", text)
            case Missed(model_id, epoch, reason):
                text = f"no checkpoint of epoch {epoch} for model {model_id}: {reason}"
                self._once("lost", f"missed/{model_id}/{epoch}", text)
        return 0

    async def _redeem_all(self, clock: Clock) -> int:
        sent = 0
        for at in range(0, len(self._redeem), REDEEM_BATCH):
            batch = self._redeem[at : at + REDEEM_BATCH]
            done = await self._redeem_some(batch, clock)
            sent += bool(done)
            if done is None and len(batch) > 1:  # one bad signature must not keep the others from being paid
                for each in batch:
                    sent += bool(await self._redeem_some([each], clock))
        self._redeemed_in = clock.now
        return sent

    async def _redeem_some(self, batch: Sequence[tuple[PaymentVoucher, bytes]], clock: Clock) -> bool | None:
        """Whether it was done; None if the chain refused it."""
        named = keccak256(b"".join(each.payer + each.cumulative_amount.to_bytes(32, "big") for each, _ in batch))
        text = f"vouchers of {len(batch)} developers"
        event = SettlementEvent("sent", "redeem", text, epoch=clock.now, gateway=self.gateway)
        action = self._client.escrow.redeem_batch([each for each, _ in batch], [signature for _, signature in batch])
        step = f"redeem/{clock.now}/{named[:8].hex()}"
        result = await self._send(step, action, event)
        return None if step in self._refusals else result is not None

    async def _post(self, step: PostCheckpoint) -> int:
        leaves = CheckpointLeaves(self.gateway, step.model_id, step.epoch, dict(step.leaves))
        tree = await asyncio.to_thread(leaves.tree)
        self._store.publish(self.gateway, step.model_id, step.epoch, tree.root, leaves.text().encode())
        action = self._client.settlement.post_tree(tree, leaves.data_hash())
        part = "" if step.whole else ", cut down to what is covered"
        event = SettlementEvent(
            "sent",
            "post",
            f"checkpoint of epoch {step.epoch}, model {step.model_id}: {tree.total_units} units of "
            f"{len(step.leaves)} providers{part}",
            epoch=step.epoch,
            model_id=step.model_id,
            gateway=self.gateway,
        )
        result = await self._send(f"post/{step.model_id}/{step.epoch}/{tree.root[:8].hex()}", action, event)
        if result is None:
            return 0
        self._store.mark_posted(self.gateway, step.model_id, step.epoch, tree.root)
        return 1

    async def _answer(self, step: AnswerChallenge) -> int:
        event = SettlementEvent(
            "sent",
            "answer",
            f"answer to challenge {step.challenge_id} ({step.kind}) of epoch {step.epoch}",
            epoch=step.epoch,
            model_id=step.model_id,
            gateway=self.gateway,
            provider=step.provider,
        )
        settlement = self._client.settlement
        if step.kind == "omission":
            leaves = self._leaves(step.model_id, step.epoch)
            if leaves is None:
                return 0
            units, proof = await asyncio.to_thread(leaves.proof, step.provider)
            action = settlement.answer_omission(step.challenge_id, units, proof)
        else:
            slot = self._slot_of(key_of(step.provider), step.model_id, step.epoch)
            if slot is None or slot.receipt_signature is None:
                return 0
            action = settlement.answer_leaf(step.challenge_id, slot.receipt_units, slot.receipt_signature)
        return int(await self._send(f"answer/{step.challenge_id}", action, event) is not None)
