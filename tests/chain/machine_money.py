"""Rules of the state machines about money that backs promises: tokens, reservations, vouchers, credit, lines."""

from __future__ import annotations

from random import Random

from chain.primitives import MAX_UINT256, ZERO_ADDRESS, key_of
from chain.vouchers import PaymentVoucher, digest, sign
from tests.chain.machine_base import ACTORS, GATEWAYS, KEYS, PROVIDERS, PULLERS, SPARE, Base, action, mostly, pick


class Money(Base):
    # --- token ---

    @action()
    def approve(self, rng: Random) -> None:
        """Takes an approval away, or gives it back."""
        spender = getattr(self.ledger, pick(rng, PULLERS)).address
        self.do("token", "approve", pick(rng, ACTORS), spender, pick(rng, [10, MAX_UINT256, MAX_UINT256]))

    @action()
    def burn_or_transfer(self, rng: Random) -> None:
        actor, amount = pick(rng, ACTORS), self.amount(rng)
        match pick(rng, ["transfer", "transfer_from", "burn", "take", "mint"]):
            case "transfer":
                self.do("token", "transfer", actor, pick(rng, [*ACTORS, ZERO_ADDRESS]), amount)
            case "transfer_from":
                spender, to = pick(rng, ACTORS), pick(rng, [*ACTORS, self.ledger.gateways.address])
                self.do("token", "approve", actor, spender, pick(rng, [amount, amount, max(amount - 1, 0)]))
                self.do("token", "transfer_from", spender, actor, to, amount)
            case "burn":
                self.do("token", "burn", actor, amount)
            case "mint":
                self.do("token", "mint", actor, actor, amount)
            case _:
                self.do("token", "take_sent", pick(rng, ACTORS), actor, amount)

    @action(2)
    def send_to_the_registry(self, rng: Random) -> None:
        """As the guide of the seeds says; some change their mind."""
        actor = pick(rng, ACTORS)
        if mostly(rng, 3):
            self.do("token", "transfer", actor, self.ledger.gateways.address, pick(rng, [900, 30_000]) * self.scale)
        if mostly(rng, 2):
            self.do("gateways", "return_sent", pick(rng, [actor, actor, pick(rng, ACTORS)]))

    # --- deposits and reservations ---

    @action(3)
    def deposit(self, rng: Random) -> None:
        actor, amount = pick(rng, ACTORS), self.amount(rng)
        if mostly(rng, 4):
            self.do("escrow", "deposit", actor, amount)
        else:
            self.do("escrow", "deposit_for", actor, pick(rng, [*ACTORS, ZERO_ADDRESS]), amount)

    @action(3)
    def reserve(self, rng: Random) -> None:
        actor, gateway = pick(rng, ACTORS), pick(rng, GATEWAYS) if mostly(rng) else "nobody"
        free = self.ledger.escrow.free_of(actor)
        if free and mostly(rng, 2):
            self.do("escrow", "reserve", actor, gateway, pick(rng, [free, free // 2, free + 1, 0, 2**128]))
        else:
            self.do("escrow", "deposit_and_reserve", actor, gateway, self.amount(rng))

    @action(3)
    def thaw_or_withdraw(self, rng: Random) -> None:
        """A free amount goes at once; a reserved one after its thaw."""
        escrow = self.ledger.escrow
        held = [place for place, own in escrow.reservations().items() if own.amount]
        named = {key_of(gateway): gateway for gateway in GATEWAYS}
        actor, key = pick(rng, held) if held and mostly(rng) else (pick(rng, ACTORS), key_of(pick(rng, GATEWAYS)))
        gateway = named[key] if mostly(rng, 20) else "nobody"
        match pick(rng, ["thaw", "thaw", "withdraw", "reserved", "reserved", "cancel"]):
            case "thaw":
                left = escrow.available(actor, key)
                self.do("escrow", "thaw", actor, gateway, pick(rng, [left, left // 3, left + 1, 0]))
            case "withdraw":
                free = escrow.free_of(actor)
                self.do("escrow", "withdraw", actor, pick(rng, [free, free // 3, free + 1, 0]))
            case "reserved":
                self.do("escrow", "withdraw_reserved", actor, gateway)
            case _:
                self.do("escrow", "cancel_thaw", actor, gateway)

    @action(2)
    def thaw_and_withdraw(self, rng: Random) -> None:
        """The whole way out of a reservation, in the first epoch that allows it or a block earlier."""
        actor, gateway = pick(rng, ACTORS), pick(rng, GATEWAYS[:2])
        self.do("escrow", "deposit", actor, 5000 * self.scale)
        self.do("escrow", "reserve", actor, gateway, 4000 * self.scale)
        self.do("escrow", "thaw", actor, gateway, 2000 * self.scale)
        wanted = self.ledger.escrow.reservation_of(actor, key_of(gateway)).thaw_end
        self.redeem(rng)
        self.go_to(wanted, early=not mostly(rng, 3))
        self.do("escrow", pick(rng, ["withdraw_reserved", "withdraw_reserved", "cancel_thaw"]), actor, gateway)

    @action()
    def change_signer(self, rng: Random) -> None:
        actor, signer = pick(rng, ACTORS), pick(rng, [*SPARE, ZERO_ADDRESS])
        for method in ("authorize_signer", "thaw_signer", "thaw_signer"):
            if mostly(rng, 2):
                self.do("escrow", method, actor, signer)

    @action(4)
    def redeem(self, rng: Random) -> None:
        """By the payer's or another key, over more or less than is due or there."""
        count = rng.randint(1, 3)
        vouchers, signatures = [], []
        for _ in range(count):
            payer, gateway = pick(rng, ACTORS), pick(rng, GATEWAYS) if mostly(rng) else "nobody"
            paid = self.ledger.escrow.redeemed(payer, key_of(gateway))
            voucher = PaymentVoucher(payer, key_of(gateway), max(0, paid + pick(rng, [0, -1, 7, 900 * self.scale])))
            key = KEYS[payer] if mostly(rng, 4) else SPARE[pick(rng, list(SPARE))]
            vouchers.append(voucher)
            signatures.append(self.bent(rng, sign(digest(self.ledger.escrow.domain, voucher), key)))
        if count == 1:
            self.do("escrow", "redeem", pick(rng, ACTORS), vouchers[0], signatures[0])
        else:
            self.do("escrow", "redeem_batch", pick(rng, ACTORS), vouchers, signatures[: None if mostly(rng) else -1])

    # --- credit ---

    @action(2)
    def top_up(self, rng: Random) -> None:
        gateway = pick(rng, GATEWAYS)
        amount = pick(rng, [30_000 * self.scale, self.amount(rng)])
        self.do("escrow", "top_up_credit", pick(rng, ACTORS), gateway, amount)

    @action(2)
    def take_credit_out(self, rng: Random) -> None:
        gateway = pick(rng, GATEWAYS)
        caller, credit = self.caller(rng, self.owner_of_gateway(gateway)), self.ledger.escrow
        if mostly(rng, 2):
            own = credit.credit_state_of(key_of(gateway))
            left = own.amount - own.thawing
            self.do("escrow", "thaw_credit", caller, gateway, pick(rng, [left, left // 2, left + 1, 0]))
        if mostly(rng, 3):
            self.go_to(credit.credit_state_of(key_of(gateway)).thaw_end, early=not mostly(rng, 4))
        self.do("escrow", "withdraw_credit", caller, gateway)

    # --- lines ---

    @action(3)
    def fund_lines(self, rng: Random) -> None:
        """Some or no spare stake, mostly more than one line at once."""
        gateway, count = pick(rng, GATEWAYS), rng.randint(1, 3)
        spare = self.ledger.gateway_staking.spare_stake(key_of(gateway))
        names = [pick(rng, PROVIDERS) if mostly(rng, 20) else "nobody" for _ in range(count)]
        amounts = [pick(rng, [40 * self.scale, spare // 9, spare // count, 700 * self.scale]) for _ in names]
        if not mostly(rng):
            amounts = pick(rng, [amounts[1:], [0] * count, [spare + 1] * count, [2**128] * count])
        self.do(
            "gateway_staking", "fund_lines", self.caller(rng, self.owner_of_gateway(gateway)), gateway, names, amounts
        )

    @action(3)
    def thaw_or_release_line(self, rng: Random) -> None:
        staking = self.ledger.gateway_staking
        gateway, provider = pick(rng, GATEWAYS), pick(rng, PROVIDERS)
        caller, place = self.caller(rng, self.owner_of_gateway(gateway)), (key_of(gateway), key_of(provider))
        if mostly(rng, 2):
            left = staking.guaranteed(*place)
            amount = pick(rng, [left, left // 2, left // 3, left + 1, 0])
            self.do("gateway_staking", "thaw_line", caller, gateway, provider, amount)
        if mostly(rng, 3):
            self.go_to(staking.line_of(*place).thaw_end, early=not mostly(rng, 4))
        self.do("gateway_staking", "release_line", caller, gateway, provider)

    def bent(self, rng: Random, signature: bytes) -> bytes:
        """The signature, or rarely one that must not pass."""
        if mostly(rng, 12):
            return signature
        return pick(rng, [signature[:-1], signature[:64] + b"\x00", b"", signature[::-1], signature + b"\x00"])

    def go_to(self, epoch: int, early: bool = False) -> None:
        """Forward to the first block of an epoch, or the one before it; never back, nor far."""
        if epoch <= self.epoch + 16:
            self.block = max(self.block, self.ledger.epochs.epoch_start_block(max(epoch, 1)) - early)
