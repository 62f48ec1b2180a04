// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {ICommon} from "contracts/interfaces/ICommon.sol";
import {IDisputes} from "contracts/interfaces/IDisputes.sol";
import {IProviderStaking} from "contracts/interfaces/IProviderStaking.sol";
import {ISlashing} from "contracts/interfaces/ISlashing.sol";
import {Deployment} from "./Deployment.sol";

/// @title Service levels, jail, and disputes about wrong computation.
contract PenaltiesTest is Deployment {
    uint256 internal modelId;
    ProviderStaking internal staking;
    address internal ann = address(0xA);
    uint64 internal epoch;
    uint256[] internal keys;
    string[] internal ids;

    function setUp() public {
        deploy();
        modelId = newModel("llama");
        staking = pool(modelId);
        newProvider(ann, "ann", modelId);
        // Three gateways, ascending by key, with the private keys of their signers.
        string[3] memory names = ["g1", "g2", "g3"];
        for (uint256 i = 0; i < 3; ++i) {
            for (uint256 j = i + 1; j < 3; ++j) {
                if (key(names[j]) < key(names[i])) (names[i], names[j]) = (names[j], names[i]);
            }
        }
        for (uint256 i = 0; i < 3; ++i) {
            keys.push(0x600 + i);
            ids.push(names[i]);
            newGateway(vm.addr(keys[i]), names[i], 20 ether);
        }
        vm.prank(ann);
        slashing.commitSla("ann", 9900, 200, 500, 10);
        nextEpoch(2);
        epoch = epochs.currentEpoch() - 1;
    }

    function reports(uint16[3] memory uptime, uint32 latency)
        internal
        view
        returns (ISlashing.SlaReport[] memory list_, bytes[] memory signatures)
    {
        list_ = new ISlashing.SlaReport[](3);
        signatures = new bytes[](3);
        for (uint256 i = 0; i < 3; ++i) {
            list_[i] = ISlashing.SlaReport(key(ids[i]), key("ann"), epoch, uptime[i], latency);
            signatures[i] = signed(keys[i], slashing.hashReport(list_[i]));
        }
    }

    function test_a_majority_of_reports_penalises_and_jails() public {
        (ISlashing.SlaReport[] memory r, bytes[] memory s) = reports([uint16(9899), 9899, 10_000], 200);
        slashing.enforceSla("ann", epoch, r, s);
        eq(staking.stakeOf("ann").amount, 95 ether, "five per cent");
        yes(slashing.isProviderJailed(key("ann")), "jailed");
        yes(!providers.isActive("ann"), "not active");
        vm.expectRevert(abi.encodeWithSelector(ISlashing.AlreadyPenalized.selector, key("ann"), epoch));
        slashing.enforceSla("ann", epoch, r, s);
        vm.roll(epochs.epochStartBlock(epochs.currentEpoch() + 5) - 1);
        yes(slashing.isProviderJailed(key("ann")), "through the last block");
        vm.roll(vm.getBlockNumber() + 1);
        yes(!slashing.isProviderJailed(key("ann")), "free");
        yes(!providers.isActive("ann"), "but short of stake");
        give(ann, 5 ether);
        vm.startPrank(ann);
        token.approve(address(staking), 5 ether);
        staking.stakeForProvider("ann");
        vm.stopPrank();
        yes(providers.isActive("ann"), "topped up");
    }

    function test_evidence_must_be_complete_and_in_time() public {
        (ISlashing.SlaReport[] memory r, bytes[] memory s) = reports([uint16(9900), 0, 9900], 200);
        vm.expectRevert(abi.encodeWithSelector(ISlashing.SlaKept.selector, 1, 3));
        slashing.enforceSla("ann", epoch, r, s);
        (r, s) = reports([uint16(9900), 9900, 9900], 201);
        uint256 start = vm.getBlockNumber();
        vm.roll(epochs.epochStartBlock(epoch + DELAY));
        vm.expectRevert(abi.encodeWithSelector(ISlashing.EvidenceWindow.selector, epoch, epoch + DELAY));
        slashing.enforceSla("ann", epoch, r, s);
        vm.roll(start);
        vm.expectRevert(abi.encodeWithSelector(ISlashing.NoSla.selector, key("ann"), 1));
        slashing.enforceSla("ann", 1, r, s);
        r[0].uptimeBps = 1;
        vm.expectRevert(ICommon.InvalidSignature.selector);
        slashing.enforceSla("ann", epoch, r, s);
        (r, s) = reports([uint16(1), 1, 1], 1);
        r[2] = r[1];
        s[2] = s[1];
        vm.expectRevert(ISlashing.ReportsNotSorted.selector);
        slashing.enforceSla("ann", epoch, r, s);
        (r, s) = reports([uint16(1), 1, 1], 1);
        vm.prank(vm.addr(keys[0]));
        gateways.deactivate(ids[0]);
        vm.expectRevert(abi.encodeWithSelector(ISlashing.GatewayNotActive.selector, key(ids[0])));
        slashing.enforceSla("ann", epoch, r, s);
        vm.expectRevert(abi.encodeWithSelector(ISlashing.TooFewReports.selector, 0, 3));
        slashing.enforceSla("ann", epoch, new ISlashing.SlaReport[](0), new bytes[](0));
        vm.expectRevert(ISlashing.LengthMismatch.selector);
        slashing.enforceSla("ann", epoch, r, new bytes[](0));
    }

    function test_a_commitment_holds_the_stake_until_its_evidence_is_too_old() public {
        uint64 until = slashing.sla("ann").untilEpoch;
        vm.roll(epochs.epochStartBlock(until + DELAY) - 1);
        vm.startPrank(ann);
        vm.expectRevert(abi.encodeWithSelector(IProviderStaking.StakeUnderDispute.selector, key("ann")));
        staking.unstakeProvider("ann");
        vm.expectRevert(abi.encodeWithSelector(ISlashing.SlaRunning.selector, key("ann"), until));
        slashing.commitSla("ann", 9900, 200, 500, 10);
        vm.roll(epochs.epochStartBlock(until + DELAY));
        staking.unstakeProvider("ann");
    }

    function test_commitments_are_bounded_and_the_owners() public {
        newProvider(address(7), "cat", modelId);
        vm.expectRevert(abi.encodeWithSelector(ISlashing.NotProviderOwner.selector, key("cat"), address(this)));
        slashing.commitSla("cat", 1, 1, 1, 1);
        vm.startPrank(address(7));
        vm.expectRevert(abi.encodeWithSelector(ICommon.OutOfBounds.selector, 1001, 1, 1000));
        slashing.commitSla("cat", 1, 1, 1001, 1);
        vm.expectRevert(abi.encodeWithSelector(ICommon.OutOfBounds.selector, 0, 1, 10_000));
        slashing.commitSla("cat", 0, 1, 1, 1);
        vm.stopPrank();
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, address(this)));
        slashing.jailGateway(key("g1"), 9);
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, address(this)));
        slashing.jailProvider(key("ann"), 9);
    }

    // --- disputes ---

    function withVerifiers(uint256 n) internal {
        for (uint256 i = 1; i <= n; ++i) disputes.setVerifier(address(uint160(0x9000 + i)), true);
    }

    function open() internal returns (uint256 caseId, address[] memory panel) {
        vm.prank(address(0x9001));
        caseId = disputes.openCase("ann", epoch, bytes32("evidence"));
        panel = disputes.panelOf(caseId);
    }

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
        vm.roll(epochs.epochStartBlock(slashing.sla("ann").untilEpoch + DELAY));
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
        yes(gateways.isActive("ann"), "not the gateway");
    }
}
