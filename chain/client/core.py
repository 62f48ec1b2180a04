"""What all parts of the staking client share: views, actions that can be dry-run, approvals, events, bounded scans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eth_utils import keccak

from chain import abi
from chain.abi import Artifact, Event, Record
from chain.client.retry import is_too_large
from chain.client.rpc import Rpc, data, quantity
from chain.client.transactor import Call, Outcome, Quote, Transactor, read_revert
from chain.deploy import Deployment
from chain.errors import BadAnswer, ChainConfigError, InvalidArgument, RpcRefused, WrongChain

ALLOWANCES_SLOT = 1
"""Where OpenZeppelin's ERC20 keeps allowances; used for dry runs only, and checked before it is trusted."""
SCAN_BLOCKS = 5_000
MAX_EVENTS = 100_000
MINED_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Result:
    """A call at its good end: its transaction, what it emitted, and the approvals that went before it."""

    outcome: Outcome
    events: tuple[Event, ...]
    approvals: tuple[Result, ...] = ()

    @property
    def tx_hash(self) -> str:
        return self.outcome.tx_hash

    @property
    def block(self) -> int:
        return self.outcome.block

    @property
    def gas_used(self) -> int:
        """Of this transaction and its approvals."""
        return self.outcome.gas_used + sum(each.gas_used for each in self.approvals)

    def event(self, name: str) -> Event:
        """The first event of that name. Raises `BadAnswer`."""
        for event in self.events:
            if event.name == name:
                return event
        raise BadAnswer(f"{self.outcome.label} emitted no {name}")


@dataclass(frozen=True, slots=True)
class DryRun:
    """What an action would send, in order, and what each would cost. `exact` is False where an approval is missing
    and the node could not be told to imagine it."""

    steps: tuple[tuple[str, Quote | None], ...]

    @property
    def gas(self) -> int:
        return sum(quote.gas for _, quote in self.steps if quote is not None)

    @property
    def cost(self) -> int:
        """Wei of the native coin, at today's price of gas."""
        return sum(quote.cost for _, quote in self.steps if quote is not None)

    @property
    def exact(self) -> bool:
        return all(quote is not None for _, quote in self.steps)


@dataclass(frozen=True, slots=True)
class Spend:
    """FUNC that a call lets `spender` take from the caller, in wei."""

    spender: str
    amount: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call ready to be sent, and what must be approved before."""

    call: Call
    spend: Spend | None = None


@dataclass(slots=True)
class _Allowance:
    """Per spender: one approval at a time, how much is on its way to be taken, and how many are not yet signed."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    in_flight: int = 0
    unsigned: int = 0
    all_signed: asyncio.Event = field(default_factory=asyncio.Event)


class Action:
    """A call that has not been made: `await action` sends it, `await action.dry_run()` says what it would cost."""

    def __init__(self, core: Core, prepare: Callable[[], Awaitable[Prepared]]) -> None:
        self._core = core
        self._prepare = prepare

    def __await__(self) -> Generator[Any, None, Result]:
        return self.execute().__await__()

    async def execute(self, *, key: str | None = None, timeout: float | None = None) -> Result:
        """Send it, after an approval where one is missing, and wait for the end.

        `key` makes it unique for good; `timeout` defaults to the client's. Raises `ContractError` before anything is
        sent where it would revert; else what `Transactor.submit` and `Ticket.outcome` raise.
        """
        return await self._core.execute(await self._prepare(), key=key, timeout=timeout)

    async def dry_run(self) -> DryRun:
        """Estimate without sending. Raises `ContractError` where it would revert."""
        return await self._core.dry_run(await self._prepare())


class Core:
    """A connected node, a deployment, and perhaps an account. Made by `StakingClient`."""

    def __init__(
        self,
        rpc: Rpc,
        deployment: Deployment,
        transactor: Transactor | None,
        *,
        timeout: float,
        on_approval: Callable[[str, int, str], None] | None,
    ) -> None:
        self.rpc = rpc
        self.deployment = deployment
        self.transactor = transactor
        self.timeout = timeout
        self._on_approval = on_approval
        self._allowances: dict[str, _Allowance] = {}
        self.artifacts: dict[str, Artifact] = {
            address.lower(): abi.load(name)
            for name, address in deployment.contracts.items()
            if name not in ("SettlementChallenges", "HalvingSchedule")
        }

    # --- who and where ---

    @property
    def address(self) -> str:
        """The caller's address. Raises `ChainConfigError` for a client without an account."""
        return self.signer.account.address

    @property
    def signer(self) -> Transactor:
        if self.transactor is None:
            raise ChainConfigError("this needs a wallet: give one to the client")
        return self.transactor

    async def check_chain(self) -> None:
        """Raises `WrongChain` unless the node is on the chain that the deployment is on."""
        chain_id, anchor = await self.rpc.batch(
            [("eth_chainId", ()), ("eth_getBlockByNumber", (hex(self.deployment.anchor_number), False))]
        )
        if isinstance(chain_id, RpcRefused):
            raise chain_id
        if quantity(chain_id) != self.deployment.chain_id:
            raise WrongChain(
                f"{self.rpc.shown} is chain {quantity(chain_id)}, the deployment is on chain {self.deployment.chain_id}"
            )
        if not isinstance(anchor, dict) or anchor.get("hash") != self.deployment.anchor_hash:
            raise WrongChain(
                f"{self.rpc.shown} has chain id {self.deployment.chain_id}, but not the block that the deployment "
                "names: it is another chain, or was started anew; give the deployment file that belongs to it"
            )

    # --- reading ---

    async def view(
        self, contract: str, function: str, *arguments: Any, at: str | None = None, block: int | str = "latest"
    ) -> Any:
        """The result of a view function; `at` is an address other than the deployment's. Raises `ContractError`."""
        return (await self.views([(contract, function, arguments)], at=at, block=block))[0]

    async def views(
        self, calls: Sequence[tuple[str, str, Sequence[Any]]], *, at: str | None = None, block: int | str = "latest"
    ) -> list[Any]:
        """Many views in one batch; the first that reverts is raised."""
        found = await self.try_views(calls, at=at, block=block)
        for value in found:
            if isinstance(value, Exception):
                raise value
        return found

    async def try_views(
        self, calls: Sequence[tuple[str, str, Sequence[Any]]], *, at: str | None = None, block: int | str = "latest"
    ) -> list[Any]:
        """Many views in one batch; in place of one that reverts is its error."""
        where = hex(block) if isinstance(block, int) else block
        functions = [abi.load(name).function(function, len(arguments)) for name, function, arguments in calls]
        sender = {"from": self.transactor.account.address} if self.transactor is not None else {}
        answers = await self.rpc.batch(
            [
                (
                    "eth_call",
                    (
                        {
                            **sender,
                            "to": at or self.deployment.address(name),
                            "data": "0x" + each.encode(arguments).hex(),
                        },
                        where,
                    ),
                )
                for each, (name, _, arguments) in zip(functions, calls, strict=True)
            ]
        )
        found: list[Any] = []
        for each, answer in zip(functions, answers, strict=True):
            if isinstance(answer, RpcRefused):
                found.append(read_revert(answer) or answer)
                continue
            output = data(answer)
            if not output and each.outputs:
                raise WrongChain(f"there is no contract where {each.name} should be: is the deployment file right?")
            found.append(each.decode(output))
        return found

    async def block_number(self) -> int:
        return quantity(await self.rpc.call("eth_blockNumber"))

    async def native_balance(self, address: str) -> int:
        """Wei of the coin that pays gas."""
        return quantity(await self.rpc.call("eth_getBalance", address, "latest"))

    async def events(
        self,
        contract: str,
        event: str | None = None,
        *,
        at: str | None = None,
        topics: Sequence[str | None] = (),
        first: int | None = None,
        last: int | None = None,
        limit: int = MAX_EVENTS,
    ) -> AsyncIterator[Event]:
        """Events from block `first` (the deployment's) to `last` (now), asked for a bounded range of blocks at a time.

        A node that finds a range too large is asked for smaller ones. `topics` are what follows the event's own topic.
        Raises `BadAnswer` after `limit` events.
        """
        artifact = abi.load(contract)
        wanted: list[Any] = ["0x" + artifact.topic(event).hex() if event else None, *topics]
        start = self.deployment.block if first is None else first
        end = await self.block_number() if last is None else last
        size, count = SCAN_BLOCKS, 0
        while start <= end:
            stop = min(end, start + size - 1)
            query = {
                "address": at or self.deployment.address(contract),
                "topics": wanted,
                "fromBlock": hex(start),
                "toBlock": hex(stop),
            }
            try:
                logs = await self.rpc.call("eth_getLogs", query)
            except RpcRefused as error:
                if size > 1 and is_too_large(error.code, str(error)):
                    size = max(1, size // 4)
                    continue
                raise
            for log in logs:
                found = artifact.decode_log(log)
                if found is None:
                    continue
                count += 1
                if count > limit:
                    raise BadAnswer(f"more than {limit} events: ask for fewer blocks")
                yield found
            start, size = stop + 1, min(SCAN_BLOCKS, size * 2)

    # --- writing ---

    def call(self, contract: str, function: str, *arguments: Any, at: str | None = None) -> Call:
        """Call data for a function that changes state. Raises `InvalidArgument`."""
        encoded = abi.load(contract).function(function, len(arguments)).encode(arguments)
        return Call(at or self.deployment.address(contract), encoded, f"{contract}.{function}")

    def action(self, contract: str, function: str, *arguments: Any, spend: Spend | None = None) -> Action:
        """An action whose arguments are all known."""
        prepared = Prepared(self.call(contract, function, *arguments), spend)

        async def prepare() -> Prepared:
            return prepared

        return Action(self, prepare)

    async def execute(self, prepared: Prepared, *, key: str | None = None, timeout: float | None = None) -> Result:
        """Approve what is missing, send, wait for the end."""
        approvals: tuple[Result, ...] = ()
        waiting = self.timeout if timeout is None else timeout
        if prepared.spend is None:
            ticket = await self.signer.submit(prepared.call, key=key)
            return self.result(await ticket.outcome(waiting))
        allowance = self._allowances.setdefault(prepared.spend.spender, _Allowance())
        amount = prepared.spend.amount
        async with allowance.lock:
            # A call that an earlier process sent has its approval behind it.
            if not self.signer.has_earlier(prepared.call, key):
                approvals = await self._approve(prepared.spend, allowance, waiting)
            allowance.in_flight += amount
            allowance.unsigned += 1
            allowance.all_signed.clear()
        try:
            try:
                ticket = await self.signer.submit(prepared.call, key=key)
            finally:
                allowance.unsigned -= 1
                if not allowance.unsigned:
                    allowance.all_signed.set()
            return self.result(await ticket.outcome(waiting), approvals)
        finally:
            allowance.in_flight -= amount

    async def _approve(self, spend: Spend, allowance: _Allowance, timeout: float) -> tuple[Result, ...]:
        """Approve exactly `spend` unless what is allowed and not on its way already suffices.

        What is on its way has a lower nonce than the approval, so it is taken before the allowance is set anew; that is
        why the approval waits until all of it is signed.
        """
        have = await self.view("FuncToken", "allowance", self.address, spend.spender)
        if have - allowance.in_flight >= spend.amount:
            return ()
        if allowance.unsigned:
            await allowance.all_signed.wait()
        call = self.call("FuncToken", "approve", spend.spender, spend.amount)
        ticket = await self.signer.submit(call)
        await ticket.wait_mined(min(timeout, MINED_SECONDS))
        result = self.result(await ticket.outcome(timeout))
        if self._on_approval is not None:
            self._on_approval(self.name_of(spend.spender), spend.amount, result.tx_hash)
        return (result,)

    async def dry_run(self, prepared: Prepared) -> DryRun:
        """Estimate what `execute` would send. Raises `ContractError` where it would revert."""
        spend = prepared.spend
        if spend is None:
            return DryRun(((prepared.call.label, await self.signer.quote(prepared.call)),))
        steps: list[tuple[str, Quote | None]] = []
        overrides: Mapping[str, Any] | None = None
        imagined = True
        if await self.view("FuncToken", "allowance", self.address, spend.spender) < spend.amount:
            approve = self.call("FuncToken", "approve", spend.spender, spend.amount)
            steps.append((approve.label, await self.signer.quote(approve)))
            overrides = self._imagine_allowance(spend)
            imagined = await self._is_imagined(spend, overrides)
        quote = await self.signer.quote(prepared.call, overrides) if imagined else None
        return DryRun((*steps, (prepared.call.label, quote)))

    def _imagine_allowance(self, spend: Spend) -> dict[str, Any]:
        def word(address: str) -> bytes:
            return bytes(12) + bytes.fromhex(address[2:])

        of_owner = keccak(word(self.address) + ALLOWANCES_SLOT.to_bytes(32, "big"))
        slot = keccak(word(spend.spender) + of_owner)
        amount = "0x" + spend.amount.to_bytes(32, "big").hex()
        return {self.deployment.address("FuncToken"): {"stateDiff": {"0x" + slot.hex(): amount}}}

    async def _is_imagined(self, spend: Spend, overrides: Mapping[str, Any]) -> bool:
        """True if the node takes state overrides and the slot is the right one."""
        function = abi.load("FuncToken").function("allowance")
        request = {
            "to": self.deployment.address("FuncToken"),
            "data": "0x" + function.encode([self.address, spend.spender]).hex(),
        }
        try:
            answer = await self.rpc.call("eth_call", request, "latest", overrides)
        except RpcRefused:
            return False
        return bool(function.decode(data(answer)) == spend.amount)

    def result(self, outcome: Outcome, approvals: tuple[Result, ...] = ()) -> Result:
        """An outcome with its events decoded."""
        return Result(outcome, tuple(abi.decode_logs(self.artifacts, outcome.logs)), approvals)

    def name_of(self, address: str) -> str:
        """The contract at an address, or the address."""
        artifact = self.artifacts.get(address.lower())
        return artifact.name if artifact is not None else address

    # --- pools: one a model ---

    async def pool(self, model_id: int) -> str:
        """Address of a model's staking pool, from the Router. Raises `UnknownModel`."""
        address = str(await self.view("Router", "stakingPool", model_id))
        self.artifacts[address.lower()] = abi.load("ProviderStaking")
        return address


def check_id(identifier: str, argument: str = "id") -> str:
    """An id of 1 to 64 bytes of UTF-8. Raises `InvalidArgument`."""
    try:
        length = len(identifier.encode())
    except UnicodeEncodeError:
        raise InvalidArgument("an id is text", argument=argument) from None
    if not 1 <= length <= 64:
        raise InvalidArgument(f"an id has 1 to 64 bytes, this one {length}", argument=argument)
    return identifier


def check_metadata(metadata: str, argument: str = "metadata") -> str:
    """At most 1024 bytes of UTF-8. Raises `InvalidArgument`."""
    try:
        length = len(metadata.encode())
    except UnicodeEncodeError:
        raise InvalidArgument("metadata is text", argument=argument) from None
    if length > 1024:
        raise InvalidArgument(f"metadata has at most 1024 bytes, this {length}", argument=argument)
    return metadata


def check_range(first: int, last: int) -> None:
    """Epochs `first … last`, both included: from 1, ascending, at most 512. Raises `InvalidArgument`."""
    if not 1 <= first <= last or last - first >= 512 or last >= 2**64:
        raise InvalidArgument(
            f"epochs {first} … {last} are no range: from 1, ascending, at most 512 epochs", argument="epochs"
        )


__all__ = ["Action", "Call", "Core", "DryRun", "Prepared", "Record", "Result", "Spend"]
