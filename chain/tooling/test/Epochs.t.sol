// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {ICommon} from "contracts/interfaces/ICommon.sol";
import {Deployment} from "./Deployment.sol";

/// @title The clock.
contract EpochsTest is Deployment {
    function setUp() public {
        vm.roll(100);
        deploy();
    }

    function test_epoch_one_begins_with_the_deployment() public {
        eq(epochs.currentEpoch(), 1, "epoch");
        eq(epochs.epochStartBlock(1), 100, "start");
        vm.roll(109);
        eq(epochs.currentEpoch(), 1, "last block");
        vm.roll(110);
        eq(epochs.currentEpoch(), 2, "first block");
    }

    function test_a_new_length_leaves_the_running_epoch_alone() public {
        vm.roll(115);
        epochs.setEpochLength(6);
        eq(epochs.epochLength(), EPOCH, "still the old one");
        vm.roll(119);
        eq(epochs.currentEpoch(), 2, "not cut short");
        vm.roll(120);
        eq(epochs.currentEpoch(), 3, "on time");
        eq(epochs.epochLength(), 6, "new length");
        vm.roll(126);
        eq(epochs.currentEpoch(), 4, "new rhythm");
        eq(epochs.epochStartBlock(2), 110, "the past stays");
    }

    function test_a_second_length_in_the_same_epoch_replaces_the_first() public {
        epochs.setEpochLength(20);
        epochs.setEpochLength(7);
        eq(epochs.epochStartBlock(3), 117, "one change");
        vm.roll(109);
        epochs.setEpochLength(5);
        eq(epochs.currentEpoch(), 1, "even in the last block before it would count");
        vm.roll(115);
        eq(epochs.currentEpoch(), 3, "the last one counts");
    }

    function testFuzz_no_epoch_that_has_begun_moves_and_none_is_skipped(uint256 seed) public {
        uint64 epoch = epochs.currentEpoch();
        uint256 start = epochs.epochStartBlock(epoch);
        for (uint256 i = 0; i < 12; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint64 length = epochs.epochLength();
            if (seed % 3 == 0) epochs.setEpochLength((length + 1) / 2 + uint64((seed >> 8) % length) + 1);
            eq(epochs.currentEpoch(), epoch, "unmoved");
            eq(epochs.epochStartBlock(epoch), start, "same start");
            uint256 next = epochs.epochStartBlock(epoch + 1);
            vm.roll(next - 1);
            eq(epochs.currentEpoch(), epoch, "until the last block");
            vm.roll(next);
            eq(epochs.currentEpoch(), ++epoch, "then the next");
            start = next;
        }
    }

    function test_only_the_owner_sets() public {
        vm.prank(address(9));
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(9)));
        epochs.setEpochLength(5);
    }

    function test_ownership_moves_in_two_steps() public {
        epochs.transferOwnership(address(9));
        yes(epochs.owner() == address(this), "not yet");
        vm.prank(address(9));
        epochs.acceptOwnership();
        yes(epochs.owner() == address(9), "now");
    }
}
