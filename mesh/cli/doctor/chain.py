"""Asks the node behind --rpc whether it is there, on the right chain, and not behind."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

from chain.client.answers import quantity
from chain.client.retry import RetryPolicy
from chain.client.rpc import Rpc
from chain.deploy import Deployment
from chain.errors import ChainConfigError, NodeError, RpcRefused
from mesh.cli.doctor.checks import STALE_HEAD
from mesh.cli.doctor.readings import ChainReading

ANSWER: Final = RetryPolicy(deadline=6.0, attempt_timeout=5.0)
LOOK_SECONDS: Final = 2.5
"""Between two looks at a development chain whose last block is old: whether it makes blocks by itself."""
DEVELOPMENT: Final = ("inference-mesh/", "anvil/")


async def read_chain(url: str, deployment_file: Path) -> ChainReading:
    """What it says. Raises `ChainConfigError` for what is not an HTTP address."""
    missing, deployment = None, None
    try:
        deployment = Deployment.read(deployment_file)
    except ChainConfigError as error:
        missing = str(error)
    async with Rpc(url, ANSWER) as rpc:
        try:
            return await _read(rpc, deployment, missing)
        except NodeError as error:
            return ChainReading(rpc.shown, problem=str(error), no_deployment=missing)


async def _read(rpc: Rpc, deployment: Deployment | None, missing: str | None) -> ChainReading:
    anchor = 0 if deployment is None else deployment.anchor_number
    chain_id, syncing, head, anchored, client = await rpc.batch(
        [
            ("eth_chainId", ()),
            ("eth_syncing", ()),
            ("eth_getBlockByNumber", ("latest", False)),
            ("eth_getBlockByNumber", (hex(anchor), False)),
            ("web3_clientVersion", ()),
        ]
    )
    for answer in (chain_id, head):
        if isinstance(answer, RpcRefused):
            raise answer
    number, age = _head(head)
    on_demand = False
    if age > STALE_HEAD and isinstance(client, str) and client.startswith(DEVELOPMENT):
        await asyncio.sleep(LOOK_SECONDS)
        on_demand = _head(await rpc.call("eth_getBlockByNumber", "latest", False))[0] == number
    has = None
    if deployment is not None:
        has = isinstance(anchored, dict) and anchored.get("hash") == deployment.anchor_hash
    return ChainReading(
        rpc.shown,
        no_deployment=missing,
        chain_id=quantity(chain_id),
        expected_id=None if deployment is None else deployment.chain_id,
        has_contracts=has,
        head=number,
        behind=_behind(syncing),
        head_age=age,
        on_demand=on_demand,
    )


def _head(block: Any) -> tuple[int, float]:
    """Its number, and its age by our clock."""
    if not isinstance(block, dict):
        return 0, 0.0
    return quantity(block.get("number")), time.time() - quantity(block.get("timestamp"))


def _behind(syncing: Any) -> int | None:
    """Blocks between what it has and what it knows of; None where it says that it has all."""
    if not isinstance(syncing, dict) or "highestBlock" not in syncing or "currentBlock" not in syncing:
        return None
    return max(0, quantity(syncing["highestBlock"]) - quantity(syncing["currentBlock"]))
