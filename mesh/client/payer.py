"""The payer's agent: keeps a developer's vouchers ahead of what a gateway has handed out, by books of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from chain.primitives import Address, checksummed
from chain.units import WEI_PER_FUNC, format_func
from chain.vouchers import Domain, PaymentVoucher
from chain.wallet import Account
from mesh.client.gateway_http import AccountState, GatewayHttp, check_terms
from mesh.client.payer_store import PayerStore
from mesh.errors import AccountDisputed, ConfigError, PaymentRefused, PeerTimeout, PeerUnreachable, StorageUnavailable
from mesh.payment.accounts.ports import Backing, Unavailable
from mesh.payment.accounts.promises import AccountContradicted, PayerBooks, Told

log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 5
RETRY_SECONDS: Final = (0.2, 5.0)
DEFAULT_AHEAD: Final = WEI_PER_FUNC // 2
"""Wei: five increments of 1,024 weighted tokens at 0.0001 FUNC."""
DEFAULT_BUDGET: Final = WEI_PER_FUNC
"""Wei for one run, where neither a budget nor a chain of our own bounds it."""


class ReserveView(Protocol):
    """What the payer sees on the chain itself. Raises `Unavailable`."""

    async def deposit_of(self, payer: Address) -> Backing:
        """What backs the payer's vouchers at this gateway, and what was paid for them."""


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
    wanted: int = 0
    """How far ahead of what is spent the gateway wants to be paid now."""
    ahead: int = DEFAULT_AHEAD
    """How far ahead we pay."""
    reachable: bool = True

    @property
    def exhausted(self) -> bool:
        """Nothing more will be signed: the budget or the deposit is used up."""
        most = self.deposit if self.limit is None else min(self.deposit, self.limit)
        return self.signed >= most


@dataclass(eq=False, slots=True)
class Asked:
    """A request that runs, in wei: whoever passes it on says so."""

    got: int = 0
    """What came of it so far."""
    may_cost: int = 0
    """What it may cost before any of it comes."""


class Payer:
    """Pays one gateway from one deposit for as long as it is open, beside any client that uses the API key.

        async with Payer("http://127.0.0.1:8000", "sk-mesh-…", account, budget=10**18, beside=True):
            await openai_client.chat.completions.create(…)

    It keeps books of its own (`PayerBooks`, on disk in `store` before anything is sent) and believes the gateway in
    nothing that could cost more than it chose to risk. Amounts in wei:

    - `ahead`: the most that it signs beyond what the gateway says it has handed out, whatever the gateway asks for;
    - `budget`: the most that it signs in this run beyond what was promised before. Without one: what the chain holds
      for this gateway, read through `reserve`; and without that `DEFAULT_BUDGET`. A gateway that lies gets no more;
    - `max_price`: the most that a weighted token of any model may cost here; None for any price.

    A gateway that says it holds a higher voucher than we ever signed must show our signature; one that contradicts the
    books otherwise is paid nothing more (`AccountDisputed`, which says what to do). `domain` and `gateway` pin the
    chain, the Escrow contract and the gateway's id; without them they are what `store` knows of this address, and at
    the first time the gateway's own word. `payer` is whose deposit it is, where `account` is a signer that its owner
    authorised. `already_signed` is what was signed for this gateway elsewhere.

    It signs for what passes through it and nothing else (`request`, `mesh.gateway.paying_proxy`): a gateway of which
    nothing is asked gets nothing, and one that lies about what it gave no more than `ahead`. `beside` a client that it
    cannot see it takes the gateway's word, and signs `ahead` from the start.

    Entering and `pay_now` raise `ConfigError`, `PaymentRefused`, `AccountDisputed`, `PeerUnreachable`, `PeerTimeout`,
    `ProtocolViolation`, `StorageUnavailable`. Once open, a gateway that cannot be reached is asked again, and what the
    disk does not take is not sent until it does; a refusal or a dispute ends the agent and is raised on leaving.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        account: Account,
        *,
        payer: Address | None = None,
        budget: int | None = None,
        ahead: int = DEFAULT_AHEAD,
        max_price: int | None = None,
        beside: bool = False,
        already_signed: int = 0,
        store: Path | None = None,
        reserve: ReserveView | None = None,
        domain: Domain | None = None,
        gateway: str | None = None,
        on_change: Callable[[Paid], None] | None = None,
    ) -> None:
        if min(budget or 0, ahead, max_price or 0, already_signed) < 0:
            raise ConfigError("a budget is not negative")
        self._http = GatewayHttp(url, api_key)
        self._account = account
        self._payer = payer if payer is not None else account.canonical
        self._books = PayerBooks(ahead, DEFAULT_BUDGET if budget is None and reserve is None else budget)
        self._max_price = max_price
        self._beside = beside
        self._got = 0
        """What came of requests that have ended, in this run."""
        self._asked: set[Asked] = set()
        """Requests that run."""
        self._already_signed = already_signed
        self._store_path = store
        self._reserve = reserve
        self._seen_deposit: int | None = None
        self._expected = (domain, gateway)
        self._on_change = on_change
        self._stack = AsyncExitStack()
        self._store: PayerStore
        self._state: AccountState
        self._began = 0
        """What was spent when this run began, as far as we believe it."""
        self._reachable = True
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._store = stack.enter_context(PayerStore(self._store_path))
            await stack.enter_async_context(self._http)
            state = await self._http.account()
            self._recall(state)
            await self._take(state)
            self._books.begin()
            self._began = self._books.followed
            self._store.remember(self._http.url, state.terms.domain, state.terms.gateway)
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
        """How it stands, as of the gateway's last answer that we believe."""
        state, books = self._state, self._books
        told = state.told(self._seen_deposit)
        return Paid(
            gateway=state.terms.gateway,
            payer=state.payer,
            signed=state.signed,
            promised=books.promised,
            spent=state.spent,
            used=max(0, state.spent - self._began),
            credit=state.credit,
            deposit=told.deposit,
            limit=books.limit,
            wanted=told.increment + told.pending,
            ahead=books.ahead,
            reachable=self._reachable,
        )

    async def pay_now(self) -> Paid:
        """Look at the account and pay at once, if something is due."""
        await self._take(await self._http.account())
        await self._pay()
        return self.paid

    @asynccontextmanager
    async def request(self, may_cost: int = 0) -> AsyncIterator[Asked]:
        """A request of ours is under way: it is paid `ahead` for, or what it `may_cost` before any of it comes, if that
        is more; and followed as far as what is `got` of it.

        Raises as `pay_now` on entering.
        """
        asked = Asked(may_cost=may_cost)
        self._asked.add(asked)
        try:
            await self._take(self._state)
            await self._pay()
            yield asked
        finally:
            self._asked.discard(asked)
            self._got += asked.got

    def price_of(self, model: str) -> int:
        """Wei of a weighted token of a model here, as the gateway says; of one that it does not name, the dearest."""
        prices = self._state.terms.prices
        return prices.get(model, max(prices.values(), default=0))

    async def finished(self) -> None:
        """Wait until the agent has to stop, which it only does when the gateway refuses it: raises why."""
        assert self._task is not None
        await asyncio.shield(self._task)

    # --- inside ---

    async def _keep_paying(self) -> None:
        delay = RETRY_SECONDS[0]
        while True:
            try:
                known = self._state
                if self._reachable:
                    state = await self._http.account(wait=WAIT_SECONDS, spent=known.spent, pending=known.pending)
                else:  # what was due before is due still: there is no change to wait for
                    state = await self._http.account()
                await self._take(state)
                await self._pay()
                self._seen(reachable=True)
                delay = RETRY_SECONDS[0]
            except (PeerUnreachable, PeerTimeout, StorageUnavailable) as error:
                log.warning("cannot pay the gateway: %s", error)
                self._seen(reachable=False)
                await asyncio.sleep(delay)
                delay = min(2 * delay, RETRY_SECONDS[1])

    async def _pay(self) -> None:
        async with self._turn:
            wanted, ahead = self._wanted()
            amount = self._books.next_voucher(wanted, ahead=ahead)
            if amount is None:
                return
            terms = self._state.terms
            voucher = PaymentVoucher(self._payer, terms.gateway_key, amount)
            await asyncio.to_thread(
                self._store.promise, terms.domain, self._payer, terms.gateway, amount, followed=self._books.followed
            )
            self._books.sign(amount)
            try:
                state = await self._http.pay(self._account, voucher, terms.domain)
            except PaymentRefused as error:
                if error.code != "voucher_not_covered":
                    raise
                # The deposit has shrunk since we looked: look again, later.
                raise PeerUnreachable(str(error)) from error
            await self._take(state if state is not None else await self._http.account())

    def _recall(self, state: AccountState) -> None:
        """What the books say of this gateway, before anything that it says is taken in."""
        if self._expected == (None, None) and (known := self._store.identity(self._http.url)) is not None:
            self._expected = known
        self._check(state)
        key = (state.terms.domain, self._payer, state.terms.gateway)
        self._books.recover(self._store.highest(*key))
        self._books.recover(self._already_signed)
        self._books.followed = self._store.followed(*key)

    async def _take(self, state: AccountState) -> None:
        """Believe what the gateway says, as far as it agrees with the books. Raises `AccountDisputed`."""
        self._check(state)
        if self._reserve is not None:
            try:
                backing = await self._reserve.deposit_of(self._payer)
            except Unavailable as error:
                raise PeerUnreachable(f"the chain cannot be asked about the deposit: {error}") from error
            self._seen_deposit = backing.total
            self._books.recover(backing.redeemed)
        if state.signed > self._books.promised and state.is_signed_by({self._payer, self._account.canonical}):
            self._books.recover(state.signed)
        try:
            self._books.follow(self._told(state))
        except AccountContradicted as error:
            raise AccountDisputed(f"{self._http.url}: {error}", field=error.field) from None
        self._state = state

    def _told(self, state: AccountState) -> Told:
        """What is believed of an account."""
        told = state.told(self._seen_deposit)
        return told if self._beside else replace(told, spent=min(told.spent, self._came))

    def _wanted(self) -> tuple[Told, int]:
        """What the gateway wants to be paid for, and how far ahead of what came: an answer in one piece is paid for
        before it is there."""
        told = self._state.told(self._seen_deposit)
        if self._beside or self._asked:
            return told, sum(asked.may_cost for asked in self._asked)
        # Nothing is asked that would be worth paying ahead for.
        return replace(told, spent=min(told.spent, self._came), pending=0, increment=0), 0

    @property
    def _came(self) -> int:
        """What was spent before this run, and what came in it."""
        return self._began + self._got + sum(asked.got for asked in self._asked)

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
        for name, price in state.terms.prices.items():
            if self._max_price is not None and price > self._max_price:
                raise AccountDisputed(
                    f"the gateway asks {format_func(price)} FUNC for a weighted token of {name[:100]!r}, more than the "
                    f"{format_func(self._max_price)} of --max-price: raise that, or use another gateway",
                    field="prices",
                )
        # From now on it is held to what it said first.
        self._expected = (state.terms.domain, state.terms.gateway)
