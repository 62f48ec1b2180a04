"""Joining a real chain: nobody stakes for what a stranger has put in the way, nor for what could not work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chain.client.staking import StakingClient
from chain.devnet.accounts import faucet
from chain.primitives import FUNC, key_of
from mesh.errors import ConfigError
from mesh.identity import Identity
from mesh.payment.onchain.registration import PaymentConfig, gateway_registration, provider_registration
from tests.chain.shells.world import ChainProcess

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

CREATOR, OWNER, SQUATTER = 1, 2, 3
DIGEST = b"\x07" * 32


@asynccontextmanager
async def client(chain: ChainProcess, account: int) -> AsyncIterator[StakingClient]:
    async with StakingClient(chain.url, chain.deployment, account=faucet(account), poll=0.05) as connected:
        yield connected


def config(chain: ChainProcess, folder: Path, name: str) -> PaymentConfig:
    return PaymentConfig(chain.url, chain.deployment, faucet(OWNER), folder, name)


async def yes(what: str) -> bool:
    return True


def silent(what: str, tx: str) -> None:
    pass


async def publish(chain: ChainProcess, account: int, name: str, royalty_bps: int) -> None:
    async with client(chain, account) as creator:
        await creator.models.create_model(
            name, DIGEST, "", blocks=4, price_per_token=1, royalty_bps=royalty_bps, model_stake_amount=FUNC
        )


async def test_a_provider_serves_the_model_of_the_name_and_not_a_squatters_of_the_same_weights(
    chain: ChainProcess, tmp_path: Path
) -> None:
    """Somebody publishes the creator's manifest a block before it, with the highest royalty."""
    await publish(chain, SQUATTER, "popular-", 5000)
    await publish(chain, CREATOR, "popular", 500)
    joining = provider_registration(
        config(chain, tmp_path, "ann"), Identity.generate(), digest=DIGEST.hex(), name="popular", ask=yes, tell=silent
    )
    async with joining as joined:
        assert joined.model is not None
        assert (joined.model.name, joined.model.royalty_bps) == ("popular", 500)


async def test_nothing_is_staked_for_a_second_gateway_that_the_wallet_could_not_sign_for(
    chain: ChainProcess, tmp_path: Path
) -> None:
    first = Identity.generate()
    async with gateway_registration(config(chain, tmp_path, "one"), first, ask=yes, tell=silent):
        pass
    async with client(chain, OWNER) as owner:
        before = await owner.token.balance()
        with pytest.raises(ConfigError, match="signs for another gateway"):
            async with gateway_registration(config(chain, tmp_path, "two"), Identity.generate(), ask=yes, tell=silent):
                pass
        assert await owner.token.balance() == before
        assert int(await owner.core.view("GatewayRegistry", "ownerOf", key_of("two")), 16) == 0
    async with gateway_registration(config(chain, tmp_path, "one"), first, ask=yes, tell=silent) as again:
        assert again.id == "one"
