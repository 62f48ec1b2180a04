"""What all parts of the staking client share: views, actions that can be dry-run, approvals, events, bounded scans."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from chain import abi
from chain.abi import Artifact, Event
from chain.client.actions import Action, Prepared, Spend, Spending
from chain.client.answers import data, quantity
from chain.client.pending import Call
from chain.client.pricing import read_revert
from chain.client.retry import is_too_large
from chain.client.rpc import Rpc
from chain.client.transactor import Transactor
from chain.deploy import Deployment
from chain.errors import BadAnswer, ChainConfigError, RpcRefused, WrongChain

SCAN_BLOCKS = 5_000
MAX_EVENTS = 100_000


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
        self.spending = Spending(self, timeout, on_approval)
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
        self.rpc.pin(self.deployment.chain_id, (self.deployment.anchor_number, self.deployment.anchor_hash))

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
        topics: Sequence[str | Sequence[str] | None] = (),
        first: int | None = None,
        last: int | None = None,
        limit: int = MAX_EVENTS,
    ) -> AsyncIterator[Event]:
        """Events from block `first` (the deployment's) to `last` (now), asked for a bounded range of blocks at a time.

        A node that finds a range too large is asked for smaller ones. `topics` are what follows the event's own topic;
        several in one place mean any of them.
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
            if not isinstance(logs, list):
                raise BadAnswer("eth_getLogs did not answer with a list")
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
