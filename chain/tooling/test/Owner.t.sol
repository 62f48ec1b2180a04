// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ICommon} from "contracts/interfaces/ICommon.sol";
import {Deployment} from "./Deployment.sol";

/// @title What the owner may do: late, within bounds, and nothing else.
contract OwnerTest is Deployment {
    uint256 internal constant TIMELOCK = 172_800;
    TimelockController internal timelock;
    address internal proposer = address(0xAD);

    function setUp() public {
        address[] memory who = new address[](1);
        who[0] = proposer;
        timelock = new TimelockController(TIMELOCK, who, who, address(0));
        deployAll(address(0), address(timelock));
    }

    /// @dev As the timelock, without its delay.
    function set(address where, bytes memory call_) internal returns (bool ok, bytes memory reason) {
        vm.prank(address(timelock));
        return where.call(call_);
    }

    /// @dev The setter takes exactly min … max; the value before is put back.
    function bounded(address where, bytes4 setter, uint256 present, uint256 min, uint256 max) internal {
        uint256 snapshot = vm.snapshotState();
        uint256[4] memory values = [min - 1, min, max, max + 1];
        for (uint256 i = 0; i < 4; ++i) {
            (bool ok, bytes memory reason) = set(where, abi.encodeWithSelector(setter, values[i]));
            if (i == 1 || i == 2) yes(ok, "within the bounds");
            else refused(ok, reason, values[i], min, max);
            vm.revertToState(snapshot);
        }
        yes(min <= present && present <= max, "what is in force is within its bounds");
    }

    function refused(bool ok, bytes memory reason, uint256 value, uint256 min, uint256 max) internal pure {
        yes(!ok, "outside the bounds");
        bytes memory expected = abi.encodeWithSelector(ICommon.OutOfBounds.selector, value, min, max);
        yes(keccak256(reason) == keccak256(expected), "for that reason");
    }

    function test_the_clocks_setters_are_bounded() public {
        address clock = address(epochs);
        bounded(clock, epochs.setEpochLength.selector, EPOCH, EPOCH / 2, 2 * EPOCH);
        bounded(clock, epochs.setMinEpochsLocked.selector, 3, 1, 6);
        bounded(clock, epochs.setEpochRewardDelay.selector, DELAY, 4, DELAY);
        bounded(clock, epochs.setWindDownDelay.selector, DELAY, DELAY, 2 * DELAY);
        set(clock, abi.encodeCall(epochs.setWindDownDelay, (2 * DELAY)));
        bounded(clock, epochs.setEpochRewardDelay.selector, DELAY, 4, 2 * DELAY);
        bounded(clock, epochs.setWindDownDelay.selector, 2 * DELAY, DELAY, 4 * DELAY);
    }

    function test_no_chain_of_doublings_passes_the_last_bound() public {
        address clock = address(epochs);
        uint64 lock = 3;
        uint64 delay = DELAY;
        uint64 length = EPOCH;
        for (uint256 i = 0; i < 20; ++i) {
            lock = lock * 2 > 64 ? 64 : lock * 2;
            delay = delay * 2 > 64 ? 64 : delay * 2;
            length = length * 2 > 100_000 ? 100_000 : length * 2;
            set(clock, abi.encodeCall(epochs.setMinEpochsLocked, (lock)));
            set(clock, abi.encodeCall(epochs.setWindDownDelay, (delay)));
            set(clock, abi.encodeCall(epochs.setEpochRewardDelay, (delay)));
            set(clock, abi.encodeCall(epochs.setEpochLength, (length)));
            nextEpoch(1);
        }
        bounded(clock, epochs.setMinEpochsLocked.selector, 64, 1, 64);
        bounded(clock, epochs.setWindDownDelay.selector, 64, 64, 64);
        bounded(clock, epochs.setEpochRewardDelay.selector, 64, 4, 64);
        bounded(clock, epochs.setEpochLength.selector, 100_000, 50_000, 100_000);
    }

    function test_an_epochs_length_falls_by_halves_to_two_blocks() public {
        uint64[3] memory lengths = [uint64(5), 3, 2];
        for (uint256 i = 0; i < 3; ++i) {
            set(address(epochs), abi.encodeCall(epochs.setEpochLength, (lengths[i])));
            nextEpoch(1);
            eq(epochs.epochLength(), lengths[i], "half, rounded up");
        }
        bounded(address(epochs), epochs.setEpochLength.selector, 2, 2, 4);
    }

    function test_the_least_stake_moves_by_halves_and_doubles() public {
        address where = address(gatewayStaking);
        bytes4 setter = gatewayStaking.setMinGatewayStake.selector;
        bounded(where, setter, MIN_GATEWAY_STAKE, MIN_GATEWAY_STAKE / 2, 2 * MIN_GATEWAY_STAKE);
        for (uint256 i = 0; i < 30; ++i) {
            set(where, abi.encodeWithSelector(setter, 2 * gatewayStaking.minGatewayStake()));
        }
        uint256 present = gatewayStaking.minGatewayStake();
        bounded(where, setter, present, (present + 1) / 2, 1e26);
    }

    function test_settlements_parameters_are_bounded() public {
        uint256[7] memory min = [uint256(0), 100, 5000, 1000, 0, DELAY, 100];
        uint256[7] memory max = [uint256(2000), 2000, 20_000, 10_000, 5000, 1000, 5000];
        for (uint256 i = 0; i < 7; ++i) {
            for (uint256 k = 0; k < 4; ++k) {
                if (k == 0 && min[i] == 0) continue;
                uint256[7] memory values = [uint256(1000), 500, 10_000, 5000, 1000, 16, 1000];
                values[i] = k == 0 ? min[i] - 1 : k == 1 ? min[i] : k == 2 ? max[i] : max[i] + 1;
                (bool ok, bytes memory reason) =
                    set(address(settlement), abi.encodePacked(settlement.setParameters.selector, abi.encode(values)));
                if (k == 1 || k == 2) yes(ok, "within the bounds");
                else refused(ok, reason, values[i], min[i], max[i]);
            }
        }
    }

    function test_the_other_setters_are_bounded() public {
        bounded(address(slashing), slashing.setQuorum.selector, 3, 2, 64);
        bounded(address(slashing), slashing.setSlaJailEpochs.selector, 4, 1, 100);
        uint256[4] memory max = [uint256(1e24), 5000, 1000, 100];
        for (uint256 i = 0; i < 4; ++i) {
            for (uint256 k = 0; k < 4; ++k) {
                uint256[4] memory values = [uint256(1e20), 2000, 16, 4];
                values[i] = k == 0 ? 0 : k == 1 ? 1 : k == 2 ? max[i] : max[i] + 1;
                (bool ok, bytes memory reason) =
                    set(address(disputes), abi.encodePacked(disputes.setParameters.selector, abi.encode(values)));
                if (k == 1 || k == 2) yes(ok, "within the bounds");
                else refused(ok, reason, values[i], 1, max[i]);
            }
        }
    }

    /// @dev Every function that only the owner may call, in every contract.
    function test_nobody_else_sets_anything() public {
        address[8] memory stoppable = [
            address(models),
            address(providers),
            address(router),
            address(gateways),
            address(gatewayStaking),
            address(escrow),
            address(slashing),
            address(rewards)
        ];
        for (uint256 i = 0; i < 8; ++i) {
            stranger(stoppable[i], abi.encodeWithSignature("pause()"));
            stranger(stoppable[i], abi.encodeWithSignature("unpause()"));
        }
        stranger(address(epochs), abi.encodeCall(epochs.setEpochLength, (10)));
        stranger(address(epochs), abi.encodeCall(epochs.setMinEpochsLocked, (3)));
        stranger(address(epochs), abi.encodeCall(epochs.setEpochRewardDelay, (4)));
        stranger(address(epochs), abi.encodeCall(epochs.setWindDownDelay, (4)));
        stranger(address(gatewayStaking), abi.encodeCall(gatewayStaking.setMinGatewayStake, (10 ether)));
        stranger(address(settlement), abi.encodeCall(settlement.setParameters, (0, 100, 5000, 1000, 0, 16, 100)));
        stranger(address(slashing), abi.encodeCall(slashing.setQuorum, (3)));
        stranger(address(slashing), abi.encodeCall(slashing.setSlaJailEpochs, (4)));
        stranger(address(disputes), abi.encodeCall(disputes.setParameters, (1, 1, 1, 1)));
        stranger(address(disputes), abi.encodeCall(disputes.setVerifier, (address(1), true)));
        stranger(address(providers), abi.encodeCall(providers.setWhitelisted, ("p", true)));
        stranger(address(providers), abi.encodeCall(providers.setAutoWhitelist, (true)));
        stranger(address(gateways), abi.encodeCall(gateways.setWhitelisted, ("g", true)));
        stranger(address(gateways), abi.encodeCall(gateways.setAutoWhitelist, (true)));
    }

    /// @dev Not even who deployed the contracts, nor who may propose to the timelock.
    function stranger(address where, bytes memory call_) internal {
        address[3] memory who = [address(this), proposer, address(0x5)];
        for (uint256 i = 0; i < 3; ++i) {
            bytes memory expected = abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, who[i]);
            vm.prank(who[i]);
            (bool ok, bytes memory reason) = where.call(call_);
            yes(!ok && keccak256(reason) == keccak256(expected), "only the owner");
        }
    }

    function test_what_the_owner_does_is_announced_for_the_timelocks_delay() public {
        bytes memory call_ = abi.encodeCall(epochs.setMinEpochsLocked, (5));
        vm.startPrank(proposer);
        vm.expectPartialRevert(TimelockController.TimelockInsufficientDelay.selector);
        timelock.schedule(address(epochs), 0, call_, 0, 0, TIMELOCK - 1);
        timelock.schedule(address(epochs), 0, call_, 0, 0, TIMELOCK);
        vm.expectPartialRevert(TimelockController.TimelockUnexpectedOperationState.selector);
        timelock.execute(address(epochs), 0, call_, 0, 0);
        vm.warp(block.timestamp + TIMELOCK);
        timelock.execute(address(epochs), 0, call_, 0, 0);
        vm.stopPrank();
        eq(epochs.minEpochsLocked(), 5, "in force");
    }

    /// @dev Nobody administers the timelock but itself, so its delay is announced like everything else.
    function test_the_timelock_is_its_own_administrator() public {
        yes(!timelock.hasRole(timelock.DEFAULT_ADMIN_ROLE(), proposer), "not the proposer");
        yes(!timelock.hasRole(timelock.DEFAULT_ADMIN_ROLE(), address(this)), "nor who deployed it");
        vm.prank(proposer);
        vm.expectPartialRevert(TimelockController.TimelockUnauthorizedCaller.selector);
        timelock.updateDelay(0);
    }

    function test_a_pause_takes_effect_and_ends() public {
        set(address(escrow), abi.encodeWithSignature("pause()"));
        vm.expectRevert(Pausable.EnforcedPause.selector);
        escrow.deposit(1);
        set(address(escrow), abi.encodeWithSignature("unpause()"));
        token.approve(address(escrow), 1);
        escrow.deposit(1);
    }
}
