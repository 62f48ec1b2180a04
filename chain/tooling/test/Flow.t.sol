// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {IEscrow} from "contracts/interfaces/IEscrow.sol";
import {Deployment} from "./Deployment.sol";
import {Tree} from "./Tree.sol";

/// @title From a deposit to a claim, with every wei followed.
contract FlowTest is Deployment {
    uint256 internal modelId;
    address internal ann = address(0xA);
    address internal ben = address(0xB);

    function setUp() public {
        deploy();
        modelId = newModel("llama");
        newProvider(ann, "ann", modelId);
        newProvider(ben, "ben", modelId);
        newGateway(gatewayOwner, "gate", 1000 ether);
    }

    function test_a_request_is_paid_from_the_deposit_to_the_claims() public {
        give(payer, 50 ether);
        vm.startPrank(payer);
        token.approve(address(escrow), 50 ether);
        escrow.deposit(50 ether);
        escrow.reserve("gate", 30 ether);
        vm.stopPrank();
        IEscrow.PaymentVoucher memory v = IEscrow.PaymentVoucher(payer, key("gate"), 20 ether);
        escrow.redeem(v, signed(PAYER_KEY, escrow.hashVoucher(v)));
        eq(escrow.creditOf(key("gate")), 20 ether, "credit");

        uint64 epoch = epochs.currentEpoch();
        nextEpoch(1);
        uint256 units = 120_000_000_000;
        Sibling[] memory leaves = post("gate", modelId, list("ann", "ben"), nums(units / 3, units - units / 3));
        uint256 fees = units * PRICE / BLOCKS;
        eq(escrow.creditOf(key("gate")), 20 ether - fees, "credit after");
        nextEpoch(DELAY - 1);
        settlement.proveContribution(
            "ann", epoch, units / 3, Tree.proof(leaves, leaf("gate", "ann", modelId, epoch, units / 3))
        );
        settlement.proveContribution(
            "ben", epoch, units - units / 3, Tree.proof(leaves, leaf("gate", "ben", modelId, epoch, units - units / 3))
        );
        uint256 emission = fees * 500 / 10000 / 2;
        uint256 pot = fees - fees * 1000 / 10000 - fees * 500 / 10000 - fees * 1000 / 10000 + emission;
        ProviderStaking staking = pool(modelId);
        eq(staking.pot(epoch).amount, pot, "pot");
        eq(staking.viewRewards("ann", epoch, epoch), pot / 3, "view");
        vm.prank(ann);
        eq(staking.claimRewards("ann", epoch, epoch), pot / 3, "ann");
        vm.prank(ben);
        (uint256 paid, string[] memory failed) = providers.claimRewardsCluster(epoch, epoch);
        eq(paid, pot * 2 / 3, "ben");
        eq(failed.length, 0, "failed");
        vm.prank(gatewayOwner);
        eq(gatewayStaking.claimRewards("gate", epoch, epoch), fees / 10, "share");
        vm.prank(creator);
        eq(settlement.claimRoyalty(modelId), fees / 10, "royalty");
        eq(token.balanceOf(address(settlement)), 0, "nothing left in settlement");
        eq(token.balanceOf(address(pool(modelId))), 2 * STAKE + pool(modelId).carried(), "only stakes and dust");
    }
}
