"""Makes a bare development chain ready: deploys the contracts and gives FUNC to the well-known accounts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from chain import abi, deploy
from chain.client.answers import quantity
from chain.deploy import Deployment, Parameters
from chain.errors import DevnetError, RpcRefused
from chain.transactions import Fees, SignedTransaction, Transaction
from chain.units import WEI_PER_FUNC
from chain.wallet import Account

MINE_SECONDS = 30.0
RESEND_SECONDS = 1.0
FUNC_EACH = 1_000_000 * WEI_PER_FUNC


class Caller(Protocol):
    """What the deployment needs of a chain: `Rpc` has it, and so has `Direct`, without a connection."""

    async def call(self, method: str, *params: Any) -> Any:
        """One result. Raises `NodeError`."""
        ...

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Many; one that was refused is its `RpcRefused`, not raised."""
        ...


async def bootstrap(rpc: Caller, accounts: Sequence[Account], parameters: Parameters) -> Deployment:
    """Deploy from `accounts[0]`, in one go: the chain must mine by itself. Raises `DevnetError`, `NodeError`.

    For development chains only: it keeps no journal. On another chain the deployer sends the same plan with a client.
    """
    deployer = accounts[0]
    chain_id = quantity(await rpc.call("eth_chainId"))
    nonce = quantity(await rpc.call("eth_getTransactionCount", deployer.address, "latest"))
    block = await rpc.call("eth_getBlockByNumber", "latest", False)
    plan = deploy.plan(deployer.address, nonce, parameters)
    transfer = abi.load("FuncToken").function("transfer")
    steps = [
        *plan.steps,
        *(
            deploy.Step(
                f"FUNC for {account.address}",
                plan.contracts["FuncToken"],
                transfer.encode([account.address, FUNC_EACH]),
                100_000,
            )
            for account in accounts[1:]
        ),
    ]
    base_fee = quantity(block["baseFeePerGas"])
    fees = Fees(4 * base_fee + 10**9, 10**9)
    signed = [
        deployer.sign_transaction(
            Transaction(chain_id, nonce + index, fees, step.gas, bytes.fromhex((step.to or "0x")[2:]), 0, step.data)
        )
        for index, step in enumerate(steps)
    ]
    first = quantity(block["number"]) + 1
    for answer, step in zip(
        await rpc.batch([("eth_sendRawTransaction", ("0x" + each.raw.hex(),)) for each in signed]), steps, strict=True
    ):
        if isinstance(answer, RpcRefused):
            raise DevnetError(f"{step.label} was refused: {answer}")
    receipts = await _receipts(rpc, signed)
    for receipt, step in zip(receipts, steps, strict=True):
        if quantity(receipt["status"]) != 1:
            raise DevnetError(f"{step.label} failed on the development chain")
    head = await rpc.call("eth_getBlockByNumber", "latest", False)
    return Deployment(
        chain_id=chain_id,
        contracts=plan.contracts,
        block=first,
        anchor_number=quantity(head["number"]),
        anchor_hash=head["hash"],
        deployer=deployer.address,
    )


async def _receipts(rpc: Caller, signed: Sequence[SignedTransaction]) -> list[Any]:
    """All receipts, as soon as all are there. Raises `DevnetError`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + MINE_SECONDS
    resend = loop.time() + RESEND_SECONDS
    while True:
        found = await rpc.batch([("eth_getTransactionReceipt", ("0x" + each.hash.hex(),)) for each in signed])
        if all(isinstance(receipt, dict) for receipt in found):
            return found
        if loop.time() > end:
            raise DevnetError("the development chain does not mine")
        if loop.time() > resend:
            # Seen on a busy machine: anvil takes all of a batch and then loses some of it (one start in ten).
            for each, receipt in zip(signed, found, strict=True):
                if not isinstance(receipt, dict):
                    await rpc.batch([("eth_sendRawTransaction", ("0x" + each.raw.hex(),))])
            # Also seen: some of a batch waits in its pool until a block is mined for another reason.
            await rpc.call("evm_mine")
            resend = loop.time() + RESEND_SECONDS
        await asyncio.sleep(0.02)
