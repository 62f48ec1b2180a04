"""The gateway's side of an epoch's end: seal, redeem, post, publish, answer, fund lines, claim, by `gateway_plan`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from eth_utils import to_canonical_address

from chain.client.actions import Action
from chain.client.staking import StakingClient
from chain.leaves import CheckpointLeaves
from chain.primitives import keccak256
from chain.units import format_func
from chain.vouchers import Domain
from mesh.payment.credit.store import PaymentJournal
from mesh.payment.settlement.gateway_look import FLOOR, LINE, GatewayLook, RedeemSource
from mesh.payment.settlement.gateway_plan import (
    AnswerChallenge,
    ClaimShare,
    EndChallenge,
    GatewayStep,
    InDebt,
    Missed,
    PostCheckpoint,
    Redeem,
    Uncovered,
    plan_gateway,
)
from mesh.payment.settlement.line_plan import FundLines, LinesShort, ReleaseLine, ThawLine
from mesh.payment.settlement.loop import POLL_SECONDS, SettlementEvent, SettlementLoop, Tell
from mesh.payment.settlement.store import SettlementStore
from mesh.payment.settlement.windows import Clock

__all__ = ["FLOOR", "LINE", "GatewaySettlement", "RedeemSource", "ServiceReports"]

REDEEM_BATCH = 40


class ServiceReports(Protocol):
    """What a gateway saw of its providers."""

    def signed(
        self,
        gateway: str,
        epoch: int,
        domain: Domain,
        sign: Callable[[bytes], bytes],
        receipts: Mapping[str, tuple[int, bytes]],
    ) -> bytes | None:
        """The signed reports of an epoch (JSON), or None when there are none. `domain` is Slashing's; `receipts` are
        the providers' own, units and signature by id."""


class GatewaySettlement(SettlementLoop):
    """Settles for one gateway, whose signer and owner is the client's account.

        settlement = GatewaySettlement(client, "my-gateway", journal, store, accounts, tell=print)
        tasks.create_task(settlement.run())

    Fees come from the credit that vouchers brought, then from the stake above the least one. Where both do not suffice
    it says so (`Uncovered`) and waits for a deposit or more stake, and in the last `margin` blocks of the posting
    window posts every leaf cut down alike to what is covered: providers then show their vouchers for the rest.

    Each provider that it owes, or that `routes` names, gets a line of at least `line` wei as far as the stake goes, and
    twice its busiest epoch of late. Vouchers of developers are redeemed once they bring `floor` wei.
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
        routes: Callable[[], Iterable[str]] | None = None,
        line: int = LINE,
        floor: int = FLOOR,
        claims: bool = True,
        margin: int = 3,
        poll: float = POLL_SECONDS,
        tell: Tell | None = None,
    ) -> None:
        super().__init__(client, f"gateway/{gateway}", tell, poll)
        self.gateway = gateway
        self._journal = journal
        self._store = store
        self._sla = sla
        self._line = line
        self._floor = floor
        self._claims = claims
        self._margin = margin
        self._look = GatewayLook(client, gateway, journal, store, source, routes, self._once)
        self._redeemed_in = 0
        self._funding: tuple[str, FundLines] | None = None
        """What is being funded, under the name of its step: it is not changed until that has ended."""

    async def _round(self) -> int:
        clock = await self._clock()
        self._sign_reports(clock)
        view = await self._look.view(
            clock,
            self._block,
            redeemed_in=self._redeemed_in,
            claims=self._claims,
            margin=self._margin,
            floor=self._floor,
            line=self._line,
        )
        return await self._carry_out_all(plan_gateway(view), lambda step: self._carry_out(step, clock))

    def _sign_reports(self, clock: Clock) -> None:
        epoch = clock.now - 1
        if self._sla is None or epoch < 1 or self._store.reports(self.gateway, epoch) is not None:
            return
        deployment = self._client.deployment
        domain = Domain(deployment.chain_id, to_canonical_address(deployment.address("Slashing")))
        receipts = {
            slot.pair.provider: (slot.receipt_units, slot.receipt_signature)
            for slot in self._journal.slots("issued", epoch=epoch)
            if slot.pair.gateway == self.gateway and slot.receipt_signature is not None
        }
        sign = self._client.transactor.account.sign_digest
        signed = self._sla.signed(self.gateway, epoch, domain, sign, receipts)
        if signed is not None:
            self._store.keep_reports(self.gateway, epoch, signed)

    async def _carry_out(self, step: GatewayStep, clock: Clock) -> int:
        match step:
            case Redeem(payers):
                return await self._redeem(payers, clock)
            case PostCheckpoint():
                return await self._post(step)
            case AnswerChallenge():
                return await self._answer(step)
            case ClaimShare(first, last):
                text = f"our share of epochs {first} to {last}"
                amount = await self._client.gateways.view_rewards(self.gateway, first, last)
                event = self._event("claim_share", text, epoch=last, amount=amount)
                action = self._client.gateways.claim_rewards(self.gateway, first, last)
                return await self._do(f"share/{first}-{last}", action, event)
            case FundLines():
                return await self._fund(step, clock)
            case ThawLine(provider, amount):
                event = self._event("thaw_line", f"line for {provider}: {format_func(amount)} FUNC", provider=provider)
                action = self._client.gateways.thaw_line(self.gateway, provider, amount)
                return await self._do(f"thaw-line/{provider}/{amount}/{clock.now}", action, event)
            case ReleaseLine(provider, thaw_end):
                event = self._event("release_line", f"what has thawed of the line for {provider}", provider=provider)
                action = self._client.gateways.release_line(self.gateway, provider)
                return await self._do(f"release-line/{provider}/{thaw_end}", action, event)
            case EndChallenge(challenge_id):
                event = self._event("resolve", f"challenge {challenge_id} was not answered")
                return await self._do(
                    f"resolve/{challenge_id}", self._client.settlement.resolve_challenge(challenge_id), event
                )
            case _:
                self._explain(step, clock)
                return 0

    def _explain(self, step: Uncovered | Missed | InDebt | LinesShort, clock: Clock) -> None:
        """Steps in which nothing is sent: each is said once."""
        match step:
            case Uncovered(model_id, epoch, fees, cover):
                text = (
                    f"the work of epoch {epoch} on model {model_id} costs {format_func(fees)} FUNC, but credit and "
                    f"stake cover {format_func(cover)}: add {format_func(fees - cover)} FUNC (stake, or credit in the "
                    "escrow) before the epoch ends, or providers will claim it from their lines with a penalty"
                )
                self._once("trouble", f"cover/{model_id}/{epoch}", text)
            case Missed(model_id, epoch):
                text = f"no checkpoint of epoch {epoch} for model {model_id}: the window has closed"
                self._once("lost", f"missed/{model_id}/{epoch}", text)
            case InDebt(amount):
                text = (
                    f"{self.gateway} owes providers {format_func(amount)} FUNC more than it had: they take it from the "
                    "next credit or stake"
                )
                self._once("trouble", "debt", text)
            case LinesShort(wanted):
                if not self._has_said(f"lines/{clock.now}"):
                    text = (
                        f"the stake of {self.gateway} lacks {format_func(wanted)} FUNC for the lines of providers that "
                        "it owes: stake more, or they will pause"
                    )
                    self._once("trouble", f"lines/{clock.now}", text)

    # --- money in ---

    async def _redeem(self, payers: Sequence[bytes], clock: Clock) -> int:
        sent = 0
        for at in range(0, len(payers), REDEEM_BATCH):
            batch = payers[at : at + REDEEM_BATCH]
            done = await self._redeem_some(batch, clock)
            sent += bool(done)
            if done is None and len(batch) > 1:  # one bad signature must not keep the others from being paid
                for each in batch:
                    sent += bool(await self._redeem_some([each], clock))
        self._redeemed_in = clock.now
        return sent

    async def _redeem_some(self, payers: Sequence[bytes], clock: Clock) -> bool | None:
        """Whether it was done; None if the chain refused it."""
        batch = [self._look.vouchers[payer] for payer in payers]
        named = keccak256(b"".join(each.payer + each.cumulative_amount.to_bytes(32, "big") for each, _ in batch))
        event = self._event("redeem", f"vouchers of {len(batch)} developers", epoch=clock.now)
        action = self._client.escrow.redeem_batch([each for each, _ in batch], [signature for _, signature in batch])
        step = f"redeem/{clock.now}/{named[:8].hex()}"
        done = await self._do(step, action, event)
        return None if step in self._refusals else bool(done)

    # --- what we owe ---

    async def _post(self, step: PostCheckpoint) -> int:
        leaves = CheckpointLeaves(self.gateway, step.model_id, step.epoch, dict(step.leaves))
        tree = await asyncio.to_thread(leaves.tree)
        self._store.publish(self.gateway, step.model_id, step.epoch, tree.root, leaves.text().encode())
        part = "" if step.whole else ", cut down to what is covered"
        text = (
            f"checkpoint of epoch {step.epoch}, model {step.model_id}: {tree.total_units} units of "
            f"{len(step.leaves)} providers{part}"
        )
        event = self._event("post", text, epoch=step.epoch, model_id=step.model_id)
        action = self._client.settlement.post_tree(tree, leaves.data_hash())
        if not await self._do(f"post/{step.model_id}/{step.epoch}/{tree.root[:8].hex()}", action, event):
            return 0
        self._store.mark_posted(self.gateway, step.model_id, step.epoch, tree.root)
        return 1

    async def _answer(self, step: AnswerChallenge) -> int:
        leaves = self._look.leaves(step.model_id, step.epoch)
        if leaves is None:
            return 0
        units, proof = await asyncio.to_thread(leaves.proof, step.provider)
        text = f"answer to challenge {step.challenge_id} of epoch {step.epoch}: a leaf of {units} units"
        event = self._event("answer", text, epoch=step.epoch, model_id=step.model_id, provider=step.provider)
        action = self._client.settlement.answer_omission(step.challenge_id, units, proof)
        return await self._do(f"answer/{step.challenge_id}", action, event)

    async def _fund(self, step: FundLines, clock: Clock) -> int:
        # Unlike other steps the chain would take this one twice. So one that may be on its way, named by what the lines
        # were before it, is waited for as it was, and not replaced by another.
        name = f"lines/{clock.now}/{self._look.reserved}"
        if self._funding is not None and self._funding[0] == name:
            step = self._funding[1]
        self._funding = (name, step)
        for provider, _ in step.items:
            self._store.keep_line(self.gateway, provider)
        done = await self._fund_some(name, step)
        if name not in self._refusals:
            return done
        self._funding = None
        if len(step.items) > 1:  # one that is refused must not keep the others from being funded
            for item in step.items:
                done += await self._fund_some(f"{name}/{item[0]}", FundLines((item,)))
        return done

    async def _fund_some(self, name: str, step: FundLines) -> int:
        amounts = dict(step.items)
        text = f"lines of {len(amounts)} providers: {format_func(sum(amounts.values()))} FUNC more"
        event = self._event("fund_lines", text, amount=sum(amounts.values()))
        done = await self._do(name, self._client.gateways.fund_lines(self.gateway, amounts), event)
        for provider in amounts if done else ():
            self._journal.forget_notice(self.gateway, provider)
        return done

    # --- small things ---

    async def _do(self, step: str, action: Action, event: SettlementEvent) -> int:
        return int(await self._send(step, action, event) is not None)

    def _event(
        self,
        what: str,
        text: str,
        *,
        epoch: int | None = None,
        model_id: int | None = None,
        provider: str | None = None,
        amount: int | None = None,
    ) -> SettlementEvent:
        return SettlementEvent("sent", what, text, epoch, model_id, self.gateway, provider, amount)
