// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ICommon} from "contracts/interfaces/ICommon.sol";
import {IGatewayStaking} from "contracts/interfaces/IGatewayStaking.sol";
import {Deployment} from "./Deployment.sol";
import {Tree} from "./Tree.sol";

/// @title What a gateway guarantees to one provider, and that nobody else gets it.
contract LinesTest is Deployment {
    uint256 internal constant UNITS = 144_000_000_000; // 12 FUNC of fees
    uint256 internal modelId;
    address internal ann = address(0xA);
    address internal ben = address(0xB);
    bytes32 internal gate = key("gate");
    uint64 internal epoch;

    function setUp() public {
        deploy();
        modelId = newModel("llama");
        newProvider(ann, "ann", modelId);
        newProvider(ben, "ben", modelId);
        newGateway(gatewayOwner, "gate", 100 ether);
        nextEpoch(1);
        epoch = epochs.currentEpoch() - 1;
    }

    function lineTo(string memory id) internal view returns (IGatewayStaking.Line memory) {
        return gatewayStaking.lineOf(gate, key(id));
    }

    function omitted(string memory id, uint256 units) internal {
        ContributionVoucher memory v = owe("gate", id, modelId, epoch, units);
        settlement.challengeOmission(v, signed(GATEWAY_KEY, settlement.hashVoucher(v)), 0, none());
    }

    function test_a_line_is_funded_from_what_the_stake_can_spare() public {
        vm.startPrank(gatewayOwner);
        bytes memory short = abi.encodeWithSelector(IGatewayStaking.InsufficientStake.selector, 90 ether + 1, 90 ether);
        vm.expectRevert(short);
        gatewayStaking.fundLines("gate", list("ann"), nums(90 ether + 1));
        vm.expectRevert(short);
        gatewayStaking.fundLines("gate", list("ann", "ben"), nums(50 ether, 40 ether + 1));
        gatewayStaking.fundLines("gate", list("ann", "ben"), nums(50 ether, 40 ether));
        vm.stopPrank();
        eq(gatewayStaking.effectiveStake("gate"), 10 ether, "the rest");
        eq(gatewayStaking.stakeOf("gate").reserved, 90 ether, "the sum of the lines");
        eq(gatewayStaking.guaranteed(gate, key("ann")), 50 ether, "guaranteed");
        yes(gateways.isEligible("gate"), "the least that is asked is left");
    }

    function test_funding_is_checked_in_the_stated_order() public {
        uint256[] memory two = nums(1, 2);
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownGateway.selector, key("nobody")));
        gatewayStaking.fundLines("nobody", list("ann"), two);
        vm.expectRevert(abi.encodeWithSelector(IGatewayStaking.NotGatewayOwner.selector, gate, address(this)));
        gatewayStaking.fundLines("gate", list("ann"), two);
        vm.startPrank(gatewayOwner);
        vm.expectRevert(ICommon.LengthMismatch.selector);
        gatewayStaking.fundLines("gate", list("ann"), two);
        vm.expectRevert(ICommon.ZeroAmount.selector);
        gatewayStaking.fundLines("gate", list("nobody", "ann"), nums(0, 1));
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownProvider.selector, key("nobody")));
        gatewayStaking.fundLines("gate", list("ann", "nobody"), two);
        bytes memory all =
            abi.encodeWithSelector(IGatewayStaking.InsufficientStake.selector, type(uint256).max, 90 ether);
        vm.expectRevert(all);
        gatewayStaking.fundLines("gate", list("ann", "ben"), nums(type(uint256).max, 2));
        gatewayStaking.windDownGateways(list("gate"));
        vm.expectRevert(abi.encodeWithSelector(IGatewayStaking.GatewayWindingDown.selector, gate));
        gatewayStaking.fundLines("gate", list("ann"), nums(1));
        vm.stopPrank();
        gatewayStaking.pause();
        vm.prank(gatewayOwner);
        vm.expectRevert(Pausable.EnforcedPause.selector);
        gatewayStaking.fundLines("gate", list("ann"), nums(1));
    }

    function test_a_line_thaws_longer_than_its_vouchers_can_be_enforced() public {
        line("gate", "ann", 30 ether);
        gatewayStaking.pause(); // stops no release
        vm.startPrank(gatewayOwner);
        vm.expectRevert(abi.encodeWithSelector(IGatewayStaking.NothingThawing.selector, gatewayOwner));
        gatewayStaking.releaseLine("gate", "ann");
        vm.expectRevert(ICommon.ZeroAmount.selector);
        gatewayStaking.thawLine("gate", "ann", 0);
        gatewayStaking.thawLine("gate", "ann", 20 ether);
        eq(gatewayStaking.guaranteed(gate, key("ann")), 10 ether, "new work counts on the rest only");
        vm.expectRevert(abi.encodeWithSelector(ICommon.InsufficientBalance.selector, 10 ether + 1, 10 ether));
        gatewayStaking.thawLine("gate", "ann", 10 ether + 1);
        uint64 end = epochs.currentEpoch() + DELAY + 2;
        vm.roll(epochs.epochStartBlock(end) - 1);
        vm.expectRevert(abi.encodeWithSelector(IGatewayStaking.StillThawing.selector, end));
        gatewayStaking.releaseLine("gate", "ann");
        vm.roll(epochs.epochStartBlock(end));
        eq(gatewayStaking.releaseLine("gate", "ann"), 20 ether, "released");
        vm.stopPrank();
        eq(gatewayStaking.effectiveStake("gate"), 90 ether, "effective again");
        eq(lineTo("ann").amount, 10 ether, "the rest of the line");
        eq(lineTo("ann").thawEnd, 0, "nothing thaws");
    }

    function test_a_stake_with_lines_does_not_leave() public {
        line("gate", "ann", 30 ether);
        vm.startPrank(gatewayOwner);
        gatewayStaking.windDownGateways(list("gate"));
        gatewayStaking.thawLine("gate", "ann", 30 ether);
        nextEpoch(DELAY);
        vm.expectRevert(abi.encodeWithSelector(IGatewayStaking.LinesOpen.selector, gate, 30 ether));
        gatewayStaking.unstakeForGateway("gate");
        nextEpoch(2);
        gatewayStaking.releaseLine("gate", "ann");
        gatewayStaking.unstakeForGateway("gate");
        vm.stopPrank();
        eq(token.balanceOf(gatewayOwner), 100 ether, "all of it");
    }

    function test_an_omission_takes_the_line_first_and_then_what_is_free() public {
        line("gate", "ann", 15 ether);
        topUp("gate", 5 ether);
        nextEpoch(1);
        omitted("ann", 2 * UNITS); // 24 FUNC
        eq(lineTo("ann").amount, 0, "15 of the line");
        eq(escrow.creditOf(gate), 0, "5 of the credit");
        eq(gatewayStaking.effectiveStake("gate"), 85 ether - 4 ether - 24 ether, "4 of the stake, and the penalty");
        eq(gatewayStaking.stakeOf("gate").reserved, 0, "no line is left");
    }

    /// @dev A gateway that owes everybody more than it has: each provider keeps what was guaranteed to it.
    function test_a_gateway_that_signs_to_its_friend_cannot_empty_anothers_line() public {
        line("gate", "ann", 40 ether);
        nextEpoch(1);
        omitted("ben", 1000 * UNITS);
        eq(gatewayStaking.effectiveStake("gate"), 0, "the friend took all that was free");
        eq(lineTo("ann").amount, 40 ether, "and nothing else");
        omitted("ann", 3 * UNITS);
        eq(settlement.compensatedUnits(gate, key("ann"), epoch), 3 * UNITS, "paid in full");
        eq(lineTo("ann").amount, 4 ether, "36 FUNC of the line");
        eq(settlement.debtUnits(gate, key("ann"), epoch), 0, "no debt");
    }

    function test_equivocation_costs_no_line() public {
        line("gate", "ann", 80 ether);
        CheckpointCommitment memory a = CheckpointCommitment(gate, modelId, epoch, "a", 1, 1, 0);
        CheckpointCommitment memory b = CheckpointCommitment(gate, modelId, epoch, "b", 1, 1, 0);
        bytes memory sa = signed(GATEWAY_KEY, settlement.hashCommitment(a));
        settlement.challengeEquivocation(a, sa, b, signed(GATEWAY_KEY, settlement.hashCommitment(b)));
        eq(gatewayStaking.effectiveStake("gate"), 0, "half the stake is more than what is free");
        eq(lineTo("ann").amount, 80 ether, "the line is the provider's");
    }

    /// @dev A challenge that is open holds its own fee in its own line, and nothing else.
    function test_a_challenge_holds_its_fee_in_its_own_line() public {
        line("gate", "ann", 30 ether);
        line("gate", "ben", 20 ether);
        vm.startPrank(gatewayOwner);
        gatewayStaking.thawLine("gate", "ann", 30 ether);
        gatewayStaking.thawLine("gate", "ben", 20 ether);
        vm.stopPrank();
        nextEpoch(1);
        epoch += 1;
        Sibling memory only = leaf("gate", "ben", modelId, epoch, UNITS);
        topUp("gate", 12 ether);
        vm.prank(gatewayOwner);
        settlement.postCheckpoint(modelId, epoch, only.hash, UNITS, 12 ether, 0);
        nextEpoch(2);
        ContributionVoucher memory v = owe("gate", "ann", modelId, epoch, UNITS);
        token.approve(address(settlement), 1.2 ether);
        uint256 id = settlement.openOmissionChallenge(v, signed(GATEWAY_KEY, settlement.hashVoucher(v)));
        eq(lineTo("ann").held, 12 ether, "held");
        eq(gatewayStaking.effectiveStake("gate"), 50 ether, "nothing of the stake");
        nextEpoch(3);
        vm.startPrank(gatewayOwner);
        eq(gatewayStaking.releaseLine("gate", "ben"), 20 ether, "another's line is free");
        eq(gatewayStaking.releaseLine("gate", "ann"), 18 ether, "all but the fee");
        vm.expectRevert(abi.encodeWithSelector(IGatewayStaking.LineHeld.selector, gate, key("ann")));
        gatewayStaking.releaseLine("gate", "ann");
        vm.stopPrank();
        settlement.resolveChallenge(id);
        eq(lineTo("ann").amount, 0, "the fee came from it");
        eq(settlement.compensatedUnits(gate, key("ann"), epoch), UNITS, "in full");
    }

    function test_lines_are_the_owners_and_settlements() public {
        bytes memory notOwner = abi.encodeWithSelector(IGatewayStaking.NotGatewayOwner.selector, gate, address(this));
        vm.expectRevert(notOwner);
        gatewayStaking.thawLine("gate", "ann", 1);
        vm.expectRevert(notOwner);
        gatewayStaking.releaseLine("gate", "ann");
        bytes memory unauthorized = abi.encodeWithSelector(ICommon.Unauthorized.selector, address(this));
        vm.expectRevert(unauthorized);
        gatewayStaking.holdLine(gate, key("ann"), 1);
        vm.expectRevert(unauthorized);
        gatewayStaking.endHold(gate, key("ann"), 1);
        vm.expectRevert(unauthorized);
        gatewayStaking.chargeLine(gate, key("ann"), 1);
        vm.expectRevert(unauthorized);
        gatewayStaking.charge(gate, 1);
    }

    /// @dev Any order of holds, charges and releases: a line never promises more than it has.
    function testFuzz_a_line_keeps_its_books(uint256 seed) public {
        line("gate", "ann", 60 ether);
        line("gate", "ben", 20 ether);
        for (uint256 i = 0; i < 30; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint256 amount = 1 + (seed >> 8) % 20 ether;
            if (seed % 5 == 0) {
                vm.prank(gatewayOwner);
                try gatewayStaking.thawLine("gate", "ann", amount) {} catch {}
            } else if (seed % 5 == 1) {
                nextEpoch(uint64(1 + amount % 7));
                vm.prank(gatewayOwner);
                try gatewayStaking.releaseLine("gate", "ann") {} catch {}
            } else {
                uint256 before = lineTo("ann").amount;
                vm.startPrank(address(settlement));
                if (seed % 5 == 2) {
                    gatewayStaking.holdLine(gate, key("ann"), amount);
                } else if (seed % 5 == 3) {
                    gatewayStaking.endHold(gate, key("ann"), amount);
                } else {
                    eq(gatewayStaking.chargeLine(gate, key("ann"), amount), amount < before ? amount : before, "taken");
                }
                vm.stopPrank();
            }
            IGatewayStaking.Line memory ann_ = lineTo("ann");
            yes(ann_.thawing <= ann_.amount && ann_.held <= ann_.amount, "never more than there is");
            eq(lineTo("ben").amount, 20 ether, "another's is untouched");
            eq(gatewayStaking.stakeOf("gate").reserved, ann_.amount + 20 ether, "reserved is the sum");
            eq(token.balanceOf(address(gatewayStaking)), gatewayStaking.stakeOf("gate").amount, "solvent");
        }
    }

    /// @dev Whatever a gateway signs to others, and in whatever order they come, a provider's loss is what it worked beyond
    /// its line.
    function testFuzz_a_guarantee_is_worth_its_amount(uint64[3] memory units, uint8 order) public {
        line("gate", "ann", 40 ether);
        newProvider(address(0xC), "cat", modelId);
        nextEpoch(1);
        string[3] memory ids = ["ann", "ben", "cat"];
        for (uint256 k = 0; k < 3; ++k) {
            uint256 i = (k + order) % 3;
            omitted(ids[i], bound(units[i], 1, 20 * UNITS));
        }
        uint256 owed = models.feeFor(modelId, epoch, bound(units[0], 1, 20 * UNITS));
        uint256 fee = models.feeFor(modelId, epoch, settlement.compensatedUnits(gate, key("ann"), epoch));
        yes(fee >= (owed < 40 ether ? owed : 40 ether - 1 gwei), "at least the line");
    }

    function test_a_tree_is_posted_although_the_gateway_winds_down_or_is_jailed() public {
        vm.startPrank(gatewayOwner);
        gateways.deactivate("gate");
        gatewayStaking.windDownGateways(list("gate"));
        vm.stopPrank();
        Sibling[] memory leaves = post("gate", modelId, list("ann", "ben"), nums(UNITS, UNITS));
        yes(settlement.checkpoint(gate, modelId, epoch).root == Tree.root(leaves), "posted");
    }
}
