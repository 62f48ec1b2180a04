"""A provider and a gateway played by hand, each against the other side's real books: they sign whatever they like."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from chain import vouchers
from chain.primitives import key_of
from chain.vouchers import ContributionReceipt, ContributionVoucher
from chain.wallet import Account
from mesh.identity import Identity
from mesh.payment.credit.collector import VoucherCollector
from mesh.payment.credit.customers import Customer
from mesh.payment.credit.issuer import VoucherIssuer
from mesh.payment.credit.line import GENESIS, Pair, ReceiptClaim
from mesh.wire.messages import Message
from mesh.wire.paying import Receipt, Unwelcome, Voucher, Welcome
from tests.mesh.payment.money import DOMAIN, MODEL_ID, Money, bind

BLOCKS = 5
DIGEST = "ab" * 32


@dataclass
class HandProvider:
    """Claims what it likes of the gateway «gate», whose issuer is real."""

    money: Money
    name: str = "mal"
    identity: Identity = field(default_factory=Identity.generate)
    sequence: int = 0
    link: bytes = GENESIS
    vouchers: list[Voucher] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.paid = self.money.provider(self.identity, self.name, DIGEST, BLOCKS)
        self.pair = Pair("gate", self.name, MODEL_ID)

    @property
    def peer(self) -> str:
        return self.identity.peer_id

    async def meet(self, issuer: VoucherIssuer, *, credit: int = 64) -> None:
        await issuer.welcomed(self.peer, Welcome(self.name, MODEL_ID, credit), self.paid.binding, self.hear)

    async def hear(self, message: Message) -> None:
        assert isinstance(message, Voucher)
        self.vouchers.append(message)

    def receipt(self, epoch: int, units: int, *, account: Account | None = None) -> Receipt:
        self.sequence += 1
        claim = ReceiptClaim(self.pair, epoch, self.sequence, units, self.link)
        signed = ContributionReceipt(key_of("gate"), key_of(self.name), MODEL_ID, epoch, units)
        signature = (account or self.paid.account).sign_digest(vouchers.digest(DOMAIN, signed))
        self.link = claim.link
        return Receipt(epoch, claim.sequence, units, claim.previous, signature, self.identity.sign(claim.link))

    def signed(self, epoch: int) -> int:
        """The most units of an epoch that it has a voucher for."""
        return max((voucher.units for voucher in self.vouchers if voucher.epoch == epoch), default=0)


@dataclass
class HandGateway:
    """Opens sessions and signs what it likes at the provider «ann», whose collector is real."""

    money: Money
    collector: VoucherCollector
    name: str = "gate"
    identity: Identity = field(default_factory=Identity.generate)
    told: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.account = self.money.account(self.name)
        self.money.chain.gateways.setdefault(self.name, self.account.address)

    @property
    def customer(self) -> Customer:
        customer = self.collector.customer(self.identity.peer_id)
        assert customer is not None
        return customer

    @property
    def refusals(self) -> list[str]:
        return [message.code for message in self.told if isinstance(message, Unwelcome)]

    async def hello(self) -> Message:
        binding = bind("gateway", self.name, self.identity, self.account)
        await self.collector.greet(self.identity.peer_id, binding, self.tell)
        return next(message for message in reversed(self.told) if isinstance(message, Welcome | Unwelcome))

    def tell(self, message: Message) -> None:
        self.told.append(message)

    def work(self, tokens: int) -> int:
        """Have as many prompts of two tokens begun as the provider gives room for, and the first token of each run, so
        that none is worth more than one: how many it did."""
        done = 0
        while done < tokens:
            bill = self.collector.open(self.customer, 2, 2, BLOCKS)
            if not self.customer.has_room(bill.price_of(1)):
                self.collector.wait(self.customer)
                break
            units = bill.begin(1)
            self.collector.finish(bill, units, units)
            bill.close(1)
            done += 1
        return done

    async def receipt(self) -> Receipt:
        """The provider's next receipt (its `run` must be going)."""
        async with asyncio.timeout(5):
            while not (found := [each for each in self.told if isinstance(each, Receipt)]):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        self.told = [each for each in self.told if not isinstance(each, Receipt)]
        return found[-1]

    async def pay(self, epoch: int, units: int, *, account: Account | None = None) -> None:
        signed = ContributionVoucher(key_of(self.name), key_of(self.collector.provider), MODEL_ID, epoch, units)
        signature = (account or self.account).sign_digest(vouchers.digest(DOMAIN, signed))
        await self.collector.voucher(self.identity.peer_id, Voucher(epoch, units, signature))

    async def work_and_pay(self, tokens: int) -> int:
        """Work that is paid for with vouchers as it goes, until the provider stops: tokens done."""
        done = 0
        while done < tokens:
            now = self.work(min(16, tokens - done))
            if not now:
                return done
            done += now
            receipt = await self.receipt()
            await self.pay(receipt.epoch, receipt.units)
        return done
