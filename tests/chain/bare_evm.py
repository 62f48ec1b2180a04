"""The compiled contracts on py-evm's state without blocks or signatures: any sender, any block number, quickly.

A transaction is a message that is applied as a whole or not at all, as in a block; gas is not counted. The chain's own
devnet, its blocks, nonces and receipts are tested elsewhere: here only what the contracts compute.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any

from eth_abi import abi
from eth_typing import Address as EthAddress
from eth_typing import BlockNumber, Hash32
from eth_utils.abi import collapse_if_tuple, function_abi_to_4byte_selector
from eth_utils.crypto import keccak

from chain import recursion_limit
from chain.contract_errors.decode import decode_revert
from chain.errors import ContractError
from chain.primitives import Address
from tests.chain.spec import Genesis

with recursion_limit.kept():
    from eth._utils.address import generate_contract_address
    from eth.constants import CREATE_CONTRACT_ADDRESS, ZERO_ADDRESS
    from eth.db.atomic import AtomicDB
    from eth.exceptions import Revert
    from eth.vm.execution_context import ExecutionContext
    from eth.vm.forks.prague.state import PragueState
    from eth.vm.message import Message

GAS = 10**9
GENESIS_ROOT = bytes.fromhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421")


class Halt(AssertionError):
    """A transaction ended without revert data: out of gas, or an invalid instruction."""


@dataclass(frozen=True, slots=True)
class Function:
    selector: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def encode(self, arguments: tuple[Any, ...]) -> bytes:
        return self.selector + abi.encode(self.inputs, arguments)

    def decode(self, output: bytes) -> Any:
        values = abi.decode(self.outputs, output)
        return values[0] if len(values) == 1 else values


@cache
def artifact(name: str) -> dict[str, Any]:
    """A compiled contract that is checked in."""
    loaded: dict[str, Any] = json.loads(resources.files("chain.artifacts").joinpath(f"{name}.json").read_text())
    return loaded


@cache
def functions(*names: str) -> dict[str, Function]:
    """All functions of some contracts' interfaces, by name."""
    found = {}
    for entry in (entry for name in names for entry in artifact(name)["abi"] if entry["type"] == "function"):
        kinds = [tuple(collapse_if_tuple(value) for value in entry[side]) for side in ("inputs", "outputs")]
        found[entry["name"]] = Function(function_abi_to_4byte_selector(entry), kinds[0], kinds[1])
    return found


def block_hash(number: int) -> Hash32:
    """What BLOCKHASH says of the last 256 blocks."""
    return Hash32(keccak(number.to_bytes(32, "big")))


class BareEvm:
    """State that survives from transaction to transaction, in memory."""

    def __init__(self, chain_id: int) -> None:
        self._chain_id = chain_id
        self._state = self._at(AtomicDB(), 0, GENESIS_ROOT)
        self._created = 0

    def transact(self, sender: Address, to: Address, data: bytes, block: int) -> bytes:
        """Output of a call that is kept. Raises the ContractError that it reverts with, and then keeps nothing."""
        return self._apply(sender, to, data, b"", None, block, keep=True)

    def view(self, to: Address, data: bytes, block: int, sender: Address = ZERO_ADDRESS) -> bytes:
        """Output of a call that is not kept."""
        return self._apply(sender, to, data, b"", None, block, keep=False)

    def create(self, sender: Address, code: bytes, block: int) -> Address:
        """Deploys; returns where."""
        self._created += 1
        address = keccak(b"contract" + self._created.to_bytes(32, "big"))[12:]
        self._apply(sender, CREATE_CONTRACT_ADDRESS, b"", code, address, block, keep=True)
        return address

    def _apply(
        self,
        sender: Address,
        to: Address,
        data: bytes,
        code: bytes,
        create_address: Address | None,
        block: int,
        keep: bool,
    ) -> bytes:
        state = self._state
        # One context for all blocks: only these two differ between them.
        vars(state.execution_context).update(
            _block_number=block, _prev_hashes=map(block_hash, range(block - 1, -1, -1))
        )
        message = Message(
            gas=GAS,
            to=EthAddress(to),
            sender=EthAddress(sender),
            value=0,
            data=data,
            code=code or state.get_code(EthAddress(to)),
            create_address=EthAddress(create_address) if create_address else None,  # type: ignore[arg-type]
            should_transfer_value=False,
        )
        context = state.get_transaction_context_class()(gas_price=0, origin=EthAddress(sender))
        before = state.snapshot()
        run = state.computation_class.apply_create_message if create_address else state.computation_class.apply_message
        computation = run(state, message, context)
        state.clear_transient_storage()
        if computation.is_error or not keep:
            state.revert(before)
        else:
            state.commit(before)
            state.lock_changes()
        if computation.is_error:
            if not isinstance(computation.error, Revert):
                raise Halt(repr(computation.error))
            raise decode_revert(bytes(computation.output))
        return bytes(computation.output)

    def _at(self, db: AtomicDB, block: int, root: bytes) -> PragueState:
        context = ExecutionContext(
            coinbase=ZERO_ADDRESS,
            timestamp=1,
            block_number=BlockNumber(block),
            difficulty=0,
            mix_hash=Hash32(bytes(32)),
            gas_limit=GAS,
            prev_hashes=(),
            chain_id=self._chain_id,
            base_fee_per_gas=0,
            excess_blob_gas=0,
        )
        return PragueState(db, context, Hash32(root))


ABIS = {
    "token": ("FuncToken",),
    "epochs": ("EpochController",),
    "models": ("ModelRegistry",),
    "providers": ("ProviderRegistry",),
    "router": ("Router",),
    "gateways": ("GatewayRegistry",),
    "gateway_staking": ("GatewayStaking",),
    "escrow": ("Escrow",),
    "settlement": ("Settlement", "SettlementChallenges"),
    "slashing": ("Slashing",),
    "disputes": ("Disputes",),
    "reward_pool": ("RewardPool",),
    "pool": ("ProviderStaking",),
}
"""The ledger's parts and the artifacts that implement them."""


class Contracts:
    """A whole deployment, wired as in production. `at` names where each part is; `pool(m)` finds a model's pool."""

    def __init__(self, evm: BareEvm, genesis: Genesis, initial_budget: int, epochs_per_halving: int) -> None:
        self.evm = evm
        self._block = genesis.start_block
        owner = genesis.owner
        self._owner = owner
        self._pools: dict[int, Address] = {}
        directory = self._deploy("Directory", owner)
        at: dict[str, Address] = {}
        at["epochs"] = self._deploy(
            "EpochController",
            owner,
            genesis.epoch_length,
            genesis.min_epochs_locked,
            genesis.epoch_reward_delay,
            genesis.wind_down_delay,
        )
        for part in ("models", "providers", "router", "gateways", "escrow", "slashing", "disputes"):
            at[part] = self._deploy(ABIS[part][0], directory, owner)
        at["gateway_staking"] = self._deploy("GatewayStaking", directory, owner, genesis.min_gateway_stake)
        challenges = self._deploy("SettlementChallenges", directory, owner)
        at["settlement"] = self._deploy("Settlement", directory, owner, challenges)
        schedule = self._deploy("HalvingSchedule", initial_budget, epochs_per_halving)
        at["reward_pool"] = self._deploy("RewardPool", directory, owner, genesis.emission_cap, schedule)
        at["token"] = self._deploy("FuncToken", genesis.holder, genesis.supply, at["reward_pool"], at["gateways"])
        self.at = at
        entries = tuple(at[entry.name] for entry in fields(type(genesis.addresses)))
        self._send(directory, functions("Directory")["seal"], (entries,))
        for part in at:
            if "wire" in functions(*ABIS[part]):
                self._send(at[part], functions(*ABIS[part])["wire"], ())

    def pool(self, model_id: int) -> Address:
        """As the router says."""
        if model_id not in self._pools:
            self._pools[model_id] = bytes.fromhex(self.view("router", "stakingPool", self._block, model_id)[2:])
        return self._pools[model_id]

    def next_pool(self, model_id: int) -> Address:
        """Where the router's next clone will be: its nonce began at 1 and the pools' original took the first."""
        return generate_contract_address(EthAddress(self.at["router"]), model_id + 1)

    def address(self, part: str) -> Address:
        """`part`: a name of ABIS, or `pool 3` for a model's pool."""
        return self.pool(int(part.split(" ")[1])) if part.startswith("pool ") else self.at[part]

    def transact(self, part: str, name: str, sender: Address, block: int, *arguments: Any) -> Any:
        """The decoded result. Raises ContractError."""
        function = functions(*ABIS[part.split(" ")[0]])[name]
        output = self.evm.transact(sender, self.address(part), function.encode(arguments), block)
        return function.decode(output) if function.outputs else None

    def view(self, part: str, name: str, block: int, *arguments: Any) -> Any:
        function = functions(*ABIS[part.split(" ")[0]])[name]
        return function.decode(self.evm.view(self.address(part), function.encode(arguments), block))

    def _deploy(self, name: str, *arguments: Any) -> Address:
        inputs: list[Any] = next((e["inputs"] for e in artifact(name)["abi"] if e["type"] == "constructor"), [])
        encoded = abi.encode([collapse_if_tuple(value) for value in inputs], arguments)
        code = bytes.fromhex(artifact(name)["bytecode"].removeprefix("0x")) + encoded
        return self.evm.create(self._owner, code, self._block)

    def _send(self, to: Address, function: Function, arguments: tuple[Any, ...]) -> None:
        self.evm.transact(self._owner, to, function.encode(arguments), self._block)


__all__ = ["ABIS", "BareEvm", "ContractError", "Contracts", "Halt", "artifact", "block_hash", "functions"]
