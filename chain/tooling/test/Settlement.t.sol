// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {ICommon} from "contracts/interfaces/ICommon.sol";
import {IProviderRegistry} from "contracts/interfaces/IProviderRegistry.sol";
import {IRewardPool} from "contracts/interfaces/IRewardPool.sol";
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

    function postTwo(uint256 a, uint256 b) internal returns (Sibling[] memory) {
        return post("gate", modelId, list("ann", "ben"), nums(a, b));
    }

    function prove(string memory id, uint64 epoch, uint256 units, Sibling[] memory leaves) internal {
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
        vm.expectRevert(abi.encodeWithSelector(NotGatewaySigner.selector, address(this)));
        settlement.postCheckpoint(modelId, epoch, root, UNITS, fees, 0);
        vm.startPrank(gatewayOwner);
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownModel.selector, 9));
        settlement.postCheckpoint(9, epoch, root, UNITS, fees, 0);
        vm.expectRevert(abi.encodeWithSelector(PostingWindowClosed.selector, epoch + 1, epoch + 1));
        settlement.postCheckpoint(modelId, epoch + 1, root, UNITS, fees, 0);
        vm.expectRevert(abi.encodeWithSelector(PostingWindowClosed.selector, type(uint64).max, epoch + 1));
        settlement.postCheckpoint(modelId, type(uint64).max, root, UNITS, fees, 0);
        vm.expectRevert(ZeroRoot.selector);
        settlement.postCheckpoint(modelId, epoch, 0, UNITS, fees, 0);
        vm.expectRevert(ICommon.ZeroAmount.selector);
        settlement.postCheckpoint(modelId, epoch, root, 0, fees, 0);
        vm.expectRevert(abi.encodeWithSelector(ICommon.OutOfBounds.selector, 2 ** 96, 1, 2 ** 96 - 1));
        settlement.postCheckpoint(modelId, epoch, root, 2 ** 96, fees, 0);
        vm.expectRevert(abi.encodeWithSelector(WrongFees.selector, fees + 1, fees));
        settlement.postCheckpoint(modelId, epoch, root, UNITS, fees + 1, 0);
        uint256 much = UNITS * 1000;
        uint256 more = models.feeFor(modelId, epoch, much);
        vm.expectRevert(abi.encodeWithSelector(InsufficientCover.selector, more, 990 ether));
        settlement.postCheckpoint(modelId, epoch, root, much, more, 0);
        settlement.postCheckpoint(modelId, epoch, root, UNITS, fees, 0);
        vm.expectRevert(abi.encodeWithSelector(CheckpointExists.selector, key("gate"), modelId, epoch));
        settlement.postCheckpoint(modelId, epoch, root, UNITS, fees, 0);
        eq(gatewayStaking.effectiveStake("gate"), 1000 ether - fees, "the stake paid");
        vm.stopPrank();
        nextEpoch(1);
        vm.prank(gatewayOwner);
        vm.expectRevert(abi.encodeWithSelector(PostingWindowClosed.selector, epoch, epoch + 2));
        settlement.postCheckpoint(modelId, epoch, root, UNITS, fees, 0);
    }

    /// @dev Posting pays providers: nobody is kept from it who can pay.
    function test_a_gateway_without_spare_stake_posts_from_its_credit() public {
        uint64 epoch = last();
        vm.startPrank(gatewayOwner);
        gatewayStaking.fundLines("gate", list("ann"), nums(990 ether));
        bytes32 root = leaf("gate", "ann", modelId, epoch, UNITS).hash;
        vm.expectRevert(abi.encodeWithSelector(InsufficientCover.selector, 1 ether, 0));
        settlement.postCheckpoint(modelId, epoch, root, UNITS, 1 ether, 0);
        vm.stopPrank();
        topUp("gate", 1 ether);
        vm.prank(gatewayOwner);
        settlement.postCheckpoint(modelId, epoch, root, UNITS, 1 ether, 0);
        eq(gatewayStaking.effectiveStake("gate"), 10 ether, "the stake is whole");
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
        Sibling[] memory leaves = postTwo(UNITS, UNITS);
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
        Sibling[] memory leaves = postTwo(UNITS, 2 * UNITS);
        Sibling[] memory proof = Tree.proof(leaves, leaf("gate", "ann", modelId, epoch, UNITS));
        vm.roll(epochs.epochStartBlock(epoch + DELAY) - 1);
        vm.expectRevert(abi.encodeWithSelector(EpochNotReady.selector, epoch, epoch - 1));
        settlement.proveContribution("ann", epoch, UNITS, proof);
        vm.roll(epochs.epochStartBlock(epoch + DELAY));
        settlement.proveContribution("ann", epoch, UNITS, proof);
        vm.expectRevert(abi.encodeWithSelector(AlreadyProven.selector, key("ann"), key("gate"), epoch));
        settlement.proveContribution("ann", epoch, UNITS, proof);
        vm.expectRevert(abi.encodeWithSelector(AlreadyProven.selector, key("ann"), key("gate"), epoch));
        settlement.proveContributionFor("gate", "ann", epoch, UNITS, proof);
        eq(settlement.provenUnits(key("gate"), key("ann"), epoch), UNITS, "proven");
    }

    function test_a_proof_fits_only_its_provider_epoch_units_and_model() public {
        uint64 epoch = last();
        Sibling[] memory leaves = postTwo(UNITS, 2 * UNITS);
        uint256 other = newModel("other");
        newProvider(address(7), "cat", other);
        Sibling[] memory proof = Tree.proof(leaves, leaf("gate", "ann", modelId, epoch, UNITS));
        nextEpoch(DELAY + 1);
        vm.expectRevert(InvalidProof.selector);
        settlement.proveContribution("ben", epoch, UNITS, proof);
        vm.expectRevert(InvalidProof.selector);
        settlement.proveContribution("ann", epoch, UNITS + 1, proof);
        vm.expectRevert(InvalidProof.selector);
        settlement.proveContribution("ann", epoch + 1, UNITS, proof);
        vm.expectRevert(InvalidProof.selector);
        settlement.proveContribution("cat", epoch, UNITS, proof);
        vm.expectRevert(ICommon.ZeroAmount.selector);
        settlement.proveContribution("ann", epoch, 0, proof);
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownProvider.selector, key("nobody")));
        settlement.proveContribution("nobody", epoch, UNITS, proof);
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownGateway.selector, key("nobody")));
        settlement.proveContributionFor("nobody", "ann", epoch, UNITS, proof);
        vm.expectRevert(abi.encodeWithSelector(NoCheckpoint.selector, key("gate"), modelId, epoch + 1));
        settlement.proveContributionFor("gate", "ann", epoch + 1, UNITS, proof);
        vm.expectRevert(InvalidProof.selector);
        settlement.proveContributionFor("gate", "ben", epoch, UNITS, proof);
        prove("ann", epoch, UNITS, leaves);
    }

    /// @dev A leaf is 160 bytes hashed twice, an inner node 128 bytes hashed once: whatever is claimed to be a leaf, the
    /// root as its own leaf and the children of the root among them, is hashed into something else first.
    function test_an_inner_node_is_no_leaf() public {
        uint64 epoch = last();
        Sibling[] memory leaves = postTwo(UNITS, 2 * UNITS);
        Sibling[] memory nodes = Tree.nodes(leaves);
        nextEpoch(DELAY);
        vm.expectRevert(InvalidProof.selector);
        settlement.proveContribution("ann", epoch, UNITS, none());
        vm.expectRevert(InvalidProof.selector);
        settlement.proveContribution("ann", epoch, uint256(nodes[1].hash), none());
        Sibling[] memory path = new Sibling[](1);
        path[0] = nodes[2];
        vm.expectRevert(InvalidProof.selector);
        settlement.proveContribution("ann", epoch, uint256(nodes[1].hash), path);
        yes(settlement.leafHash(key("gate"), key("ann"), modelId, epoch, UNITS) == leaves[0].hash, "leaf form");
        yes(keccak256(abi.encode(key("gate"), key("ann"), modelId, epoch, UNITS)) != leaves[0].hash, "hashed twice");
    }

    function testFuzz_no_forged_proof_is_accepted(Sibling[6] memory path, uint256 units, uint8 depth) public {
        uint64 epoch = last();
        postTwo(UNITS, 2 * UNITS);
        nextEpoch(DELAY);
        Sibling[] memory proof = new Sibling[](depth % 7);
        for (uint256 i = 0; i < proof.length; ++i) {
            proof[i] = path[i];
        }
        vm.expectRevert(InvalidProof.selector);
        settlement.proveContribution("ann", epoch, units == 0 ? 1 : units, proof);
    }

    /// @dev A total that is not the sum of the leaves is no dispute: nothing can be proved under it, so all is owed.
    function test_a_checkpoint_with_a_wrong_sum_pays_nobody_and_hides_nothing() public {
        uint64 epoch = last();
        Sibling[] memory leaves = new Sibling[](2);
        leaves[0] = leaf("gate", "ann", modelId, epoch, UNITS);
        leaves[1] = leaf("gate", "ben", modelId, epoch, UNITS);
        uint256 total = 2 * UNITS - 1;
        uint256 fees = models.feeFor(modelId, epoch, total);
        vm.prank(gatewayOwner);
        settlement.postCheckpoint(modelId, epoch, Tree.root(leaves), total, fees, 0);
        ContributionVoucher memory v = owe("gate", "ann", modelId, epoch, UNITS);
        token.approve(address(settlement), 2 ether);
        uint256 id = settlement.openOmissionChallenge(v, signed(GATEWAY_KEY, settlement.hashVoucher(v)));
        nextEpoch(DELAY - 1);
        Sibling[] memory proof = Tree.proof(leaves, leaves[0]);
        vm.expectRevert(InvalidProof.selector);
        settlement.answerOmission(id, UNITS, proof);
        vm.expectRevert(InvalidProof.selector);
        settlement.proveContribution("ann", epoch, UNITS, proof);
        nextEpoch(1);
        settlement.resolveChallenge(id);
        eq(settlement.compensatedUnits(key("gate"), key("ann"), epoch), UNITS, "owed in full");
    }

    function test_several_gateways_add_up() public {
        address other = address(0x0666);
        newGateway(other, "two", 1000 ether);
        uint64 epoch = last();
        Sibling[] memory first = postTwo(UNITS, UNITS);
        bytes32 second = leaf("two", "ann", modelId, epoch, 2 * UNITS).hash;
        uint256 fees = models.feeFor(modelId, epoch, 2 * UNITS);
        vm.prank(other);
        settlement.postCheckpoint(modelId, epoch, second, 2 * UNITS, fees, 0);
        eq(settlement.postersOf(modelId, epoch).length, 2, "posters");
        nextEpoch(DELAY);
        prove("ann", epoch, UNITS, first);
        vm.prank(ann);
        uint256 early = staking.claimRewards("ann", epoch, epoch);
        settlement.proveContribution("ann", epoch, 2 * UNITS, none());
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
        Sibling[] memory leaves = postTwo(UNITS, UNITS);
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
        Sibling[] memory leaves = postTwo(UNITS, UNITS);
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
        Sibling[] memory leaves = postTwo(UNITS, UNITS);
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
        Sibling[] memory leaves = postTwo(UNITS, UNITS);
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
        eq(staking.carried(), 4.75 ether, "carried, less what is burned");
        uint64 later = last();
        Sibling[] memory leaves = postTwo(UNITS, UNITS);
        nextEpoch(DELAY);
        prove("ann", later, UNITS, leaves);
        eq(staking.carried(), 0, "taken up");
        uint256 fees = models.feeFor(modelId, later, 2 * UNITS);
        eq(staking.pot(later).amount, fees * 3 / 4 + fees / 40 + 4.75 ether, "in the next pot");
    }

    function test_finalising_is_for_claimable_epochs_and_once() public {
        uint64 epoch = last();
        vm.expectRevert(abi.encodeWithSelector(EpochNotReady.selector, epoch, 0));
        settlement.finalize(modelId, epoch);
        nextEpoch(DELAY);
        settlement.finalize(modelId, epoch);
        vm.expectRevert(abi.encodeWithSelector(AlreadyFinalized.selector, modelId, epoch));
        settlement.finalize(modelId, epoch);
        vm.expectRevert(abi.encodeWithSelector(EpochNotReady.selector, 0, epoch + 1));
        settlement.finalize(modelId, 0);
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownModel.selector, 9));
        settlement.finalize(9, epoch);
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
        Sibling[] memory leaves = post("gate", modelId, ids, units);
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

    function test_only_the_right_contracts_may_call_inside() public {
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, address(this)));
        settlement.takeGatewayShares(key("gate"), 1, 1);
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, address(this)));
        rewards.settle(modelId, 1, 1, 1, address(this));
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, address(this)));
        models.recordUsage(modelId, 1, 1, 1, 1);
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, address(this)));
        models.recordSpend(modelId, key("gate"), 1);
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, address(this)));
        models.recordBurn(modelId, 1);
        vm.expectRevert(ICommon.Wiring.selector);
        models.wire();
    }
}
