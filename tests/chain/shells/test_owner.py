"""The owner's powers: every one of them is bounded, and acts only through the timelock, after its delay."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chain import abi
from chain.client.actions import Action
from chain.client.calls.owner import OperationState
from chain.client.staking import StakingClient
from chain.contract_errors import (
    AccessControlUnauthorizedAccount,
    OutOfBounds,
    OwnableUnauthorizedAccount,
    TimelockInsufficientDelay,
    TimelockUnauthorizedCaller,
    TimelockUnexpectedOperationState,
)
from chain.devnet.accounts import faucet
from chain.errors import ContractError, InvalidArgument
from tests.chain.shells.steps import FUNC, decree
from tests.chain.shells.terminal import Terminal
from tests.chain.shells.world import Net, start_chain

CONTRACTS = Path(abi.__file__).parent / "contracts"
OWNABLE = {"renounceOwnership", "transferOwnership", "acceptOwnership"}
SETTERS: dict[str, dict[str, list[tuple[tuple[object, ...], tuple[object, ...]]]]] = {
    # function: (arguments just inside, arguments just outside), for each bound of a fresh chain.
    "EpochController": {
        "setEpochLength": [((5,), (4,)), ((20,), (21,))],
        "setMinEpochsLocked": [((1,), (0,)), ((6,), (7,))],
        "setEpochRewardDelay": [((4,), (3,)), ((5,), (6,))],
        "setWindDownDelay": [((4,), (3,)), ((10,), (11,))],
    },
    "GatewayStaking": {
        "setMinGatewayStake": [((50 * FUNC,), (50 * FUNC - 1,)), ((200 * FUNC,), (200 * FUNC + 1,))],
    },
    "Settlement": {
        "setParameters": [
            ((2000, 2000, 20000, 10000, 5000, 1000, 5000), (2001, 500, 10000, 5000, 1000, 16, 1000)),
            ((0, 100, 5000, 1000, 0, 4, 100), (1000, 99, 10000, 5000, 1000, 16, 1000)),
            ((1000, 500, 10000, 5000, 1000, 16, 1000), (1000, 2001, 10000, 5000, 1000, 16, 1000)),
            ((1000, 500, 10000, 5000, 1000, 16, 1000), (1000, 500, 4999, 5000, 1000, 16, 1000)),
            ((1000, 500, 10000, 5000, 1000, 16, 1000), (1000, 500, 20001, 5000, 1000, 16, 1000)),
            ((1000, 500, 10000, 5000, 1000, 16, 1000), (1000, 500, 10000, 999, 1000, 16, 1000)),
            ((1000, 500, 10000, 5000, 1000, 16, 1000), (1000, 500, 10000, 10001, 1000, 16, 1000)),
            ((1000, 500, 10000, 5000, 1000, 16, 1000), (1000, 500, 10000, 5000, 5001, 16, 1000)),
            ((1000, 500, 10000, 5000, 1000, 16, 1000), (1000, 500, 10000, 5000, 1000, 3, 1000)),
            ((1000, 500, 10000, 5000, 1000, 16, 1000), (1000, 500, 10000, 5000, 1000, 1001, 1000)),
            ((1000, 500, 10000, 5000, 1000, 16, 1000), (1000, 500, 10000, 5000, 1000, 16, 99)),
            ((1000, 500, 10000, 5000, 1000, 16, 1000), (1000, 500, 10000, 5000, 1000, 16, 5001)),
        ],
    },
    "Slashing": {
        "setQuorum": [((2,), (1,)), ((64,), (65,))],
        "setSlaJailEpochs": [((1,), (0,)), ((100,), (101,))],
    },
    "Disputes": {
        "setParameters": [
            ((1, 1, 1, 1), (0, 2000, 16, 4)),
            ((10**24, 5000, 1000, 100), (10**24 + 1, 2000, 16, 4)),
            ((10**20, 2000, 16, 4), (10**20, 0, 16, 4)),
            ((10**20, 2000, 16, 4), (10**20, 5001, 16, 4)),
            ((10**20, 2000, 16, 4), (10**20, 2000, 0, 4)),
            ((10**20, 2000, 16, 4), (10**20, 2000, 1001, 4)),
            ((10**20, 2000, 16, 4), (10**20, 2000, 16, 0)),
            ((10**20, 2000, 16, 4), (10**20, 2000, 16, 101)),
        ],
    },
}
SWITCHES = {
    # Not a number, so without bounds: yes or no, or one more name in a list of at most 64.
    "setWhitelisted", "setAutoWhitelist", "setVerifier", "pause", "unpause", "seal",
}  # fmt: skip


def owner_functions() -> dict[str, set[str]]:
    """Every function of our sources that only the owner may call, by contract, inherited ones included."""
    parents: dict[str, list[str]] = {}
    own: dict[str, set[str]] = {}
    for path in CONTRACTS.rglob("*.sol"):
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.S)
        for name, bases, body in re.findall(r"\bcontract (\w+)(?: is ([^{]+))?\{(.*?)\n\}", text, flags=re.S):
            parents[name] = re.findall(r"(\w+)(?:\([^)]*\))?", bases)
            own[name] = set(re.findall(r"function (\w+)\([^)]*\)[^{;]*\bonlyOwner\b", body))
            own[name] |= set(re.findall(r"function (\w+)\([^)]*\)[^{;]*\{[^}]*\b_checkOwner\(\)", body))

    def whole(name: str) -> set[str]:
        return own.get(name, set()).union(*(whole(base) for base in parents.get(name, ())))

    return {name: whole(name) for name in abi.names() if whole(name)}


def test_every_power_of_the_owner_is_a_bounded_setter_or_a_switch() -> None:
    found = owner_functions()
    assert set(SETTERS) <= set(found)
    for contract, functions in found.items():
        for function in functions - OWNABLE:
            assert function in SWITCHES or function in SETTERS.get(contract, {}), f"{contract}.{function}"
    for contract, listed in SETTERS.items():
        assert set(listed) <= found[contract]
    # Every contract that has an owner has been looked at; this one has functions of its own for nobody else.
    owned = {name for name in abi.names() if "owner" in abi.load(name).functions}
    assert owned - set(found) == {"SettlementChallenges"}


def setting(client: StakingClient, contract: str, function: str, arguments: tuple[object, ...]) -> Action:
    return client.core.action(contract, function, *arguments)


@pytest.mark.parametrize(
    ("contract", "function", "number"),
    [(c, f, number) for c, listed in SETTERS.items() for f, bounds in listed.items() for number in range(len(bounds))],
)
async def test_a_setter_takes_what_is_within_its_bounds_and_nothing_else(
    net: Net, contract: str, function: str, number: int
) -> None:
    inside, outside = SETTERS[contract][function][number]
    async with net.client(0) as owner:
        await owner.owner.schedule(setting(owner, contract, function, outside))
        with pytest.raises(OutOfBounds):
            await owner.owner.execute(setting(owner, contract, function, outside))
        await decree(owner, setting(owner, contract, function, inside))


async def test_nobody_but_the_timelock_owns_anything(net: Net) -> None:
    timelock = net.deployment.address("TimelockController")
    async with net.client(0) as deployer:
        for name in net.deployment.contracts:
            if "owner" in abi.load(name).functions:
                owner = await deployer.core.view(name, "owner")
                assert owner == ("0x" + "0" * 40 if name == "Directory" else timelock), name
        for contract, functions in owner_functions().items():
            for function in functions - {"seal"} - OWNABLE:
                if contract not in net.deployment.contracts:
                    continue
                arguments = SETTERS.get(contract, {}).get(function, [(_switch(function), ())])[0][0]
                with pytest.raises(OwnableUnauthorizedAccount):
                    await setting(deployer, contract, function, arguments)
        with pytest.raises(TimelockUnauthorizedCaller):
            await deployer.core.action("TimelockController", "updateDelay", 0)


def _switch(function: str) -> tuple[object, ...]:
    if function == "setVerifier":
        return (faucet(5).address, True)
    return {"setWhitelisted": ("x", True), "setAutoWhitelist": (True,)}.get(function, ())


async def test_only_who_may_propose_schedules_and_executes(net: Net) -> None:
    async with net.client(0) as owner, net.client(1) as other:
        change = other.epochs.set_min_epochs_locked(5)
        with pytest.raises(AccessControlUnauthorizedAccount):
            await other.owner.schedule(change)
        await owner.owner.schedule(change)
        with pytest.raises(AccessControlUnauthorizedAccount):
            await other.owner.execute(change)
        with pytest.raises(InvalidArgument, match="schedule it first"):
            await owner.owner.execute(owner.epochs.set_min_epochs_locked(4))
        await owner.owner.execute(change)
        assert (await owner.epochs.status()).min_epochs_locked == 5


async def test_the_owner_sets_what_the_owner_may(any_net: Net) -> None:
    async with any_net.client(0) as owner, any_net.client(1) as other:
        await decree(owner, owner.epochs.set_min_epochs_locked(5))
        await decree(owner, owner.epochs.set_wind_down_delay(9))
        await decree(owner, owner.epochs.set_epoch_reward_delay(6))
        await decree(owner, owner.epochs.set_epoch_length(20))
        status = await owner.epochs.status()
        assert (status.min_epochs_locked, status.reward_delay, status.wind_down_delay) == (5, 6, 9)
        # The same again, which an earlier decree like it does not stand in the way of.
        await decree(owner, owner.epochs.set_min_epochs_locked(5))
        await decree(owner, owner.core.action("Escrow", "pause"))
        with pytest.raises(ContractError, match="paused"):
            await other.escrow.deposit(5)
        await decree(owner, owner.core.action("Escrow", "unpause"))
        await other.escrow.deposit(5)


async def test_with_a_delay_a_change_is_seen_before_it_acts_and_can_be_called_off(tmp_path: Path) -> None:
    chain = start_chain(tmp_path, "--timelock", "3600")
    try:
        from chain.client.rpc import Rpc

        async with Rpc(chain.url) as rpc:
            net = Net(chain, rpc)
            async with net.client(0) as owner, net.client(None) as anybody:
                assert await anybody.owner.delay() == 3600
                change = owner.epochs.set_min_epochs_locked(6)
                with pytest.raises(TimelockInsufficientDelay):
                    await owner.owner.schedule(change, delay=3599)
                await owner.owner.schedule(change)
                (seen,) = await anybody.owner.pending()
                assert (seen.contract, seen.function, dict(seen.arguments)) == (
                    "EpochController", "setMinEpochsLocked", {"epochs": 6},
                )  # fmt: skip
                assert seen.state is OperationState.WAITING
                with pytest.raises(TimelockUnexpectedOperationState):
                    await owner.owner.execute(change)
                await rpc.call("evm_setNextBlockTimestamp", seen.ready_at)
                await net.mine()
                await owner.owner.execute(change)
                assert (await owner.epochs.status()).min_epochs_locked == 6
                await owner.owner.schedule(owner.epochs.set_min_epochs_locked(12))
                (seen,) = await anybody.owner.pending()
                await owner.owner.cancel(seen)
                assert await anybody.owner.pending() == []
            user = Terminal(net, tmp_path / "home", 0)
            assert "every change waits for 3,600 seconds" in user.run("owner", "pending")
            user.run("owner", "schedule", "EpochController", "setMinEpochsLocked", "7")
            shown = user.json("owner", "pending")["operations"]
            assert [(each["function"], each["arguments"], each["state"]) for each in shown] == [
                ("setMinEpochsLocked", "epochs 7", "waiting")
            ]
            assert "its delay not over" in user.run("owner", "execute", shown[0]["id"][:10], fails=True)
            await rpc.call("evm_setNextBlockTimestamp", shown[0]["ready_at"])
            await net.mine()
            assert "setMinEpochsLocked" in user.run("owner", "pending")
            user.run("owner", "execute", shown[0]["id"][:10])
            assert user.json("epoch", "status")["min_epochs_locked"] == 7
            assert "see `mesh owner pending`" in user.run("owner", "cancel", "ff", fails=True)
            assert "is a uint64" in user.run("owner", "schedule", "EpochController", "setEpochLength", "x", fails=True)
    finally:
        chain.stop()
