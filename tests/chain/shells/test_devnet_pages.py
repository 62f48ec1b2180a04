"""The embedded chain and the pages of strangers: what changes the chain is not taken from a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chain.shells.world import Net, start_chain

STATE_CHANGING = ("anvil_mine", "evm_mine", "evm_increaseTime", "anvil_setIntervalMining", "evm_revert")
JSON = {"Content-Type": "application/json"}


async def call(url: str, method: str, *params: Any, headers: dict[str, str]) -> httpx.Response:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.post(url, content=body, headers=headers)


async def block(net: Net) -> int:
    return int((await call(net.url, "eth_blockNumber", headers=JSON)).json()["result"], 16)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example", "Content-Type": "text/plain"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {},
        {"Origin": "http://evil.example", **JSON},
        {"Origin": "null", **JSON},
        {"Host": "evil.example", **JSON},
        {"Host": "evil.example:8545", "Origin": "http://evil.example:8545", **JSON},
    ],
)
async def test_a_strangers_page_neither_changes_nor_reads_the_chain(net: Net, headers: dict[str, str]) -> None:
    before = await block(net)
    for method in (*STATE_CHANGING, "eth_blockNumber"):
        answer = await call(net.url, method, "0x64", headers=headers)
        assert answer.status_code in (403, 415)
        assert answer.json()["error"]["message"]
        assert "result" not in answer.json()
    assert await block(net) == before


async def test_a_page_that_asks_first_is_not_granted_it(net: Net) -> None:
    asking = {
        "Origin": "http://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.options(net.url, headers=asking)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


async def test_programs_go_on_as_before(net: Net) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        call = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
        for url in (net.url, net.url.replace("127.0.0.1", "localhost")):
            assert (await http.post(url, json=call)).json()["result"] == "0x7a69"
    assert await net.rpc.call("eth_chainId") == "0x7a69"


async def test_names_and_pages_that_the_operator_allows_are_let_in(tmp_path: Path) -> None:
    chain = start_chain(tmp_path, "--allowed-host", "chain.lan", "--allowed-origin", "https://wallet.example")
    try:
        good = {"Host": "chain.lan:8545", "Origin": "https://wallet.example", **JSON}
        assert (await call(chain.url, "eth_chainId", headers=good)).json()["result"] == "0x7a69"
        for other in ({"Host": "other.lan"}, {"Origin": "https://other.example"}):
            assert (await call(chain.url, "eth_chainId", headers=good | other)).status_code == 403
    finally:
        chain.stop()
