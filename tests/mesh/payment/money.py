"""The in-memory twin of the chain's view, and providers and gateways with accounts on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from chain.primitives import checksummed
from chain.vouchers import Domain
from chain.wallet import Account
from mesh.identity import Identity
from mesh.payment.credit.binding import Binding, sign_binding
from mesh.payment.credit.collector import VoucherCollector
from mesh.payment.credit.issuer import VoucherIssuer
from mesh.payment.credit.store import PaymentJournal
from mesh.payment.credit.terms import CreditTerms, GatewayFacts, NotAccepted, ProviderFacts
from mesh.payment.credit.units import ModelPrice
from shards.model.span import Span

DOMAIN = Domain(31337, bytes(range(20)))
MODEL_ID = 5
MODEL_NAME = "tiny"
BLOCKS = 5
PRICE = 10**12
THREE = (Span(0, 2), Span(2, 4), Span(4, 5))


@dataclass
class MemoryChain:
    """`mesh.payment.credit.terms.ChainView`: what tests write into it is what the chain says."""

    domain: Domain = DOMAIN
    epoch: int = 7
    gateways: dict[str, str] = field(default_factory=dict)
    """Eligible gateways and their signers."""
    providers: dict[str, ProviderFacts] = field(default_factory=dict)
    signers: dict[tuple[str, int], str] = field(default_factory=dict)
    """Signers of gateways in other epochs, where they are not those of now."""
    lines: dict[tuple[str, str], int] = field(default_factory=dict)
    """Wei that a gateway guarantees to a provider."""
    line: int = 10**24
    """Of those that are not in `lines`."""
    prices: dict[int, int] = field(default_factory=dict)
    """Of a weighted token, by the epoch from which it holds."""
    blocks: int = BLOCKS
    barred: set[str] = field(default_factory=set)
    """Ids that are not eligible any more, though registered."""
    silent: bool = False
    """It does not answer, and nothing is known from before."""

    async def check_gateway(self, binding: Binding) -> GatewayFacts:
        self._ask()
        if binding.id in self.barred or self.gateways.get(binding.id) != binding.address:
            raise NotAccepted(f"gateway {binding.id!r} is not eligible, or another key signs for it")
        return GatewayFacts(binding.address, self.epoch)

    async def check_provider(self, binding: Binding) -> ProviderFacts:
        self._ask()
        facts = self.providers.get(binding.id)
        if binding.id in self.barred or facts is None or facts.signer != binding.address:
            raise NotAccepted(f"provider {binding.id!r} is not eligible, or another key signs for it")
        return facts

    async def gateway_signer(self, gateway: str, epoch: int) -> str:
        self._ask()
        return self.signers.get((gateway, epoch), self.gateways.get(gateway, ""))

    async def guarantee(self, gateway: str, provider: str, *, since: float = 0.0) -> int:
        self._ask()
        return self.lines.get((gateway, provider), self.line)

    async def tariff(self, model_id: int, epoch: int) -> ModelPrice:
        self._ask()
        return self.tariff_in(epoch)

    def tariff_in(self, epoch: int) -> ModelPrice:
        """What a weighted token costs in an epoch."""
        since = max((first for first in self.prices if first <= epoch), default=None)
        return ModelPrice(PRICE if since is None else self.prices[since], self.blocks)

    def _ask(self) -> None:
        if self.silent:
            raise NotAccepted("the chain does not answer")


@dataclass(frozen=True)
class PaidProvider:
    """A provider's account and books."""

    account: Account
    journal: PaymentJournal
    collector: VoucherCollector
    binding: bytes


@dataclass
class Money:
    """Makes paid members of a swarm."""

    chain: MemoryChain = field(default_factory=MemoryChain)
    terms: CreditTerms = field(default_factory=lambda: CreditTerms(tokens=64, pause_seconds=1.0, receipt_seconds=0.02))
    journals: dict[str, PaymentJournal] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)

    def journal(self, name: str) -> PaymentJournal:
        return self.journals.setdefault(name, PaymentJournal(None))

    def account(self, name: str) -> Account:
        return self.accounts.setdefault(name, Account.create())

    def provider(
        self, identity: Identity, name: str, digest: str, blocks: int, *, model: str = MODEL_NAME
    ) -> PaidProvider:
        account, journal = self.account(name), self.journal(name)
        self.chain.providers[name] = ProviderFacts(account.address, MODEL_ID, bytes.fromhex(digest), model)
        collector = VoucherCollector(
            provider=name,
            model_id=MODEL_ID,
            blocks=blocks,
            identity=identity,
            account=account,
            journal=journal,
            chain=self.chain,
            terms=self.terms,
        )
        return PaidProvider(account, journal, collector, bind("provider", name, identity, account))

    def gateway(self, identity: Identity, name: str) -> Callable[[asyncio.TaskGroup], VoucherIssuer]:
        account, journal = self.account(name), self.journal(name)
        self.chain.gateways[name] = account.address
        return lambda tasks: VoucherIssuer(
            gateway=name,
            binding=lambda: bind("gateway", name, identity, account),
            account=account,
            journal=journal,
            chain=self.chain,
            tasks=tasks,
        )


def bind(role: str, name: str, identity: Identity, account: Account, *, seconds: float = 3600.0) -> bytes:
    """A binding on the tests' chain."""
    assert role in ("provider", "gateway")
    binding = Binding(
        "provider" if role == "provider" else "gateway",
        name,
        DOMAIN.chain_id,
        checksummed(DOMAIN.contract),
        account.address,
        identity.peer_id,
        int(time.time() + seconds),
    )
    return sign_binding(binding, identity, account)
