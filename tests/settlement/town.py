"""Parties with really signed receipts and vouchers in their journals, on a real chain; no mesh is needed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from eth_utils import to_canonical_address

from chain.client.calls.providers import provider_metadata
from chain.client.staking import StakingClient
from chain.devnet.accounts import faucet, faucets
from chain.primitives import BPS, FUNC, key_of
from chain.vouchers import (
    CheckpointCommitment,
    ContributionReceipt,
    ContributionVoucher,
    Domain,
    PaymentVoucher,
    digest,
)
from mesh.errors import PeerUnreachable
from mesh.payment.credit.line import Pair
from mesh.payment.credit.store import PaymentJournal, Slot
from mesh.payment.settlement.gateway import GatewaySettlement
from mesh.payment.settlement.leaves import CheckedLeaves
from mesh.payment.settlement.loop import SettlementEvent
from mesh.payment.settlement.provider import ProviderSettlement, leaves_from_bytes
from mesh.payment.settlement.store import SettlementStore
from tests.chain.shells.world import Net

EPOCH_LENGTH = 60
BLOCKS = 4
PRICE = 10**15 + 7
"""Wei of a weighted token: odd, so that every division leaves a rest."""
ROYALTY_BPS = 733
STAKE = 500 * FUNC
GATEWAY_STAKE = 1000 * FUNC
LINE = 100 * FUNC
"""What each gateway guarantees to each provider from the start: more than most tests need."""
MODEL = 1
GATEWAY, OTHER_GATEWAY = "gate", "other-gate"
PROVIDERS = ("ann", "bob")
OWNERS = {GATEWAY: 1, "ann": 2, "bob": 3, "developer": 4, "creator": 5, OTHER_GATEWAY: 6}


async def found_town(net: Net) -> None:
    """Register and stake everybody; once for all tests."""
    async with net.client(OWNERS["creator"]) as creator:
        await creator.models.create_model(
            "model",
            key_of("manifest"),
            "",
            blocks=BLOCKS,
            price_per_token=PRICE,
            royalty_bps=ROYALTY_BPS,
            model_stake_amount=STAKE,
        )
    for name in PROVIDERS:
        async with net.client(OWNERS[name]) as client:
            await client.providers.register_and_stake(name, MODEL, provider_metadata(f"mesh://{name}"))
    for name in (GATEWAY, OTHER_GATEWAY):
        async with net.client(OWNERS[name]) as client:
            await client.gateways.register_and_stake(name, "{}", GATEWAY_STAKE)
            await client.gateways.fund_lines(name, dict.fromkeys(PROVIDERS, LINE))
    async with net.client(OWNERS["developer"]) as client:
        await client.escrow.deposit_and_reserve(GATEWAY, 1000 * FUNC)


class Vouchers:
    """A developer's vouchers at one gateway: what the accounts of a gateway give to settlement."""

    def __init__(self) -> None:
        self.all: dict[bytes, tuple[PaymentVoucher, bytes]] = {}
        self.paid: dict[bytes, int] = {}

    async def vouchers(self) -> Sequence[tuple[PaymentVoucher, bytes]]:
        return list(self.all.values())

    async def redeemed(self, voucher: PaymentVoucher, total: int) -> None:
        self.paid[voucher.payer] = total


@dataclass
class Told:
    """What settlement has told."""

    events: list[SettlementEvent] = field(default_factory=list)

    def __call__(self, event: SettlementEvent) -> None:
        self.events.append(event)

    def sent(self, what: str) -> list[SettlementEvent]:
        return [each for each in self.events if each.kind == "sent" and each.what == what]

    def texts(self, kind: str) -> list[str]:
        return [each.text for each in self.events if each.kind == kind]


class Town:
    """All parties of one test. `async with`; journals are files below `folder`."""

    def __init__(self, net: Net, folder: Path) -> None:
        self.net = net
        self.folder = folder
        deployment = net.deployment
        self.settlement_domain = self._domain("Settlement")
        self.escrow_domain = self._domain("Escrow")
        self.slashing_domain = self._domain("Slashing")
        self.told = Told()
        self.vouchers = Vouchers()
        self.withheld: set[str] = set()
        self.deployment = deployment
        self._stack = AsyncExitStack()
        self._clients: dict[str, StakingClient] = {}
        self._journals: dict[str, PaymentJournal] = {}
        self._stores: dict[str, SettlementStore] = {}

    def _domain(self, contract: str) -> Domain:
        deployment = self.net.deployment
        return Domain(deployment.chain_id, to_canonical_address(deployment.address(contract)))

    async def __aenter__(self) -> Self:
        self.reader = await self._stack.enter_async_context(self.net.client(None))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    # --- parties ---

    async def client(self, name: str) -> StakingClient:
        if name not in self._clients:
            file = self.folder / f"{name}.chain.sqlite"
            self._clients[name] = await self._stack.enter_async_context(self.net.client(OWNERS[name], journal=file))
        return self._clients[name]

    def journal(self, name: str) -> PaymentJournal:
        if name not in self._journals:
            opened = PaymentJournal(self.folder / f"{name}.payment.sqlite")
            self._journals[name] = self._stack.enter_context(opened)
        return self._journals[name]

    def store(self, name: str) -> SettlementStore:
        if name not in self._stores:
            opened = SettlementStore(self.folder / f"{name}.settlement.sqlite")
            self._stores[name] = self._stack.enter_context(opened)
        return self._stores[name]

    async def gateway(self, name: str = GATEWAY, **options: Any) -> GatewaySettlement:
        client = await self.client(name)
        source = self.vouchers if name == GATEWAY else None
        return GatewaySettlement(
            client, name, self.journal(name), self.store(name), source, tell=self.told, poll=0.1, **options
        )

    async def provider(self, name: str, **options: Any) -> ProviderSettlement:
        client = await self.client(name)
        return ProviderSettlement(
            client, self.journal(name), self.store(name), self.fetch, tell=self.told, poll=0.1, **options
        )

    async def fetch(self, slot: Slot, root: bytes, data_hash: bytes | None) -> CheckedLeaves:
        """As over the mesh, from the gateway's store."""
        body = self.store(slot.pair.gateway).published(slot.pair.gateway, slot.pair.model_id, slot.epoch)
        if slot.pair.gateway in self.withheld or body is None:
            raise PeerUnreachable("nobody there")
        return leaves_from_bytes(body, slot, root, data_hash)

    # --- work ---

    def work(self, provider: str, epoch: int, units: int, *, gateway: str = GATEWAY, leaf: int | None = None) -> None:
        """The provider has a receipt and a voucher for `units`; a cheating gateway remembers only `leaf` of them."""
        pair = Pair(gateway, provider, MODEL)
        slot = (key_of(gateway), key_of(provider), MODEL, epoch)
        owner, worker = faucet(OWNERS[gateway]), faucet(OWNERS[provider])
        receipt = worker.sign_digest(digest(self.settlement_domain, ContributionReceipt(*slot, units)))
        voucher = owner.sign_digest(digest(self.settlement_domain, ContributionVoucher(*slot, units)))
        for side, name in (("issued", gateway), ("held", provider)):
            self.journal(name).record_receipt(side, pair, "peer", epoch, 1, units, bytes(32), receipt)  # type: ignore[arg-type]
        self.journal(provider).record_voucher("held", pair, "peer", epoch, units, voucher)
        remembered = units if leaf is None else leaf
        if remembered:
            signature = owner.sign_digest(digest(self.settlement_domain, ContributionVoucher(*slot, remembered)))
            self.journal(gateway).record_voucher("issued", pair, "peer", epoch, remembered, signature)

    def exposure(self, provider: str) -> dict[int, int]:
        """Units by epoch that the provider's books still count against the gateways' lines."""
        found: dict[int, int] = {}
        for each in self.journal(provider).exposures():
            if not each.written_off:
                found[each.epoch] = found.get(each.epoch, 0) + each.vouched - each.safe
        return found

    def pay(self, amount: int, payer: int = OWNERS["developer"]) -> None:
        """The developer's voucher for `amount` wei in all."""
        account = faucet(payer)
        voucher = PaymentVoucher(account.canonical, key_of(GATEWAY), amount)
        self.vouchers.all[account.canonical] = (voucher, account.sign_digest(digest(self.escrow_domain, voucher)))

    async def equivocate(self, gateway: str, epoch: int) -> None:
        """The gateway has signed two checkpoints of one slot, and a stranger shows them: it is jailed."""
        signed = [CheckpointCommitment(key_of(gateway), MODEL, epoch, bytes([n]) * 32, 1, 1, bytes(32)) for n in (1, 2)]
        by = faucet(OWNERS[gateway])
        first, second = ((each, by.sign_digest(digest(self.settlement_domain, each))) for each in signed)
        async with self.net.client(8) as stranger:
            await stranger.settlement.challenge_equivocation(*first, *second)

    async def fee(self, epoch: int, units: int) -> int:
        return await self.reader.models.fee_for(MODEL, epoch, units)

    # --- time ---

    async def epoch(self) -> int:
        return await self.reader.epochs.current_epoch()

    async def enter(self, epoch: int) -> None:
        """Mine until the latest block is the first of `epoch`."""
        start = await self.reader.epochs.start_block(epoch)
        missing = start - await self.net.block()
        assert missing >= 0, f"epoch {epoch} began {-missing} blocks ago"
        await self.net.mine(missing)

    async def near_end(self, epoch: int, blocks: int) -> None:
        """Mine until `blocks` blocks of `epoch` are left."""
        end = await self.reader.epochs.start_block(epoch + 1)
        await self.net.mine(end - 1 - blocks - await self.net.block())

    # --- sums ---

    async def delay(self) -> int:
        """`epochRewardDelay`: d in the windows."""
        return (await self.reader.epochs.status()).reward_delay

    async def net_of(self, fee: int) -> int:
        """What a provider gets of a fee by compensation: no emission, the shares are burned."""
        parameters = await self.reader.settlement.parameters()
        taken = (parameters.gateway_share_bps, parameters.burn_bps, ROYALTY_BPS)
        return fee - sum(fee * bps // BPS for bps in taken)

    async def stake(self, gateway: str = GATEWAY) -> int:
        """All of a gateway's stake, lines included."""
        return (await self.reader.gateways.status(gateway)).stake

    async def balances(self) -> dict[str, int]:
        """FUNC of every account, contract and pool, and what there is in all."""
        places = {f"account {index}": account.address for index, account in enumerate(faucets())}
        places |= dict(self.deployment.contracts) | {"pool": await self.reader.core.pool(MODEL)}
        found = {name: await self.reader.token.balance(address) for name, address in places.items()}
        supply = await self.reader.token.total_supply()
        assert sum(found.values()) == supply, "somebody whom we do not know holds FUNC"
        return found | {"supply": supply}

    def of(self, name: str, balances: dict[str, int]) -> int:
        return balances[f"account {OWNERS[name]}"]
