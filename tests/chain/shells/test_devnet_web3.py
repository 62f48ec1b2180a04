"""The embedded chain and anvil as plain web3.py sees them: contracts, accounts, transfers, errors, overrides, fees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from web3 import AsyncWeb3
from web3.exceptions import ContractCustomError, TransactionNotFound

from chain import abi
from chain.deploy import CONTRACTS, SUPPLY_CAP, Deployment, Parameters
from chain.devnet.accounts import CHAIN_ID, NATIVE_BALANCE, faucet, faucets
from chain.devnet.bootstrap import FUNC_EACH
from chain.errors import RpcRefused
from tests.chain.shells.test_devnet import STRANGER, raw_transfer
from tests.chain.shells.test_web3 import plain
from tests.chain.shells.world import Net


@pytest.fixture
async def web3(any_net: Net) -> AsyncIterator[AsyncWeb3[Any]]:
    async with plain(any_net.url) as client:
        yield client


def contract(web3: AsyncWeb3[Any], deployment: Deployment, name: str) -> Any:
    return web3.eth.contract(address=deployment.address(name), abi=abi.load(name).abi)  # type: ignore[arg-type]


# --- what is there from the beginning ---


async def test_the_contracts_are_deployed_and_wired(any_net: Net, web3: AsyncWeb3[Any]) -> None:
    directory = await contract(web3, any_net.deployment, "Directory").functions.entries().call()
    assert list(directory) == [any_net.deployment.address(name) for name in CONTRACTS]
    token = contract(web3, any_net.deployment, "FuncToken")
    assert await token.functions.minter().call() == any_net.deployment.address("RewardPool")
    assert await token.functions.SUPPLY_CAP().call() == SUPPLY_CAP
    epochs = contract(web3, any_net.deployment, "EpochController")
    defaults = Parameters()
    assert await epochs.functions.minEpochsLocked().call() == defaults.min_epochs_locked
    assert await epochs.functions.epochRewardDelay().call() == defaults.epoch_reward_delay
    assert await epochs.functions.windDownDelay().call() == defaults.wind_down_delay


async def test_ten_accounts_have_gas_money_and_func(any_net: Net, web3: AsyncWeb3[Any]) -> None:
    token = contract(web3, any_net.deployment, "FuncToken")
    for account in faucets()[1:]:
        assert await web3.eth.get_balance(account.address) == NATIVE_BALANCE  # type: ignore[arg-type]
        assert await token.functions.balanceOf(account.address).call() == FUNC_EACH


# --- web3.py, which knows nothing of us ---


async def test_web3_sends_and_reads_a_transfer(any_net: Net, web3: AsyncWeb3[Any]) -> None:
    sent = await web3.eth.send_raw_transaction(await raw_transfer(any_net, 0, value=123))  # type: ignore[arg-type]
    receipt = await web3.eth.wait_for_transaction_receipt(sent)
    assert receipt["status"] == 1 and receipt["gasUsed"] == 21_000
    tx = await web3.eth.get_transaction(sent)
    assert tx["value"] == 123 and tx["from"] == faucet(5).address and tx["blockNumber"] == receipt["blockNumber"]
    block = await web3.eth.get_block(receipt["blockNumber"], True)
    assert [each["hash"] for each in block["transactions"]] == [sent]  # type: ignore[index]
    assert block["hash"] == receipt["blockHash"]
    assert await web3.eth.get_balance(STRANGER) == 123  # type: ignore[arg-type]
    assert await web3.eth.get_transaction_count(faucet(5).address) == 1  # type: ignore[arg-type]


async def test_web3_calls_sends_and_reads_events_of_contracts(any_net: Net, web3: AsyncWeb3[Any]) -> None:
    token = contract(web3, any_net.deployment, "FuncToken")
    sender = web3.eth.account.from_key(faucet(5).private_key)
    call = token.functions.transfer(web3.to_checksum_address(STRANGER), 77)
    tx = await call.build_transaction({"from": sender.address, "nonce": 0, "chainId": CHAIN_ID})
    sent = await web3.eth.send_raw_transaction(sender.sign_transaction(tx).raw_transaction)
    receipt = await web3.eth.wait_for_transaction_receipt(sent)
    (event,) = token.events.Transfer().process_receipt(receipt)
    assert event["args"]["value"] == 77
    found = await token.events.Transfer().get_logs(
        from_block=0, argument_filters={"to": web3.to_checksum_address(STRANGER)}
    )
    assert [each["transactionHash"] for each in found] == [sent]
    assert await token.functions.balanceOf(web3.to_checksum_address(STRANGER)).call() == 77


async def test_web3_sees_the_data_of_a_custom_error(any_net: Net, web3: AsyncWeb3[Any]) -> None:
    registry = contract(web3, any_net.deployment, "ProviderRegistry")
    with pytest.raises(ContractCustomError) as raised:
        await registry.functions.register("p", 99, "{}").call({"from": faucet(5).address})
    assert raised.value.data is not None
    assert str(raised.value.data).startswith("0x") and len(str(raised.value.data)) == 2 + 8 + 64


async def test_state_overrides_make_a_call_imagine_another_state(any_net: Net) -> None:
    call = {"from": STRANGER, "to": faucet(5).address, "value": hex(10**18)}
    with pytest.raises(RpcRefused):
        await any_net.rpc.call("eth_call", call, "latest")
    assert await any_net.rpc.call("eth_call", call, "latest", {STRANGER: {"balance": hex(10**19)}}) == "0x"


async def test_fee_history_and_blocks_agree(any_net: Net, web3: AsyncWeb3[Any]) -> None:
    await any_net.mine(3)
    history = await web3.eth.fee_history(3, "latest", [50.0])
    latest = await web3.eth.get_block("latest")
    assert history["baseFeePerGas"][2] == latest["baseFeePerGas"]
    assert history["oldestBlock"] == latest["number"] - 2 and len(history["baseFeePerGas"]) == 4


async def test_without_automining_transactions_wait_and_are_mined_in_order(any_net: Net, web3: AsyncWeb3[Any]) -> None:
    await any_net.automine(False)
    hashes = [
        await any_net.rpc.call("eth_sendRawTransaction", await raw_transfer(any_net, nonce)) for nonce in (1, 0, 2)
    ]
    address = faucet(5).address
    assert await web3.eth.get_transaction_count(address, "pending") == 3  # type: ignore[arg-type]
    assert await web3.eth.get_transaction_count(address, "latest") == 0  # type: ignore[arg-type]
    with pytest.raises(TransactionNotFound):
        await web3.eth.get_transaction_receipt(hashes[0])
    await any_net.mine()
    receipts = [await web3.eth.get_transaction_receipt(each) for each in hashes]
    assert [receipt["transactionIndex"] for receipt in receipts] == [1, 0, 2]
