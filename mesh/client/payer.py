"""The payer's agent: keeps a developer's vouchers one increment ahead of what a gateway has handed out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from chain.primitives import Address, checksummed
from chain.vouchers import Domain, PaymentVoucher
from chain.wallet import Account
from mesh.client.gateway_http import AccountState, GatewayHttp, check_terms
from mesh.client.payer_store import PayerStore
from mesh.errors import ConfigError, PaymentRefused, PeerTimeout, PeerUnreachable
from mesh.payment.accounts.balance import next_voucher

log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 5
RETRY_SECONDS: Final = (0.2, 5.0)


@dataclass(frozen=True, slots=True)
class Paid:
    """How it stands, in wei. `limit` is the most that may be signed (cumulative), None without a budget."""

    gateway: str
    payer: Address
    signed: int
    """Highest voucher that the gateway holds."""
    promised: int
    """Highest amount that we ever signed for it: all that it can ever have of the deposit."""
    spent: int
    """What it has handed out for that, as it says."""
    used: int
    """The part of `spent` since this agent began."""
    credit: int
    deposit: int
    limit: int | None
    reachable: bool = True

    @property
    def exhausted(self) -> bool:
        """Nothing more will be signed: the budget or the deposit is used up."""
        most = self.deposit if self.limit is None else min(self.deposit, self.limit)
        return self.signed >= most


class Payer:
    """Pays one gateway from one deposit for as long as it is open, beside any client that uses the API key.

        async with Payer("http://127.0.0.1:8000", "sk-mesh-…", account, budget=10**18):
            await openai_client.chat.completions.create(…)

    It signs at most one increment (the price of K weighted tokens of the gateway's dearest model, or `most_ahead`) more
    than the gateway says it has handed out, and in all at most `budget` wei beyond what was spent when it began: that
    bounds what a gateway can take that lies about what it handed out. `domain` and `gateway` pin the chain, the Escrow
    contract and the gateway's id; without them the gateway's own word is taken. `payer` is whose deposit it is,
    where `account` is a signer that its owner authorised. What was promised is on disk (`store`) before it is sent.

    An agent cannot see what other clients get, so it believes the gateway. With `audit` it does not: it signs at most
    an increment beyond what `acknowledge` was told, so even a gateway that lies gets no more than that for nothing.

    Entering and `pay_now` raise `ConfigError`, `PaymentRefused`, `PeerUnreachable`, `PeerTimeout`, `ProtocolViolation`.
    Once open, a gateway that cannot be reached is asked again; a refusal ends the agent and is raised on leaving.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        account: Account,
        *,
        payer: Address | None = None,
        budget: int | None = None,
        most_ahead: int | None = None,
        audit: bool = False,
        store: Path | None = None,
        domain: Domain | None = None,
        gateway: str | None = None,
        on_change: Callable[[Paid], None] | None = None,
    ) -> None:
        if (budget is not None and budget < 0) or (most_ahead is not None and most_ahead < 0):
            raise ConfigError("a budget is not negative")
        self._http = GatewayHttp(url, api_key)
        self._account = account
        self._payer = payer if payer is not None else account.canonical
        self._budget = budget
        self._most_ahead = most_ahead
        self._acknowledged = 0 if audit else None
        self._store_path = store
        self._expected = (domain, gateway)
        self._on_change = on_change
        self._stack = AsyncExitStack()
        self._store: PayerStore
        self._state: AccountState
        self._began = 0
        self._reachable = True
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._store = stack.enter_context(PayerStore(self._store_path))
            await stack.enter_async_context(self._http)
            self._state = await self._http.account()
            self._check(self._state)
            self._began = self._state.spent
            await self._pay()
            self._task = asyncio.create_task(self._keep_paying(), name="payer")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        try:
            self._task.cancel()
            await asyncio.wait({self._task})
            if error is None and not self._task.cancelled():
                self._task.result()
        finally:
            await self._stack.aclose()

    @property
    def paid(self) -> Paid:
        """How it stands, as of the gateway's last answer."""
        state = self._state
        return Paid(
            gateway=state.terms.gateway,
            payer=state.payer,
            signed=state.signed,
            promised=self._store.highest(state.terms.domain, self._payer, state.terms.gateway),
            spent=state.spent,
            used=state.spent - self._began,
            credit=state.credit,
            deposit=state.deposit,
            limit=self._limit,
            reachable=self._reachable,
        )

    async def pay_now(self) -> Paid:
        """Look at the account and pay at once, if something is due."""
        self._take(await self._http.account())
        await self._pay()
        return self.paid

    async def acknowledge(self, amount: int) -> None:
        """We got something for `amount` wei (with `audit`): what we sign may follow. Raises as `pay_now`."""
        if self._acknowledged is not None:
            self._acknowledged += amount
            await self._pay()

    async def finished(self) -> None:
        """Wait until the agent has to stop, which it only does when the gateway refuses it: raises why."""
        assert self._task is not None
        await asyncio.shield(self._task)

    # --- inside ---

    @property
    def _limit(self) -> int | None:
        limits = [] if self._budget is None else [self._began + self._budget]
        if self._acknowledged is not None:
            increment = self._state.view(self._most_ahead).increment
            limits.append(self._began + self._acknowledged + increment)
        return min(limits, default=None)

    async def _keep_paying(self) -> None:
        delay = RETRY_SECONDS[0]
        while True:
            try:
                self._take(await self._http.account(wait=WAIT_SECONDS, spent=self._state.spent))
                await self._pay()
                self._seen(reachable=True)
                delay = RETRY_SECONDS[0]
            except (PeerUnreachable, PeerTimeout) as error:
                log.warning("cannot pay the gateway: %s", error)
                self._seen(reachable=False)
                await asyncio.sleep(delay)
                delay = min(2 * delay, RETRY_SECONDS[1])

    async def _pay(self) -> None:
        async with self._turn:
            amount = next_voucher(self._state.view(self._most_ahead), limit=self._limit)
            if amount is None:
                return
            terms = self._state.terms
            voucher = PaymentVoucher(self._payer, terms.gateway_key, amount)
            await asyncio.to_thread(self._store.promise, terms.domain, self._payer, terms.gateway, amount)
            try:
                state = await self._http.pay(self._account, voucher, terms.domain)
            except PaymentRefused as error:
                if error.code != "voucher_not_covered":
                    raise
                # The deposit has shrunk since we looked (another gateway redeemed): look again, later.
                raise PeerUnreachable(str(error)) from error
            self._take(state if state is not None else await self._http.account())

    def _take(self, state: AccountState) -> None:
        self._check(state)
        before, self._state = self._state, state
        if state.signed < before.signed:
            log.warning("the gateway has forgotten a voucher over %d wei", before.signed)

    def _seen(self, *, reachable: bool) -> None:
        self._reachable = reachable
        if self._on_change is not None:
            self._on_change(self.paid)

    def _check(self, state: AccountState) -> None:
        """The gateway must stay who it was, and must mean our deposit."""
        domain, gateway = self._expected
        check_terms(state.terms, domain=domain, gateway=gateway)
        if state.payer != self._payer:
            raise ConfigError(
                f"the API key spends from the deposit of {checksummed(state.payer)}, not of {checksummed(self._payer)}"
            )
        # From now on it is held to what it said first.
        self._expected = (state.terms.domain, state.terms.gateway)
