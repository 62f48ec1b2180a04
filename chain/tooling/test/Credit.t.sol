// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "contracts/interfaces/ICommon.sol";
import {IEscrow} from "contracts/interfaces/IEscrow.sol";
import {IGatewayStaking} from "contracts/interfaces/IGatewayStaking.sol";
import {Deployment} from "./Deployment.sol";

/// @title A gateway's prepaid fees, which leave with a delay and never before what it owes.
contract CreditTest is Deployment {
    uint256 internal constant UNITS = 144_000_000_000; // 12 FUNC of fees
    uint256 internal modelId;
    address internal ann = address(0xA);
    uint64 internal epoch;

    function setUp() public {
        deploy();
        modelId = newModel("llama");
        newProvider(ann, "ann", modelId);
        newGateway(gatewayOwner, "gate", 20 ether);
        topUp("gate", 30 ether);
        nextEpoch(1);
        epoch = epochs.currentEpoch() - 1;
    }

    function voucher(uint256 units) internal view returns (ContributionVoucher memory v, bytes memory signature) {
        v = owe("gate", "ann", modelId, epoch, units);
        signature = signed(GATEWAY_KEY, settlement.hashVoucher(v));
    }

    function test_credit_leaves_after_the_windows_of_the_vouchers_that_it_may_have_to_pay() public {
        vm.startPrank(gatewayOwner);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NothingThawing.selector, gatewayOwner));
        escrow.withdrawCredit("gate");
        escrow.thawCredit("gate", 10 ether);
        nextEpoch(1);
        escrow.thawCredit("gate", 5 ether);
        uint64 end = epochs.currentEpoch() + DELAY + 2;
        vm.expectRevert(abi.encodeWithSelector(ICommon.InsufficientBalance.selector, 15 ether + 1, 15 ether));
        escrow.thawCredit("gate", 15 ether + 1);
        vm.roll(epochs.epochStartBlock(end) - 1);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.StillThawing.selector, end));
        escrow.withdrawCredit("gate");
        vm.roll(epochs.epochStartBlock(end));
        eq(escrow.withdrawCredit("gate"), 15 ether, "both parts");
        vm.stopPrank();
        eq(token.balanceOf(gatewayOwner), 15 ether, "paid");
        eq(escrow.creditOf(key("gate")), 15 ether, "the rest stays");
        eq(escrow.creditStateOf(key("gate")).thawEnd, 0, "nothing thaws");
    }

    function test_credit_belongs_to_the_gateways_owner() public {
        bytes memory notOwner = abi.encodeWithSelector(IEscrow.NotGatewayOwner.selector, key("gate"), address(this));
        vm.expectRevert(notOwner);
        escrow.thawCredit("gate", 1);
        vm.expectRevert(notOwner);
        escrow.withdrawCredit("gate");
        bytes memory unknown = abi.encodeWithSelector(ICommon.UnknownGateway.selector, key("nobody"));
        vm.expectRevert(unknown);
        escrow.thawCredit("nobody", 1);
        vm.expectRevert(unknown);
        escrow.withdrawCredit("nobody");
        vm.expectRevert(unknown);
        escrow.topUpCredit("nobody", 1);
        vm.prank(gatewayOwner);
        vm.expectRevert(ICommon.ZeroAmount.selector);
        escrow.thawCredit("gate", 0);
        vm.expectRevert(abi.encodeWithSelector(ICommon.Unauthorized.selector, address(this)));
        escrow.spendCredit(key("gate"), 1);
    }

    function test_fees_reach_credit_that_is_thawing() public {
        vm.prank(gatewayOwner);
        escrow.thawCredit("gate", 30 ether);
        post("gate", modelId, list("ann"), nums(2 * UNITS));
        eq(escrow.creditOf(key("gate")), 6 ether, "the fees were taken");
        eq(escrow.creditStateOf(key("gate")).thawing, 6 ether, "no more can leave than is there");
        nextEpoch(DELAY + 2);
        vm.prank(gatewayOwner);
        eq(escrow.withdrawCredit("gate"), 6 ether, "the rest");
    }

    /// @dev What a gateway cannot pay is a debt: until it is paid, neither its credit nor its stake leaves.
    function test_a_gateway_in_debt_can_take_nothing_out() public {
        vm.prank(gatewayOwner);
        escrow.thawCredit("gate", 30 ether);
        nextEpoch(1);
        (ContributionVoucher memory v, bytes memory signature) = voucher(10 * UNITS);
        settlement.challengeOmission(v, signature, 0, none());
        uint256 owed = models.feeFor(modelId, epoch, 10 * UNITS) - 50 ether;
        eq(settlement.debtOf(key("gate")), owed, "debt");
        topUp("gate", 40 ether);
        vm.startPrank(gatewayOwner);
        escrow.thawCredit("gate", 40 ether);
        give20();
        gatewayStaking.windDownGateways(list("gate"));
        nextEpoch(DELAY + 2);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.GatewayInDebt.selector, key("gate"), owed));
        escrow.withdrawCredit("gate");
        vm.expectRevert(abi.encodeWithSelector(IGatewayStaking.GatewayInDebt.selector, key("gate"), owed));
        gatewayStaking.unstakeForGateway("gate");
        vm.stopPrank();
        settlement.collectDebt("gate", "ann", epoch);
        yes(settlement.debtOf(key("gate")) < owed, "collected");
        topUp("gate", 200 ether);
        settlement.collectDebt("gate", "ann", epoch);
        eq(settlement.debtOf(key("gate")), 0, "no debt left");
        vm.expectRevert(NothingMissing.selector);
        settlement.collectDebt("gate", "ann", epoch);
        vm.prank(gatewayOwner);
        escrow.thawCredit("gate", 1 ether);
        nextEpoch(DELAY + 2);
        vm.prank(gatewayOwner);
        escrow.withdrawCredit("gate");
    }

    function give20() internal {
        vm.stopPrank();
        give(gatewayOwner, 20 ether);
        vm.startPrank(gatewayOwner);
        token.approve(address(gatewayStaking), 20 ether);
        gatewayStaking.stakeForGateway("gate", 20 ether);
    }
}
