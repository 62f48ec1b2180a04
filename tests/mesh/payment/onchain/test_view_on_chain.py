"""The view that both sides of a payment have of a real chain: eligibility, keys, lines and tariffs as they change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chain.client.staking import StakingClient
from chain.devnet.accounts import faucet
from chain.primitives import FUNC, checksummed
from mesh.identity import Identity
from mesh.payment.credit.binding import Binding, Role
from mesh.payment.credit.terms import NotAccepted, ProviderFacts
from mesh.payment.credit.units import ModelPrice
from mesh.payment.onchain.view import StakingView
from tests.chain.shells.test_hostile_strings import raw
from tests.chain.shells.world import ChainProcess, Net

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

CREATOR, GATEWAY_OWNER, PROVIDER_OWNER = 1, 2, 3
PRICE = 10**14
DIGEST = b"\x07" * 32


@asynccontextmanager
async def client(chain: ChainProcess, account: int) -> AsyncIterator[StakingClient]:
    async with StakingClient(chain.url, chain.deployment, account=faucet(account), poll=0.05) as connected:
        yield connected


def binding(chain: ChainProcess, role: Role, name: str, account: int) -> Binding:
    settlement = checksummed(bytes.fromhex(chain.deployment.address("Settlement")[2:]))
    address, peer = faucet(account).address, Identity.generate().peer_id
    return Binding(role, name, chain.deployment.chain_id, settlement, address, peer, 1 << 40)


async def test_the_view_follows_the_chain(chain: ChainProcess) -> None:
    async with (
        client(chain, CREATOR) as creator,
        client(chain, GATEWAY_OWNER) as owner,
        client(chain, PROVIDER_OWNER) as provider,
    ):
        net = Net(chain, creator.core.rpc)
        view = StakingView(creator, poll_seconds=0.05, fact_seconds=0.0)
        await view.start()
        gate, ann = (
            binding(chain, "gateway", "gate", GATEWAY_OWNER),
            binding(chain, "provider", "ann", PROVIDER_OWNER),
        )
        with pytest.raises(NotAccepted, match="not eligible"):
            await view.check_gateway(gate)
        with pytest.raises(NotAccepted, match="not eligible"):
            await view.check_provider(ann)

        await creator.models.create_model(
            "m", DIGEST, "", blocks=4, price_per_token=PRICE, royalty_bps=0, model_stake_amount=FUNC
        )
        await provider.providers.register_and_stake("ann", 1, '{"url": "https://ann.example"}')
        await owner.gateways.register_and_stake("gate", '{"url": "https://gate.example"}', 200 * FUNC)
        assert (await view.check_gateway(gate)).signer == faucet(GATEWAY_OWNER).address
        facts = await view.check_provider(ann)
        assert facts == ProviderFacts(faucet(PROVIDER_OWNER).address, 1, DIGEST, "m")
        with pytest.raises(NotAccepted, match="does not sign"):
            await view.check_gateway(binding(chain, "gateway", "gate", CREATOR))

        assert await view.guarantee("gate", "ann") == 0
        await owner.core.action("GatewayStaking", "fundLines", "gate", ["ann"], [60 * FUNC])
        assert await view.guarantee("gate", "ann") == 60 * FUNC
        await owner.core.action("GatewayStaking", "thawLine", "gate", "ann", 20 * FUNC)
        assert await view.guarantee("gate", "ann") == 40 * FUNC

        await creator.models.update_price(1, 3 * PRICE)
        await view.start()
        epoch = view.epoch
        assert await view.tariff(1, epoch) == await view.tariff(1, epoch + 1) == ModelPrice(PRICE, 4)
        with pytest.raises(NotAccepted, match="not fixed"):
            await view.tariff(1, epoch + 2)
        following = asyncio.create_task(view.run())
        try:
            await net.next_epoch(creator, 2)
            await net.mine()
            async with asyncio.timeout(10):
                while view.epoch < epoch + 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        finally:
            following.cancel()
        assert await view.tariff(1, view.epoch) == ModelPrice(3 * PRICE, 4)
        assert await view.gateway_signer("gate", view.epoch) == faucet(GATEWAY_OWNER).address

        # What cannot be read of a party must not keep an older answer about it alive.
        for each, registry, name in ((provider, "ProviderRegistry", b"ann"), (owner, "GatewayRegistry", b"gate")):
            await raw(each, registry, "updateMetadata(string,string)", name, b"\xff\xfe")
        await view.check_gateway(gate)
        await view.check_provider(ann)
        await owner.gateways.wind_down_gateways(["gate"])
        with pytest.raises(NotAccepted, match="not eligible"):
            await view.check_gateway(gate)
        await creator.models.disable(1)
        with pytest.raises(NotAccepted, match="not eligible"):
            await view.check_provider(ann)
