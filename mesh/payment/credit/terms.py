"""What both sides of a payment agree on, and the ports through which they see the chain."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from chain.primitives import checksummed
from chain.vouchers import Domain
from mesh.payment.credit.binding import Binding, Role, read_binding

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
class ProviderFacts:
    """What the chain says of an active provider: the key that signs its receipts, and its model."""

    signer: str
    model_id: int
    manifest: bytes


class ChainView(Protocol):
    """What the data path needs of the chain. Answers may be some seconds old; the epoch is the newest block's."""

    @property
    def domain(self) -> Domain:
        """Where vouchers and receipts count."""

    @property
    def epoch(self) -> int:
        """The current epoch."""

    async def check_gateway(self, binding: Binding) -> None:
        """Raises `NotAccepted` unless the gateway is active and the binding's address signs for it."""

    async def check_provider(self, binding: Binding) -> ProviderFacts:
        """Raises `NotAccepted` unless the provider is active and the binding's address signs for it."""
