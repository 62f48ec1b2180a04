"""Developers' accounts at a gateway: their API keys, vouchers, deposits and places. What a request costs is `bill`."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from eth_utils import to_canonical_address

from chain.primitives import Address, Bytes32, checksummed, key_of
from chain.units import format_func
from chain.vouchers import Domain, PaymentVoucher, SignatureError, digest, recover
from mesh.errors import StorageUnavailable
from mesh.gateway.callers import Caller, Holder
from mesh.gateway.errors import ApiError, ApiFailure, retry_after
from mesh.payment.accounts.api_keys import hash_key
from mesh.payment.accounts.balance import Account, Tariff, VoucherRefused
from mesh.payment.accounts.limits import Places, TokenBucket
from mesh.payment.accounts.ports import Backing, EscrowView, PriceSource, Unavailable
from mesh.payment.accounts.store import AccountStore
from mesh.payment.facts import Silence

if TYPE_CHECKING:
    from chain.client.staking import StakingClient
    from mesh.client.types import ModelInfo

T = TypeVar("T")

LATE_SECONDS = 0.5
"""Between two tries to write down what a full disk did not take."""


@dataclass(frozen=True, slots=True)
class BillingConfig:
    """What a gateway's operator can set. Times in seconds, amounts in wei, limits for each key."""

    increment_tokens: int = 1024
    """K: weighted tokens that a voucher is ahead of what is spent, and the most that either side risks."""
    pause_seconds: float = 5.0
    """How long a stream whose credit is used up waits for a newer voucher."""
    requests_per_minute: float = 600.0
    tokens_per_minute: float = 1_000_000.0
    """Prompt and generated tokens, each counted once."""
    reserve_deposit: int | None = None
    """A deposit of so much keeps places free for its account; None: nobody's does."""
    reserve_sessions: int = 4
    """Requests that such an account can have answered at once whatever the others do."""
    reservable_share: float = 0.75
    """Most of the gateway's places that may be kept free so."""
    max_waiting: int = 64
    """Requests of one account that may wait for credit."""
    max_keys: int = 16
    """Keys of one account."""
    key_requests_per_minute: float = 30.0
    """Requests for keys of one payer."""
    failed_key_requests_per_minute: float = 30.0
    """Requests for keys from one address that make us ask the chain about a stranger, and come to nothing."""
    account_calls_per_minute: float = 6000.0
    """Looks at the account and vouchers."""

    def __post_init__(self) -> None:
        counts = (self.increment_tokens, self.reserve_sessions, self.max_waiting, self.max_keys)
        rates = (
            self.requests_per_minute,
            self.tokens_per_minute,
            self.key_requests_per_minute,
            self.failed_key_requests_per_minute,
            self.account_calls_per_minute,
        )
        if min(counts) < 1 or min(self.pause_seconds, *rates) <= 0:
            raise ValueError("every limit of billing must be positive")
        if self.increment_tokens < 16:
            raise ValueError("an increment has at least 16 weighted tokens: four generated ones")
        if not 0 <= self.reservable_share < 1:
            raise ValueError("some places must stay shared")


class Billing:
    """All accounts of one gateway. `async with` it; it closes its ports and the store at the end.

    `domain` names the chain and the Escrow contract whose vouchers are taken. Errors are `ApiFailure`s, for the caller.
    """

    def __init__(
        self,
        config: BillingConfig,
        gateway_id: str,
        domain: Domain,
        prices: PriceSource,
        escrow: EscrowView,
        store: AccountStore,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.gateway_id = gateway_id
        self.gateway_key = key_of(gateway_id)
        self.domain = domain
        self.prices = prices
        self.escrow = escrow
        self.store = store
        self.clock = clock
        self.places: Places | None = None
        """Of the app that this is given to."""
        self.price_list: tuple[float, Mapping[str, int]] = (-float("inf"), {})
        """When (monotonic) the prices were last looked up, and what they were."""
        self._holders: dict[Address, Holder] = {}
        self._callers: dict[bytes, Caller] = {}
        # One thread: writes reach the disk in the order in which they were decided.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="accounts")
        self._late: deque[Callable[[], object]] = deque()
        """Ends of requests that the disk has not taken, in order."""
        self._catching_up: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.prices.close()
        await self.escrow.close()
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.wait({self._catching_up})
            with suppress(StorageUnavailable):  # else the next start ends them, as after a crash
                await self._write_late()
        await asyncio.to_thread(self._writer.shutdown, wait=True)
        self.store.close()

    def write(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> asyncio.Future[T]:
        """Call the store from its thread. Queued at once: it will be written even if nobody awaits it."""
        return asyncio.get_running_loop().run_in_executor(self._writer, functools.partial(function, *args, **kwargs))

    def write_late(self, function: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """Call the store once the disk takes something again. If we die before, a start ends it as after a crash."""
        self._late.append(functools.partial(function, *args, **kwargs))
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.create_task(self._catch_up(), name="late writes")

    async def _catch_up(self) -> None:
        while self._late:
            await asyncio.sleep(LATE_SECONDS)
            with suppress(StorageUnavailable):
                await self._write_late()

    async def _write_late(self) -> None:
        while self._late:
            await self.write(self._late[0])
            self._late.popleft()

    # --- keys ---

    def caller(self, key: str) -> Caller | None:
        """Who calls with this API key."""
        key_hash = hash_key(key)
        if key_hash not in self._callers:
            payer = self.store.payer_of(key_hash)
            holder = None if payer is None else self._holder(payer)
            if holder is None:
                return None
            limits = self.config
            self._callers[key_hash] = Caller(
                key_hash,
                holder,
                TokenBucket(limits.requests_per_minute),
                TokenBucket(limits.tokens_per_minute),
                TokenBucket(limits.account_calls_per_minute),
            )
        return self._callers[key_hash]

    def knows(self, payer: Address) -> bool:
        """Whether this payer has an account here."""
        return self._holder(payer) is not None

    async def revoke_key(self, caller: Caller) -> None:
        """The key opens nothing any more; what it runs goes on."""
        await self.write(self.store.revoke_key, caller.key_hash)
        self._callers.pop(caller.key_hash, None)

    # --- vouchers ---

    async def pay(self, caller: Caller, voucher: PaymentVoucher, signature: bytes) -> None:
        """Take a voucher. Raises `ApiFailure`."""
        if voucher.payer != caller.payer or voucher.gateway != self.gateway_key:
            raise refused(400, "foreign_voucher", "The voucher is not this account's, or for another gateway.")
        await self.check_authorised(voucher.payer, self.signer_of(digest(self.domain, voucher), signature))
        # Shielded: once it is being written down it must count, whether or not the client waits for the answer.
        await asyncio.shield(self._accept(caller.holder, voucher, signature))

    async def _accept(self, holder: Holder, voucher: PaymentVoucher, signature: bytes) -> None:
        async with holder.vouchers:
            backing = await self.refresh(holder)
            try:
                holder.account.check_voucher(voucher.cumulative_amount, backing.total)
            except VoucherRefused as error:
                raise refused(409 if error.code == "voucher_not_higher" else 402, error.code, str(error)) from None
            await self.write(self.store.put_voucher, voucher, signature)
            holder.account.accept(voucher.cumulative_amount)
            holder.signature = signature
            self.saw_agent(holder)
            holder.changed.fire()

    def signer_of(self, signed: Bytes32, signature: bytes) -> Address:
        """Whose key signed this. Raises `ApiFailure` (400)."""
        try:
            return recover(signed, signature)
        except SignatureError as error:
            raise refused(400, "invalid_signature", f"The signature is not valid: {error}.") from None

    async def check_authorised(self, payer: Address, signer: Address) -> None:
        """Raises `ApiFailure` unless `signer` may sign for `payer`."""
        if signer != payer and not await self._ask(self.escrow.may_sign(payer, signer)):
            raise refused(403, "foreign_signer", f"{checksummed(signer)} may not sign for {checksummed(payer)}.")

    # --- what the chain says ---

    async def refresh(self, holder: Holder) -> Backing:
        """Look at the deposit again (a few seconds old at most). Raises `ApiFailure` when the chain cannot be asked."""
        account = holder.account
        holder.backing = await self.deposit_of(account.payer)
        account.backing = holder.backing.total
        if (redeemed := holder.backing.redeemed) > account.signed:
            # Our books are older than what we redeemed: what was signed for that is used up.
            await self.write(self.store.catch_up, account.payer, redeemed)
            account.signed, account.charged = redeemed, max(account.charged, redeemed)
            holder.signature = None
        if self.places is not None and self.config.reserve_deposit is not None:
            enough = holder.backing.available >= self.config.reserve_deposit
            self.places.reserve(account.payer, self.config.reserve_sessions if enough else 0)
        return holder.backing

    async def deposit_of(self, payer: Address) -> Backing:
        """What backs a payer's vouchers (a few seconds old at most). Raises `ApiFailure`."""
        backing: Backing = await self._ask(self.escrow.deposit_of(payer))
        return backing

    async def tariff_of(self, model: ModelInfo, *, ahead: int = 0) -> Tariff:
        """What a model costs in this epoch, or `ahead` epochs from now (at most two).

        Raises `ApiFailure` where it is not for sale, or the chain cannot be asked.
        """
        tariff = await self.tariff(model.name, model.digest, ahead=ahead)
        if tariff is None:
            message = f"The model {model.name!r} has no price on the gateway's chain."
            raise ApiFailure(ApiError(404, message, param="model", code="model_not_priced"))
        return tariff

    async def tariff(self, name: str, digest: str, *, ahead: int = 0) -> Tariff | None:
        """As `tariff_of`, but None for a model that is not for sale."""
        epoch: int = await self._ask(self.prices.epoch())
        price = await self._ask(self.prices.price_of(name, digest, epoch + ahead))
        return None if price is None else Tariff(price, self.config.increment_tokens)

    # --- credit ---

    async def await_credit(self, holder: Holder, least: int, *, patient: bool | None = None) -> None:
        """Return when there may be `least` wei of credit.

        Raises `ApiFailure`: 402 when nobody pays in time (at once without a payer's agent, unless `patient`), 429
        where too many requests of the account wait already.
        """
        if holder.account.credit >= least:
            return
        if holder.waiting >= self.config.max_waiting:
            message = f"{holder.waiting} requests of this account wait for credit already."
            raise ApiFailure(
                ApiError(429, message, "rate_limit_error", code="rate_limit_exceeded", headers=retry_after(1.0))
            )
        loop = asyncio.get_running_loop()
        waits = self.has_agent(holder) if patient is None else patient
        deadline = loop.time() + (self.config.pause_seconds if waits else 0.0)
        holder.waiting += 1
        holder.wanted += least
        try:
            holder.changed.fire()  # for the payer's agent: somebody is short
            while holder.account.credit < least:
                left = deadline - loop.time()
                if left <= 0 or not await holder.changed.wait(left):
                    raise insufficient(shortage(holder.account, least))
                await self.refresh(holder)
        finally:
            holder.waiting -= 1
            holder.wanted -= least

    async def _ask(self, question: Any) -> Any:
        try:
            return await question
        except Unavailable as error:
            message = f"The gateway cannot reach its chain: {error}."
            raise ApiFailure(
                ApiError(503, message, "server_error", code="chain_unavailable", headers=retry_after(5.0))
            ) from error

    # --- who is there ---

    async def admit(self, caller: Caller) -> None:
        """Count a request against its key's limit, and see what its deposit reserves. Raises `ApiFailure`."""
        self.limit(caller.requests, 1, "requests")
        await self.refresh(caller.holder)

    def limit(self, bucket: TokenBucket, amount: int, what: str, who: str = "This key", *, draw: bool = True) -> None:
        """Draw from a bucket, or only look with `draw` False. Raises `ApiFailure` (429) where it has less."""
        wait = bucket.wait(amount, time.monotonic())
        if wait > 0:
            message = f"{who} may use {bucket.per_minute:g} {what} a minute."
            raise ApiFailure(
                ApiError(429, message, "rate_limit_error", code="rate_limit_exceeded", headers=retry_after(wait))
            )
        if draw:
            self.draw(bucket, amount)

    def draw(self, bucket: TokenBucket, amount: int) -> None:
        bucket.draw(amount, time.monotonic())

    def saw_agent(self, holder: Holder) -> None:
        holder.agent_seen = time.monotonic()

    def has_agent(self, holder: Holder) -> bool:
        """Whether somebody may be about to pay: then a new request waits too, instead of being refused at once."""
        return holder.agents > 0 or time.monotonic() - holder.agent_seen < self.config.pause_seconds

    def _holder(self, payer: Address) -> Holder | None:
        if payer not in self._holders:
            account = self.store.account(payer)
            if account is None:
                return None
            self._holders[payer] = Holder(account, self.store.signature(payer))
        return self._holders[payer]


def insufficient(message: str) -> ApiFailure:
    """402 in OpenAI's shape."""
    return ApiFailure(ApiError(402, message, "insufficient_funds", code="insufficient_funds"))


def shortage(account: Account, least: int) -> str:
    """Why there are not `least` wei of credit, for the developer."""
    if account.backing < account.signed:
        return (
            f"The vouchers promise {format_func(account.signed)} FUNC, but the escrow holds only "
            f"{format_func(account.backing)} for this gateway: reserve more (`mesh escrow reserve`)."
        )
    return (
        f"The credit is used up: vouchers over {format_func(account.signed)} FUNC, of which "
        f"{format_func(account.charged)} are charged; {format_func(least)} more are needed. "
        "POST a higher voucher to /mesh/payments, or run `mesh pay`."
    )


def refused(status: int, code: str, message: str) -> ApiFailure:
    """An answer with this status and code."""
    return ApiFailure(ApiError(status, message, code=code))


def billing_for(
    config: BillingConfig,
    client: StakingClient,
    store_path: Path | None,
    gateway_id: str,
) -> Billing:
    """Billing over a connected client; `async with` it, and it closes its store. Raises `ConfigError`."""
    from mesh.payment.accounts.onchain import ChainEscrow, ChainPrices

    domain = Domain(client.deployment.chain_id, to_canonical_address(client.deployment.address("Escrow")))
    store = AccountStore(store_path, gateway_id)
    silence = Silence()
    return Billing(
        config,
        gateway_id,
        domain,
        ChainPrices(client, silence=silence),
        ChainEscrow(client, gateway_id, silence=silence),
        store,
    )
