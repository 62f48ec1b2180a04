"""`StakingClient`: one connected account on one deployment."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from chain import abi
from chain.client.calls.conduct import Disputes, Slashing
from chain.client.calls.escrow import Escrow
from chain.client.calls.gateways import Gateways
from chain.client.calls.models import Models
from chain.client.calls.network import Epochs, Rewards, Token
from chain.client.calls.owner import Owner
from chain.client.calls.providers import Providers
from chain.client.calls.settlement import Settlement
from chain.client.core import Core
from chain.client.journal import Journal
from chain.client.lifecycle import Policy
from chain.client.retry import RetryPolicy
from chain.client.rpc import Rpc
from chain.client.transactor import Transactor
from chain.deploy import Deployment
from chain.errors import ChainConfigError
from chain.wallet import Account

if TYPE_CHECKING:
    from web3 import AsyncWeb3
    from web3.contract import AsyncContract

CONFIRM_SECONDS = 180.0
LOOPBACK_POLL = 0.1
REMOTE_POLL = 1.0


class StakingClient:
    """Everything that providers, gateways, developers and model creators do on the chain.

        async with StakingClient(url, deployment, account=account, journal=path) as client:
            await client.providers.register_and_stake("my-id", 1, provider_metadata("https://…"))

    The node must be on the deployment's chain. Without an account it only reads; without a journal file, what is under
    way is forgotten when the process dies. `on_approval(contract, amount, tx_hash)` hears of every approval of FUNC.

    Entering raises `NodeError` (`WrongChain` among them), `JournalError`, `ChainConfigError`.
    """

    def __init__(
        self,
        url: str,
        deployment: Deployment,
        *,
        account: Account | None = None,
        journal: Path | Journal | None = None,
        policy: Policy | None = None,
        retry: RetryPolicy | None = None,
        timeout: float = CONFIRM_SECONDS,
        poll: float | None = None,
        on_approval: Callable[[str, int, str], None] | None = None,
    ) -> None:
        self.deployment = deployment
        self._rpc = Rpc(url, retry)
        self._account = account
        self._journal = journal
        self._policy = policy
        local = any(host in url for host in ("//127.0.0.1", "//localhost", "//[::1]"))
        self._poll = poll if poll is not None else LOOPBACK_POLL if local else REMOTE_POLL
        self._stack = AsyncExitStack()
        self._entered = False
        self._core = Core(self._rpc, deployment, None, timeout=timeout, on_approval=on_approval)
        self.token = Token(self._core)
        self.epochs = Epochs(self._core)
        self.models = Models(self._core)
        self.providers = Providers(self._core)
        self.gateways = Gateways(self._core)
        self.escrow = Escrow(self._core)
        self.settlement = Settlement(self._core)
        self.slashing = Slashing(self._core)
        self.disputes = Disputes(self._core)
        self.rewards = Rewards(self._core)
        self.owner = Owner(self._core)

    async def __aenter__(self) -> StakingClient:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._rpc)
            await self._core.check_chain()
            if self._account is not None:
                journal = self._journal
                if not isinstance(journal, Journal):
                    journal = stack.enter_context(Journal(journal, chain_name(self.deployment)))
                self._core.transactor = await stack.enter_async_context(
                    Transactor(
                        self._rpc, self.deployment.chain_id, self._account, journal, self._policy, poll=self._poll
                    )
                )
            self._stack = stack.pop_all()
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered = False
        await self._stack.aclose()

    @property
    def address(self) -> str:
        """Our address. Raises `ChainConfigError` for a client without an account."""
        return self._core.address

    @property
    def core(self) -> Core:
        """Views, events and actions by the contracts' own names, for what has no method here."""
        return self._core

    @property
    def w3(self) -> AsyncWeb3[Any]:
        """web3.py over this client's connection: the same retries, bounds and chain, for those who know web3.py.

        Its requests raise `NodeError`s where the node fails, web3.py's own exceptions where it refuses. It has no key:
        what is sent with it is in no journal, so send from another account, or through this client.
        Raises `ChainConfigError` while the client is not open: its chain has not been checked then.
        """
        if not self._entered:
            raise ChainConfigError("the client is not open: use it in `async with`")
        return self._rpc.w3

    def contract(self, name: str, *, at: str | None = None) -> AsyncContract:
        """web3.py's face of a deployed contract, or of a pool at `at`. Raises `InvalidArgument`, `ChainConfigError`."""
        address = at or self.deployment.address(name)
        return self.w3.eth.contract(address=self.w3.to_checksum_address(address), abi=abi.load(name).abi)

    @property
    def transactor(self) -> Transactor:
        """What sends. Raises `ChainConfigError` for a client without an account."""
        return self._core.signer


def chain_name(deployment: Deployment) -> str:
    """How a journal tells chains apart, also those with the same chain id."""
    return f"{deployment.chain_id}:{deployment.anchor_hash}"
