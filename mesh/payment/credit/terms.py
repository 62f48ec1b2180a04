"""What both sides of a payment agree on, and the ports through which they see the chain."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from chain.primitives import checksummed
from chain.vouchers import Domain
from mesh.payment.credit.binding import Binding, Role, read_binding
from mesh.payment.credit.units import ModelPrice

CREDIT_TOKENS = 1024
PAUSE_SECONDS = 10.0
RECEIPT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class CreditTerms:
    """`tokens` (weighted) may be unpaid; then sessions pause, and after `pause_seconds` they are dropped.

    A receipt goes out when a quarter of the credit has been used since the last one, or after `receipt_seconds`.
    """

    tokens: int = CREDIT_TOKENS
    pause_seconds: float = PAUSE_SECONDS
    receipt_seconds: float = RECEIPT_SECONDS


class NotAccepted(Exception):
    """The chain does not bear out what a peer says of itself; the message says what is missing."""


def accept_binding(data: bytes, *, peer: str, role: Role, domain: Domain) -> Binding:
    """What `peer` presents, if it is a binding of that role on our deployment. Raises `BadRecord` or `NotAccepted`."""
    binding = read_binding(data, peer=peer, now=time.time())
    if binding.role != role:
        raise NotAccepted(f"the binding is not a {role}'s")
    if (binding.chain_id, binding.settlement) != (domain.chain_id, checksummed(domain.contract)):
        raise NotAccepted("the binding is for another chain or deployment")
    return binding


@dataclass(frozen=True, slots=True)
class GatewayFacts:
    """What the chain says of an eligible gateway: the key that signs for it in `epoch`."""

    signer: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """What the chain says of an eligible provider: the key that signs its receipts, and its model."""

    signer: str
    model_id: int
    manifest: bytes
    name: str
    """Of the model; nothing where the chain's is no text that can be shown."""


class ChainView(Protocol):
    """What the data path needs of the chain.

    Answers are of this epoch and at most some seconds old; when the chain does not answer, older ones stand a while.
    The epoch is the newest block's. What is asked raises `NotAccepted` when the chain does not answer for too long.
    """

    @property
    def domain(self) -> Domain:
        """Where vouchers and receipts count."""

    @property
    def epoch(self) -> int:
        """The current epoch."""

    async def check_gateway(self, binding: Binding) -> GatewayFacts:
        """Raises `NotAccepted` unless the gateway is eligible and the binding's address signs for it now."""

    async def check_provider(self, binding: Binding) -> ProviderFacts:
        """Raises `NotAccepted` unless the provider is eligible and the binding's address signs for it now."""

    async def gateway_signer(self, gateway: str, epoch: int) -> str:
        """The address that signs for a gateway in an epoch that has begun."""

    async def guarantee(self, gateway: str, provider: str, *, since: float = 0.0) -> int:
        """Wei of the gateway's stake that only this provider can take: its line, without what thaws.

        The chain was asked after `since` (`time.monotonic()`).
        """

    async def tariff(self, model_id: int, epoch: int) -> ModelPrice:
        """What work costs in an epoch, at most the next one: it is fixed by then."""
