"""What a gateway's plan is made from: the chain and our journals, looked at once a round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from chain.client.checks import check_id
from chain.client.staking import StakingClient
from chain.errors import ContractError, InvalidArgument
from chain.leaves import CheckpointLeaves
from chain.primitives import FUNC, checksummed, key_of
from chain.vouchers import PaymentVoucher
from mesh.payment.credit.store import PaymentJournal, Slot
from mesh.payment.settlement.gateway_plan import GatewaySlot, GatewayView, OpenChallenge, Redeemable
from mesh.payment.settlement.line_plan import LineView
from mesh.payment.settlement.loop import Say
from mesh.payment.settlement.prices import ModelPrices
from mesh.payment.settlement.store import SettlementStore
from mesh.payment.settlement.windows import MAX_RANGE, Clock, Status

LINE: Final = 10 * FUNC
"""The least line for a provider that we send work to, where the stake allows it."""
FLOOR: Final = FUNC // 100
"""What a redemption must bring: less is not worth the gas of its transaction."""
LINE_EPOCHS: Final = 3
REORG_BLOCKS: Final = 12
VIEWS_AT_ONCE: Final = 200
OPEN: Final = 1


class RedeemSource(Protocol):
    """Where the developers' vouchers are; the accounts of a gateway."""

    async def vouchers(self) -> Sequence[tuple[PaymentVoucher, bytes]]:
        """The highest voucher of every payer of our gateway, with its signature."""

    async def redeemed(self, voucher: PaymentVoucher, total: int) -> None:
        """The chain has paid `total` wei of this payer's vouchers to us, ever. May be told again."""


class GatewayLook:
    """Looks for one gateway. What it keeps between looks saves questions, and may be lost."""

    def __init__(
        self,
        client: StakingClient,
        gateway: str,
        journal: PaymentJournal,
        store: SettlementStore,
        source: RedeemSource | None,
        routes: Callable[[], Iterable[str]] | None,
        say: Say,
    ) -> None:
        self.gateway = gateway
        self.vouchers: dict[bytes, tuple[PaymentVoucher, bytes]] = {}
        """By payer, as of the last look."""
        self.reserved = 0
        """Wei of the stake in lines."""
        self._client = client
        self._key = key_of(gateway)
        self._journal = journal
        self._store = store
        self._source = source
        self._routes = routes
        self._say = say
        self._prices = ModelPrices(client)
        self._sealed: dict[int, list[Slot]] = {}
        self._paid: dict[bytes, int] = {}
        self._challenges: dict[tuple[bytes, int], dict[int, int]] = {}
        """Units by challenge, by provider's key and epoch."""
        self._scanned = 0
        self._used: dict[str, int] = {}
        self._all_claims_seen = False

    async def view(
        self, clock: Clock, block: int, *, redeemed_in: int, claims: bool, margin: int, floor: int, line: int
    ) -> GatewayView:
        """Everything that the plan depends on. `block` is the latest one when `clock` was read."""
        window = range(max(1, clock.now - clock.delay), clock.now)
        # What is sealed does not change any more; the rest of the journal cannot be posted.
        self._sealed = {
            epoch: self._sealed[epoch] if epoch in self._sealed else self._journal.seal(self.gateway, epoch)
            for epoch in window
        }
        credit, stake, effective, least, debt = await self._client.core.views(
            [
                ("Escrow", "creditOf", (self._key,)),
                ("GatewayStaking", "stakeOf", (self.gateway,)),
                ("GatewayStaking", "effectiveStake", (self.gateway,)),
                ("GatewayStaking", "minGatewayStake", ()),
                ("Settlement", "debtOf", (self._key,)),
            ]
        )
        self.reserved = stake.reserved
        return GatewayView(
            clock,
            credit=credit,
            spare=max(0, effective - least),
            slots=tuple(await self._slots()),
            challenges=tuple(await self._open_challenges(clock, block)),
            shares=tuple(await self._shares(clock)) if claims else (),
            redeemable=tuple(await self._redeemable()),
            redeemed_in=redeemed_in,
            lines=tuple(await self._lines(clock)),
            debt=debt,
            winding_down=stake.wind_down_end != 0,
            claims=claims,
            margin=margin,
            floor=floor,
            line=line,
        )

    # --- checkpoints ---

    async def _slots(self) -> list[GatewaySlot]:
        by_slot: dict[tuple[int, int], list[Slot]] = {}
        for epoch, slots in self._sealed.items():
            for slot in slots:
                by_slot.setdefault((slot.pair.model_id, epoch), []).append(slot)
        found = []
        for (model_id, epoch), slots in sorted(by_slot.items()):
            try:
                price = await self._prices.at(model_id, epoch)
                posted = await self._client.core.view("Settlement", "checkpoint", self._key, model_id, epoch)
            except ContractError as error:
                self._say("trouble", f"slot/{model_id}/{epoch}", f"model {model_id} cannot be settled: {error}")
                continue
            leaves = tuple(sorted((slot.pair.provider, slot.voucher_units) for slot in slots))
            status = Status(posted.status)
            if status is Status.POSTED:
                self._note_posted(model_id, epoch, posted.root)
            found.append(GatewaySlot(model_id, epoch, leaves, price, status))
        return found

    def _note_posted(self, model_id: int, epoch: int, root: bytes) -> None:
        if self._store.posted_root(self.gateway, model_id, epoch) == root:
            return
        if self._store.published(self.gateway, model_id, epoch, root) is None:
            text = f"epoch {epoch}, model {model_id} was posted by another process with our key: run only one"
            self._say("trouble", f"stranger/{model_id}/{epoch}", text)
        self._store.mark_posted(self.gateway, model_id, epoch, root)

    def leaves(self, model_id: int, epoch: int) -> CheckpointLeaves | None:
        """What we posted."""
        body = self._store.published(self.gateway, model_id, epoch)
        return None if body is None else CheckpointLeaves.parse(body)

    # --- developers' vouchers ---

    async def _redeemable(self) -> list[Redeemable]:
        """What may be redeemed now; tells the source what the chain has paid."""
        self.vouchers = {}
        if self._source is None:
            return []
        found = []
        vouchers = await self._source.vouchers()
        for batch in _batches(vouchers, VIEWS_AT_ONCE // 2):
            payers = [checksummed(voucher.payer) for voucher, _ in batch]
            asked = [("Escrow", name, (payer, self._key)) for payer in payers for name in ("redeemed", "reservationOf")]
            answers = await self._client.core.views(asked)
            for (voucher, signature), total, reservation in zip(batch, answers[::2], answers[1::2], strict=True):
                if self._paid.get(voucher.payer) != total:
                    await self._source.redeemed(voucher, total)
                    self._paid[voucher.payer] = total
                payable = min(voucher.cumulative_amount - total, reservation.amount)
                if payable > 0:
                    staying = reservation.amount - reservation.thawing
                    leaves_at = reservation.thaw_end if reservation.thawing else 0
                    found.append(Redeemable(voucher.payer, payable, staying, leaves_at))
                    self.vouchers[voucher.payer] = (voucher, signature)
        return found

    # --- challenges ---

    async def _open_challenges(self, clock: Clock, block: int) -> list[OpenChallenge]:
        """The largest one of each slot: with that answered, the smaller ones bring nobody anything."""
        oldest = max(1, clock.now - 2 * clock.delay)
        first = await self._client.epochs.start_block(oldest)
        events = self._client.core.events(
            "Settlement",
            "ChallengeOpened",
            topics=(None, "0x" + self._key.hex()),
            first=max(first, self._scanned - REORG_BLOCKS),
            last=block,
        )
        async for event in events:
            opened = event.arguments
            known = self._challenges.setdefault((opened.provider, opened.epoch), {})
            known[opened.challenge_id] = opened.units
        self._scanned = block
        self._challenges = {slot: each for slot, each in self._challenges.items() if slot[1] >= oldest}
        return [
            found
            for (provider, _), known in sorted(self._challenges.items(), key=lambda each: each[0][1])
            if (found := await self._largest_open(provider, known)) is not None
        ]

    async def _largest_open(self, provider_key: bytes, known: dict[int, int]) -> OpenChallenge | None:
        for challenge_id in sorted(known, key=lambda each: -known[each]):
            record = await self._client.settlement.challenge(challenge_id)
            if record.status != OPEN or record.gateway != self._key:
                del known[challenge_id]
                continue
            shown = await self._client.core.view("Settlement", "shownUnits", self._key, provider_key, record.epoch)
            provider, leaf = self._leaf(provider_key, record.model_id, record.epoch)
            return OpenChallenge(
                challenge_id, record.model_id, record.epoch, provider, record.units, record.answer_by, leaf, shown
            )
        return None

    def _leaf(self, provider_key: bytes, model_id: int, epoch: int) -> tuple[str, int]:
        leaves = self.leaves(model_id, epoch)
        for provider, units in leaves.units.items() if leaves is not None else ():
            if key_of(provider) == provider_key:
                return provider, units
        return "", 0

    # --- lines ---

    async def _lines(self, clock: Clock) -> list[LineView]:
        """Our lines for providers that we owe, route to, or once gave one."""
        routed = {each for each in self._routes() if _is_id(each)} if self._routes is not None else set()
        fees = await self._fees(clock)
        ours = self._store.lines(self.gateway)
        short = self._journal.notices(self.gateway)
        for provider in routed | set(fees):
            self._used[provider] = clock.now
        found = []
        for batch in _batches(sorted(routed | set(fees) | set(ours)), VIEWS_AT_ONCE):
            asked = [("GatewayStaking", "lineOf", (self._key, key_of(provider))) for provider in batch]
            for provider, line in zip(batch, await self._client.core.views(asked), strict=True):
                used = self._used.setdefault(provider, clock.now)
                if not line.amount and used + 2 * clock.delay < clock.now:
                    self._store.forget_line(self.gateway, provider)
                    continue
                found.append(
                    LineView(
                        provider,
                        line.amount,
                        line.thawing,
                        line.thaw_end,
                        line.held,
                        tuple(fees.get(provider, {}).values()),
                        provider in short,
                        provider in routed,
                        used,
                        provider in ours,
                    )
                )
        return found

    async def _fees(self, clock: Clock) -> Mapping[str, Mapping[int, int]]:
        """Wei that we signed for, by provider and epoch."""
        sums: dict[str, dict[int, int]] = {}
        signed = self._journal.signed(self.gateway, max(1, clock.now - LINE_EPOCHS + 1))
        for pair, units_of in signed.items():
            if not _is_id(pair.provider):
                continue
            for epoch, units in units_of.items():
                try:
                    price = await self._prices.at(pair.model_id, epoch)
                except ContractError:
                    continue  # it is told of when it is to be posted
                by_epoch = sums.setdefault(pair.provider, {})
                by_epoch[epoch] = by_epoch.get(epoch, 0) + price.fee(units)
        return sums

    # --- shares ---

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


def _is_id(provider: str) -> bool:
    try:
        check_id(provider)
    except InvalidArgument:
        return False
    return True


def _batches(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
