// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {ICommon} from "contracts/interfaces/ICommon.sol";
import {ISettlement} from "contracts/interfaces/ISettlement.sol";
import {Deployment} from "./Deployment.sol";
import {Tree} from "./Tree.sol";

/// @title Vouchers above leaves: shown, challenged, answered, and compensated.
contract ChallengesTest is Deployment {
    uint256 internal constant UNITS = 144_000_000_000; // 12 FUNC of fees
    uint256 internal constant BOND = 1.2 ether; // a tenth of that
    uint256 internal modelId;
    address internal ann = address(0xA);
    address internal ben = address(0xB);
    address internal eve = address(0xE);
    bytes32 internal gate = key("gate");
    uint64 internal epoch;

    function setUp() public {
        deploy();
        modelId = newModel("llama");
        newProvider(ann, "ann", modelId);
        newProvider(ben, "ben", modelId);
        newGateway(gatewayOwner, "gate", 1000 ether);
        nextEpoch(1);
        epoch = epochs.currentEpoch() - 1;
        give(eve, 1000 ether);
        vm.prank(eve);
        token.approve(address(settlement), type(uint256).max);
    }

    function postTwo(uint256 a, uint256 b) internal returns (Sibling[] memory) {
        return post("gate", modelId, list("ann", "ben"), nums(a, b));
    }

    function proofOf(Sibling[] memory leaves, uint256 units) internal view returns (Sibling[] memory) {
        return Tree.proof(leaves, leaf("gate", "ann", modelId, epoch, units));
    }

    function voucher(uint256 units) internal view returns (ContributionVoucher memory) {
        return owe("gate", "ann", modelId, epoch, units);
    }

    function sign(ContributionVoucher memory v) internal view returns (bytes memory) {
        return signed(GATEWAY_KEY, settlement.hashVoucher(v));
    }

    function lastEpoch() internal view returns (uint256) {
        return epochs.epochStartBlock(epoch + DELAY);
    }

    // --- omission ---

    function test_a_voucher_above_the_leaf_is_paid_from_the_stake() public {
        Sibling[] memory leaves = postTwo(UNITS, UNITS);
        Sibling[] memory proof = proofOf(leaves, UNITS);
        ContributionVoucher memory v = voucher(3 * UNITS);
        uint256 before = gatewayStaking.effectiveStake("gate");
        uint256 fee = models.feeFor(modelId, epoch, 2 * UNITS);
        bytes memory signature = sign(v);
        vm.expectEmit(true, true, true, true, address(settlement));
        emit LeafShown(gate, key("ann"), epoch, UNITS, proof);
        vm.prank(eve);
        settlement.challengeOmission(v, signature, UNITS, proof);
        eq(settlement.paymentsOf(ann), fee * 7500 / 10_000, "the provider's part");
        eq(settlement.paymentsOf(eve), fee / 10, "a tenth of the penalty");
        eq(settlement.royaltyOf(modelId), fee / 10, "royalty");
        eq(before - gatewayStaking.effectiveStake("gate"), 2 * fee, "fee and penalty");
        yes(!slashing.isGatewayJailed(gate), "an omission is no fraud");
        eq(settlement.shownUnits(gate, key("ann"), epoch), UNITS, "the leaf is known");
        vm.expectRevert(NothingMissing.selector);
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
        ContributionVoucher memory v = voucher(UNITS);
        bytes memory signature = sign(v);
        vm.expectRevert(abi.encodeWithSelector(ChallengeWindowNotOpen.selector, epoch));
        settlement.challengeOmission(v, signature, 0, none());
        nextEpoch(1);
        vm.expectRevert(InvalidProof.selector);
        settlement.challengeOmission(v, signature, 1, none());
        vm.expectRevert(InvalidProof.selector);
        settlement.challengeOmission(v, signature, 0, new Sibling[](1));
        settlement.challengeOmission(v, signature, 0, none());
        eq(settlement.compensatedUnits(gate, key("ann"), epoch), UNITS, "units");
        vm.expectRevert(NothingMissing.selector);
        settlement.challengeOmission(v, signature, 0, none());
    }

    function test_with_a_checkpoint_the_leaf_must_be_shown() public {
        Sibling[] memory leaves = postTwo(UNITS, UNITS);
        ContributionVoucher memory v = voucher(3 * UNITS);
        bytes memory signature = sign(v);
        nextEpoch(1);
        vm.expectRevert(InvalidProof.selector);
        settlement.challengeOmission(v, signature, 0, none());
        Sibling[] memory proof = proofOf(leaves, UNITS);
        vm.expectRevert(InvalidProof.selector);
        settlement.challengeOmission(v, signature, UNITS - 1, proof);
        vm.expectRevert(InvalidProof.selector);
        settlement.challengeOmission(v, signature, 0, proof);
    }

    function test_omissions_are_shown_through_the_first_epoch_of_claims() public {
        ContributionVoucher memory v = voucher(UNITS);
        bytes memory signature = sign(v);
        uint256 snapshot = vm.snapshotState();
        vm.roll(lastEpoch());
        settlement.finalize(modelId, epoch);
        vm.roll(epochs.epochStartBlock(epoch + DELAY + 1) - 1);
        settlement.challengeOmission(v, signature, 0, none());
        vm.revertToState(snapshot);
        vm.roll(epochs.epochStartBlock(epoch + DELAY + 1));
        vm.expectRevert(abi.encodeWithSelector(ChallengeWindowClosed.selector, epoch));
        settlement.challengeOmission(v, signature, 0, none());
        v.epoch = epochs.currentEpoch() + 1;
        vm.expectRevert(abi.encodeWithSelector(ChallengeWindowNotOpen.selector, v.epoch));
        settlement.challengeOmission(v, signature, 0, none());
    }

    function test_vouchers_are_bound_to_epoch_chain_contract_and_gateway() public {
        nextEpoch(1);
        ContributionVoucher memory v = voucher(UNITS);
        bytes memory signature = sign(v);
        v.epoch = epoch - 1;
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengeOmission(v, signature, 0, none());
        v.epoch = epoch;
        v.provider = key("ben");
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengeOmission(v, signature, 0, none());
        v.provider = key("nobody");
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownProvider.selector, v.provider));
        settlement.challengeOmission(v, signature, 0, none());
        v.provider = key("ann");
        v.cumulativeUnits = UNITS + 1;
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengeOmission(v, signature, 0, none());
        v.cumulativeUnits = 2 ** 96;
        vm.expectRevert(abi.encodeWithSelector(ICommon.OutOfBounds.selector, 2 ** 96, 1, 2 ** 96 - 1));
        settlement.challengeOmission(v, signature, 0, none());
        v.cumulativeUnits = UNITS;
        vm.chainId(99);
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengeOmission(v, signature, 0, none());
        vm.chainId(31337);
        v.modelId = newModel("other");
        vm.expectRevert(abi.encodeWithSelector(WrongModel.selector, key("ann"), v.modelId));
        settlement.challengeOmission(v, signature, 0, none());
    }

    function test_a_voucher_of_another_deployment_is_refused() public {
        nextEpoch(1);
        ContributionVoucher memory v = voucher(UNITS);
        bytes memory common = abi.encode(directory, address(this));
        address code = vm.deployCode("SettlementChallenges.sol:SettlementChallenges", common);
        ISettlement other =
            ISettlement(vm.deployCode("Settlement.sol:Settlement", abi.encode(directory, address(this), code)));
        bytes memory signature = signed(GATEWAY_KEY, other.hashVoucher(v));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengeOmission(v, signature, 0, none());
    }

    function testFuzz_no_mutated_voucher_signature_is_accepted(uint256 seed) public {
        nextEpoch(1);
        ContributionVoucher memory v = voucher(UNITS);
        bytes memory bad = sign(v);
        bad[seed % 65] ^= bytes1(uint8(1 << ((seed >> 8) % 8)));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        settlement.challengeOmission(v, bad, 0, none());
    }

    function test_a_rotated_key_still_answers_for_its_epochs() public {
        bytes memory consent = signed(0x51, gateways.hashConsent(gate, gatewayOwner, vm.addr(0x51)));
        vm.prank(gatewayOwner);
        gateways.setSigner("gate", vm.addr(0x51), consent);
        nextEpoch(1);
        ContributionVoucher memory v = voucher(UNITS);
        settlement.challengeOmission(v, sign(v), 0, none());
        eq(settlement.compensatedUnits(gate, key("ann"), epoch), UNITS, "the old signature holds");
    }

    // --- hidden leaves ---

    function open(uint256 units) internal returns (uint256 id) {
        ContributionVoucher memory v = voucher(units);
        bytes memory signature = sign(v);
        vm.prank(eve);
        return settlement.openOmissionChallenge(v, signature);
    }

    function test_a_hidden_leaf_is_answered_by_showing_it_and_nobody_gains() public {
        Sibling[] memory leaves = postTwo(UNITS, UNITS);
        uint256 free = gatewayStaking.effectiveStake("gate");
        uint256 supply = token.totalSupply();
        uint256 id = open(UNITS);
        eq(token.balanceOf(eve), 1000 ether - BOND, "a tenth of the fee");
        eq(gatewayStaking.effectiveStake("gate"), free, "the stake is not touched");
        ContributionVoucher memory v = voucher(UNITS);
        bytes memory signature = sign(v);
        vm.prank(eve);
        vm.expectRevert(AlreadyChallenged.selector);
        settlement.openOmissionChallenge(v, signature);
        Sibling[] memory proof = proofOf(leaves, UNITS);
        vm.expectRevert(InvalidProof.selector);
        settlement.answerOmission(id, UNITS - 1, proof);
        vm.expectRevert(abi.encodeWithSelector(AnswerWindowOpen.selector, id, epoch + DELAY));
        settlement.resolveChallenge(id);
        vm.expectEmit(true, true, true, true, address(settlement));
        emit OmissionAnswered(id, UNITS, proof);
        settlement.answerOmission(id, UNITS, proof);
        eq(supply - token.totalSupply(), BOND, "the bond is burned");
        eq(settlement.paymentsOf(gatewayOwner), 0, "withholding brings nothing");
        eq(settlement.paymentsOf(eve), 0, "nor does a wrong challenge");
        vm.expectRevert(abi.encodeWithSelector(ChallengeNotOpen.selector, id));
        settlement.answerOmission(id, UNITS, proof);
    }

    function test_an_answer_with_a_smaller_leaf_upholds_the_challenge() public {
        Sibling[] memory leaves = postTwo(UNITS, UNITS);
        uint256 id = open(3 * UNITS);
        eq(token.balanceOf(eve), 1000 ether - 3 * BOND, "in proportion to what is in question");
        settlement.answerOmission(id, UNITS, proofOf(leaves, UNITS));
        uint256 fee = models.feeFor(modelId, epoch, 2 * UNITS);
        eq(settlement.paymentsOf(ann), fee * 75 / 100, "what is missing");
        eq(settlement.paymentsOf(eve), 3 * BOND + fee / 10, "bond and reward");
        yes(settlement.challenge(id).status == ChallengeStatus.Upheld, "upheld");
    }

    function test_a_leaf_that_is_never_shown_is_paid() public {
        Sibling memory only = leaf("gate", "ben", modelId, epoch, UNITS);
        vm.prank(gatewayOwner);
        settlement.postCheckpoint(modelId, epoch, only.hash, UNITS, 12 ether, 0);
        uint256 id = open(UNITS);
        vm.roll(epochs.epochStartBlock(epoch + DELAY + 1) - 1);
        vm.expectRevert(abi.encodeWithSelector(AnswerWindowOpen.selector, id, epoch + DELAY));
        settlement.resolveChallenge(id);
        vm.roll(epochs.epochStartBlock(epoch + DELAY + 1));
        vm.expectRevert(abi.encodeWithSelector(AnswerWindowClosed.selector, id));
        settlement.answerOmission(id, UNITS, none());
        settlement.resolveChallenge(id);
        uint256 fee = models.feeFor(modelId, epoch, UNITS);
        eq(settlement.paymentsOf(eve), BOND + fee / 10, "bond and reward");
        eq(settlement.paymentsOf(ann), fee * 75 / 100, "the provider");
        vm.expectRevert(abi.encodeWithSelector(ChallengeNotOpen.selector, id));
        settlement.resolveChallenge(id);
        vm.expectRevert(abi.encodeWithSelector(UnknownChallenge.selector, id + 1));
        settlement.resolveChallenge(id + 1);
    }

    function test_interactive_challenges_leave_time_to_answer() public {
        postTwo(UNITS, UNITS);
        ContributionVoucher memory v = voucher(UNITS);
        bytes memory signature = sign(v);
        vm.roll(lastEpoch());
        vm.prank(eve);
        vm.expectRevert(abi.encodeWithSelector(ChallengeWindowClosed.selector, epoch));
        settlement.openOmissionChallenge(v, signature);
        vm.roll(lastEpoch() - 1);
        uint256 id = open(UNITS);
        eq(settlement.challenge(id).answerBy, epoch + DELAY, "an epoch to answer");
    }

    function test_no_challenge_holds_up_a_claim() public {
        Sibling[] memory leaves = postTwo(UNITS, UNITS);
        open(UNITS);
        vm.roll(lastEpoch());
        settlement.proveContribution("ann", epoch, UNITS, proofOf(leaves, UNITS));
        ProviderStaking staking = pool(modelId);
        vm.prank(ann);
        yes(staking.claimRewards("ann", epoch, epoch) > 0, "claimed while the challenge is open");
    }

    /// @dev Challenging itself reserves nothing of a gateway's stake, and costs it bonds.
    function test_a_gateway_cannot_hide_its_stake_behind_challenges_of_its_own() public {
        postTwo(UNITS, UNITS);
        give(gatewayOwner, 1000 ether);
        vm.startPrank(gatewayOwner);
        token.approve(address(settlement), 1000 ether);
        ContributionVoucher memory own = owe("gate", "ben", modelId, epoch, 80 * UNITS);
        settlement.openOmissionChallenge(own, sign(own));
        vm.stopPrank();
        ContributionVoucher memory v = owe("gate", "ann", modelId, epoch, 2 * UNITS);
        uint256 id = open(v.cumulativeUnits);
        nextEpoch(DELAY);
        settlement.resolveChallenge(id);
        eq(settlement.compensatedUnits(gate, key("ann"), epoch), 2 * UNITS, "the provider is paid first and in full");
    }

    function test_a_smaller_challenge_after_a_larger_one_brings_nothing() public {
        postTwo(UNITS, UNITS);
        uint256 small = open(UNITS);
        uint256 large = open(2 * UNITS);
        nextEpoch(DELAY);
        settlement.resolveChallenge(large);
        uint256 paid = settlement.paymentsOf(ann);
        settlement.resolveChallenge(small);
        eq(settlement.paymentsOf(ann), paid, "the same units are paid once");
    }

    function test_the_challenge_checks_come_in_the_stated_order() public {
        ContributionVoucher memory v = voucher(UNITS);
        bytes memory signature = sign(v);
        vm.expectRevert(abi.encodeWithSelector(NoCheckpoint.selector, gate, modelId, epoch));
        settlement.openOmissionChallenge(v, signature);
        Sibling[] memory leaves = postTwo(UNITS, UNITS);
        ContributionVoucher memory more = voucher(UNITS + 1);
        settlement.challengeOmission(more, sign(more), UNITS, proofOf(leaves, UNITS));
        vm.expectRevert(NothingMissing.selector);
        settlement.openOmissionChallenge(v, signature);
    }

    /// @dev The code half of Settlement, called at its own address, has no neighbours and can get none.
    function test_the_challenge_code_alone_does_nothing() public {
        bytes memory common = abi.encode(directory, address(this));
        address code = vm.deployCode("SettlementChallenges.sol:SettlementChallenges", common);
        vm.expectRevert(ICommon.Wiring.selector);
        ISettlementWire(code).wire();
        vm.expectRevert(bytes(""));
        ISettlement(code).collectDebt("gate", "ann", epoch);
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
