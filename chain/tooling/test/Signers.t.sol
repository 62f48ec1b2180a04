// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "contracts/interfaces/ICommon.sol";
import {IFuncToken} from "contracts/interfaces/IFuncToken.sol";
import {IGatewayRegistry} from "contracts/interfaces/IGatewayRegistry.sol";
import {IProviderRegistry} from "contracts/interfaces/IProviderRegistry.sol";
import {Deployment} from "./Deployment.sol";

/// @title Keys that sign for a gateway or provider must want to; and tokens that were sent ahead are not lost.
contract SignersTest is Deployment {
    uint256 internal constant KEY = 0x51;
    address internal signer = vm.addr(KEY);
    address internal eve = address(0xE);
    uint256 internal modelId;

    function setUp() public {
        deploy();
        modelId = newModel("llama");
        newProvider(address(0xA), "ann", modelId);
        newGateway(gatewayOwner, "gate", 20 ether);
    }

    // --- consent ---

    function test_a_signer_is_named_with_its_consent() public {
        bytes memory consent = signed(KEY, gateways.hashConsent(key("gate"), gatewayOwner, signer));
        vm.prank(gatewayOwner);
        gateways.setSigner("gate", signer, consent);
        uint64 now_ = epochs.currentEpoch();
        yes(gateways.signerAt(key("gate"), now_) == gatewayOwner, "from the next epoch on");
        yes(gateways.signerAt(key("gate"), now_ + 1) == signer, "the new one");
        consent = signed(KEY, providers.hashConsent(key("ann"), address(0xA), signer));
        vm.prank(address(0xA));
        providers.setSigner("ann", signer, consent);
        yes(providers.signerAt(key("ann"), now_ + 1) == signer, "a provider's as well");
    }

    /// @dev Before, anybody could name a stranger's address, which then could sign for no gateway of its own.
    function test_nobody_names_a_stranger() public {
        vm.startPrank(eve);
        gateways.register("eves", "");
        vm.expectRevert(ICommon.InvalidSignature.selector);
        gateways.setSigner("eves", signer, "");
        bytes memory forOther = signed(KEY, gateways.hashConsent(key("eves"), gatewayOwner, signer));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        gateways.setSigner("eves", signer, forOther);
        bytes memory forOtherGateway = signed(KEY, gateways.hashConsent(key("gate"), eve, signer));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        gateways.setSigner("eves", signer, forOtherGateway);
        bytes memory ofOtherRegistry = signed(KEY, providers.hashConsent(key("eves"), eve, signer));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        gateways.setSigner("eves", signer, ofOtherRegistry);
        bytes memory byAnother = signed(0x52, gateways.hashConsent(key("eves"), eve, signer));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        gateways.setSigner("eves", signer, byAnother);
        bytes memory good = signed(KEY, gateways.hashConsent(key("eves"), eve, signer));
        vm.chainId(99);
        vm.expectRevert(ICommon.InvalidSignature.selector);
        gateways.setSigner("eves", signer, good);
        vm.chainId(31337);
        gateways.setSigner("eves", signer, good);
    }

    function test_naming_is_checked_in_the_stated_order() public {
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownGateway.selector, key("nobody")));
        gateways.setSigner("nobody", address(0), "");
        vm.expectRevert(abi.encodeWithSelector(IGatewayRegistry.NotGatewayOwner.selector, key("gate"), address(this)));
        gateways.setSigner("gate", address(0), "");
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownProvider.selector, key("nobody")));
        providers.setSigner("nobody", address(0), "");
        vm.expectRevert(abi.encodeWithSelector(IProviderRegistry.NotProviderOwner.selector, key("ann"), address(this)));
        providers.setSigner("ann", address(0), "");
        vm.prank(gatewayOwner);
        vm.expectRevert(ICommon.ZeroAddress.selector);
        gateways.setSigner("gate", address(0), "");
        vm.prank(address(0xA));
        vm.expectRevert(ICommon.ZeroAddress.selector);
        providers.setSigner("ann", address(0), "");
        vm.prank(address(0xA));
        providers.setSigner("ann", address(0xA), "the owner's own key needs none");
    }

    function testFuzz_no_mutated_consent_is_accepted(uint256 seed) public {
        bytes memory bad = signed(KEY, gateways.hashConsent(key("gate"), gatewayOwner, signer));
        bad[seed % 65] ^= bytes1(uint8(1 << ((seed >> 8) % 8)));
        vm.prank(gatewayOwner);
        vm.expectRevert(ICommon.InvalidSignature.selector);
        gateways.setSigner("gate", signer, bad);
    }

    function test_an_address_signs_for_one_gateway_only() public {
        newGateway(gatewayOwner, "two", 20 ether);
        yes(gateways.signerAt(key("two"), 99) == address(0), "the owner signs for the first");
        vm.startPrank(gatewayOwner);
        vm.expectRevert(abi.encodeWithSelector(IGatewayRegistry.SignerInUse.selector, gatewayOwner));
        gateways.setSigner("two", gatewayOwner, "");
        gateways.setSigner("two", signer, signed(KEY, gateways.hashConsent(key("two"), gatewayOwner, signer)));
        bytes memory consent = signed(KEY, gateways.hashConsent(key("gate"), gatewayOwner, signer));
        vm.expectRevert(abi.encodeWithSelector(IGatewayRegistry.SignerInUse.selector, signer));
        gateways.setSigner("gate", signer, consent);
    }

    // --- the seeds' step «transfer FUNC to the GatewayRegistry» ---

    function test_tokens_sent_ahead_are_staked() public {
        give(eve, 50 ether);
        vm.startPrank(eve);
        token.transfer(address(gateways), 30 ether);
        eq(token.sentTo(eve), 30 ether, "remembered");
        token.approve(address(gateways), 20 ether);
        gateways.registerAndStake("eves", "", 50 ether);
        vm.stopPrank();
        eq(gatewayStaking.stakeOf("eves").amount, 50 ether, "both parts");
        eq(token.sentTo(eve), 0, "used up");
        eq(token.balanceOf(address(gateways)), 0, "nothing stuck");
    }

    function test_a_transfer_alone_is_enough() public {
        give(eve, 50 ether);
        vm.startPrank(eve);
        token.transfer(address(gateways), 50 ether);
        gateways.registerAndStake("eves", "", 20 ether);
        eq(gateways.returnSent(), 30 ether, "the rest comes back");
        vm.expectRevert(ICommon.NothingToClaim.selector);
        gateways.returnSent();
        vm.stopPrank();
        eq(token.balanceOf(eve), 30 ether, "to its sender");
    }

    function test_what_one_sent_is_nobody_elses() public {
        give(eve, 5 ether);
        vm.prank(eve);
        token.transfer(address(gateways), 5 ether);
        vm.expectRevert(ICommon.NothingToClaim.selector);
        gateways.returnSent();
        vm.expectRevert();
        gateways.registerAndStake("mine", "", 5 ether);
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, address(this)));
        token.takeSent(eve, 1);
        vm.prank(address(gateways));
        vm.expectRevert(abi.encodeWithSelector(ICommon.InsufficientBalance.selector, 6 ether, 5 ether));
        token.takeSent(eve, 6 ether);
    }

    /// @dev Any order of transfers, stakes and returns: the registry holds exactly what it owes.
    function testFuzz_the_registry_owes_what_it_holds(uint64[6] memory amounts, uint8[6] memory what) public {
        address[2] memory people = [eve, address(0xEE)];
        for (uint256 i = 0; i < 6; ++i) {
            address who = people[what[i] % 2];
            uint256 amount = bound(amounts[i], 1, 10 ether);
            give(who, amount);
            vm.startPrank(who);
            if (what[i] % 3 == 0) {
                token.transfer(address(gateways), amount);
            } else if (what[i] % 3 == 1) {
                token.approve(address(gateways), amount);
                gateways.registerAndStake(vm.toString(i), "", amount);
            } else if (token.sentTo(who) > 0) {
                uint256 before = token.balanceOf(who);
                uint256 sent = token.sentTo(who);
                gateways.returnSent();
                eq(token.balanceOf(who) - before, sent, "all of it");
            }
            vm.stopPrank();
            uint256 owed = token.sentTo(people[0]) + token.sentTo(people[1]);
            eq(token.balanceOf(address(gateways)), owed, "solvent");
        }
    }

    function test_what_the_registry_pulls_is_not_counted_as_sent() public {
        eq(token.sentTo(gatewayOwner), 0, "registered and staked by allowance");
        vm.expectEmit(true, true, true, true, address(token));
        emit IFuncToken.SentToInbox(address(this), 7);
        token.transfer(address(gateways), 7);
        token.approve(eve, 9);
        vm.prank(eve);
        token.transferFrom(address(this), address(gateways), 9);
        eq(token.sentTo(address(this)), 16, "of the account that the tokens came from");
        eq(token.sentTo(eve), 0, "not of its spender");
    }
}
