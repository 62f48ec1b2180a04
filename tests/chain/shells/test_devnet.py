"""The embedded chain as other clients see it: raw HTTP, time, logs; and its own process killed and started again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from chain import abi
from chain.client.rpc import Rpc
from chain.deploy import Deployment
from chain.devnet.accounts import CHAIN_ID, faucet
from chain.devnet.anvil import find_anvil
from chain.errors import ChainConfigError, DevnetError, RpcRefused
from chain.primitives import key_of
from chain.transactions import Fees, Transaction
from tests.chain.shells.world import ChainProcess, Net, eventually, start_chain

STRANGER = "0x" + "77" * 20
DEEP = "0x685f5f5f5f5f305af1005f5260096017f3"
"""Creates a contract that calls itself with all its gas."""


async def raw_transfer(net: Net, nonce: int, *, value: int = 1, tip: int = 10**9, account: int = 5) -> str:
    tx = Transaction(CHAIN_ID, nonce, Fees(10**11, tip), 21_000, bytes.fromhex(STRANGER[2:]), value, b"")
    return "0x" + faucet(account).sign_transaction(tx).raw.hex()


# --- mining, time, snapshots ---


async def test_blocks_are_mined_on_demand(any_net: Net) -> None:
    before = await any_net.block()
    await any_net.mine(25)
    assert await any_net.block() == before + 25


async def test_a_snapshot_brings_everything_back(any_net: Net) -> None:
    snapshot, block = await any_net.snapshot(), await any_net.block()
    sent = await any_net.rpc.call("eth_sendRawTransaction", await raw_transfer(any_net, 0))
    async with asyncio.timeout(10):  # anvil mines on the side
        while await any_net.rpc.call("eth_getTransactionReceipt", sent) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await any_net.revert(snapshot)
    assert await any_net.block() == block
    assert await any_net.rpc.call("eth_getTransactionReceipt", sent) is None
    assert await any_net.rpc.call("eth_getBalance", STRANGER, "latest") == "0x0"
    # And the same transaction can be mined again.
    assert await any_net.rpc.call("eth_sendRawTransaction", await raw_transfer(any_net, 0)) == sent


async def test_time_can_be_moved_forward(net: Net) -> None:
    async def timestamp() -> int:
        return int((await net.rpc.call("eth_getBlockByNumber", "latest", False))["timestamp"], 16)

    await net.mine()
    before = await timestamp()
    await net.rpc.call("evm_setNextBlockTimestamp", hex(before + 1000))
    await net.mine()
    assert await timestamp() == before + 1000
    with pytest.raises(RpcRefused):
        await net.rpc.call("evm_setNextBlockTimestamp", hex(before))
    await net.rpc.call("anvil_mine", "0x3", "0x3c")
    assert await timestamp() >= before + 1000 + 120


async def test_blocks_come_by_the_clock_if_asked(tmp_path: Path) -> None:
    chain = start_chain(tmp_path, "--block-time", "0.2")
    try:
        async with Rpc(chain.url) as rpc:
            before = int(await rpc.call("eth_blockNumber"), 16)

            async def later() -> bool:
                return int(await rpc.call("eth_blockNumber"), 16) >= before + 3

            await eventually(later, "three blocks")
    finally:
        chain.stop()


# --- logs, of which py-evm alone would read every block ---


async def test_logs_of_a_long_chain_are_found_quickly(net: Net) -> None:
    await net.rpc.call("anvil_mine", hex(3000))
    async with net.client(1) as client:
        await client.escrow.deposit(5)
        loop = asyncio.get_running_loop()
        began = loop.time()
        found = [event async for event in client.core.events("Escrow", "Deposited")]
        assert [event.arguments.amount for event in found] == [5]
        assert loop.time() - began < 2
        one_block = {"address": net.deployment.address("Escrow"), "blockHash": None}
        block = await net.rpc.call("eth_getBlockByNumber", hex(found[0].block), False)
        logs = await net.rpc.call("eth_getLogs", {**one_block, "blockHash": block["hash"]})
        assert len(logs) == 1 and logs[0]["transactionHash"] == found[0].tx_hash


async def test_logs_are_filtered_by_any_of_several_topics(any_net: Net) -> None:
    async with any_net.client(1) as client:
        for name in ("g1", "g2", "g3"):
            await client.gateways.register(name, "")
        keys = ["0x" + key_of(name).hex() for name in ("g1", "g3")]
        artifact = abi.load("GatewayRegistry")
        query = {
            "address": [any_net.deployment.address("GatewayRegistry")],
            "fromBlock": hex(any_net.deployment.block),
            "topics": ["0x" + artifact.topic("GatewayRegistered").hex(), keys],
        }
        logs = await any_net.rpc.call("eth_getLogs", query)
        assert [log["topics"][1] for log in logs] == keys


# --- what a client may send ---


async def post(net: Net, body: bytes) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.post(net.url, content=body, headers={"content-type": "application/json"})


async def test_batches_are_answered_in_order(net: Net) -> None:
    wanted = [
        {"jsonrpc": "2.0", "id": i, "method": m, "params": []}
        for i, m in enumerate(["eth_chainId", "nope", "net_version"])
    ]
    answers = (await post(net, json.dumps(wanted).encode())).json()
    assert [answer["id"] for answer in answers] == [0, 1, 2]
    assert answers[0]["result"] == hex(CHAIN_ID) and answers[1]["error"]["code"] == -32601


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700), (b"{", -32700), (b"[" * 200_000, -32700), (b"\xff\xfe", -32700), (b"5", -32600), (b"[]", -32600),
        (b'{"id": 1}', -32600), (b'{"id": 1, "method": 5}', -32600), (b'{"id":1,"method":"eth_call"}', -32602),
        (b'{"id":1,"method":"eth_getBalance","params":{"a":1}}', -32602),
        (b'{"id":1,"method":"eth_getBalance","params":["0x12"]}', -32602),
        (b'{"id":1,"method":"eth_getBalance","params":[5, 5, 5, 5]}', -32602),
        (b'{"id":1,"method":"eth_sendRawTransaction","params":["0x1234"]}', -32000),
        (b'{"id":1,"method":"eth_sendRawTransaction","params":["zz"]}', -32602),
        (b'{"id":1,"method":"eth_getBlockByNumber","params":["0xzz"]}', -32602),
        (b'{"id":1,"method":"anvil_mine","params":["0xffffffff"]}', -32602),
        (b'{"id":1,"method":"eth_getLogs","params":[{"topics":[["0x12"]]}]}', -32602),
        (b'{"id":1,"method":"__init__","params":[]}', -32601),
    ],
)  # fmt: skip
async def test_what_is_no_request_gets_an_error_and_the_chain_goes_on(net: Net, body: bytes, code: int) -> None:
    answer = (await post(net, body)).json()
    assert answer["error"]["code"] == code, answer
    assert await net.rpc.call("eth_chainId") == hex(CHAIN_ID)


async def test_a_request_that_is_too_large_is_refused(net: Net) -> None:
    assert (await post(net, b" " * (5 << 20))).status_code == 413


async def test_a_contract_that_calls_itself_without_end_is_only_a_failed_call(net: Net) -> None:
    async with net.client(5) as client:
        tx = Transaction(CHAIN_ID, 0, Fees(10**11, 10**9), 200_000, b"", 0, bytes.fromhex(DEEP[2:]))
        raw = "0x" + faucet(5).sign_transaction(tx).raw.hex()
        sent = await client.core.rpc.call("eth_sendRawTransaction", raw)
        address = (await client.core.rpc.call("eth_getTransactionReceipt", sent))["contractAddress"]
        assert await client.core.rpc.call("eth_call", {"to": address}, "latest") == "0x"
        assert int(await client.core.rpc.call("eth_estimateGas", {"to": address}), 16) > 21_000
        deep = Transaction(CHAIN_ID, 1, Fees(10**11, 10**9), 20_000_000, bytes.fromhex(address[2:]), 0, b"")
        sent = await client.core.rpc.call("eth_sendRawTransaction", "0x" + faucet(5).sign_transaction(deep).raw.hex())
        assert (await client.core.rpc.call("eth_getTransactionReceipt", sent))["status"] == "0x1"


# --- the process ---


async def test_a_kept_chain_survives_kill_nine(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state"))
    first = start_chain(tmp_path, *state)
    async with Net(first, Rpc(first.url)).client(1) as client:
        await client.escrow.deposit(5)
        block = await client.core.block_number()
    first.kill()
    second = start_chain(tmp_path, *state)
    try:
        assert second.deployment == first.deployment
        async with Net(second, Rpc(second.url)).client(1) as client:
            assert await client.escrow.free_of() == 5
            assert await client.core.block_number() == block
            await client.escrow.deposit(6)
            assert [e.arguments.amount async for e in client.core.events("Escrow", "Deposited")] == [5, 6]
    finally:
        assert second.stop() == 0


async def test_a_chain_killed_while_it_mines_ends_with_a_whole_block(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state"))
    first = start_chain(tmp_path, *state)
    async with Rpc(first.url) as rpc:
        mining = asyncio.create_task(rpc.call("anvil_mine", hex(50_000)))
        log = tmp_path / "state" / "chain.sqlite-wal"
        before = log.stat().st_size

        async def writing() -> bool:  # the file itself is locked; its write-ahead log grows with every block
            return log.stat().st_size > before + 50 * 4096

        await eventually(writing, "blocks are being written")
        first.kill()
        mining.cancel()
        await asyncio.wait({mining})
    second = start_chain(tmp_path, *state)
    try:
        async with Rpc(second.url) as rpc:
            head = await rpc.call("eth_getBlockByNumber", "latest", False)
            assert int(head["number"], 16) > first.deployment.anchor_number
            parent = await rpc.call("eth_getBlockByHash", head["parentHash"], False)
            assert int(parent["number"], 16) == int(head["number"], 16) - 1
            await rpc.call("evm_mine")
    finally:
        second.stop()


def test_two_chains_cannot_share_a_state(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state"))
    first = start_chain(tmp_path, *state)
    try:
        with pytest.raises(AssertionError, match="in use by another devnet"):
            start_chain(tmp_path, *state)
    finally:
        first.stop()


def test_a_port_in_use_is_said_in_one_line(embedded_chain: ChainProcess, tmp_path: Path) -> None:
    port = embedded_chain.url.rsplit(":", 1)[1]
    with pytest.raises(AssertionError, match="error: cannot listen on"):
        start_chain(tmp_path, "--port", port)


def test_a_state_of_another_chain_is_refused(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state"))
    start_chain(tmp_path, *state).stop()
    with pytest.raises(AssertionError, match="holds chain 31337, not chain 7"):
        start_chain(tmp_path, *state, "--chain-id", "7")


async def test_a_kept_anvil_keeps_its_contracts(tmp_path: Path, anvil_path: Path) -> None:
    state = ("--state", str(tmp_path / "state"))
    first = start_chain(tmp_path, *state, anvil=anvil_path)
    async with Net(first, Rpc(first.url)).client(1) as client:
        await client.escrow.deposit(5)
    assert first.stop() == 0
    second = start_chain(tmp_path, *state, anvil=anvil_path)
    try:
        async with Net(second, Rpc(second.url)).client(1) as client:
            assert await client.escrow.free_of() == 5
    finally:
        second.stop()


def test_a_missing_anvil_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MESH_ANVIL", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DevnetError, match="npm install @foundry-rs/anvil"):
        find_anvil()


def test_a_deployment_file_is_checked(tmp_path: Path, embedded_chain: ChainProcess) -> None:
    path = tmp_path / "d.json"
    good = json.loads(embedded_chain.deployment_file.read_text())
    for change in ({"version": 1}, {"contracts": {}}, {"chain_id": -1}, {"anchor_hash": "0x1"}):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(ChainConfigError, match="not a deployment file"):
            Deployment.read(path)
    for text in ("", "[" * 60_000, "x" * 100_000):
        path.write_text(text)
        with pytest.raises(ChainConfigError):
            Deployment.read(path)
    with pytest.raises(ChainConfigError, match="mesh chain up"):
        Deployment.read(tmp_path / "none.json")


def test_no_bytes_that_claim_to_be_a_transaction_can_stop_the_node() -> None:
    import random

    from chain.devnet.evm import Evm, TransactionRefused
    from chain.devnet.store import Store

    evm, draw = Evm(Store(), CHAIN_ID), random.Random(7)
    good = faucet(5).sign_transaction(Transaction(CHAIN_ID, 0, Fees(10**11, 1), 21_000, b"\x01" * 20, 1, b"abc")).raw
    assert evm.decode(good).sender == faucet(5).canonical
    refused = 0
    for _ in range(2_000):
        raw = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(raw) + 1)
            raw[place : place + draw.randint(0, 2)] = draw.randbytes(draw.randint(0, 2))
        try:
            assert evm.decode(bytes(raw)).sender != faucet(5).canonical or bytes(raw) == good
        except TransactionRefused:
            refused += 1
    assert refused > 1_000
