// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {ICommon} from "contracts/interfaces/ICommon.sol";
import {IProviderRegistry} from "contracts/interfaces/IProviderRegistry.sol";
import {IRewardPool} from "contracts/interfaces/IRewardPool.sol";
import {ISettlement, ISettlementTypes} from "contracts/interfaces/ISettlement.sol";
import {Deployment} from "./Deployment.sol";
import {Tree} from "./Tree.sol";

/// @title Checkpoints, proofs, pots and claims.
contract SettlementTest is Deployment {
    uint256 internal constant UNITS = 12_000_000_000;
    uint256 internal modelId;
    ProviderStaking internal staking;
    address internal ann = address(0xA);
    address internal ben = address(0xB);

    function setUp() public {
        deploy();
        modelId = newModel("llama");
        staking = pool(modelId);
        newProvider(ann, "ann", modelId);
        newProvider(ben, "ben", modelId);
        newGateway(gatewayOwner, "gate", 1000 ether);
        nextEpoch(1);
    }

    function postTwo(uint256 a, uint256 b) internal returns (bytes32[] memory) {
        return post("gate", modelId, list("ann", "ben"), nums(a, b));
    }

    function prove(string memory id, uint64 epoch, uint256 units, bytes32[] memory leaves) internal {
        settlement.proveContribution(id, epoch, units, Tree.proof(leaves, leaf("gate", id, modelId, epoch, units)));
    }

    function last() internal view returns (uint64) {
        return epochs.currentEpoch() - 1;
    }

    // --- posting ---

    function test_posting_is_checked_in_the_stated_order() public {
        uint64 epoch = last();
        uint256 fees = models.feeFor(modelId, epoch, UNITS);
        bytes32 root = keccak256("root");
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.NotGatewaySigner.selector, address(this)));
        settlement.postCheckpoint(modelId, epoch, root, UNITS, fees, 0);
        vm.startPrank(gatewayOwner);
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownModel.selector, 9));
        settlement.postCheckpoint(9, epoch, root, UNITS, fees, 0);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.PostingWindowClosed.selector, epoch + 1, epoch + 1));
        settlement.postCheckpoint(modelId, epoch + 1, root, UNITS, fees, 0);
        vm.expectRevert(
            abi.encodeWithSelector(ISettlementTypes.PostingWindowClosed.selector, type(uint64).max, epoch + 1)
        );
        settlement.postCheckpoint(modelId, type(uint64).max, root, UNITS, fees, 0);
        vm.expectRevert(ISettlementTypes.ZeroRoot.selector);
        settlement.postCheckpoint(modelId, epoch, 0, UNITS, fees, 0);
        vm.expectRevert(ICommon.ZeroAmount.selector);
        settlement.postCheckpoint(modelId, epoch, root, 0, fees, 0);
        vm.expectRevert(abi.encodeWithSelector(ICommon.OutOfBounds.selector, 2 ** 96, 1, 2 ** 96 - 1));
        settlement.postCheckpoint(modelId, epoch, root, 2 ** 96, fees, 0);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.WrongFees.selector, fees + 1, fees));
        settlement.postCheckpoint(modelId, epoch, root, UNITS, fees + 1, 0);
        uint256 much = UNITS * 1000;
        uint256 more = models.feeFor(modelId, epoch, much);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.InsufficientCover.selector, more, 990 ether));
        settlement.postCheckpoint(modelId, epoch, root, much, more, 0);
        settlement.postCheckpoint(modelId, epoch, root, UNITS, fees, 0);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.CheckpointExists.selector, key("gate"), modelId, epoch));
        settlement.postCheckpoint(modelId, epoch, root, UNITS, fees, 0);
        eq(gatewayStaking.effectiveStake("gate"), 1000 ether - fees, "the stake paid");
        vm.stopPrank();
        nextEpoch(1);
        vm.prank(gatewayOwner);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.PostingWindowClosed.selector, epoch, epoch + 2));
        settlement.postCheckpoint(modelId, epoch, root, UNITS, fees, 0);
    }

    function test_an_overdrawn_gateway_cannot_post() public {
        gatewayStaking.setMinGatewayStake(1001 ether);
        yes(gatewayStaking.isOverdrawn(key("gate")), "overdrawn");
        yes(!gateways.isActive("gate"), "not active");
        uint64 epoch = last();
        vm.prank(gatewayOwner);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.GatewayNotBonded.selector, key("gate")));
        settlement.postCheckpoint(modelId, epoch, bytes32("r"), 1, 1, 0);
    }

    /// @dev Posting has a deadline and missing it costs stake, so it goes on too.
    function test_pausing_everything_stops_no_posting_proof_or_claim() public {
        models.pause();
        providers.pause();
        router.pause();
        gateways.pause();
        gatewayStaking.pause();
        escrow.pause();
        slashing.pause();
        rewards.pause();
        uint64 epoch = last();
        bytes32[] memory leaves = postTwo(UNITS, UNITS);
        vm.expectRevert(Pausable.EnforcedPause.selector);
        rewards.boost(modelId, epoch + 1, 1);
        nextEpoch(DELAY);
        prove("ann", epoch, UNITS, leaves);
        vm.startPrank(ann);
        yes(staking.claimRewards("ann", epoch, epoch) > 0, "claimed");
        staking.unstakeProvider("ann");
        vm.stopPrank();
        vm.prank(gatewayOwner);
        yes(gatewayStaking.claimRewards("gate", epoch, epoch) > 0, "share");
        vm.prank(creator);
        yes(settlement.claimRoyalty(modelId) > 0, "royalty");
    }

    // --- proofs ---

    function test_a_leaf_is_proven_once_and_only_when_the_window_is_over() public {
        uint64 epoch = last();
        bytes32[] memory leaves = postTwo(UNITS, 2 * UNITS);
        bytes32[] memory proof = Tree.proof(leaves, leaf("gate", "ann", modelId, epoch, UNITS));
        vm.roll(epochs.epochStartBlock(epoch + DELAY) - 1);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.EpochNotReady.selector, epoch, epoch - 1));
        settlement.proveContribution("ann", epoch, UNITS, proof);
        vm.roll(epochs.epochStartBlock(epoch + DELAY));
        settlement.proveContribution("ann", epoch, UNITS, proof);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.AlreadyProven.selector, key("ann"), key("gate"), epoch));
        settlement.proveContribution("ann", epoch, UNITS, proof);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.AlreadyProven.selector, key("ann"), key("gate"), epoch));
        settlement.proveContributionFor("gate", "ann", epoch, UNITS, proof);
        yes(settlement.isProven(key("gate"), key("ann"), epoch), "proven");
    }

    function test_a_proof_fits_only_its_provider_epoch_units_and_model() public {
        uint64 epoch = last();
        bytes32[] memory leaves = postTwo(UNITS, 2 * UNITS);
        uint256 other = newModel("other");
        newProvider(address(7), "cat", other);
        bytes32[] memory proof = Tree.proof(leaves, leaf("gate", "ann", modelId, epoch, UNITS));
        nextEpoch(DELAY + 1);
        vm.expectRevert(ISettlementTypes.InvalidProof.selector);
        settlement.proveContribution("ben", epoch, UNITS, proof);
        vm.expectRevert(ISettlementTypes.InvalidProof.selector);
        settlement.proveContribution("ann", epoch, UNITS + 1, proof);
        vm.expectRevert(ISettlementTypes.InvalidProof.selector);
        settlement.proveContribution("ann", epoch + 1, UNITS, proof);
        vm.expectRevert(ISettlementTypes.InvalidProof.selector);
        settlement.proveContribution("cat", epoch, UNITS, proof);
        vm.expectRevert(ICommon.ZeroAmount.selector);
        settlement.proveContribution("ann", epoch, 0, proof);
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownProvider.selector, key("nobody")));
        settlement.proveContribution("nobody", epoch, UNITS, proof);
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownGateway.selector, key("nobody")));
        settlement.proveContributionFor("nobody", "ann", epoch, UNITS, proof);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.NoCheckpoint.selector, key("gate"), modelId, epoch + 1));
        settlement.proveContributionFor("gate", "ann", epoch + 1, UNITS, proof);
        vm.expectRevert(ISettlementTypes.InvalidProof.selector);
        settlement.proveContributionFor("gate", "ben", epoch, UNITS, proof);
        prove("ann", epoch, UNITS, leaves);
    }

    /// @dev A leaf is 160 bytes hashed twice, an inner node 64 bytes hashed once: whatever is claimed to be a leaf, the
    /// root as its own leaf and the children of the root among them, is hashed into something else first.
    function test_an_inner_node_is_no_leaf() public {
        uint64 epoch = last();
        bytes32[] memory leaves = postTwo(UNITS, 2 * UNITS);
        bytes32[] memory nodes = Tree.nodes(leaves);
        nextEpoch(DELAY);
        vm.expectRevert(ISettlementTypes.InvalidProof.selector);
        settlement.proveContribution("ann", epoch, UNITS, new bytes32[](0));
        vm.expectRevert(ISettlementTypes.InvalidProof.selector);
        settlement.proveContribution("ann", epoch, uint256(nodes[1]), new bytes32[](0));
        bytes32[] memory path = new bytes32[](1);
        path[0] = nodes[2];
        vm.expectRevert(ISettlementTypes.InvalidProof.selector);
        settlement.proveContribution("ann", epoch, uint256(nodes[1]), path);
        yes(settlement.leafHash(key("gate"), key("ann"), modelId, epoch, UNITS) == leaves[0], "leaf form");
        yes(keccak256(abi.encode(key("gate"), key("ann"), modelId, epoch, UNITS)) != leaves[0], "hashed twice");
    }

    function testFuzz_no_forged_proof_is_accepted(bytes32[6] memory path, uint256 units, uint8 depth) public {
        uint64 epoch = last();
        postTwo(UNITS, 2 * UNITS);
        nextEpoch(DELAY);
        bytes32[] memory proof = new bytes32[](depth % 7);
        for (uint256 i = 0; i < proof.length; ++i) {
            proof[i] = path[i];
        }
        vm.expectRevert(ISettlementTypes.InvalidProof.selector);
        settlement.proveContribution("ann", epoch, units == 0 ? 1 : units, proof);
    }

    function test_leaves_beyond_the_total_cannot_be_proven() public {
        uint64 epoch = last();
        bytes32[] memory leaves = new bytes32[](2);
        leaves[0] = leaf("gate", "ann", modelId, epoch, UNITS);
        leaves[1] = leaf("gate", "ben", modelId, epoch, UNITS);
        uint256 total = 2 * UNITS - 1;
        uint256 fees = models.feeFor(modelId, epoch, total);
        vm.prank(gatewayOwner);
        settlement.postCheckpoint(modelId, epoch, Tree.root(leaves), total, fees, 0);
        nextEpoch(DELAY);
        prove("ann", epoch, UNITS, leaves);
        bytes32[] memory proof = Tree.proof(leaves, leaves[1]);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.UnitsExceedTotal.selector, UNITS, UNITS - 1));
        settlement.proveContribution("ben", epoch, UNITS, proof);
    }

    function test_several_gateways_add_up() public {
        address other = address(0x0666);
        newGateway(other, "two", 1000 ether);
        uint64 epoch = last();
        bytes32[] memory first = postTwo(UNITS, UNITS);
        bytes32[] memory second = new bytes32[](1);
        second[0] = leaf("two", "ann", modelId, epoch, 2 * UNITS);
        uint256 fees = models.feeFor(modelId, epoch, 2 * UNITS);
        vm.prank(other);
        settlement.postCheckpoint(modelId, epoch, second[0], 2 * UNITS, fees, 0);
        eq(settlement.postersOf(modelId, epoch).length, 2, "posters");
        nextEpoch(DELAY);
        prove("ann", epoch, UNITS, first);
        vm.prank(ann);
        uint256 early = staking.claimRewards("ann", epoch, epoch);
        settlement.proveContribution("ann", epoch, 2 * UNITS, new bytes32[](0));
        prove("ben", epoch, UNITS, first);
        vm.prank(ann);
        uint256 late = staking.claimRewards("ann", epoch, epoch);
        vm.prank(ben);
        staking.claimRewards("ben", epoch, epoch);
        uint256 amount = staking.pot(epoch).amount;
        eq(early + late, amount * 3 / 4, "parts add up to the floor of the whole");
        eq(staking.pot(epoch).allotted, amount, "with the dust");
        eq(staking.carried(), amount - amount * 3 / 4 - amount / 4, "dust");
    }

    // --- claims ---

    function test_a_claim_succeeds_from_the_first_claimable_block_and_never_twice() public {
        uint64 epoch = last();
        bytes32[] memory leaves = postTwo(UNITS, UNITS);
        vm.roll(epochs.epochStartBlock(epoch + DELAY) - 1);
        vm.prank(ann);
        vm.expectRevert(abi.encodeWithSelector(ICommon.RewardsNotReady.selector, epoch, epoch - 1));
        staking.claimRewards("ann", epoch, epoch);
        vm.prank(gatewayOwner);
        vm.expectRevert(abi.encodeWithSelector(ICommon.RewardsNotReady.selector, epoch, epoch - 1));
        gatewayStaking.claimRewards("gate", epoch, epoch);
        vm.roll(epochs.epochStartBlock(epoch + DELAY));
        prove("ann", epoch, UNITS, leaves);
        vm.startPrank(ann);
        vm.expectRevert(abi.encodeWithSelector(ICommon.RewardsNotReady.selector, epoch + 1, epoch));
        staking.claimRewards("ann", epoch, epoch + 1);
        staking.claimRewards("ann", epoch, epoch);
        vm.expectRevert(ICommon.NothingToClaim.selector);
        staking.claimRewards("ann", epoch, epoch);
        vm.stopPrank();
        vm.startPrank(gatewayOwner);
        gatewayStaking.claimRewards("gate", epoch, epoch);
        vm.expectRevert(ICommon.NothingToClaim.selector);
        gatewayStaking.claimRewards("gate", epoch, epoch);
        vm.stopPrank();
    }

    function test_a_claim_pays_the_same_a_block_after_the_boundary_as_in_it() public {
        uint64 epoch = last();
        bytes32[] memory leaves = postTwo(UNITS, UNITS);
        vm.roll(epochs.epochStartBlock(epoch + DELAY));
        prove("ann", epoch, UNITS, leaves);
        prove("ben", epoch, UNITS, leaves);
        vm.prank(ann);
        uint256 first = staking.claimRewards("ann", epoch, epoch);
        vm.roll(epochs.epochStartBlock(epoch + DELAY) + 1);
        vm.prank(ben);
        eq(staking.claimRewards("ben", epoch, epoch), first, "ben");
    }

    function test_ranges_are_checked() public {
        vm.startPrank(ann);
        vm.expectRevert(abi.encodeWithSelector(ICommon.InvalidEpochRange.selector, 0, 1));
        staking.claimRewards("ann", 0, 1);
        vm.expectRevert(abi.encodeWithSelector(ICommon.InvalidEpochRange.selector, 2, 1));
        staking.claimRewards("ann", 2, 1);
        vm.expectRevert(abi.encodeWithSelector(ICommon.InvalidEpochRange.selector, 1, 513));
        staking.claimRewards("ann", 1, 513);
        vm.expectRevert(abi.encodeWithSelector(ICommon.InvalidEpochRange.selector, 1, type(uint64).max));
        staking.claimRewards("ann", 1, type(uint64).max);
    }

    function test_old_rewards_never_expire() public {
        uint64 epoch = last();
        bytes32[] memory leaves = postTwo(UNITS, UNITS);
        nextEpoch(700);
        prove("ann", epoch, UNITS, leaves);
        vm.startPrank(ann);
        staking.unstakeProvider("ann");
        providers.deactivate("ann");
        yes(staking.claimRewards("ann", epoch, epoch + 511) > 0, "still there");
    }

    function test_a_cluster_claim_tolerates_and_reports_failures() public {
        uint256 other = newModel("other");
        newProvider(ann, "idle", other);
        uint64 epoch = last();
        bytes32[] memory leaves = postTwo(UNITS, UNITS);
        nextEpoch(DELAY);
        prove("ann", epoch, UNITS, leaves);
        vm.prank(ann);
        (uint256 amount, string[] memory failed) = providers.claimRewardsCluster(epoch, epoch);
        yes(amount > 0, "paid");
        eq(failed.length, 1, "one failed");
        yes(key(failed[0]) == key("idle"), "that one");
        vm.prank(address(99));
        vm.expectRevert(abi.encodeWithSelector(IProviderRegistry.NoProvidersOwned.selector, address(99)));
        providers.claimRewardsCluster(epoch, epoch);
    }

    // --- pots ---

    function test_boosts_of_an_empty_epoch_carry_forward() public {
        uint64 epoch = last();
        token.approve(address(rewards), 5 ether);
        rewards.boost(modelId, epoch + 1, 5 ether);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.EpochPassed.selector, epoch, epoch + 1));
        rewards.boost(modelId, epoch, 1);
        nextEpoch(DELAY + 1);
        settlement.finalize(modelId, epoch + 1);
        eq(staking.carried(), 5 ether, "carried");
        uint64 later = last();
        bytes32[] memory leaves = postTwo(UNITS, UNITS);
        nextEpoch(DELAY);
        prove("ann", later, UNITS, leaves);
        eq(staking.carried(), 0, "taken up");
        uint256 fees = models.feeFor(modelId, later, 2 * UNITS);
        eq(staking.pot(later).amount, fees * 3 / 4 + fees / 20 + 5 ether, "in the next pot");
    }

    function test_finalising_is_for_claimable_epochs_and_once() public {
        uint64 epoch = last();
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.EpochNotReady.selector, epoch, 0));
        settlement.finalize(modelId, epoch);
        nextEpoch(DELAY);
        settlement.finalize(modelId, epoch);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.AlreadyFinalized.selector, modelId, epoch));
        settlement.finalize(modelId, epoch);
        vm.expectRevert(abi.encodeWithSelector(ISettlementTypes.EpochNotReady.selector, 0, epoch + 1));
        settlement.finalize(modelId, 0);
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownModel.selector, 9));
        settlement.finalize(9, epoch);
    }

    /// @dev One person is developer, gateway, only provider and creator.
    function testFuzz_paying_oneself_never_pays(uint96 units, uint96 honest) public {
        uint256 mine = bound(units, 1, 1e12);
        uint256 theirs = bound(honest, 1, 1e12);
        address me = address(0x777);
        newProvider(me, "me", modelId);
        newGateway(me, "mine", 20 ether);
        uint64 epoch = last();
        uint256 fees = models.feeFor(modelId, epoch, mine);
        topUp("mine", fees);
        topUp("gate", models.feeFor(modelId, epoch, theirs));
        vm.prank(me);
        settlement.postCheckpoint(modelId, epoch, leaf("mine", "me", modelId, epoch, mine), mine, fees, 0);
        post("gate", modelId, list("ann"), nums(theirs));
        nextEpoch(DELAY);
        settlement.proveContributionFor("mine", "me", epoch, mine, new bytes32[](0));
        settlement.proveContributionFor("gate", "ann", epoch, theirs, new bytes32[](0));
        vm.startPrank(me);
        uint256 back = staking.claimRewards("me", epoch, epoch);
        try gatewayStaking.claimRewards("mine", epoch, epoch) returns (uint256 share) {
            back += share;
        } catch {}
        // As the creator he would also get back the royalty on his own fees, rounded up in his favour.
        back += (fees * 1000 + 9999) / 10_000;
        yes(back <= fees + 2, "no profit beyond rounding");
    }

    function testFuzz_emission_is_bounded_by_budget_burn_and_cap(uint128 weight, uint128 others, uint64 epoch)
        public
        view
    {
        uint256 total = uint256(weight) + others;
        uint256 emission = rewards.emissionFor(epoch, weight, total);
        yes(emission <= weight, "never more than burned");
        yes(emission <= rewards.schedule().budget(epoch) || emission == 0, "never more than the budget");
    }

    function testFuzz_claims_never_exceed_the_pot(uint64[5] memory parts) public {
        string[] memory ids = new string[](5);
        uint256[] memory units = new uint256[](5);
        uint64 epoch = last();
        for (uint256 i = 0; i < 5; ++i) {
            ids[i] = string.concat("p", vm.toString(i));
            units[i] = bound(parts[i], 1, 1e12);
            newProvider(address(uint160(1000 + i)), ids[i], modelId);
        }
        bytes32[] memory leaves = post("gate", modelId, ids, units);
        nextEpoch(DELAY);
        uint256 paid;
        for (uint256 i = 0; i < 5; ++i) {
            prove(ids[i], epoch, units[i], leaves);
            vm.prank(address(uint160(1000 + i)));
            paid += staking.claimRewards(ids[i], epoch, epoch);
        }
        uint256 amount = staking.pot(epoch).amount;
        yes(paid <= amount && amount - paid < 5, "all but dust");
        eq(staking.carried(), amount - paid, "and the dust is kept");
    }

    function test_parameters_count_from_the_next_epoch() public {
        settlement.setParameters(2000, 2000, 10_000, 5000, 1000, 16, 1);
        eq(settlement.parameters().burnBps, 500, "still");
        nextEpoch(1);
        eq(settlement.parameters().burnBps, 2000, "now");
        vm.expectRevert(abi.encodeWithSelector(ICommon.OutOfBounds.selector, 2001, 0, 2000));
        settlement.setParameters(2001, 2000, 10_000, 5000, 1000, 16, 1);
        vm.expectRevert(abi.encodeWithSelector(ICommon.OutOfBounds.selector, 99, 100, 2000));
        settlement.setParameters(0, 99, 10_000, 5000, 1000, 16, 1);
        vm.expectRevert(abi.encodeWithSelector(ICommon.OutOfBounds.selector, 3, DELAY, 1000));
        settlement.setParameters(0, 100, 10_000, 5000, 1000, 3, 1);
    }

    function test_only_the_right_contracts_may_call_inside() public {
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, address(this)));
        settlement.takeGatewayShares(key("gate"), 1, 1);
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, address(this)));
        rewards.settle(modelId, 1, 1, 1, address(this));
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, address(this)));
        models.recordUsage(modelId, 1, 1, 1);
        vm.expectRevert(ICommon.Wiring.selector);
        models.wire();
    }
}
