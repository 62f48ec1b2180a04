"""A ready development chain in one step: embedded or anvil, contracts deployed, perhaps kept across restarts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from chain.deploy import Deployment, Parameters
from chain.devnet.accounts import CHAIN_ID, NATIVE_BALANCE, faucets
from chain.devnet.bootstrap import Caller, bootstrap
from chain.errors import ChainConfigError, DevnetError, RpcRefused
from chain.http_guard import Allowed

STATE_FILE = "chain.sqlite"
ANVIL_STATE_FILE = "anvil.json"
DEPLOYMENT_FILE = "deployment.json"


@dataclass(frozen=True, slots=True)
class Devnet:
    """A running development chain."""

    url: str
    deployment: Deployment
    kind: str


@contextlib.asynccontextmanager
async def embedded(
    *,
    folder: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    chain_id: int = CHAIN_ID,
    parameters: Parameters | None = None,
    block_seconds: float = 0,
    allowed: Allowed | None = None,
) -> AsyncIterator[Devnet]:
    """The embedded EVM. `folder` keeps the chain, also through kill -9; `allowed`: see `serve`.

    Raises `DevnetError`.
    """
    from chain.devnet.direct import Direct
    from chain.devnet.node import Node
    from chain.devnet.server import serve

    if folder is not None:
        _make(folder)
    balances = {account.canonical: NATIVE_BALANCE for account in faucets()}
    node = Node(chain_id, balances, path=folder / STATE_FILE if folder is not None else None)
    async with serve(node, host=host, port=port, allowed=allowed) as server:
        deployment = await _ready(Direct(server), folder, parameters)
        if block_seconds:
            node.automine = False
            server.mine_every(block_seconds)
        yield Devnet(server.url, deployment, "embedded")


@contextlib.asynccontextmanager
async def anvil(
    executable: Path,
    *,
    folder: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    chain_id: int = CHAIN_ID,
    parameters: Parameters | None = None,
    block_seconds: float = 0,
) -> AsyncIterator[Devnet]:
    """The same on anvil. Raises `DevnetError`."""
    from chain.client.rpc import Rpc
    from chain.devnet.anvil import run_anvil

    if folder is not None:
        _make(folder)
    state = folder / ANVIL_STATE_FILE if folder is not None else None
    async with run_anvil(executable, host=host, port=port, chain_id=chain_id, state=state) as running:
        async with Rpc(running.url) as rpc:
            deployment = await _ready(rpc, folder, parameters)
            if block_seconds:
                await rpc.call("evm_setAutomine", False)
                await rpc.call("evm_setIntervalMining", max(1, round(block_seconds)))
        yield Devnet(running.url, deployment, "anvil")


async def _ready(rpc: Caller, folder: Path | None, parameters: Parameters | None) -> Deployment:
    """The deployment that the chain holds already, or a new one."""
    path = folder / DEPLOYMENT_FILE if folder is not None else None
    if path is not None and path.exists():
        known = Deployment.read(path)
        block = await rpc.call("eth_getBlockByNumber", hex(known.anchor_number), False)
        if not isinstance(block, dict) or block["hash"] != known.anchor_hash:
            raise DevnetError(f"{path} does not belong to the chain beside it: remove one of them")
        return known
    try:
        # On a development chain the owner acts at once, unless a delay is asked for.
        deployment = await bootstrap(rpc, faucets(), parameters or Parameters(timelock_delay=0))
    except RpcRefused as error:
        raise DevnetError(f"the contracts cannot be deployed: {error}") from error
    if path is not None:
        deployment.save(path)
    return deployment


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ChainConfigError(f"cannot use {folder} for the chain: {error.strerror or error}") from error
