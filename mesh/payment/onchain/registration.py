"""A node's place on the chain: its wallet, its registration and stake, and what it reads there while it serves."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chain.client.actions import Action
from chain.client.calls.models import ModelInfo
from chain.client.calls.providers import provider_metadata
from chain.client.lifecycle import Policy
from chain.client.staking import StakingClient
from chain.contract_errors import UnknownGateway, UnknownProvider
from chain.deploy import Deployment
from chain.primitives import checksummed
from chain.units import WEI_PER_FUNC, format_func
from chain.wallet import Account
from mesh.errors import Cancelled, ConfigError
from mesh.identity import Identity
from mesh.payment.credit.binding import Binding, Role, sign_binding
from mesh.payment.credit.collector import VoucherCollector
from mesh.payment.credit.store import PaymentJournal
from mesh.payment.credit.terms import CreditTerms
from mesh.payment.onchain.view import POLL_SECONDS, StakingView
from mesh.payment.settlement.loop import POLL_SECONDS as SETTLE_SECONDS
from mesh.payment.settlement.loop import SettlementEvent
from mesh.payment.settlement.provider import ProviderSettlement, fetch_over
from mesh.payment.settlement.store import SettlementStore
from mesh.transport.port import Transport

logger = logging.getLogger(__name__)

BINDING_SECONDS = 86_400
GUARANTEES = 100 * WEI_PER_FUNC
"""Of a new gateway's stake, what is meant for lines: providers work for what their line covers."""

Ask = Callable[[str], Awaitable[bool]]
"""Asks the operator whether to go on; what it says names the amount that is at stake."""
Tell = Callable[[str, str], None]
"""Hears of a transaction: what it was, and its hash."""


@dataclass(frozen=True, slots=True)
class PaymentConfig:
    """With which account a node works. `identifier` None takes the peer id.

    `stake` and `line` (wei) are a gateway's: what it stakes when it registers (the least there may be and `GUARANTEES`
    where None), and the least line that it gives a provider which it uses.
    """

    rpc: str
    deployment: Deployment
    account: Account
    folder: Path
    """Where journals are kept."""
    identifier: str | None = None
    stake: int | None = None
    line: int | None = None
    confirmations: int = 1
    poll_seconds: float = POLL_SECONDS
    settle_seconds: float = SETTLE_SECONDS
    """How often the chain is looked at for what settlement has to do."""
    claims: bool = True
    """Claim rewards and shares as soon as they may be claimed."""
    terms: CreditTerms = field(default_factory=CreditTerms)


@dataclass(slots=True)
class ChainRegistration:
    """A registered and staked node. Made by `provider_registration` and `gateway_registration`."""

    role: Role
    id: str
    config: PaymentConfig
    client: StakingClient
    view: StakingView
    journal: PaymentJournal
    store: SettlementStore
    identity: Identity
    model: ModelInfo | None = None

    @property
    def file_name(self) -> str:
        """The id as part of a file's name."""
        return _file_name(self.id)

    def binding(self) -> bytes:
        """A fresh binding of our peer id and our address."""
        domain = self.view.domain
        binding = Binding(
            self.role,
            self.id,
            domain.chain_id,
            checksummed(domain.contract),
            self.config.account.address,
            self.identity.peer_id,
            int(time.time()) + BINDING_SECONDS,
        )
        return sign_binding(binding, self.identity, self.config.account)

    def settlement(self, transport: Transport, tell: Callable[[SettlementEvent], None]) -> ProviderSettlement:
        """What a provider does around an epoch's end."""
        return ProviderSettlement(
            self.client,
            self.journal,
            self.store,
            fetch_over(transport),
            claims=self.config.claims,
            poll=self.config.settle_seconds,
            tell=tell,
        )

    def collector(self, blocks: int) -> VoucherCollector:
        """The books of a provider that serves so many blocks."""
        if self.model is None:
            raise ValueError("only a provider collects")
        return VoucherCollector(
            provider=self.id,
            model_id=self.model.model_id,
            blocks=blocks,
            identity=self.identity,
            account=self.config.account,
            journal=self.journal,
            chain=self.view,
            terms=self.config.terms,
        )


@asynccontextmanager
async def provider_registration(
    config: PaymentConfig, identity: Identity, *, digest: str, name: str, ask: Ask, tell: Tell
) -> AsyncIterator[ChainRegistration]:
    """Register and stake as a provider of the model with this digest, after asking once, unless that is done.

    Raises `ConfigError` (model not published, id taken), `Cancelled` (the operator said no), `ChainError`.
    """
    identifier = config.identifier or identity.peer_id
    async with _connected(config, tell) as client:
        model = await _find_model(client, digest, name)
        address = client.address
        try:
            status = await client.providers.status(identifier)
        except UnknownProvider:
            stake = f"{format_func(model.model_stake_amount)} FUNC"
            await _sure(ask, f"register provider {identifier} of {model.name} and stake {stake} from {address}")
            metadata = provider_metadata(f"p2p:{identity.peer_id}")
            action = client.providers.register_and_stake(identifier, model.model_id, metadata)
            await _send(action, f"registered provider {identifier} and staked {stake}", tell)
        else:
            if status.owner != address:
                raise ConfigError(f"provider {identifier!r} belongs to {status.owner}: give another --provider-id")
            if status.model_id != model.model_id:
                raise ConfigError(
                    f"provider {identifier!r} is registered for model {status.model_id}, and {name} is model "
                    f"{model.model_id}: give another --provider-id"
                )
            if status.stake < status.needed_stake:
                missing = f"{format_func(status.needed_stake - status.stake)} FUNC"
                await _sure(ask, f"stake {missing} for provider {identifier} from {address}")
                await _send(client.providers.stake_for_provider(identifier), f"staked {missing}", tell)
            if status.deactivated:
                await _send(client.providers.reactivate(identifier), f"reactivated provider {identifier}", tell)
        view = StakingView(client, poll_seconds=config.poll_seconds)
        await view.start()
        with _books(config, "provider", identifier) as (journal, store):
            try:
                yield ChainRegistration("provider", identifier, config, client, view, journal, store, identity, model)
            finally:
                await view.close()


@asynccontextmanager
async def gateway_registration(
    config: PaymentConfig, identity: Identity, *, ask: Ask, tell: Tell
) -> AsyncIterator[ChainRegistration]:
    """Register and stake as a gateway, after asking once, unless that is done. Raises as `provider_registration`."""
    identifier = config.identifier or identity.peer_id
    async with _connected(config, tell) as client:
        address = client.address
        try:
            status = await client.gateways.status(identifier)
        except UnknownGateway:
            if any(await client.core.view("GatewayRegistry", "gatewayOfSigner", address)):
                # A key signs for one gateway: this one could neither sign nor post, and its stake would be locked.
                raise ConfigError(
                    f"{address} signs for another gateway: give that --gateway-id, or use another wallet"
                ) from None
            least = int(await client.core.view("GatewayStaking", "minGatewayStake"))
            stake = max(config.stake or least + GUARANTEES, least)
            shown = f"{format_func(stake)} FUNC"
            await _sure(ask, f"register gateway {identifier} and stake {shown} from {address}")
            metadata = json.dumps({"url": f"p2p:{identity.peer_id}"}, separators=(",", ":"))
            action = client.gateways.register_and_stake(identifier, metadata, stake)
            await _send(action, f"registered gateway {identifier} and staked {shown}", tell)
        else:
            if status.owner != address:
                raise ConfigError(f"gateway {identifier!r} belongs to {status.owner}: give another --gateway-id")
            if status.wind_down_end:
                raise ConfigError(f"gateway {identifier!r} winds down: `mesh gateway-stake restart {identifier}` first")
            missing = status.min_stake - status.effective_stake
            if missing > 0:
                shown = f"{format_func(missing)} FUNC"
                await _sure(ask, f"stake {shown} for gateway {identifier} from {address}")
                await _send(client.gateways.stake_for_gateway(identifier, missing), f"staked {shown}", tell)
        view = StakingView(client, poll_seconds=config.poll_seconds)
        await view.start()
        with _books(config, "gateway", identifier) as (journal, store):
            try:
                yield ChainRegistration("gateway", identifier, config, client, view, journal, store, identity)
            finally:
                await view.close()


@contextmanager
def _books(config: PaymentConfig, role: Role, identifier: str) -> Iterator[tuple[PaymentJournal, SettlementStore]]:
    name = f"{role}-{_file_name(identifier)}"
    with (
        PaymentJournal(config.folder / f"{name}.sqlite", exclusive=True) as journal,
        SettlementStore(config.folder / f"{name}-settlement.sqlite", exclusive=True) as store,
    ):
        yield journal, store


@asynccontextmanager
async def _connected(config: PaymentConfig, tell: Tell) -> AsyncIterator[StakingClient]:
    def approved(contract: str, amount: int, tx: str) -> None:
        tell(f"approved {format_func(amount)} FUNC for {contract}", tx)

    async with StakingClient(
        config.rpc,
        config.deployment,
        account=config.account,
        journal=config.folder / "journal.sqlite",
        policy=Policy(confirmations=config.confirmations),
        on_approval=approved,
    ) as client:
        yield client


async def _find_model(client: StakingClient, digest: str, name: str) -> ModelInfo:
    """The marketplace's entry of this name, which must be of this checkpoint.

    The name decides, not the digest: it is unique on the chain, while anybody may publish a stranger's digest under
    another name, with a royalty of their own.
    """
    model_id = await client.models.id_of(name)
    if model_id is None:
        raise ConfigError(
            f"nobody has published {name!r} on this chain: `mesh model publish {name} --manifest …` does; --name says "
            "under which name it was published; or serve without --wallet"
        )
    model = await client.models.show(model_id)
    if model.manifest_hash.hex() != digest:
        raise ConfigError(
            f"{name!r} on this chain (model {model_id} of {model.creator}) has manifest "
            f"{model.manifest_hash.hex()[:12]}…, and these files have {digest[:12]}…: they are another model, or "
            "another version of it"
        )
    if not model.enabled:
        raise ConfigError(f"model {model_id} ({name}) is disabled by its creator")
    return model


async def _sure(ask: Ask, what: str) -> None:
    if not await ask(what):
        raise Cancelled(f"did not {what}")


async def _send(action: Action, what: str, tell: Tell) -> None:
    result = await action.execute()
    logger.info("%s (%s)", what, result.tx_hash)
    tell(what, result.tx_hash)


def _file_name(identifier: str) -> str:
    """An id is any text: its safe characters, or its hash."""
    if identifier.isascii() and all(c.isalnum() or c in "-_" for c in identifier):
        return identifier
    return hashlib.sha256(identifier.encode()).hexdigest()[:32]
