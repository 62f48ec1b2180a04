"""How the cheats of the paid scenarios change their code, what somebody is worth in all, and the line of figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chain.primitives import BPS
from chain.units import format_func
from mesh.cli.demo_chain import PRICE, ROYALTY_BPS, DemoChain
from mesh.payment.credit.terms import CREDIT_TOKENS
from mesh.payment.credit.units import weighted_tokens
from tests.scenarios.paid import PROMPT_TOKENS

THIEF = """
from mesh.payment.settlement.gateway import GatewaySettlement
async def never(self, step):
    return 0
GatewaySettlement._post = never
"""
"""A gateway that redeems the developers' vouchers and posts nothing."""
LIAR = """
from dataclasses import replace
from mesh.payment.settlement.gateway import GatewaySettlement
post = GatewaySettlement._post
async def empty(self, step):
    return await post(self, replace(step, leaves=(("nobody", 1),)))
GatewaySettlement._post = empty
"""
"""A gateway whose checkpoint has one unit, of nobody: the chain takes none that is quite empty."""
LATE = """
from mesh.payment.settlement.leaves import LeavesService
LeavesService.leaves = lambda self, model_id, epoch: None
"""
"""A gateway that shows its leaves to nobody, until the chain asks for one."""
HIDER = (
    LATE
    + """
from mesh.payment.settlement.gateway import GatewaySettlement
async def silent(self, step):
    return 0
GatewaySettlement._answer = silent
"""
)
"""A gateway that shows its leaves to nobody, not even to the chain."""
BACKDATED = """
from dataclasses import replace
from mesh.payment.credit.collector import VoucherCollector
from mesh.payment.credit.line import CreditLine
honest, first = CreditLine.claim, []
def claim(self):
    found = honest(self)
    if found is not None:
        first.append(found.epoch)
        found = replace(found, epoch=first[0], units=found.units + 10_000 * len(first))
    return found
CreditLine.claim = claim
"""
"""A provider that claims ever more, and all of it as work of the epoch in which its key was still good."""
GENEROUS = """
from mesh.payment.credit.collector import VoucherCollector
finish = VoucherCollector.finish
VoucherCollector.finish = lambda self, bill, begun, done: finish(self, bill, begun, {times} * done)
"""
"""A provider that claims `times` what it did, from a gateway of its own that believes it."""
OWN_GATEWAY = """
import mesh.payment.credit.issuer as issuer
import mesh.payment.credit.vetting as vetting
from mesh.payment.settlement.gateway import GatewaySettlement
accrue, eligible = issuer.VoucherIssuer.accrue, vetting.Vetting._is_eligible
issuer.VoucherIssuer.accrue = lambda self, peer, units: accrue(self, peer, {times} * units)
async def own(self, record):
    if not await eligible(self, record):
        return False
    domain = self._chain.domain
    return vetting.accept_binding(record.account, peer=record.peer, role="provider", domain=domain).id == {provider!r}
vetting.Vetting._is_eligible = own
post, posted = GatewaySettlement._post, []
async def once(self, step):
    if posted and step.epoch != posted[0]:
        return 0
    posted.append(step.epoch)
    return await post(self, step)
GatewaySettlement._post = once
"""
"""The gateway of a provider that pays itself: for `times` what was done, by one checkpoint, then by an omission."""

INCREMENT = CREDIT_TOKENS * PRICE
"""Wei that a developer's vouchers are ahead."""


def cost(tokens: int) -> int:
    """Wei of a request of ours."""
    return PRICE * weighted_tokens(PROMPT_TOKENS, tokens)


@dataclass(frozen=True)
class Split:
    """Where a fee goes by the chain's default parameters, in wei."""

    fee: int

    def _part(self, bps: int) -> int:
        return self.fee * bps // BPS

    @property
    def share(self) -> int:
        return self._part(1000)

    @property
    def burn(self) -> int:
        return self._part(500)

    @property
    def royalty(self) -> int:
        return self._part(ROYALTY_BPS)

    @property
    def net(self) -> int:
        """What a compensation pays the provider."""
        return self.fee - self.share - self.burn - self.royalty

    @property
    def emission(self) -> int:
        """The most that is minted."""
        return self.burn // 2

    @property
    def reward(self) -> int:
        """What a checkpoint pays the provider."""
        return self.net + self.emission

    @property
    def finder(self) -> int:
        """What a challenger gets of the penalty for leaving out this fee."""
        return self._part(1000)

    @property
    def bond(self) -> int:
        return self._part(1000)


async def worth(
    chain: DemoChain, people: Sequence[str], *, gateways: Sequence[str] = (), providers: Sequence[str] = ()
) -> int:
    """Wei that people own: wallets, deposits, what challenges brought; stakes, credit and rewards of their nodes."""
    total = 0
    async with chain.client() as client:
        for name in people:
            address = chain.accounts[name].address
            deposit = await client.escrow.deposit_of(address)
            total += deposit.free + sum(each.amount for each in deposit.reservations)
            total += await client.token.balance(address) + await client.settlement.payments_of(address)
        status = await client.epochs.status()
        last = status.epoch - status.reward_delay
        for name in gateways:
            gateway = await client.gateways.status(name)
            total += gateway.stake + gateway.credit - gateway.debt
            total += await client.gateways.view_rewards(name, 1, last) if last > 0 else 0
        for name in providers:
            total += (await client.providers.status(name)).stake
            total += await client.providers.view_rewards(name, 1, last) if last > 0 else 0
    return total


def tell(cheat: str, *, gain: int, loss: int, bound: str) -> None:
    """One line: what the cheat has more than with honest behaviour, and the honest parties less, in FUNC and in wei."""
    figures = f"gain {format_func(gain)} FUNC ({gain} wei) | honest loss {format_func(loss)} FUNC ({loss} wei)"
    print(f"\ncheat: {cheat} | {figures} | bound: {bound}")  # noqa: T201
