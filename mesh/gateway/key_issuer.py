"""Makes API keys. What a request costs us falls on the payer that signed it, or on its source address.

Anybody may send a request for a key, so nothing that others need is used up before the signature has been recovered
(40 µs). A payer that is known here and signed itself draws from its own bucket only. For all others the chain must be
asked; that waits in a short queue, and those in which the chain sees nothing count against their source.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chain.primitives import Address
from mesh.gateway.billing import Billing, insufficient, refused
from mesh.gateway.errors import ApiFailure
from mesh.gateway.rate_limits import Buckets, CheckQueue
from mesh.payment.accounts.api_keys import KEY_RANDOM_BYTES, KeyRequest, hash_key, make_key
from mesh.payment.accounts.ports import Backing
from mesh.payment.accounts.store import KeyRefused


class KeyIssuer:
    """The keys of one gateway's accounts. Errors are `ApiFailure`s, for the caller."""

    def __init__(self, billing: Billing, queue: CheckQueue | None = None) -> None:
        self._billing = billing
        self._queue = queue or CheckQueue()
        self._by_payer: Buckets[Address] = Buckets(billing.config.key_requests_per_minute)
        self._failed: Buckets[str] = Buckets(billing.config.failed_key_requests_per_minute)

    async def issue(self, request: KeyRequest, signature: bytes, source: str) -> str:
        """A new API key, told this once; `source` is where the request came from. Raises `ApiFailure`."""
        billing = self._billing
        here = (billing.gateway_id, billing.domain.chain_id, billing.domain.contract)
        if (request.gateway, request.chain_id, request.escrow) != here:
            raise refused(400, "wrong_gateway", "The request names another gateway, chain or escrow.")
        now = billing.clock()
        if not request.is_current(now):
            message = f"The request is of {request.issued} (Unix time), the gateway's clock says {int(now)}."
            raise refused(400, "request_expired", message)
        asked = request.digest()
        signer = billing.signer_of(asked, signature)
        if billing.store.is_used(asked):  # before anything is drawn: others may have seen it
            raise refused(409, "key_refused", "This request was used before: sign a new one.")
        if signer == request.payer and billing.knows(request.payer):
            self._count(request.payer)
            backing = await self._backing(request.payer)
        else:
            async with self._newcomer(source):
                await billing.check_authorised(request.payer, signer)
                backing = await self._backing(request.payer)
            self._count(request.payer)
        key = make_key(secrets.token_bytes(KEY_RANDOM_BYTES))
        try:
            await billing.write(
                billing.store.add_key,
                hash_key(key),
                request.payer,
                asked,
                issued=request.issued,
                now=int(now),
                redeemed=backing.redeemed,
                most=billing.config.max_keys,
            )
        except KeyRefused as error:
            raise refused(409, "key_refused", str(error)) from None
        return key

    async def _backing(self, payer: Address) -> Backing:
        backing = await self._billing.deposit_of(payer)
        if not backing.total:
            raise insufficient("This payer has no deposit in the escrow: make one first.")
        return backing

    def _count(self, payer: Address) -> None:
        self._billing.limit(self._by_payer.of(payer), 1, "requests for keys", "This payer")

    @asynccontextmanager
    async def _newcomer(self, source: str) -> AsyncIterator[None]:
        """Ask the chain about a payer that we do not know; what comes to nothing counts against its source."""
        failed = self._failed.of(source)
        self._billing.limit(failed, 1, "requests for keys that come to nothing", "This address", draw=False)
        async with self._queue.turn(source):
            try:
                yield
            except ApiFailure as failure:
                if failure.error.status < 500:  # else the chain could not be asked
                    self._billing.draw(failed, 1)
                raise
