"""web3.py under the client and beside it: one connection, safe defaults, and a plain user who sees the same chain."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import requests
from web3 import AsyncHTTPProvider, AsyncWeb3, Web3
from web3.exceptions import ContractCustomError, Web3RPCError

from chain import abi
from chain.client.provider import NodeProvider
from chain.client.retry import RetryPolicy
from chain.client.staking import StakingClient
from chain.contract_errors import ProviderIdTaken
from chain.contract_errors.decode import decode_revert
from chain.devnet.accounts import CHAIN_ID, faucet
from chain.errors import BadAnswer, ChainConfigError, NodeUnreachable, WrongChain
from chain.units import WEI_PER_FUNC
from tests.chain.shells.test_rpc import node, ok, result
from tests.chain.shells.world import Net

FUNC = WEI_PER_FUNC


def run(code: str) -> str:
    """What a new Python says."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


# --- imports ---


def test_nothing_imports_web3_before_a_client_is_made() -> None:
    code = (
        "import sys, mesh, chain, mesh.cli.main, chain.client.staking, chain.client.sync, chain.wallet\n"
        "print({'web3', 'aiohttp', 'eth_account', 'eth'} & set(sys.modules))"
    )
    assert run(code) == "set()"


def test_the_embedded_chain_starts_without_web3() -> None:
    code = (
        "import asyncio, sys\nfrom chain.devnet.up import embedded\n"
        "async def main():\n  async with embedded() as net: print(net.kind, 'web3' in sys.modules)\n"
        "before = sys.getrecursionlimit(); asyncio.run(main()); print(sys.getrecursionlimit() == before)"
    )
    assert run(code).split() == ["embedded", "False", "True"]


def test_the_client_keeps_the_recursion_limit_and_does_not_import_an_evm() -> None:
    code = (
        "import sys; before = sys.getrecursionlimit()\n"
        "from chain.client.rpc import Rpc; Rpc('http://127.0.0.1:1').w3\n"
        "from pathlib import Path; from chain.wallet import Account, create_keystore, open_keystore\n"
        "from chain.transactions import Fees, Transaction; import tempfile\n"
        "folder = tempfile.TemporaryDirectory(); path = Path(folder.name) / 'w'\n"
        "create_keystore(path, Account.create(), 'p'); open_keystore(path, 'p')\n"
        "Account.create().sign_transaction(Transaction(1, 0, Fees(2, 1), 21000, b'', 0, b''))\n"
        "print(sys.getrecursionlimit() == before, 'eth' in sys.modules, {'py_ecc', 'web3'} <= set(sys.modules))"
    )
    assert run(code) == "True False True"


# --- the provider ---


async def test_the_client_s_connection_is_web3_s_own_kind_of_provider(net: Net) -> None:
    async with net.client() as client:
        assert isinstance(client.core.rpc.provider, AsyncHTTPProvider)
        assert client.w3.provider is client.core.rpc.provider
        assert client.w3.provider.exception_retry_configuration is None


async def test_web3_s_requests_are_tried_again_as_the_client_s_are() -> None:
    async with node(lambda n, r: None if n < 3 else ok(result(r, "0x7"))) as (rpc, requests):
        assert await rpc.w3.eth.block_number == 7
        assert len(requests) == 3


async def test_what_the_node_would_sign_itself_is_sent_only_once() -> None:
    async with node(lambda n, r: None) as (rpc, requests):
        with pytest.raises(NodeUnreachable):
            await rpc.provider.make_request("eth_sendTransaction", [{}])
        assert len(requests) == 1


async def test_a_batch_of_web3_goes_out_in_one_request() -> None:
    async with node(lambda n, r: ok([result(each, hex(i)) for i, each in enumerate(r)])) as (rpc, requests):
        async with rpc.w3.batch_requests() as batch:
            batch.add(rpc.w3.eth.get_balance(faucet(0).address))  # type: ignore[arg-type]
            batch.add(rpc.w3.eth.get_balance(faucet(1).address))  # type: ignore[arg-type]
            assert await batch.async_execute() == [0, 1]
        assert len(requests) == 1 and len(requests[0]) == 2


async def test_a_refusal_reaches_a_web3_user_as_web3_s_own_error() -> None:
    def answer(n: int, r: Any) -> bytes:
        return ok({"id": r["id"], "error": {"code": -32601, "message": "no such method"}})

    async with node(answer) as (rpc, _):
        with pytest.raises(Web3RPCError, match="no such method"):
            await rpc.w3.eth.block_number


async def test_a_compressed_answer_is_bounded_by_what_it_becomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chain.client.provider.MAX_ANSWER", 100_000)
    bomb = gzip.compress(b" " * 50_000_000)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    async with node(lambda n, r: head + bomb) as (rpc, _):
        with pytest.raises(BadAnswer, match="more than"):
            await rpc.call("eth_chainId")


async def test_a_redirect_is_not_followed() -> None:
    away = b"HTTP/1.1 307 x\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    async with node(lambda n, r: away) as (rpc, requests):
        with pytest.raises(BadAnswer):
            await rpc.call("eth_chainId")
        assert len(requests) == 1


async def test_a_pinned_node_cannot_become_another_chain() -> None:
    async with node(lambda n, r: ok(result(r, hex(n)))) as (rpc, _):
        rpc.pin(1)
        assert await rpc.w3.eth.chain_id == 1
        with pytest.raises(WrongChain, match="chain 2, not chain 1"):
            await rpc.w3.eth.chain_id


def test_a_contract_cannot_have_the_client_fetch_what_it_names() -> None:
    assert NodeProvider("http://127.0.0.1:1").global_ccip_read_enabled is False


async def test_a_closed_client_has_no_web3(net: Net) -> None:
    client = StakingClient(net.url, net.deployment, retry=RetryPolicy(deadline=1))
    with pytest.raises(ChainConfigError, match="not open"):
        _ = client.w3
    async with client:
        assert await client.w3.eth.chain_id == CHAIN_ID
    with pytest.raises(ChainConfigError, match="not open"):
        _ = client.w3


# --- a plain user of web3.py and the checked-in ABI ---


@asynccontextmanager
async def plain(url: str) -> AsyncIterator[AsyncWeb3[Any]]:
    """web3.py as its documentation has it."""
    w3 = AsyncWeb3(AsyncHTTPProvider(url))
    yield w3
    await w3.provider.disconnect()
    w3.provider._request_session_manager.session_pool.shutdown()  # type: ignore[attr-defined]


async def test_a_web3_user_and_the_client_see_the_same_provider(any_net: Net) -> None:
    """Registers, approves and stakes with web3.py alone; each side reads what the other did."""
    async with any_net.client(1) as client, plain(any_net.url) as w3:
        created = await client.models.create_model(
            "m", b"\x07" * 32, "", blocks=8, price_per_token=10**12, royalty_bps=500, model_stake_amount=100 * FUNC
        )
        model = int(created.event("ModelCreated").arguments.model_id)
        user = w3.eth.account.from_key(faucet(5).private_key)

        def contract(name: str, at: str | None = None) -> Any:
            address = w3.to_checksum_address(at or any_net.deployment.address(name))
            return w3.eth.contract(address=address, abi=abi.load(name).abi)

        async def send(function: Any) -> Any:
            fields = {"from": user.address, "nonce": await w3.eth.get_transaction_count(user.address)}
            signed = user.sign_transaction(await function.build_transaction(fields))
            receipt = await w3.eth.wait_for_transaction_receipt(
                await w3.eth.send_raw_transaction(signed.raw_transaction), poll_latency=0.02
            )
            assert receipt["status"] == 1
            return receipt

        registry = contract("ProviderRegistry")
        metadata = '{"url":"https://node.example"}'
        receipt = await send(registry.functions.register("theirs", model, metadata))
        (theirs,) = registry.events.ProviderRegistered().process_receipt(receipt)
        pool = await contract("Router").functions.stakingPool(model).call()
        await send(contract("FuncToken").functions.approve(pool, 100 * FUNC))
        await send(contract("ProviderStaking", pool).functions.stakeForProvider("theirs"))

        status = await client.providers.status("theirs")
        assert status.active and status.stake == 100 * FUNC and status.owner == user.address and status.pool == pool
        (ours,) = [each async for each in client.core.events("ProviderRegistry", "ProviderRegistered")]
        assert (ours.name, ours.arguments.id, ours.arguments.model_id) == (
            "ProviderRegistered", theirs["args"]["id"], theirs["args"]["modelId"],
        )  # fmt: skip
        assert ours.tx_hash == "0x" + bytes(theirs["transactionHash"]).hex()

        await client.providers.register_and_stake("ours", model, metadata)
        assert await client.contract("ProviderRegistry").functions.isActive("ours").call() is True
        assert await registry.functions.isActive("ours").call() is True
        with pytest.raises(ContractCustomError) as refused:
            await registry.functions.register("ours", model, metadata).call({"from": user.address})
        assert isinstance(decode_revert(bytes.fromhex(str(refused.value.data)[2:])), ProviderIdTaken)


def test_the_synchronous_web3_reads_the_same_clock(embedded_chain: Any) -> None:
    with requests.Session() as session:
        w3 = Web3(Web3.HTTPProvider(embedded_chain.url, session=session))
        controller = w3.eth.contract(
            address=Web3.to_checksum_address(embedded_chain.deployment.address("EpochController")),
            abi=abi.load("EpochController").abi,
        )
        assert controller.functions.epochLength().call() > 0
        assert w3.eth.chain_id == embedded_chain.deployment.chain_id
