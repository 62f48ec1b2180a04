"""Developers' deposits, what they reserve for a gateway, and a gateway's credit: `client.escrow` (Escrow)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chain.client.actions import Action, Spend
from chain.client.calls.names import gateway_ids
from chain.client.checks import check_id
from chain.client.core import Core
from chain.deploy import read_address
from chain.primitives import key_of
from chain.units import check_amount
from chain.vouchers import PaymentVoucher


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one gateway's vouchers can take from a payer, in wei, and nobody else's.

    `available` is what does not thaw. What thaws may be withdrawn from epoch `thaw_end` on; until it is, vouchers can
    still take it.
    """

    payer: str
    gateway: str
    amount: int
    available: int
    thawing: int
    thaw_end: int


@dataclass(frozen=True, slots=True)
class Deposit:
    """A developer's FUNC in the escrow, in wei: `free` leaves at once, the rest is reserved for gateways."""

    payer: str
    free: int
    reservations: tuple[Reservation, ...]


@dataclass(frozen=True, slots=True)
class Credit:
    """A gateway's prepaid fees, in wei. What thaws may leave from epoch `thaw_end` on; fees can still take it."""

    gateway: str
    amount: int
    thawing: int
    thaw_end: int


class Escrow:
    """Escrow: what a developer deposits and reserves, vouchers, and a gateway's credit."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # --- a developer's deposit ---

    def deposit(self, amount: int, payer: str | None = None) -> Action:
        """Add `amount` wei of ours to our free deposit, or to another payer's."""
        spend = self._spend(amount)
        if payer is None:
            return self._core.action("Escrow", "deposit", amount, spend=spend)
        return self._core.action("Escrow", "depositFor", read_address(payer), amount, spend=spend)

    def withdraw(self, amount: int) -> Action:
        """Take `amount` wei out of the free deposit, at once."""
        return self._core.action("Escrow", "withdraw", check_amount(amount))

    def reserve(self, gateway_id: str, amount: int) -> Action:
        """Move `amount` wei from the free deposit to our reservation at a gateway."""
        return self._core.action("Escrow", "reserve", check_id(gateway_id), check_amount(amount))

    def deposit_and_reserve(self, gateway_id: str, amount: int) -> Action:
        """Reserve `amount` wei of ours at a gateway in one transaction."""
        check_id(gateway_id)
        return self._core.action("Escrow", "depositAndReserve", gateway_id, amount, spend=self._spend(amount))

    def thaw(self, gateway_id: str, amount: int) -> Action:
        """Mark `amount` wei more of a reservation for withdrawal; the clock starts again for all that is thawing."""
        return self._core.action("Escrow", "thaw", check_id(gateway_id), check_amount(amount))

    def cancel_thaw(self, gateway_id: str) -> Action:
        """Keep reserved what was thawing."""
        return self._core.action("Escrow", "cancelThaw", check_id(gateway_id))

    def withdraw_reserved(self, gateway_id: str) -> Action:
        """Take out what has thawed of a reservation."""
        return self._core.action("Escrow", "withdrawReserved", check_id(gateway_id))

    async def free_of(self, payer: str | None = None) -> int:
        """Wei of a payer that are not reserved."""
        return int(await self._core.view("Escrow", "freeOf", payer or self._core.address))

    async def reservation(self, gateway_id: str, payer: str | None = None) -> Reservation:
        """A payer's reservation at a gateway; all zero where there is none."""
        who = payer or self._core.address
        return (await self._reservations(who, [(gateway_id, key_of(check_id(gateway_id)))]))[0]

    async def deposit_of(self, payer: str | None = None) -> Deposit:
        """Everything that a payer has in the escrow; where it has reserved is found by its events."""
        who = payer or self._core.address
        topic = "0x" + bytes(12).hex() + who[2:].lower()
        keys = {event.arguments.gateway async for event in self._core.events("Escrow", "Reserved", topics=(topic,))}
        found = await self._reservations(who, await gateway_ids(self._core, sorted(keys)))
        return Deposit(who, await self.free_of(who), tuple(each for each in found if each.amount))

    async def _reservations(self, payer: str, gateways: Sequence[tuple[str, bytes]]) -> list[Reservation]:
        records = await self._core.views([("Escrow", "reservationOf", (payer, key)) for _, key in gateways])
        return [
            Reservation(payer, name, each.amount, each.amount - each.thawing, each.thawing, each.thaw_end)
            for (name, _), each in zip(gateways, records, strict=True)
        ]

    # --- vouchers ---

    def authorize_signer(self, signer: str) -> Action:
        """Let another key sign vouchers for us."""
        return self._core.action("Escrow", "authorizeSigner", read_address(signer))

    def thaw_signer(self, signer: str) -> Action:
        """End that, after as long as a reservation thaws."""
        return self._core.action("Escrow", "thawSigner", read_address(signer))

    def redeem(self, voucher: PaymentVoucher, signature: bytes) -> Action:
        """Pay what a voucher still promises, as far as the reservation goes, to the gateway's credit."""
        return self._core.action("Escrow", "redeem", voucher, signature)

    def redeem_batch(self, vouchers: Sequence[PaymentVoucher], signatures: Sequence[bytes]) -> Action:
        """The same for many; those with nothing due or nothing reserved are passed over."""
        return self._core.action("Escrow", "redeemBatch", list(vouchers), list(signatures))

    async def redeemed(self, payer: str, gateway_id: str) -> int:
        """Wei paid, ever, from a payer to a gateway."""
        return int(await self._core.view("Escrow", "redeemed", payer, key_of(check_id(gateway_id))))

    # --- a gateway's credit ---

    def top_up_credit(self, gateway_id: str, amount: int) -> Action:
        """Add `amount` wei of ours to a gateway's credit."""
        check_id(gateway_id)
        return self._core.action("Escrow", "topUpCredit", gateway_id, amount, spend=self._spend(amount))

    def thaw_credit(self, gateway_id: str, amount: int) -> Action:
        """Mark `amount` wei more of our gateway's credit for withdrawal; the clock starts again for all that thaws."""
        return self._core.action("Escrow", "thawCredit", check_id(gateway_id), check_amount(amount))

    def withdraw_credit(self, gateway_id: str) -> Action:
        """Take out what has thawed of our gateway's credit, if it owes nothing."""
        return self._core.action("Escrow", "withdrawCredit", check_id(gateway_id))

    async def credit_of(self, gateway_id: str) -> int:
        """All credit of a gateway, in wei, thawing or not."""
        return int(await self._core.view("Escrow", "creditOf", key_of(check_id(gateway_id))))

    async def credit(self, gateway_id: str) -> Credit:
        """A gateway's credit and what of it thaws."""
        state = await self._core.view("Escrow", "creditStateOf", key_of(check_id(gateway_id)))
        return Credit(gateway_id, state.amount, state.thawing, state.thaw_end)

    def _spend(self, amount: int) -> Spend:
        return Spend(self._core.deployment.address("Escrow"), check_amount(amount))
