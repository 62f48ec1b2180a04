// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {ICommon} from "contracts/interfaces/ICommon.sol";
import {IModelRegistry} from "contracts/interfaces/IModelRegistry.sol";
import {Deployment} from "./Deployment.sol";

/// @title What traffic and boosts burn for good: the price of usage figures, ratings and emission.
contract BurnsTest is Deployment {
    uint256 internal constant UNITS = 144_000_000_000; // 12 FUNC of fees
    uint256 internal modelId;
    ProviderStaking internal staking;

    function setUp() public {
        deploy();
        modelId = newModel("llama");
        staking = pool(modelId);
        newProvider(address(0xA), "ann", modelId);
        newGateway(gatewayOwner, "gate", 1000 ether);
        nextEpoch(1);
    }

    function last() internal view returns (uint64) {
        return epochs.currentEpoch() - 1;
    }

    /// @dev One person is developer, gateway, only provider and creator. Half of what he burns is gone for ever.
    function testFuzz_paying_oneself_costs_half_the_burn(uint96 units, uint96 honest) public {
        uint256 mine = bound(units, 1, 1e12);
        address me = address(0x777);
        newProvider(me, "me", modelId);
        newGateway(me, "mine", 20 ether);
        uint64 epoch = last();
        uint256 fees = models.feeFor(modelId, epoch, mine);
        topUp("mine", fees);
        uint256 theirs = bound(honest, 1, 1e12);
        topUp("gate", models.feeFor(modelId, epoch, theirs));
        vm.prank(me);
        settlement.postCheckpoint(modelId, epoch, leaf("mine", "me", modelId, epoch, mine).hash, mine, fees, 0);
        post("gate", modelId, list("ann"), nums(theirs));
        nextEpoch(DELAY);
        settlement.proveContributionFor("mine", "me", epoch, mine, none());
        settlement.proveContributionFor("gate", "ann", epoch, theirs, none());
        vm.startPrank(me);
        uint256 back = staking.claimRewards("me", epoch, epoch);
        try gatewayStaking.claimRewards("mine", epoch, epoch) returns (uint256 share) {
            back += share;
        } catch {}
        // As the creator he would also get back the royalty on his own fees, rounded up in his favour.
        back += (fees * 1000 + 9999) / 10_000;
        uint256 burned = fees * 500 / 10_000;
        yes(back + burned / 2 <= fees + 3, "half of the burn is lost, but for rounding");
    }

    function testFuzz_emission_is_at_most_half_of_what_was_burned(uint64[4] memory units) public {
        for (uint256 i = 0; i < 4; ++i) {
            uint64 epoch = last();
            topUp("gate", 1e24);
            post("gate", modelId, list("ann"), nums(bound(units[i], 1, 1e15)));
            uint256 fees = settlement.modelEpoch(modelId, epoch).fees;
            uint256 burned = fees * 500 / 10_000;
            eq(settlement.emissionWeight(epoch), burned / 2, "half of the burn");
            nextEpoch(DELAY);
            uint256 supply = token.totalSupply();
            uint256 emitted = rewards.emitted();
            settlement.finalize(modelId, epoch);
            uint256 emission = rewards.emitted() - emitted;
            yes(emission <= burned / 2, "never more");
            eq(supply - token.totalSupply(), burned - emission, "the rest is gone");
        }
    }

    function testFuzz_emission_is_bounded_by_budget_and_weight(uint128 weight, uint128 others, uint64 epoch)
        public
        view
    {
        uint256 total = uint256(weight) + others;
        uint256 emission = rewards.emissionFor(epoch, weight, total);
        yes(emission <= weight, "never more than its weight");
        yes(emission <= rewards.schedule().budget(epoch) || emission == 0, "never more than the budget");
    }

    function test_usage_counts_what_is_gone_for_good() public {
        uint64 epoch = last();
        post("gate", modelId, list("ann"), nums(UNITS));
        nextEpoch(DELAY);
        settlement.finalize(modelId, epoch);
        IModelRegistry.Usage memory used = models.usage(modelId);
        eq(used.units, UNITS, "units");
        eq(used.fees, 12 ether, "fees");
        eq(used.burned, 0.3 ether, "half of five per cent");
        eq(used.epochs, 1, "epochs");
    }

    function test_a_boost_burns_as_fees_do_and_counts_so() public {
        uint64 epoch = epochs.currentEpoch();
        uint256 supply = token.totalSupply();
        token.approve(address(rewards), 10 ether);
        rewards.boost(modelId, epoch, 10 ether);
        eq(rewards.boostOf(modelId, epoch), 9.5 ether, "into the pot");
        eq(supply - token.totalSupply(), 0.5 ether, "burned");
        eq(models.usage(modelId).burned, 0.5 ether, "and counted");
        eq(token.balanceOf(address(rewards)), 9.5 ether, "held");
    }

    function test_parameters_count_from_the_next_epoch() public {
        settlement.setParameters(2000, 2000, 10_000, 5000, 1000, 16, 100);
        eq(settlement.parameters().burnBps, 500, "still");
        nextEpoch(1);
        eq(settlement.parameters().burnBps, 2000, "now");
        eq(settlement.parameters().bondBps, 100, "all of them");
    }

    // --- ratings ---

    function rate(uint8 score) internal {
        vm.prank(gatewayOwner);
        models.rateModel(modelId, "gate", score);
    }

    function test_a_rating_weighs_what_was_burned_for_the_model() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.NoVotingStake.selector, key("gate")));
        rate(5);
        post("gate", modelId, list("ann"), nums(UNITS));
        eq(models.spentBy(modelId, key("gate")), 0.3 ether, "no emission gives it back");
        rate(5);
        (uint256 sum, uint256 weight) = models.rating(modelId);
        eq(weight, 0.3 ether, "not the stake");
        eq(sum, 1.5 ether, "score times weight");
        rate(1);
        (sum, weight) = models.rating(modelId);
        eq(sum, 0.3 ether, "the later one replaces it");
        nextEpoch(1);
        post("gate", modelId, list("ann"), nums(UNITS));
        models.refreshRating(modelId, "gate");
        (sum, weight) = models.rating(modelId);
        eq(weight, 0.6 ether, "what was burned since");
    }

    function test_a_rating_weighs_at_most_the_effective_stake_and_follows_it() public {
        post("gate", modelId, list("ann"), nums(80 * UNITS));
        rate(4);
        (, uint256 weight) = models.rating(modelId);
        eq(weight, 24 ether, "burned");
        vm.prank(gatewayOwner);
        gatewayStaking.fundLines("gate", list("ann"), nums(30 ether));
        models.refreshRating(modelId, "gate");
        (, weight) = models.rating(modelId);
        eq(weight, 10 ether, "what is left of the stake");
    }

    function test_only_a_gateways_owner_rates_with_it() public {
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownModel.selector, 9));
        models.rateModel(9, "gate", 5);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.InvalidScore.selector, 6));
        models.rateModel(modelId, "gate", 6);
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownGateway.selector, key("ann")));
        models.rateModel(modelId, "ann", 5);
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, address(this)));
        models.rateModel(modelId, "gate", 5);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.NotRated.selector, modelId, key("gate")));
        models.refreshRating(modelId, "gate");
    }

    /// @dev However much a gateway posts and however it is split, one wei of weight costs one wei for good.
    function testFuzz_weight_is_never_cheaper_than_what_was_lost_for_it(uint64[3] memory units) public {
        uint256 supply = token.totalSupply();
        for (uint256 i = 0; i < 3; ++i) {
            uint64 epoch = last();
            topUp("gate", 1e24);
            post("gate", modelId, list("ann"), nums(bound(units[i], 1, 1e15)));
            nextEpoch(DELAY);
            settlement.finalize(modelId, epoch);
        }
        if (models.spentBy(modelId, key("gate")) == 0) return;
        rate(5);
        (, uint256 weight) = models.rating(modelId);
        // Rounding of each checkpoint's half may differ by a wei from that of the epoch's emission.
        yes(weight <= supply - token.totalSupply() + 3, "as much was burned");
    }
}
