// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {ICommon} from "contracts/interfaces/ICommon.sol";
import {IDisputes} from "contracts/interfaces/IDisputes.sol";
import {IProviderStaking} from "contracts/interfaces/IProviderStaking.sol";
import {Deployment} from "./Deployment.sol";

/// @title Disputes about wrong computation: a late draw, a panel, a bonded appeal, and always an end.
contract DisputesTest is Deployment {
    uint256 internal modelId;
    ProviderStaking internal staking;
    address internal ann = address(0xA);
    uint64 internal epoch;

    function setUp() public {
        deploy();
        modelId = newModel("llama");
        staking = pool(modelId);
        newProvider(ann, "ann", modelId);
        nextEpoch(3);
        epoch = epochs.currentEpoch() - 1;
    }

    function withVerifiers(uint256 n) internal {
        for (uint256 i = 1; i <= n; ++i) {
            disputes.setVerifier(address(uint160(0x9000 + i)), true);
        }
    }

    function accuse() internal returns (uint256 caseId) {
        vm.prank(address(0x9001));
        return disputes.openCase("ann", epoch, bytes32("evidence"));
    }

    function open() internal returns (uint256 caseId, address[] memory panel) {
        caseId = accuse();
        vm.roll(vm.getBlockNumber() + 3);
        disputes.drawPanel(caseId);
        panel = disputes.panelOf(caseId);
    }

    // --- the draw ---

    function test_a_panel_is_drawn_with_the_hash_of_a_later_block() public {
        withVerifiers(5);
        uint256 caseId = accuse();
        uint256 drawBlock = vm.getBlockNumber() + 2;
        eq(disputes.caseOf(caseId).drawBlock, drawBlock, "not yet mined");
        eq(disputes.panelOf(caseId).length, 0, "nobody knows the panel");
        vm.prank(address(0x9001));
        vm.expectRevert(abi.encodeWithSelector(IDisputes.WrongStatus.selector, caseId, IDisputes.CaseStatus.Drawing));
        disputes.vote(caseId, true);
        vm.roll(drawBlock);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DrawTooEarly.selector, drawBlock));
        disputes.drawPanel(caseId);
        vm.roll(drawBlock + 1);
        disputes.drawPanel(caseId);
        address[] memory panel = disputes.panelOf(caseId);
        bytes32 seed = keccak256(abi.encode(blockhash(drawBlock), caseId));
        uint256 first = uint256(keccak256(abi.encode(seed, uint256(0)))) % 5;
        yes(panel[0] == address(uint160(0x9001 + first)), "as anybody can compute");
        vm.expectRevert(abi.encodeWithSelector(IDisputes.WrongStatus.selector, caseId, IDisputes.CaseStatus.Voting));
        disputes.drawPanel(caseId);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.UnknownCase.selector, 9));
        disputes.drawPanel(9);
    }

    function test_a_draw_that_comes_too_late_takes_a_later_block() public {
        withVerifiers(3);
        uint256 caseId = accuse();
        uint256 drawBlock = disputes.caseOf(caseId).drawBlock;
        vm.roll(drawBlock + 257);
        disputes.drawPanel(caseId);
        eq(disputes.caseOf(caseId).drawBlock, drawBlock + 259, "postponed");
        eq(disputes.panelOf(caseId).length, 0, "and nobody drawn");
        vm.roll(drawBlock + 259 + 256);
        disputes.drawPanel(caseId);
        eq(disputes.panelOf(caseId).length, 3, "the last block in which it can be drawn");
    }

    function test_a_case_without_enough_verifiers_ends_in_acquittal() public {
        withVerifiers(3);
        uint256 caseId = accuse();
        disputes.setVerifier(address(0x9003), false);
        vm.roll(vm.getBlockNumber() + 3);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.TooFewVerifiers.selector, 2, 3));
        disputes.drawPanel(caseId);
        nextEpoch(5);
        disputes.close(caseId);
        yes(disputes.caseOf(caseId).status == IDisputes.CaseStatus.Acquitted, "no panel, no verdict");
        vm.prank(ann);
        staking.unstakeProvider("ann");
    }

    /// @dev A voter's panel does not depend on what the transaction that opens the case does or sees.
    function testFuzz_any_three_verifiers_may_be_drawn(uint8 wait) public {
        withVerifiers(7);
        vm.roll(vm.getBlockNumber() + wait);
        (, address[] memory panel) = open();
        yes(panel[0] != panel[1] && panel[1] != panel[2] && panel[0] != panel[2], "three different");
        for (uint256 i = 0; i < 3; ++i) {
            yes(panel[i] > address(0x9000) && panel[i] <= address(0x9007), "of the verifiers");
        }
    }

    // --- the verdict ---

    function convict() internal returns (uint256 caseId) {
        address[] memory panel;
        (caseId, panel) = open();
        vm.prank(panel[0]);
        disputes.vote(caseId, true);
        vm.prank(panel[2]);
        disputes.vote(caseId, true);
    }

    function dispute(uint256 caseId) internal {
        token.approve(address(disputes), 100 ether);
        disputes.dispute(caseId);
    }

    function test_two_of_three_jail_but_do_not_slash() public {
        withVerifiers(5);
        (uint256 caseId, address[] memory panel) = open();
        yes(panel[0] != panel[1] && panel[1] != panel[2] && panel[0] != panel[2], "three different");
        vm.prank(address(0x9999));
        vm.expectRevert(abi.encodeWithSelector(IDisputes.NotOnPanel.selector, caseId, address(0x9999)));
        disputes.vote(caseId, true);
        vm.startPrank(panel[0]);
        disputes.vote(caseId, true);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.AlreadyVoted.selector, caseId, panel[0]));
        disputes.vote(caseId, true);
        vm.stopPrank();
        yes(!slashing.isProviderJailed(key("ann")), "one is not enough");
        vm.prank(panel[1]);
        disputes.vote(caseId, true);
        yes(slashing.isProviderJailed(key("ann")), "jailed");
        eq(staking.stakeOf("ann").amount, STAKE, "not slashed");
        vm.prank(panel[2]);
        vm.expectPartialRevert(IDisputes.WrongStatus.selector);
        disputes.vote(caseId, true);
    }

    function test_a_bonded_dispute_slashes_within_the_cap() public {
        withVerifiers(5);
        uint256 caseId = convict();
        dispute(caseId);
        for (uint256 i = 1; i <= 5; ++i) {
            vm.prank(address(uint160(0x9000 + i)));
            disputes.vote(caseId, i != 5);
        }
        vm.expectRevert(abi.encodeWithSelector(IDisputes.VotingOpen.selector, caseId));
        disputes.close(caseId);
        nextEpoch(5);
        disputes.close(caseId);
        eq(staking.stakeOf("ann").amount, 80 ether, "twenty per cent");
        eq(disputes.withdrawPayments(), 102 ether, "bond and a tenth of the penalty");
        vm.expectPartialRevert(IDisputes.WrongStatus.selector);
        disputes.close(caseId);
    }

    function test_a_rejected_dispute_frees_the_provider_and_costs_the_bond() public {
        withVerifiers(3);
        uint256 caseId = convict();
        dispute(caseId);
        vm.prank(address(0x9001));
        disputes.vote(caseId, true);
        nextEpoch(5);
        disputes.close(caseId);
        yes(!slashing.isProviderJailed(key("ann")), "free");
        eq(staking.stakeOf("ann").amount, STAKE, "whole");
        vm.prank(ann);
        eq(disputes.withdrawPayments(), 100 ether, "the bond");
    }

    function test_an_open_case_holds_the_stake_and_always_ends() public {
        withVerifiers(3);
        (uint256 caseId,) = open();
        vm.prank(address(0x9001));
        vm.expectRevert(abi.encodeWithSelector(IDisputes.ProviderHasCase.selector, key("ann")));
        disputes.openCase("ann", epoch, 0);
        nextEpoch(5);
        vm.prank(ann);
        vm.expectRevert(abi.encodeWithSelector(IProviderStaking.StakeUnderDispute.selector, key("ann")));
        staking.unstakeProvider("ann");
        disputes.close(caseId);
        yes(disputes.caseOf(caseId).status == IDisputes.CaseStatus.Acquitted, "nobody voted");
        vm.prank(ann);
        staking.unstakeProvider("ann");
    }

    function test_only_verifiers_accuse_and_enough_of_them() public {
        vm.expectRevert(abi.encodeWithSelector(IDisputes.NotVerifier.selector, address(this)));
        disputes.openCase("ann", epoch, 0);
        withVerifiers(2);
        vm.prank(address(0x9001));
        vm.expectRevert(abi.encodeWithSelector(IDisputes.TooFewVerifiers.selector, 2, 3));
        disputes.openCase("ann", epoch, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.VerifierUnchanged.selector, address(0x9001)));
        disputes.setVerifier(address(0x9001), true);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.UnknownCase.selector, 0));
        disputes.close(0);
    }

    /// @dev One id may name a provider and, by somebody else, a gateway: what happens to one must not touch the other.
    function test_a_gateway_of_the_same_id_is_not_jailed_with_the_provider() public {
        newGateway(address(0x31), "ann", 20 ether);
        withVerifiers(3);
        convict();
        yes(slashing.isProviderJailed(key("ann")), "the provider");
        yes(!providers.isEligible("ann") && providers.isActive("ann"), "which stays active, but is not eligible");
        yes(gateways.isEligible("ann"), "not the gateway");
    }
}
