"""Deploys all contracts in order and wires them, and keeps where they are: the deployment file.

The plan is pure: addresses follow from the deployer's nonce, so every transaction is known before the first is sent.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import rlp
from eth_utils import is_checksum_address, is_hex_address, keccak, to_canonical_address, to_checksum_address

from chain import abi, safe_json
from chain.errors import ChainConfigError, InvalidArgument
from chain.units import WEI_PER_FUNC

FILE_VERSION = 2
"""Of the contracts that it names: those of version 1 had other rules."""
MAX_FILE = 64 * 1024
SUPPLY_CAP = 10**28
ZERO_ADDRESS = "0x" + 40 * "0"
CONTRACTS = (
    "FuncToken",
    "EpochController",
    "ModelRegistry",
    "ProviderRegistry",
    "Router",
    "GatewayRegistry",
    "GatewayStaking",
    "Escrow",
    "Settlement",
    "Slashing",
    "Disputes",
    "RewardPool",
)
"""What the directory names, in its order."""
WIRED = tuple(name for name in CONTRACTS if name not in ("FuncToken", "EpochController"))


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a deployment fixes.

    Amounts in wei, times in epochs, `epoch_length` in blocks, `timelock_delay` in seconds.
    """

    epoch_length: int = 10
    min_epochs_locked: int = 3
    epoch_reward_delay: int = 4
    wind_down_delay: int = 5
    initial_supply: int = 10**9 * WEI_PER_FUNC
    min_gateway_stake: int = 100 * WEI_PER_FUNC
    emission_per_epoch: int = 100 * WEI_PER_FUNC
    epochs_per_halving: int = 10_000
    timelock_delay: int = 172_800

    @property
    def emission_cap(self) -> int:
        """Bound of what halving can ever emit; the schedule's own `total` is at most this."""
        return 2 * self.emission_per_epoch * self.epochs_per_halving


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction of a deployment: a creation (`to` is None) or a call. `gas` is a limit that always suffices."""

    label: str
    to: str | None
    data: bytes
    gas: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All transactions of a deployment, in order, for a deployer whose next nonce is `nonce`."""

    deployer: str
    nonce: int
    steps: tuple[Step, ...]
    contracts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where the contracts are.

    `anchor_number` and `anchor_hash` name a block after the last transaction: a node without that block is another
    chain, even with the same chain id.
    """

    chain_id: int
    contracts: Mapping[str, str]
    block: int
    anchor_number: int
    anchor_hash: str
    deployer: str
    version: int = field(default=FILE_VERSION)

    def address(self, name: str) -> str:
        """Raises `ChainConfigError`."""
        try:
            return self.contracts[name]
        except KeyError:
            raise ChainConfigError(f"the deployment has no contract {name}") from None

    def save(self, path: Path) -> None:
        """Write the deployment file; atomic. Raises `ChainConfigError`."""
        text = json.dumps({**asdict(self), "contracts": dict(self.contracts)}, indent=1) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(part).chmod(0o644)
            Path(part).replace(path)
        except OSError as error:
            raise ChainConfigError(f"cannot write {path}: {error.strerror or error}") from error

    @classmethod
    def read(cls, path: Path) -> Deployment:
        """Raises `ChainConfigError`."""
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE + 1)
        except OSError as error:
            raise ChainConfigError(
                f"cannot read the deployment file {path}: {error.strerror or error} "
                "(`mesh chain up` writes one; --deployment names another)"
            ) from error
        try:
            return cls.parse(safe_json.parse(raw)) if len(raw) <= MAX_FILE else _bad("too large")
        except ValueError as error:
            raise ChainConfigError(f"{path} is not a deployment file: {error}") from error

    @classmethod
    def parse(cls, value: Any) -> Deployment:
        """Raises ValueError."""
        if not isinstance(value, dict) or value.get("version") != FILE_VERSION:
            _bad(f"version {FILE_VERSION} is needed, the contracts of others have other rules")
        contracts = value.get("contracts")
        if not isinstance(contracts, dict) or not all(name in contracts for name in CONTRACTS):
            _bad("a contract is missing")
        for name, address in contracts.items():
            if not isinstance(address, str) or not is_hex_address(address):
                _bad(f"the address of {name} is none")
        numbers = [value.get(name) for name in ("chain_id", "block", "anchor_number")]
        if not all(isinstance(number, int) and 0 <= number < 2**63 for number in numbers):
            _bad("chain id and blocks are integers")
        if not isinstance(value.get("anchor_hash"), str) or len(value["anchor_hash"]) != 66:
            _bad("the anchor is a block hash")
        return cls(
            chain_id=value["chain_id"],
            contracts={str(name): to_checksum_address(address) for name, address in contracts.items()},
            block=value["block"],
            anchor_number=value["anchor_number"],
            anchor_hash=value["anchor_hash"],
            deployer=str(value.get("deployer", "")),
        )


def _bad(message: str) -> Deployment:
    raise ValueError(message)


def read_address(text: str, *, argument: str = "address") -> str:
    """A checksummed address; mixed case must have the right checksum (EIP-55). Raises `InvalidArgument`."""
    if not is_hex_address(text):
        raise InvalidArgument(f"{text!r} is not an address", argument=argument)
    digits = text.removeprefix("0x")
    if digits not in (digits.lower(), digits.upper()) and not is_checksum_address("0x" + digits):
        raise InvalidArgument(f"{text} has a wrong checksum: is it mistyped?", argument=argument)
    return str(to_checksum_address(text))


def created_address(deployer: str, nonce: int) -> str:
    """The address of the contract that `deployer` creates with `nonce`."""
    encoded = rlp.encode([to_canonical_address(deployer), nonce])
    return str(to_checksum_address(keccak(encoded)[12:]))


def plan(deployer: str, nonce: int, parameters: Parameters | None = None) -> Plan:
    """Every transaction of a deployment.

    A timelock owns the contracts; the deployer proposes and executes what it does, and holds the initial supply.
    """
    chosen = parameters or Parameters()
    steps: list[Step] = []
    contracts: dict[str, str] = {}

    def create(name: str, *arguments: Any) -> str:
        artifact = abi.load(name)
        data = artifact.creation(arguments)
        # 200 gas a byte stored, at most 16 + 2 a byte sent (40 under EIP-7623), and what the constructor does.
        gas = 500_000 + 200 * artifact.deployed_size + 42 * len(data)
        contracts[name] = created_address(deployer, nonce + len(steps))
        steps.append(Step(f"create {name}", None, data, gas))
        return contracts[name]

    def call(name: str, function: str, *arguments: Any, gas: int = 600_000) -> None:
        data = abi.load(name).function(function).encode(arguments)
        steps.append(Step(f"{name}.{function}", contracts[name], data, gas))

    owner = create("TimelockController", chosen.timelock_delay, [deployer], [deployer], ZERO_ADDRESS)
    # The deployer seals the directory below, and then nobody owns it.
    directory = create("Directory", deployer)
    create(
        "EpochController",
        owner,
        chosen.epoch_length,
        chosen.min_epochs_locked,
        chosen.epoch_reward_delay,
        chosen.wind_down_delay,
    )
    for name in ("ModelRegistry", "ProviderRegistry", "Router", "GatewayRegistry"):
        create(name, directory, owner)
    create("GatewayStaking", directory, owner, chosen.min_gateway_stake)
    create("Escrow", directory, owner)
    challenges = create("SettlementChallenges", directory, owner)
    create("Settlement", directory, owner, challenges)
    for name in ("Slashing", "Disputes"):
        create(name, directory, owner)
    schedule = create("HalvingSchedule", chosen.emission_per_epoch, chosen.epochs_per_halving)
    create("RewardPool", directory, owner, chosen.emission_cap, schedule)
    # After the two that it names for good.
    create("FuncToken", deployer, chosen.initial_supply, contracts["RewardPool"], contracts["GatewayRegistry"])
    call("Directory", "seal", tuple(contracts[name] for name in CONTRACTS))
    for name in WIRED:
        call(name, "wire", gas=4_000_000 if name == "Router" else 600_000)
    return Plan(deployer, nonce, tuple(steps), contracts)
