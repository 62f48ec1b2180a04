"""A gateway that is paid, over the in-memory backend and an in-memory chain; and a developer who pays by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI

from chain.primitives import Address, checksummed, key_of
from chain.vouchers import Domain, PaymentVoucher, digest
from chain.wallet import Account
from mesh.gateway.app import create_app
from mesh.gateway.billing import Billing, BillingConfig
from mesh.gateway.config import GatewayConfig
from mesh.payment.accounts.api_keys import KeyRequest
from mesh.payment.accounts.ports import Backing, Unavailable
from mesh.payment.accounts.store import AccountStore
from tests.mesh.gateway.conftest import models, serve_app
from tests.mesh.gateway.echo_backend import EchoBackend

GATEWAY = "gateway-1"
DOMAIN = Domain(31337, b"\x0e" * 20)
PRICE = 10**12
K = 64
ANN, BOB, EVE = (Account(bytes([number]) * 32) for number in (1, 2, 3))


@dataclass
class MemoryChain:
    """Implements `PriceSource` and `EscrowView`."""

    prices: dict[str, int] = field(default_factory=dict)
    deposits: dict[Address, Backing] = field(default_factory=dict)
    signers: set[tuple[Address, Address]] = field(default_factory=set)
    down: bool = False
    now: int = 1
    """The epoch."""
    changes: dict[tuple[str, int], int] = field(default_factory=dict)
    """Prices that are in force from an epoch on."""

    async def epoch(self) -> int:
        self._check()
        return self.now

    async def price_of(self, name: str, digest: str, epoch: int) -> int | None:
        self._check()
        changed = [price for (model, first), price in sorted(self.changes.items()) if model == name and first <= epoch]
        return changed[-1] if changed and name in self.prices else self.prices.get(name)

    async def deposit_of(self, payer: Address) -> Backing:
        self._check()
        return self.deposits.get(payer, Backing(0, 0))

    async def may_sign(self, payer: Address, signer: Address) -> bool:
        self._check()
        return (payer, signer) in self.signers

    async def close(self) -> None:
        pass

    def _check(self) -> None:
        if self.down:
            raise Unavailable("no node")

    def deposit(self, account: Account, wei: int) -> None:
        self.deposits[account.canonical] = Backing(wei, 0)


@dataclass
class Paid:
    """A running gateway."""

    url: str
    backend: EchoBackend
    chain: MemoryChain
    billing: Billing
    domain: Domain = DOMAIN

    def http(self, key: str | None = None) -> httpx.Client:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, timeout=30, headers=headers)

    def openai(self, key: str) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30)

    def key_request(self, account: Account, payer: Address | None = None, **changes: Any) -> dict[str, Any]:
        """The body for POST /mesh/keys."""
        values: dict[str, Any] = {
            "payer": payer or account.canonical,
            "gateway": GATEWAY,
            "chain_id": self.domain.chain_id,
            "escrow": self.domain.contract,
            "issued": int(time.time()),
            "nonce": time.time_ns().to_bytes(32, "big"),
            **changes,
        }
        request = KeyRequest(**values)
        return {
            "payer": checksummed(request.payer),
            "gateway": request.gateway,
            "chain_id": request.chain_id,
            "escrow": checksummed(request.escrow),
            "issued": request.issued,
            "nonce": "0x" + request.nonce.hex(),
            "signature": "0x" + account.sign_digest(request.digest()).hex(),
        }

    def key(self, account: Account = ANN, payer: Address | None = None) -> str:
        with self.http() as http:
            answer = http.post("/mesh/keys", json=self.key_request(account, payer))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["key"])

    def voucher(self, amount: int, signer: Account = ANN, **changes: Any) -> dict[str, Any]:
        """The body for POST /mesh/payments."""
        domain = changes.pop("domain", self.domain)
        values: dict[str, Any] = {"payer": signer.canonical, "gateway": key_of(GATEWAY), **changes}
        voucher = PaymentVoucher(values["payer"], values["gateway"], amount)
        return {
            "payer": checksummed(voucher.payer),
            "gateway": "0x" + voucher.gateway.hex(),
            "cumulative_amount": str(amount),
            "signature": "0x" + signer.sign_digest(digest(domain, voucher)).hex(),
        }

    def pay(self, key: str, amount: int, signer: Account = ANN, **changes: Any) -> httpx.Response:
        with self.http(key) as http:
            return http.post("/mesh/payments", json=self.voucher(amount, signer, **changes))

    def account(self, key: str) -> dict[str, Any]:
        with self.http(key) as http:
            answer = http.get("/mesh/account")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@contextmanager
def serving_paid(
    path: Path | None = None,
    config: BillingConfig | None = None,
    gateway: GatewayConfig | None = None,
    *,
    chain: MemoryChain | None = None,
) -> Iterator[Paid]:
    """Serve a gateway with billing in a thread of its own."""
    backend = EchoBackend(models())
    known = chain or MemoryChain(dict.fromkeys(models(), PRICE), {ANN.canonical: Backing(10**18, 0)})
    billing = Billing(
        config or BillingConfig(increment_tokens=K, pause_seconds=0.3),
        GATEWAY,
        DOMAIN,
        known,
        known,
        AccountStore(path, GATEWAY),
    )
    app = create_app(backend, gateway or GatewayConfig(), billing)
    with serve_app(app, around=billing) as url:
        yield Paid(url, backend, known, billing)


__all__ = ["ANN", "BOB", "EVE", "GATEWAY", "PRICE", "MemoryChain", "Paid", "serving_paid"]
