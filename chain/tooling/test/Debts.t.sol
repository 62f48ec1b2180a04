// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "contracts/interfaces/ICommon.sol";
import {Deployment} from "./Deployment.sol";
import {Tree} from "./Tree.sol";

/// @title What a gateway cannot pay at once, and what it must not sign twice.
contract DebtsTest is Deployment {
    uint256 internal constant UNITS = 144_000_000_000; // 12 FUNC of fees
    uint256 internal modelId;
    bytes32 internal gate = key("gate");
    bytes32 internal ann = key("ann");
    address internal eve = address(0xE);
    uint64 internal epoch;

    function setUp() public {
        deploy();
        modelId = newModel("llama");
        newProvider(address(0xA), "ann", modelId);
        newProvider(address(0xB), "ben", modelId);
        newGateway(gatewayOwner, "gate", 1000 ether);
        nextEpoch(1);
        epoch = epochs.currentEpoch() - 1;
    }

    function sign(ContributionVoucher memory v) internal view returns (bytes memory) {
        return signed(GATEWAY_KEY, settlement.hashVoucher(v));
    }

    function omitted(string memory id, uint256 units) internal {
        ContributionVoucher memory v = owe("gate", id, modelId, epoch, units);
        settlement.challengeOmission(v, sign(v), 0, none());
    }

    // --- debt ---

    function test_a_poor_gateway_pays_what_it_has_and_owes_the_rest() public {
        nextEpoch(1);
        omitted("ann", 2000 * UNITS);
        eq(settlement.compensatedUnits(gate, ann, epoch), 1000 * uint256(1e9) * 12, "as far as the stake goes");
        eq(gatewayStaking.effectiveStake("gate"), 0, "all gone, never negative");
        uint256 owed = 2000 * UNITS - 1000 * uint256(1e9) * 12;
        eq(settlement.debtUnits(gate, ann, epoch), owed, "the rest is debt");
        eq(settlement.debtOf(gate), models.feeFor(modelId, epoch, owed), "in wei");
        yes(!gateways.isActive("gate"), "overdrawn");
        ContributionVoucher memory v = owe("gate", "ann", modelId, epoch, 2000 * UNITS);
        bytes memory signature = sign(v);
        vm.expectRevert(NothingMissing.selector);
        settlement.challengeOmission(v, signature, 0, none());
        vm.expectRevert(abi.encodeWithSelector(InsufficientCover.selector, settlement.debtOf(gate), 0));
        settlement.collectDebt("gate", "ann", epoch);
        topUp("gate", 50 ether);
        nextEpoch(20); // late credit still owes
        vm.prank(eve);
        settlement.collectDebt("gate", "ann", epoch);
        eq(settlement.compensatedUnits(gate, ann, epoch), 1050 * uint256(1e9) * 12, "the rest later");
        eq(settlement.debtUnits(gate, ann, epoch), owed - 50 * uint256(1e9) * 12, "less debt");
    }

    function test_debt_is_collected_for_known_parties_that_are_owed() public {
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownGateway.selector, key("nobody")));
        settlement.collectDebt("nobody", "ann", epoch);
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownProvider.selector, key("nobody")));
        settlement.collectDebt("gate", "nobody", epoch);
        vm.expectRevert(NothingMissing.selector);
        settlement.collectDebt("gate", "ann", epoch);
    }

    /// @dev A voucher of a few units more must not take the place of a large debt.
    function test_a_small_claim_does_not_replace_a_large_debt() public {
        topUp("gate", 24 ether);
        post("gate", modelId, list("ben"), nums(2 * UNITS));
        token.approve(address(settlement), 1000 ether);
        ContributionVoucher memory small = owe("gate", "ann", modelId, epoch, 10 * UNITS);
        ContributionVoucher memory large = owe("gate", "ann", modelId, epoch, 200 * UNITS);
        uint256 first = settlement.openOmissionChallenge(small, sign(small));
        uint256 second = settlement.openOmissionChallenge(large, sign(large));
        nextEpoch(DELAY);
        settlement.resolveChallenge(second);
        uint256 debt = settlement.debtUnits(gate, ann, epoch);
        yes(debt > 10 * UNITS, "a debt");
        topUp("gate", 10 ether);
        settlement.resolveChallenge(first);
        eq(settlement.debtUnits(gate, ann, epoch), debt, "as it was");
        eq(settlement.challenge(first).bond, 12 ether, "and the bond goes back");
    }

    function testFuzz_debts_of_a_gateway_add_up(uint64[4] memory units, uint64[3] memory late) public {
        nextEpoch(1);
        string[2] memory ids = ["ann", "ben"];
        for (uint256 i = 0; i < 4; ++i) {
            uint64 e = epoch + uint64(i / 2) - 1;
            if (e == 0) e = epoch;
            ContributionVoucher memory v = owe("gate", ids[i % 2], modelId, e, bound(units[i], 1, 100 * UNITS));
            try settlement.challengeOmission(v, sign(v), 0, none()) {} catch {}
        }
        for (uint256 k = 0; k < 3; ++k) {
            topUp("gate", bound(late[k], 1, 100 ether));
            try settlement.collectDebt("gate", ids[k % 2], epoch) {} catch {}
            uint256 owed;
            for (uint64 e = 1; e <= epoch; ++e) {
                owed += models.feeFor(modelId, e, settlement.debtUnits(gate, ann, e));
                owed += models.feeFor(modelId, e, settlement.debtUnits(gate, key("ben"), e));
            }
            eq(settlement.debtOf(gate), owed, "the sum of its debts");
        }
    }

    // --- two leaves of one provider ---

    function test_of_two_leaves_of_one_provider_the_larger_counts() public {
        Sibling[] memory leaves = post("gate", modelId, list("ann", "ann"), nums(UNITS, 5 * UNITS));
        nextEpoch(DELAY);
        Sibling[] memory large = Tree.proof(leaves, leaves[1]);
        settlement.proveContribution("ann", epoch, UNITS, Tree.proof(leaves, leaves[0]));
        settlement.proveContribution("ann", epoch, 5 * UNITS, large);
        (uint128 proven,) = pool(modelId).contribution("ann", epoch);
        eq(proven, 5 * UNITS, "not barred by the small one, and not added to it");
        vm.expectRevert(abi.encodeWithSelector(AlreadyProven.selector, ann, gate, epoch));
        settlement.proveContribution("ann", epoch, 5 * UNITS, large);
    }

    // --- equivocation ---

    function commitment(bytes32 root, uint256 units) internal view returns (CheckpointCommitment memory) {
        return CheckpointCommitment(gate, modelId, epoch, root, units, models.feeFor(modelId, epoch, units), 0);
    }

    function signCommitment(CheckpointCommitment memory c) internal view returns (bytes memory) {
        return signed(GATEWAY_KEY, settlement.hashCommitment(c));
    }

    function test_two_signatures_on_one_slot_are_punished_once() public {
        CheckpointCommitment memory a = commitment(bytes32("a"), 1);
        CheckpointCommitment memory b = commitment(bytes32("b"), 1);
        (bytes memory sa, bytes memory sb) = (signCommitment(a), signCommitment(b));
        vm.expectRevert(NotEquivocation.selector);
        settlement.challengeEquivocation(a, sa, a, sa);
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengeEquivocation(a, sa, b, sa);
        vm.prank(eve);
        settlement.challengeEquivocation(a, sa, b, sb);
        eq(gatewayStaking.effectiveStake("gate"), 500 ether, "half");
        eq(settlement.paymentsOf(eve), 50 ether, "a tenth of it");
        yes(slashing.isGatewayJailed(gate), "jailed");
        yes(gateways.isActive("gate") && !gateways.isEligible("gate"), "active, but not eligible");
        vm.expectRevert(abi.encodeWithSelector(AlreadyPenalized.selector, gate, Offence.Equivocation));
        settlement.challengeEquivocation(b, sb, a, sa);
        b.epoch = epoch + 1;
        vm.expectRevert(NotEquivocation.selector);
        settlement.challengeEquivocation(a, sa, b, sb);
        b.gateway = key("nobody");
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownGateway.selector, b.gateway));
        settlement.challengeEquivocation(b, sb, a, sa);
    }

    function test_a_commitment_other_than_the_posted_checkpoint_is_punished() public {
        Sibling[] memory leaves = post("gate", modelId, list("ann", "ben"), nums(UNITS, UNITS));
        CheckpointCommitment memory same = commitment(Tree.root(leaves), 2 * UNITS);
        bytes memory signature = signCommitment(same);
        vm.expectRevert(NotEquivocation.selector);
        settlement.challengePosted(same, signature);
        CheckpointCommitment memory c = commitment(bytes32("a"), 2 * UNITS);
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengePosted(c, signature);
        settlement.challengePosted(c, signCommitment(c));
        yes(slashing.isGatewayJailed(gate), "jailed");
        yes(settlement.checkpoint(gate, modelId, epoch).status == CheckpointStatus.Posted, "what was posted stands");
        nextEpoch(DELAY);
        settlement.proveContribution("ann", epoch, UNITS, Tree.proof(leaves, leaves[0]));
    }
}
