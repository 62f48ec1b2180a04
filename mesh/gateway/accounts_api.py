"""The URLs of paying developers: terms, keys, account, payments."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, StringConstraints
from starlette.exceptions import HTTPException

from chain.primitives import checksummed
from chain.units import MAX_AMOUNT
from chain.vouchers import PaymentVoucher
from mesh.gateway.billing import Billing
from mesh.gateway.bodies import read_body
from mesh.gateway.callers import Caller, Holder
from mesh.gateway.connections import source_of
from mesh.gateway.edge import CLIENT_LEFT, ClientLeft, notes_of, parse_body, unless_disconnected
from mesh.gateway.errors import ApiError, ApiFailure, retry_after
from mesh.gateway.key_issuer import KeyIssuer
from mesh.gateway.service import Gateway
from mesh.payment.accounts.api_keys import KeyRequest
from mesh.payment.accounts.balance import STEPS_PER_INCREMENT
from mesh.payment.credit.units import CACHED_PER_PROMPT, W_GENERATED, W_PROMPT

MAX_BODY = 4096
BODY_SECONDS = 10.0
MAX_WAIT = 30
MAX_AGENTS = 16
"""Of one account, waiting for news at once."""
MAX_PRICES = 1000
PRICES_SECONDS = 3.0

AddressText = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{40}$")]
Bytes32Text = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{64}$")]
SignatureText = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{130}$")]
WeiText = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,38})$")]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class KeyBody(_Body):
    """`POST /mesh/keys`: see `KeyRequest` for what is signed."""

    payer: AddressText
    gateway: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    chain_id: int
    escrow: AddressText
    issued: int
    nonce: Bytes32Text
    signature: SignatureText


class PaymentBody(_Body):
    """`POST /mesh/payments`: an EIP-712 PaymentVoucher; `gateway` is the hash of the gateway's id."""

    payer: AddressText
    gateway: Bytes32Text
    cumulative_amount: WeiText
    signature: SignatureText


def open_routes(gateway: Gateway, billing: Billing) -> APIRouter:
    """What needs no key: the terms, and making one."""
    router = APIRouter(prefix="/mesh", redirect_slashes=False)
    issuer = KeyIssuer(billing)

    @router.get("/terms", response_model=None)
    async def terms() -> dict[str, Any]:
        return {"object": "mesh.terms", **await terms_json(gateway, billing)}

    @router.post("/keys", response_model=None)
    async def make_key(request: Request) -> dict[str, Any]:
        body = await _read(request, KeyBody)
        asked = KeyRequest(
            payer=_bytes(body.payer),
            gateway=body.gateway,
            chain_id=body.chain_id,
            escrow=_bytes(body.escrow),
            issued=body.issued,
            nonce=_bytes(body.nonce),
        )
        source = source_of(None if request.client is None else request.client.host)
        key = await issuer.issue(asked, _bytes(body.signature), source)
        return {"object": "mesh.key", "key": key, "payer": checksummed(asked.payer), "gateway": billing.gateway_id}

    return router


def key_routes(gateway: Gateway, billing: Billing) -> APIRouter:
    """What needs an account's key."""
    router = APIRouter(prefix="/mesh", redirect_slashes=False)

    @router.get("/account", response_model=None)
    async def account(request: Request) -> dict[str, Any]:
        """The account; with `wait` (seconds), not before more than `spent` and `pending` make a voucher due."""
        caller = _caller(request, billing)
        holder = caller.holder
        wait, spent = _number(request, "wait", MAX_WAIT), _number(request, "spent", MAX_AMOUNT)
        pending = _number(request, "pending", MAX_AMOUNT, absent=MAX_AMOUNT)
        if wait:
            if holder.agents >= MAX_AGENTS:
                raise ApiFailure(
                    ApiError(429, f"{MAX_AGENTS} agents wait already.", "rate_limit_error", headers=retry_after(wait))
                )
            holder.agents += 1
            try:
                increment = await _increment(gateway, billing)
                news = _until_due(holder, spent, pending, increment // (2 * STEPS_PER_INCREMENT), wait)
                await unless_disconnected(request.receive, news)
            except ClientLeft:
                notes_of(request.scope).status = CLIENT_LEFT
                return {}
            finally:
                holder.agents -= 1
                billing.saw_agent(holder)
        await billing.refresh(holder)
        return await account_json(gateway, billing, caller)

    @router.post("/payments", response_model=None)
    async def pay(request: Request) -> dict[str, Any]:
        caller = _caller(request, billing)
        body = await _read(request, PaymentBody)
        amount = int(body.cumulative_amount)
        voucher = PaymentVoucher(_bytes(body.payer), _bytes(body.gateway), min(amount, MAX_AMOUNT + 1))
        await billing.pay(caller, voucher, _bytes(body.signature))
        return await account_json(gateway, billing, caller)

    @router.post("/keys/revoke", response_model=None)
    async def revoke(request: Request) -> dict[str, Any]:
        """The key with which this is asked opens nothing from now on."""
        await billing.revoke_key(_caller(request, billing))
        return {"object": "mesh.key", "revoked": True}

    return router


async def terms_json(gateway: Gateway, billing: Billing) -> dict[str, Any]:
    """Who is paid, on which chain, for what. Amounts are decimal strings of wei."""
    config = billing.config
    return {
        "gateway": billing.gateway_id,
        "gateway_key": "0x" + billing.gateway_key.hex(),
        "chain_id": billing.domain.chain_id,
        "escrow": checksummed(billing.domain.contract),
        "increment_tokens": config.increment_tokens,
        "increment": str(await _increment(gateway, billing)),
        "weights": {"prompt": W_PROMPT, "generated": W_GENERATED, "cached_per_prompt": CACHED_PER_PROMPT},
        "prices": {name: str(price) for name, price in (await _prices(gateway, billing)).items()},
        "pause_seconds": config.pause_seconds,
        "requests_per_minute": config.requests_per_minute,
        "tokens_per_minute": config.tokens_per_minute,
        "reserve_deposit": None if config.reserve_deposit is None else str(config.reserve_deposit),
    }


async def account_json(gateway: Gateway, billing: Billing, caller: Caller) -> dict[str, Any]:
    """The account of a key. `spent` is what was handed out; `charged` adds what running requests hold ahead of it.

    `pending` is what requests need before their first token: credit for it is reserved, or waited for.
    """
    account, backing = caller.holder.account, caller.holder.backing
    return {
        "object": "mesh.account",
        "payer": checksummed(account.payer),
        "signed": str(account.signed),
        "voucher_signature": None if caller.holder.signature is None else "0x" + caller.holder.signature.hex(),
        "charged": str(account.charged),
        "spent": str(account.spent),
        "pending": str(caller.holder.pending),
        "credit": str(account.credit),
        "deposit": str(backing.total),
        "available": str(backing.available),
        "redeemed": str(backing.redeemed),
        "running_requests": len(account.running),
        "waiting_requests": caller.holder.waiting,
        "reserved_sessions": gateway.places.reserved.get(account.payer, 0),
        **await terms_json(gateway, billing),
    }


async def _until_due(holder: Holder, spent: int, pending: int, step: int, seconds: float) -> None:
    """Return when `step` wei more than `spent` are spent; or while a request is short of credit, when anything more is
    spent, or more than `pending` is pending."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        more = holder.account.spent - spent
        if more < 0 or more >= max(1, step) or (holder.waiting and (more > 0 or holder.pending > pending)):
            return
        left = deadline - loop.time()
        if left <= 0 or not await holder.changed.wait(left):
            return


async def _increment(gateway: Gateway, billing: Billing) -> int:
    """Wei of K weighted tokens of the dearest model that is offered now."""
    prices = await _prices(gateway, billing)
    return billing.config.increment_tokens * max(prices.values(), default=0)


async def _prices(gateway: Gateway, billing: Billing) -> Mapping[str, int]:
    """Prices of what the swarm serves, by name (the higher one where a name has two); looked up every few seconds."""
    at, known = billing.price_list
    now = time.monotonic()
    if now - at < PRICES_SECONDS:
        return known
    found: dict[str, int] = {}
    for info in (await gateway.models())[:MAX_PRICES]:
        tariff = await billing.tariff(info.name, info.digest)
        if tariff is not None:
            found[info.name] = max(tariff.price, found.get(info.name, 0))
    billing.price_list = (now, found)
    return found


def _caller(request: Request, billing: Billing) -> Caller:
    caller = notes_of(request.scope).caller
    if caller is None:
        raise HTTPException(403, "This API key has no account: it is the operator's own.")
    billing.limit(caller.calls, 1, "looks at its account and vouchers")
    return caller


async def _read(request: Request, schema: type[Any]) -> Any:
    body = await read_body(request.scope, request.receive, limit=MAX_BODY, timeout=BODY_SECONDS)
    return parse_body(schema, body)


def _number(request: Request, name: str, most: int, *, absent: int = 0) -> int:
    """A whole number of the query, `absent` where it is missing. Raises `ApiFailure`."""
    text = request.query_params.get(name, str(absent))
    if not (text.isascii() and text.isdigit() and len(text) < 40 and int(text) <= most):
        raise ApiFailure(ApiError(400, f"{name}: a whole number up to {most}", param=name, code="invalid_value"))
    return int(text)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])
