// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {ICommon} from "contracts/interfaces/ICommon.sol";
import {IGatewayRegistry} from "contracts/interfaces/IGatewayRegistry.sol";
import {IGatewayStaking} from "contracts/interfaces/IGatewayStaking.sol";
import {IModelRegistry} from "contracts/interfaces/IModelRegistry.sol";
import {IProviderRegistry} from "contracts/interfaces/IProviderRegistry.sol";
import {IProviderStaking} from "contracts/interfaces/IProviderStaking.sol";
import {Deployment} from "./Deployment.sol";

/// @title Registering, staking, winding down and unstaking, with their limits.
contract StakingTest is Deployment {
    uint256 internal modelId;
    ProviderStaking internal staking;
    address internal ann = address(0xA);
    address internal eve = address(0xE);

    function setUp() public {
        deploy();
        modelId = newModel("llama");
        staking = pool(modelId);
        newProvider(ann, "ann", modelId);
    }

    function filled(uint256 length) internal pure returns (string memory) {
        bytes memory text = new bytes(length);
        for (uint256 i = 0; i < length; ++i) {
            text[i] = "x";
        }
        return string(text);
    }

    // --- ids and metadata ---

    function test_an_id_has_1_to_64_bytes_and_metadata_at_most_1024() public {
        providers.register(filled(64), modelId, filled(1024));
        gateways.register(filled(64), filled(1024));
        bytes memory longId = abi.encodeWithSelector(ICommon.InvalidId.selector, 65);
        bytes memory noId = abi.encodeWithSelector(ICommon.InvalidId.selector, 0);
        bytes memory longText = abi.encodeWithSelector(ICommon.MetadataTooLong.selector, 1025);
        vm.expectRevert(longId);
        providers.register(filled(65), modelId, "");
        vm.expectRevert(longId);
        gateways.register(filled(65), "");
        vm.expectRevert(noId);
        providers.register("", modelId, "");
        vm.expectRevert(noId);
        gateways.register("", "");
        vm.expectRevert(longText);
        providers.register("p", modelId, filled(1025));
        vm.expectRevert(longText);
        gateways.register("g", filled(1025));
        vm.prank(ann);
        vm.expectRevert(longText);
        providers.updateMetadata("ann", filled(1025));
    }

    function testFuzz_lengths_decide_alone(uint16 idLength, uint16 metadataLength) public {
        uint256 a = idLength % 100;
        uint256 b = metadataLength % 1100;
        if (a == 0 || a > 64) vm.expectRevert(abi.encodeWithSelector(ICommon.InvalidId.selector, a));
        else if (b > 1024) vm.expectRevert(abi.encodeWithSelector(ICommon.MetadataTooLong.selector, b));
        gateways.register(filled(a), filled(b));
    }

    function test_an_id_is_taken_once() public {
        vm.expectRevert(abi.encodeWithSelector(IProviderRegistry.ProviderIdTaken.selector, key("ann")));
        providers.register("ann", modelId, "");
        gateways.register("ann", ""); // gateways have names of their own
        vm.expectRevert(abi.encodeWithSelector(IGatewayRegistry.GatewayIdTaken.selector, key("ann")));
        gateways.register("ann", "");
    }

    function test_a_provider_needs_an_enabled_model() public {
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownModel.selector, 9));
        providers.register("p", 9, "");
        vm.prank(creator);
        models.disable(modelId);
        vm.expectRevert(abi.encodeWithSelector(IProviderRegistry.ModelNotEnabled.selector, modelId));
        providers.register("p", modelId, "");
    }

    // --- providers ---

    function test_register_and_stake_takes_exactly_the_model_stake() public view {
        eq(staking.stakeOf("ann").amount, STAKE, "stake");
        eq(token.balanceOf(ann), 0, "paid");
        yes(providers.isActive("ann"), "active");
    }

    function test_register_then_stake_for_provider() public {
        providers.register("p", modelId, "{}");
        yes(!providers.isActive("p"), "no stake yet");
        token.approve(address(staking), STAKE);
        staking.stakeForProvider("p");
        yes(providers.isActive("p"), "active");
        vm.expectRevert(abi.encodeWithSelector(IProviderStaking.AlreadyStaked.selector, key("p")));
        staking.stakeForProvider("p");
    }

    function test_activity_needs_all_five_conditions() public {
        vm.prank(ann);
        providers.deactivate("ann");
        yes(!providers.isActive("ann"), "deactivated");
        vm.prank(ann);
        providers.reactivate("ann");
        providers.setWhitelisted("ann", false);
        yes(!providers.isActive("ann"), "not whitelisted");
        providers.setWhitelisted("ann", true);
        vm.prank(creator);
        models.disable(modelId);
        yes(!providers.isActive("ann"), "model disabled");
        vm.prank(creator);
        models.enable(modelId);
        yes(providers.isActive("ann"), "all");
        yes(!providers.isActive("nobody"), "unknown");
        providers.setAutoWhitelist(false);
        providers.register("p", modelId, "");
        yes(!providers.provider("p").whitelisted, "no automatic whitelist");
    }

    function test_the_lock_holds_until_its_first_free_block() public {
        uint64 unlock = staking.stakeOf("ann").unlockEpoch;
        eq(unlock, epochs.currentEpoch() + 3, "lock");
        vm.roll(epochs.epochStartBlock(unlock) - 1);
        vm.prank(ann);
        vm.expectRevert(abi.encodeWithSelector(IProviderStaking.StakeLocked.selector, key("ann"), unlock));
        staking.unstakeProvider("ann");
        vm.roll(epochs.epochStartBlock(unlock));
        vm.prank(ann);
        staking.unstakeProvider("ann");
        eq(token.balanceOf(ann), STAKE, "back");
        vm.prank(ann);
        vm.expectRevert(abi.encodeWithSelector(IProviderStaking.NotStaked.selector, key("ann")));
        staking.unstakeProvider("ann");
    }

    function test_strangers_and_wrong_pools_are_refused() public {
        uint256 other = newModel("other");
        ProviderStaking wrong = pool(other);
        bytes memory notOwner = abi.encodeWithSelector(IProviderStaking.NotProviderOwner.selector, key("ann"), eve);
        vm.startPrank(eve);
        vm.expectRevert(notOwner);
        staking.unstakeProvider("ann");
        vm.expectRevert(notOwner);
        staking.stakeForProvider("ann");
        vm.expectRevert(notOwner);
        staking.claimRewards("ann", 1, 1);
        vm.expectRevert(abi.encodeWithSelector(IProviderRegistry.NotProviderOwner.selector, key("ann"), eve));
        providers.deactivate("ann");
        vm.expectRevert(abi.encodeWithSelector(IProviderStaking.WrongPool.selector, key("ann"), other));
        wrong.unstakeProvider("ann");
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownProvider.selector, key("nobody")));
        staking.unstakeProvider("nobody");
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, eve));
        staking.recordContribution(key("ann"), 1, 1);
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, eve));
        staking.fundPot(1, 1, 1);
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, eve));
        staking.slash(key("ann"), 1);
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, eve));
        staking.stakeFromRegistry("ann", ann);
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, eve));
        staking.initialize(7);
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, eve));
        router.createPool(7);
        vm.stopPrank();
    }

    function test_pausing_stops_staking_but_no_withdrawal() public {
        router.pause();
        providers.pause();
        gatewayStaking.pause();
        gateways.pause();
        vm.expectRevert(Pausable.EnforcedPause.selector);
        providers.register("p", modelId, "");
        vm.expectRevert(Pausable.EnforcedPause.selector);
        staking.stakeForProvider("ann");
        nextEpoch(3);
        vm.prank(ann);
        staking.unstakeProvider("ann");
        eq(token.balanceOf(ann), STAKE, "back although paused");
    }

    function test_an_owner_has_at_most_100_providers() public {
        for (uint256 i = 0; i < 100; ++i) {
            providers.register(vm.toString(i), modelId, "");
        }
        vm.expectRevert(abi.encodeWithSelector(IProviderRegistry.TooManyProviders.selector, address(this), 100));
        providers.register("one more", modelId, "");
        eq(providers.providersOf(address(this)).length, 100, "listed");
    }

    // --- gateways ---

    function test_a_gateway_winds_down_waits_and_unstakes() public {
        newGateway(gatewayOwner, "gate", 20 ether);
        yes(gateways.isActive("gate"), "active");
        yes(gateways.isEligible("gate"), "eligible");
        vm.startPrank(gatewayOwner);
        vm.expectRevert(abi.encodeWithSelector(IGatewayStaking.GatewayNotWoundDown.selector, key("gate")));
        gatewayStaking.unstakeForGateway("gate");
        gatewayStaking.windDownGateways(list("gate"));
        yes(gateways.isActive("gate") && !gateways.isEligible("gate"), "active, but not eligible while it winds down");
        vm.expectRevert(abi.encodeWithSelector(IGatewayStaking.GatewayWindingDown.selector, key("gate")));
        gatewayStaking.windDownGateways(list("gate"));
        vm.expectRevert(abi.encodeWithSelector(IGatewayStaking.GatewayWindingDown.selector, key("gate")));
        gatewayStaking.stakeForGateway("gate", 1);
        gatewayStaking.restartGateway("gate");
        yes(gateways.isEligible("gate"), "restarted");
        gatewayStaking.windDownGateways(list("gate"));
        uint64 end = epochs.currentEpoch() + DELAY;
        vm.roll(epochs.epochStartBlock(end) - 1);
        vm.expectRevert(abi.encodeWithSelector(IGatewayStaking.WindDownNotOver.selector, key("gate"), end));
        gatewayStaking.unstakeForGateway("gate");
        vm.roll(epochs.epochStartBlock(end));
        gatewayStaking.unstakeForGateway("gate");
        vm.stopPrank();
        eq(token.balanceOf(gatewayOwner), 20 ether, "back");
        yes(!gateways.isActive("gate"), "no stake");
    }

    function test_the_lock_outlives_a_short_wind_down() public {
        newGateway(gatewayOwner, "gate", 20 ether);
        epochs.setMinEpochsLocked(6);
        give(gatewayOwner, 1);
        vm.startPrank(gatewayOwner);
        token.approve(address(gatewayStaking), 1);
        gatewayStaking.stakeForGateway("gate", 1);
        gatewayStaking.windDownGateways(list("gate"));
        uint64 unlock = epochs.currentEpoch() + 6;
        vm.roll(epochs.epochStartBlock(unlock) - 1);
        vm.expectRevert(abi.encodeWithSelector(IGatewayStaking.StakeLocked.selector, key("gate"), unlock));
        gatewayStaking.unstakeForGateway("gate");
        vm.roll(epochs.epochStartBlock(unlock));
        gatewayStaking.unstakeForGateway("gate");
    }

    function test_a_wind_down_of_many_is_all_or_none() public {
        newGateway(gatewayOwner, "gate", 20 ether);
        newGateway(eve, "eve", 20 ether);
        vm.prank(gatewayOwner);
        vm.expectRevert(abi.encodeWithSelector(IGatewayStaking.NotGatewayOwner.selector, key("eve"), gatewayOwner));
        gatewayStaking.windDownGateways(list("gate", "eve"));
        eq(gatewayStaking.stakeOf("gate").windDownEnd, 0, "untouched");
        vm.expectRevert(ICommon.ZeroAmount.selector);
        gatewayStaking.windDownGateways(new string[](0));
    }

    function test_zero_amounts_and_strangers_are_refused() public {
        vm.startPrank(gatewayOwner);
        vm.expectRevert(ICommon.ZeroAmount.selector);
        gateways.registerAndStake("gate", "", 0);
        gateways.register("gate", "");
        vm.expectRevert(ICommon.ZeroAmount.selector);
        gatewayStaking.stakeForGateway("gate", 0);
        vm.expectRevert(abi.encodeWithSelector(IGatewayStaking.NotStaked.selector, key("gate")));
        gatewayStaking.windDownGateways(list("gate"));
        vm.stopPrank();
        vm.startPrank(eve);
        bytes memory notOwner = abi.encodeWithSelector(IGatewayStaking.NotGatewayOwner.selector, key("gate"), eve);
        vm.expectRevert(notOwner);
        gatewayStaking.stakeForGateway("gate", 1);
        vm.expectRevert(notOwner);
        gatewayStaking.unstakeForGateway("gate");
        vm.expectRevert(notOwner);
        gatewayStaking.claimRewards("gate", 1, 1);
        vm.expectRevert(notOwner);
        gatewayStaking.restartGateway("gate");
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, eve));
        gatewayStaking.charge(key("gate"), 1);
        vm.stopPrank();
    }

    function test_a_stake_needs_the_automatic_whitelist() public {
        providers.setAutoWhitelist(false);
        gateways.setAutoWhitelist(false);
        vm.startPrank(eve);
        vm.expectRevert(IProviderRegistry.AutoWhitelistOff.selector);
        providers.registerAndStake("p", modelId, "{}");
        vm.expectRevert(IGatewayRegistry.AutoWhitelistOff.selector);
        gateways.registerAndStake("g", "", 20 ether);
        gateways.register("g", "");
        vm.stopPrank();
        yes(!gateways.gateway("g").whitelisted, "registered all the same, to be let in later");
    }

    // --- models ---

    function test_a_price_has_two_epochs_of_notice() public {
        uint64 now_ = epochs.currentEpoch();
        vm.startPrank(creator);
        models.updatePrice(modelId, 9);
        models.updatePrice(modelId, 7);
        vm.stopPrank();
        eq(models.pricePerToken(modelId), PRICE, "now");
        eq(models.priceAt(modelId, now_ + 1), PRICE, "and in the next epoch");
        eq(models.priceAt(modelId, now_ + 2), 7, "then the last one that was named");
        eq(models.feeFor(modelId, now_ + 2, 12 * 5 + 1), 36, "ceil(61 * 7 / 12)");
        nextEpoch(1);
        vm.prank(creator);
        models.updatePrice(modelId, 8);
        eq(models.priceAt(modelId, now_ + 2), 7, "announced prices stay");
        eq(models.priceAt(modelId, now_ + 3), 8, "until their successor's turn");
        vm.prank(eve);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.NotModelCreator.selector, modelId, eve));
        models.updatePrice(modelId, 8);
    }

    function test_model_limits() public {
        vm.startPrank(creator);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelNameTaken.selector, "llama"));
        models.createModel("llama", bytes32(uint256(1)), "", 1, 1, 0, 1);
        vm.expectRevert(ICommon.ZeroAmount.selector);
        models.createModel("m", bytes32(0), "", 1, 1, 0, 1);
        vm.expectRevert(abi.encodeWithSelector(ICommon.OutOfBounds.selector, 0, 1, 4096));
        models.createModel("m", bytes32(uint256(1)), "", 0, 1, 0, 1);
        vm.expectRevert(abi.encodeWithSelector(ICommon.OutOfBounds.selector, 5001, 0, 5000));
        models.createModel("m", bytes32(uint256(1)), "", 1, 1, 5001, 1);
        vm.expectRevert(ICommon.ZeroAmount.selector);
        models.createModel("m", bytes32(uint256(1)), "", 1, 1, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(ICommon.InvalidId.selector, 65));
        models.createModel(filled(65), bytes32(uint256(1)), "", 1, 1, 0, 1);
        vm.expectRevert(abi.encodeWithSelector(ICommon.MetadataTooLong.selector, 1025));
        models.createModel("m", bytes32(uint256(1)), filled(1025), 1, 1, 0, 1);
    }

    function test_a_model_is_found_by_its_name() public {
        uint256 other = newModel("other");
        eq(models.modelIdOf("llama"), modelId, "the first");
        eq(models.modelIdOf("other"), other, "the second");
        eq(models.modelIdOf("nobody's"), 0, "none");
    }

    /// @dev Whatever the creator does in an epoch, no price of it or of the next one changes.
    function testFuzz_no_price_of_a_running_or_next_epoch_ever_moves(uint64[8] memory prices, uint256 seed) public {
        for (uint256 i = 0; i < 8; ++i) {
            uint64 now_ = epochs.currentEpoch();
            uint128 first = models.priceAt(modelId, now_);
            uint128 second = models.priceAt(modelId, now_ + 1);
            vm.prank(creator);
            models.updatePrice(modelId, prices[i]);
            eq(models.priceAt(modelId, now_), first, "this epoch");
            eq(models.priceAt(modelId, now_ + 1), second, "the next");
            nextEpoch(uint64((seed >> (8 * i)) % 3));
        }
    }
}
