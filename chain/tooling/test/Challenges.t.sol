// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {ICommon} from "contracts/interfaces/ICommon.sol";
import {IGatewayStaking} from "contracts/interfaces/IGatewayStaking.sol";
import {ISettlement, ISettlementTypes} from "contracts/interfaces/ISettlement.sol";
import {Deployment} from "./Deployment.sol";
import {Tree} from "./Tree.sol";

/// @title Disputes that the chain decides by itself.
contract ChallengesTest is Deployment {
    uint256 internal constant UNITS = 12_000_000_000; // 12 FUNC of fees
    uint256 internal constant ANN_KEY = 0xA44;
    uint256 internal modelId;
    ProviderStaking internal staking;
    address internal ann = vm.addr(ANN_KEY);
    address internal ben = address(0xB);
    address internal eve = address(0xE);
    bytes32 internal gate = key("gate");
    uint64 internal epoch;

    function setUp() public {
        deploy();
        modelId = newModel("llama");
        staking = pool(modelId);
        newProvider(ann, "ann", modelId);
        newProvider(ben, "ben", modelId);
        newGateway(gatewayOwner, "gate", 1000 ether);
        nextEpoch(1);
        epoch = epochs.currentEpoch() - 1;
        give(eve, 1000 ether);
        vm.prank(eve);
        token.approve(address(settlement), type(uint256).max);
    }

    function postTwo(uint256 a, uint256 b) internal returns (bytes32[] memory) {
        return post("gate", modelId, list("ann", "ben"), nums(a, b));
    }

    function postRaw(bytes32[] memory leaves, uint256 total) internal {
        uint256 fees = models.feeFor(modelId, epoch, total);
        vm.prank(gatewayOwner);
        settlement.postCheckpoint(modelId, epoch, Tree.root(leaves), total, fees, 0);
    }

    function voucher(uint256 units) internal view returns (ISettlementTypes.ContributionVoucher memory) {
        return owe("gate", "ann", modelId, epoch, units);
    }

    function sign(ISettlementTypes.ContributionVoucher memory v) internal view returns (bytes memory) {
        return signed(GATEWAY_KEY, settlement.hashVoucher(v));
    }

    function status() internal view returns (ISettlementTypes.CheckpointStatus) {
        return settlement.checkpoint(gate, modelId, epoch).status;
    }

    function sortedLeaves(uint256 a, uint256 b) internal view returns (ISettlementTypes.Leaf[] memory leaves) {
        leaves = new ISettlementTypes.Leaf[](2);
        leaves[0] = ISettlementTypes.Leaf(key("ann"), a);
        leaves[1] = ISettlementTypes.Leaf(key("ben"), b);
        if (leaf("gate", "ann", modelId, epoch, a) > leaf("gate", "ben", modelId, epoch, b)) {
            (leaves[0], leaves[1]) = (leaves[1], leaves[0]);
        }
    }

    // --- omission ---

    function test_a_voucher_above_the_leaf_is_paid_from_the_stake() public {
        bytes32[] memory leaves = postTwo(UNITS, UNITS);
        bytes32[] memory proof = Tree.proof(leaves, leaf("gate", "ann", modelId, epoch, UNITS));
        ISettlementTypes.ContributionVoucher memory v = voucher(3 * UNITS);
        uint256 before = gatewayStaking.effectiveStake("gate");
        uint256 fee = models.feeFor(modelId, epoch, 2 * UNITS);
        bytes memory signature = sign(v);
        vm.prank(eve);
        settlement.challengeOmission(v, signature, UNITS, proof);
        eq(settlement.paymentsOf(ann), fee * 7500 / 10_000, "the provider's part");
        eq(settlement.paymentsOf(eve), fee / 10, "a tenth of the penalty");
        eq(settlement.royaltyOf(modelId), fee / 10, "royalty");
        eq(before - gatewayStaking.effectiveStake("gate"), 2 * fee, "fee and penalty");
        vm.expectRevert(ISettlementTypes.NothingMissing.selector);
        settlement.challengeOmission(v, signature, UNITS, proof);
        uint256 held = token.balanceOf(ann);
        vm.prank(ann);
        settlement.withdrawPayments();
        eq(token.balanceOf(ann) - held, fee * 7500 / 10_000, "pulled");
        vm.prank(ann);
        vm.expectRevert(ICommon.NothingToClaim.selector);
        settlement.withdrawPayments();
    }

    function test_without_a_checkpoint_the_voucher_is_enough() public {
        ISettlementTypes.ContributionVoucher memory v = voucher(UNITS);
        bytes memory signature = sign(v);
        bytes32[] memory none = new bytes32[](0);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.ChallengeWindowNotOpen.selector, epoch));
        settlement.challengeOmission(v, signature, 0, none);
        nextEpoch(1);
        vm.expectRevert(ISettlementTypes.InvalidProof.selector);
        settlement.challengeOmission(v, signature, 1, none);
        settlement.challengeOmission(v, signature, 0, none);
        eq(settlement.compensatedUnits(gate, key("ann"), epoch), UNITS, "units");
        vm.expectRevert(ISettlementTypes.NothingMissing.selector);
        settlement.challengeOmission(v, signature, 0, none);
    }

    function test_a_poor_gateway_pays_what_it_has_and_the_voucher_stays_good() public {
        nextEpoch(1);
        uint256 units = 2000 * UNITS;
        ISettlementTypes.ContributionVoucher memory v = voucher(units);
        bytes memory signature = sign(v);
        bytes32[] memory none = new bytes32[](0);
        settlement.challengeOmission(v, signature, 0, none);
        eq(settlement.compensatedUnits(gate, key("ann"), epoch), 1000 * uint256(1e9) * 12, "as far as the stake goes");
        eq(gatewayStaking.effectiveStake("gate"), 0, "all gone, never negative");
        vm.expectPartialRevert(ISettlementTypes.InsufficientCover.selector);
        settlement.challengeOmission(v, signature, 0, none);
        topUp("gate", 50 ether);
        settlement.challengeOmission(v, signature, 0, none);
        eq(settlement.compensatedUnits(gate, key("ann"), epoch), 1050 * uint256(1e9) * 12, "the rest later");
    }

    function test_the_window_closes_with_the_last_block_before_the_claim() public {
        ISettlementTypes.ContributionVoucher memory v = voucher(UNITS);
        bytes memory signature = sign(v);
        bytes32[] memory none = new bytes32[](0);
        uint256 snapshot = vm.snapshotState();
        vm.roll(epochs.epochStartBlock(epoch + DELAY) - 1);
        settlement.challengeOmission(v, signature, 0, none);
        vm.revertToState(snapshot);
        vm.roll(epochs.epochStartBlock(epoch + DELAY));
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.ChallengeWindowClosed.selector, epoch));
        settlement.challengeOmission(v, signature, 0, none);
    }

    function test_once_an_epoch_is_paid_a_longer_delay_does_not_reopen_it() public {
        nextEpoch(DELAY);
        settlement.finalize(modelId, epoch);
        epochs.setWindDownDelay(20);
        epochs.setEpochRewardDelay(20);
        ISettlementTypes.ContributionVoucher memory v = voucher(UNITS);
        bytes memory signature = sign(v);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.ChallengeWindowClosed.selector, epoch));
        settlement.challengeOmission(v, signature, 0, new bytes32[](0));
    }

    function test_vouchers_are_bound_to_epoch_chain_contract_and_gateway() public {
        nextEpoch(1);
        ISettlementTypes.ContributionVoucher memory v = voucher(UNITS);
        bytes memory signature = sign(v);
        bytes32[] memory none = new bytes32[](0);
        v.epoch = epoch - 1;
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengeOmission(v, signature, 0, none);
        v.epoch = epoch;
        v.provider = key("ben");
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengeOmission(v, signature, 0, none);
        v.provider = key("ann");
        v.cumulativeUnits = UNITS + 1;
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengeOmission(v, signature, 0, none);
        v.cumulativeUnits = UNITS;
        bytes memory receipt = signed(GATEWAY_KEY, settlement.hashReceipt(v));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengeOmission(v, receipt, 0, none);
        vm.chainId(99);
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengeOmission(v, signature, 0, none);
        vm.chainId(31337);
        v.modelId = newModel("other");
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.WrongModel.selector, key("ann"), v.modelId));
        settlement.challengeOmission(v, signature, 0, none);
    }

    function test_a_voucher_of_another_deployment_is_refused() public {
        nextEpoch(1);
        ISettlementTypes.ContributionVoucher memory v = voucher(UNITS);
        address code = vm.deployCode("SettlementChallenges.sol:SettlementChallenges", abi.encode(directory, address(this)));
        ISettlement other =
            ISettlement(vm.deployCode("Settlement.sol:Settlement", abi.encode(directory, address(this), code)));
        bytes memory signature = signed(GATEWAY_KEY, other.hashVoucher(v));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengeOmission(v, signature, 0, new bytes32[](0));
    }

    function testFuzz_no_mutated_voucher_signature_is_accepted(uint256 seed) public {
        nextEpoch(1);
        ISettlementTypes.ContributionVoucher memory v = voucher(UNITS);
        bytes memory bad = sign(v);
        bad[seed % 65] ^= bytes1(uint8(1 << ((seed >> 8) % 8)));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengeOmission(v, bad, 0, new bytes32[](0));
    }

    function test_a_rotated_key_still_answers_for_its_epochs() public {
        vm.prank(gatewayOwner);
        gateways.setSigner("gate", address(0x5151));
        nextEpoch(1);
        ISettlementTypes.ContributionVoucher memory v = voucher(UNITS);
        settlement.challengeOmission(v, sign(v), 0, new bytes32[](0));
        eq(settlement.compensatedUnits(gate, key("ann"), epoch), UNITS, "the old signature holds");
    }

    // --- hidden leaves ---

    function openOmission(uint256 units) internal returns (uint256 id) {
        ISettlementTypes.ContributionVoucher memory v = voucher(units);
        bytes memory signature = sign(v);
        vm.prank(eve);
        return settlement.openOmissionChallenge(v, signature);
    }

    function test_a_hidden_leaf_is_answered_by_showing_it() public {
        bytes32[] memory leaves = postTwo(UNITS, UNITS);
        uint256 free = gatewayStaking.effectiveStake("gate");
        uint256 id = openOmission(UNITS);
        uint256 fee = models.feeFor(modelId, epoch, UNITS);
        eq(free - gatewayStaking.effectiveStake("gate"), 2 * fee, "held");
        ISettlementTypes.ContributionVoucher memory v = voucher(UNITS);
        bytes memory signature = sign(v);
        vm.prank(eve);
        vm.expectRevert(ISettlementTypes.AlreadyChallenged.selector);
        settlement.openOmissionChallenge(v, signature);
        bytes32[] memory proof = Tree.proof(leaves, leaf("gate", "ann", modelId, epoch, UNITS));
        vm.expectRevert(ISettlementTypes.InvalidProof.selector);
        settlement.answerOmission(id, UNITS - 1, proof);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.AnswerWindowOpen.selector, id, epoch + DELAY - 1));
        settlement.resolveChallenge(id);
        settlement.answerOmission(id, UNITS, proof);
        eq(gatewayStaking.effectiveStake("gate"), free, "released");
        eq(settlement.paymentsOf(gatewayOwner), 10 ether, "the bond goes to the gateway");
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.ChallengeNotOpen.selector, id));
        settlement.answerOmission(id, UNITS, proof);
    }

    function test_a_leaf_that_is_never_shown_is_paid() public {
        bytes32[] memory leaves = new bytes32[](1);
        leaves[0] = leaf("gate", "ben", modelId, epoch, UNITS);
        postRaw(leaves, UNITS);
        uint256 id = openOmission(UNITS);
        vm.roll(epochs.epochStartBlock(epoch + DELAY) - 1);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.AnswerWindowOpen.selector, id, epoch + DELAY - 1));
        settlement.resolveChallenge(id);
        vm.roll(epochs.epochStartBlock(epoch + DELAY));
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.AnswerWindowClosed.selector, id));
        settlement.answerOmission(id, UNITS, new bytes32[](0));
        settlement.resolveChallenge(id);
        uint256 fee = models.feeFor(modelId, epoch, UNITS);
        eq(settlement.paymentsOf(eve), 10 ether + fee / 10, "bond and reward");
        eq(settlement.paymentsOf(ann), fee * 75 / 100, "the provider");
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.ChallengeNotOpen.selector, id));
        settlement.resolveChallenge(id);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.UnknownChallenge.selector, id + 1));
        settlement.resolveChallenge(id + 1);
    }

    function test_interactive_challenges_leave_time_to_answer() public {
        postTwo(UNITS, UNITS);
        vm.roll(epochs.epochStartBlock(epoch + DELAY - 1));
        ISettlementTypes.ContributionVoucher memory v = voucher(UNITS);
        bytes memory signature = sign(v);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.ChallengeWindowClosed.selector, epoch));
        settlement.openOmissionChallenge(v, signature);
    }

    function test_a_gateway_cannot_unstake_while_challenged() public {
        bytes32[] memory leaves = new bytes32[](1);
        leaves[0] = leaf("gate", "ben", modelId, epoch, UNITS);
        vm.prank(gatewayOwner);
        gatewayStaking.windDownGateways(list("gate"));
        postRaw(leaves, UNITS);
        uint256 id = openOmission(UNITS);
        nextEpoch(DELAY);
        vm.prank(gatewayOwner);
        vm.expectRevert(abi.encodeWithSelector(IGatewayStaking.StakeUnderDispute.selector, gate));
        gatewayStaking.unstakeForGateway("gate");
        settlement.resolveChallenge(id);
        vm.prank(gatewayOwner);
        gatewayStaking.unstakeForGateway("gate");
    }

    // --- unsupported leaves ---

    function openLeaf(bytes32[] memory leaves, string memory id, uint256 units) internal returns (uint256) {
        bytes32[] memory proof = Tree.proof(leaves, leaf("gate", id, modelId, epoch, units));
        vm.prank(eve);
        return settlement.openLeafChallenge(gate, modelId, epoch, ISettlementTypes.Leaf(key(id), units), proof);
    }

    function test_a_leaf_is_opened_with_its_receipt() public {
        bytes32[] memory leaves = postTwo(UNITS, UNITS);
        uint256 id = openLeaf(leaves, "ann", UNITS);
        bytes memory receipt = signed(ANN_KEY, settlement.hashReceipt(voucher(UNITS + 5)));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.answerLeaf(id, UNITS, receipt);
        bytes memory low = signed(ANN_KEY, settlement.hashReceipt(voucher(UNITS - 1)));
        vm.expectRevert(ISettlementTypes.InvalidProof.selector);
        settlement.answerLeaf(id, UNITS - 1, low);
        bytes memory asVoucher = signed(ANN_KEY, settlement.hashVoucher(voucher(UNITS)));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.answerLeaf(id, UNITS, asVoucher);
        settlement.answerLeaf(id, UNITS + 5, receipt);
        nextEpoch(DELAY);
        settlement.proveContribution("ann", epoch, UNITS, Tree.proof(leaves, leaves[0]));
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.AlreadyFinalized.selector, modelId, epoch));
        settlement.finalize(modelId, epoch);
    }

    function test_an_unopened_leaf_is_barred_and_the_others_share_the_pot() public {
        bytes32[] memory leaves = postTwo(UNITS, UNITS);
        uint256 id = openLeaf(leaves, "ann", UNITS);
        vm.prank(eve);
        vm.expectRevert(ISettlementTypes.AlreadyChallenged.selector);
        settlement.openLeafChallenge(
            gate, modelId, epoch, ISettlementTypes.Leaf(key("ann"), UNITS), Tree.proof(leaves, leaves[0])
        );
        nextEpoch(DELAY);
        bytes32[] memory benProof = Tree.proof(leaves, leaves[1]);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.ChallengesOpen.selector, modelId, epoch));
        settlement.proveContribution("ben", epoch, UNITS, benProof);
        uint256 stake = gatewayStaking.stakeOf("gate").amount;
        settlement.resolveChallenge(id);
        eq(gatewayStaking.stakeOf("gate").amount, stake - stake / 2, "half the stake");
        yes(slashing.isGatewayJailed(gate), "jailed");
        settlement.proveContribution("ben", epoch, UNITS, benProof);
        bytes32[] memory annProof = Tree.proof(leaves, leaves[0]);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.LeafBarred.selector, key("ann"), gate, epoch));
        settlement.proveContribution("ann", epoch, UNITS, annProof);
        vm.prank(ben);
        eq(staking.claimRewards("ben", epoch, epoch), staking.pot(epoch).amount, "all of it");
    }

    function test_many_bad_leaves_cost_one_penalty() public {
        bytes32[] memory leaves = postTwo(UNITS, UNITS);
        uint256 a = openLeaf(leaves, "ann", UNITS);
        uint256 b = openLeaf(leaves, "ben", UNITS);
        nextEpoch(DELAY);
        uint256 stake = gatewayStaking.stakeOf("gate").amount;
        settlement.resolveChallenge(a);
        settlement.resolveChallenge(b);
        eq(gatewayStaking.stakeOf("gate").amount, stake - stake / 2, "once");
        settlement.finalize(modelId, epoch);
        eq(staking.pot(epoch).amount, 0, "no units, no pot");
        yes(staking.carried() > 0, "carried");
    }

    // --- sums ---

    function test_a_wrong_sum_voids_the_checkpoint() public {
        bytes32[] memory leaves = new bytes32[](2);
        leaves[0] = leaf("gate", "ann", modelId, epoch, UNITS);
        leaves[1] = leaf("gate", "ben", modelId, epoch, UNITS);
        postRaw(leaves, 5 * UNITS);
        uint256 fees = models.feeFor(modelId, epoch, 5 * UNITS);
        settlement.challengeSum(gate, modelId, epoch, sortedLeaves(UNITS, UNITS));
        yes(status() == ISettlementTypes.CheckpointStatus.Voided, "voided");
        eq(escrow.creditOf(gate), fees, "the fees wait as credit");
        eq(settlement.gatewayShare(gate, epoch), 0, "no share");
        eq(settlement.emissionWeight(epoch), 0, "no emission");
        yes(slashing.isGatewayJailed(gate), "jailed");
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.NoCheckpoint.selector, gate, modelId, epoch));
        settlement.challengeSum(gate, modelId, epoch, sortedLeaves(UNITS, UNITS));
        ISettlementTypes.ContributionVoucher memory v = voucher(UNITS);
        settlement.challengeOmission(v, sign(v), 0, new bytes32[](0));
        eq(settlement.compensatedUnits(gate, key("ann"), epoch), UNITS, "vouchers are paid from the credit");
    }

    function test_a_right_sum_or_a_wrong_list_changes_nothing() public {
        postTwo(UNITS, UNITS);
        vm.expectRevert(ISettlementTypes.SumIsRight.selector);
        settlement.challengeSum(gate, modelId, epoch, sortedLeaves(UNITS, UNITS));
        vm.expectRevert(ISettlementTypes.InvalidProof.selector);
        settlement.challengeSum(gate, modelId, epoch, sortedLeaves(UNITS, UNITS + 1));
        vm.expectRevert(ICommon.ZeroAmount.selector);
        settlement.challengeSum(gate, modelId, epoch, new ISettlementTypes.Leaf[](0));
    }

    function test_giant_leaves_cannot_hide_a_wrong_sum_behind_an_overflow() public {
        bytes32[] memory leaves = new bytes32[](2);
        leaves[0] = leaf("gate", "ann", modelId, epoch, type(uint256).max);
        leaves[1] = leaf("gate", "ben", modelId, epoch, UNITS + 1);
        postRaw(leaves, UNITS);
        settlement.challengeSum(gate, modelId, epoch, sortedLeaves(type(uint256).max, UNITS + 1));
        yes(status() == ISettlementTypes.CheckpointStatus.Voided, "voided");
    }

    function test_a_few_leaves_of_a_large_tree_can_show_the_excess() public {
        bytes32[] memory leaves = new bytes32[](4);
        leaves[0] = leaf("gate", "ann", modelId, epoch, UNITS);
        leaves[1] = leaf("gate", "ben", modelId, epoch, UNITS);
        leaves[2] = keccak256("hidden");
        leaves[3] = keccak256("hidden too");
        postRaw(leaves, UNITS + 1);
        (bytes32[] memory proof, bool[] memory flags, ISettlementTypes.Leaf[] memory shown) = multiproof(leaves);
        (shown[0], shown[1]) = (shown[1], shown[0]);
        vm.expectRevert(ISettlementTypes.LeavesNotSorted.selector);
        settlement.challengeSumOverflow(gate, modelId, epoch, shown, proof, flags);
        (shown[0], shown[1]) = (shown[0], shown[0]);
        vm.expectRevert(ISettlementTypes.LeavesNotSorted.selector);
        settlement.challengeSumOverflow(gate, modelId, epoch, shown, proof, flags);
        (proof, flags, shown) = multiproof(leaves);
        settlement.challengeSumOverflow(gate, modelId, epoch, shown, proof, flags);
        yes(status() == ISettlementTypes.CheckpointStatus.Voided, "voided");
    }

    /// @dev For the first two of four leaves, in the order of their hashes; either they are siblings or they are not.
    function multiproof(bytes32[] memory leaves)
        internal
        view
        returns (bytes32[] memory proof, bool[] memory flags, ISettlementTypes.Leaf[] memory shown)
    {
        shown = sortedLeaves(UNITS, UNITS);
        bytes32 low = leaf("gate", "ann", modelId, epoch, UNITS);
        bytes32 high = leaf("gate", "ben", modelId, epoch, UNITS);
        if (low > high) (low, high) = (high, low);
        bytes32[] memory tree = Tree.nodes(leaves); // 0; 1 2; 3 4 5 6
        uint256 i = place(tree, low);
        uint256 j = place(tree, high);
        if ((i - 1) / 2 == (j - 1) / 2) {
            proof = new bytes32[](1);
            proof[0] = tree[3 - (i - 1) / 2];
            flags = new bool[](2);
            flags[0] = true;
        } else {
            proof = new bytes32[](2);
            proof[0] = tree[sibling(i)];
            proof[1] = tree[sibling(j)];
            flags = new bool[](3);
            flags[2] = true;
        }
    }

    function place(bytes32[] memory tree, bytes32 node) internal pure returns (uint256) {
        for (uint256 i = 3; i < 7; ++i) if (tree[i] == node) return i;
        revert("not in the tree");
    }

    function sibling(uint256 i) internal pure returns (uint256) {
        return i % 2 == 1 ? i + 1 : i - 1;
    }

    // --- equivocation and overdraw ---

    function commitment(bytes32 root, uint256 units) internal view returns (ISettlementTypes.CheckpointCommitment memory) {
        return ISettlementTypes.CheckpointCommitment(
            gate, modelId, epoch, root, units, models.feeFor(modelId, epoch, units), 0
        );
    }

    function signCommitment(ISettlementTypes.CheckpointCommitment memory c) internal view returns (bytes memory) {
        return signed(GATEWAY_KEY, settlement.hashCommitment(c));
    }

    function test_two_signatures_on_one_slot_are_punished_once() public {
        ISettlementTypes.CheckpointCommitment memory a = commitment(bytes32("a"), 1);
        ISettlementTypes.CheckpointCommitment memory b = commitment(bytes32("b"), 1);
        (bytes memory sa, bytes memory sb) = (signCommitment(a), signCommitment(b));
        vm.expectRevert(ISettlementTypes.NotEquivocation.selector);
        settlement.challengeEquivocation(a, sa, a, sa);
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengeEquivocation(a, sa, b, sa);
        vm.prank(eve);
        settlement.challengeEquivocation(a, sa, b, sb);
        eq(gatewayStaking.effectiveStake("gate"), 500 ether, "half");
        eq(settlement.paymentsOf(eve), 50 ether, "a tenth of it");
        vm.expectPartialRevert(ISettlementTypes.AlreadyPenalized.selector);
        settlement.challengeEquivocation(b, sb, a, sa);
        b.epoch = epoch + 1;
        vm.expectRevert(ISettlementTypes.NotEquivocation.selector);
        settlement.challengeEquivocation(a, sa, b, sb);
        b.gateway = key("nobody");
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownGateway.selector, b.gateway));
        settlement.challengeEquivocation(b, sb, a, sa);
    }

    function test_a_commitment_other_than_the_posted_checkpoint_is_punished() public {
        bytes32[] memory leaves = postTwo(UNITS, UNITS);
        ISettlementTypes.CheckpointCommitment memory same = commitment(Tree.root(leaves), 2 * UNITS);
        bytes memory signature = signCommitment(same);
        vm.expectRevert(ISettlementTypes.NotEquivocation.selector);
        settlement.challengePosted(same, signature);
        ISettlementTypes.CheckpointCommitment memory c = commitment(bytes32("a"), 2 * UNITS);
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengePosted(c, signature);
        settlement.challengePosted(c, signCommitment(c));
        yes(slashing.isGatewayJailed(gate), "jailed");
        yes(status() == ISettlementTypes.CheckpointStatus.Posted, "what was posted stands");
    }

    function test_promising_more_than_one_has_is_jailed_at_once() public {
        ISettlementTypes.ContributionVoucher[] memory vs = new ISettlementTypes.ContributionVoucher[](2);
        bytes[] memory sigs = new bytes[](2);
        vs[0] = voucher(600 * UNITS);
        vs[1] = owe("gate", "ben", modelId, epoch, 600 * UNITS);
        if (vs[0].provider > vs[1].provider) (vs[0], vs[1]) = (vs[1], vs[0]);
        (sigs[0], sigs[1]) = (sign(vs[0]), sign(vs[1]));
        settlement.challengeOverdraw(vs, sigs);
        yes(slashing.isGatewayJailed(gate), "jailed");
        eq(gatewayStaking.effectiveStake("gate"), 1000 ether, "the stake is for the providers");
        vm.expectPartialRevert(ISettlementTypes.AlreadyPenalized.selector);
        settlement.challengeOverdraw(vs, sigs);
        vs[1] = vs[0];
        sigs[1] = sigs[0];
        vm.expectRevert(ISettlementTypes.LeavesNotSorted.selector);
        settlement.challengeOverdraw(vs, sigs);
    }

    function test_vouchers_within_the_cover_are_no_overdraw() public {
        ISettlementTypes.ContributionVoucher[] memory vs = new ISettlementTypes.ContributionVoucher[](1);
        bytes[] memory sigs = new bytes[](1);
        vs[0] = voucher(1000 * 12e9);
        sigs[0] = sign(vs[0]);
        uint256 owed = models.feeFor(modelId, epoch, vs[0].cumulativeUnits);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.NotOverdrawn.selector, owed, 1000 ether));
        settlement.challengeOverdraw(vs, sigs);
        vm.expectRevert(ISettlementTypes.LengthMismatch.selector);
        settlement.challengeOverdraw(vs, new bytes[](0));
    }

    /// @dev The code half of Settlement, called at its own address, has no neighbours and can get none.
    function test_the_challenge_code_alone_does_nothing() public {
        address code = vm.deployCode("SettlementChallenges.sol:SettlementChallenges", abi.encode(directory, address(this)));
        vm.expectRevert(ICommon.Wiring.selector);
        ISettlementWire(code).wire();
        vm.expectRevert(bytes(""));
        ISettlement(code).challengeSum(gate, modelId, epoch, sortedLeaves(1, 1));
    }

    function test_settlement_takes_no_ether() public {
        vm.deal(address(this), 1);
        (bool sent,) = address(settlement).call{value: 1}("");
        yes(!sent, "refused");
        (sent,) = address(settlement).call{value: 1}(abi.encodeCall(settlement.challengeCount, ()));
        yes(!sent, "refused with a call too");
    }
}

interface ISettlementWire {
    function wire() external;
}
