// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {IEscrow} from "contracts/interfaces/IEscrow.sol";
import {Deployment} from "./Deployment.sol";
import {Tree} from "./Tree.sol";

/// @title What whole transactions cost (21,000 and calldata included), written to and checked against snapshots/gas.json.
contract GasTest is Deployment {
    uint256 internal constant UNITS = 12_000_000;
    address internal ann = address(0xA);
    uint256 internal modelId;
    ProviderStaking internal staking;

    function setUp() public {
        deploy();
        modelId = newModel("llama");
        staking = pool(modelId);
        newProvider(ann, "ann", modelId);
        newProvider(address(0xB), "ben", modelId);
        newGateway(gatewayOwner, "gate", 1000 ether);
        topUp("gate", 500 ether);
        // An earlier epoch has been settled, as in the middle of a network's life.
        nextEpoch(1);
        settle(2, true);
    }

    /// @dev Posts a tree of `n` leaves for the last epoch, and, if asked, proves that of ann.
    function settle(uint256 n, bool proven) internal returns (uint64 epoch, Sibling[] memory proof) {
        epoch = epochs.currentEpoch() - 1;
        Sibling[] memory leaves = new Sibling[](n);
        leaves[0] = leaf("gate", "ann", modelId, epoch, UNITS);
        for (uint256 i = 1; i < n; ++i) {
            leaves[i] = leaf("gate", vm.toString(i), modelId, epoch, UNITS);
        }
        uint256 fees = models.feeFor(modelId, epoch, n * UNITS);
        bytes32 root = Tree.root(leaves);
        vm.prank(gatewayOwner);
        settlement.postCheckpoint(modelId, epoch, root, n * UNITS, fees, keccak256("data"));
        proof = Tree.proof(leaves, leaves[0]);
        if (!proven) return (epoch, proof);
        uint256 back = vm.getBlockNumber();
        vm.roll(epochs.epochStartBlock(epoch + DELAY));
        settlement.proveContribution("ann", epoch, UNITS, proof);
        vm.roll(back);
    }

    function note(string memory what) internal {
        vm.snapshotGasLastCall("gas", what);
    }

    function test_register_and_stake() public {
        give(address(7), 2 * STAKE);
        vm.startPrank(address(7));
        token.approve(address(providers), STAKE);
        providers.registerAndStake(
            "12D3KooWGatewayOrProviderPeerIdOf52CharactersLong", modelId, '{"url":"https://p.example.org"}'
        );
        note("provider: registerAndStake");
        providers.register("second", modelId, '{"url":"https://p.example.org"}');
        token.approve(address(staking), STAKE);
        staking.stakeForProvider("second");
        note("provider: stakeForProvider");
        vm.stopPrank();
        give(address(8), 50 ether);
        vm.startPrank(address(8));
        token.approve(address(gateways), 50 ether);
        gateways.registerAndStake("two", "", 50 ether);
        note("gateway: registerAndStake");
    }

    function test_unstake() public {
        nextEpoch(5);
        vm.prank(ann);
        staking.unstakeProvider("ann");
        note("provider: unstakeProvider");
    }

    function vouchers(uint256 n, uint256 amount)
        internal
        returns (IEscrow.PaymentVoucher[] memory vs, bytes[] memory sigs)
    {
        vs = new IEscrow.PaymentVoucher[](n);
        sigs = new bytes[](n);
        for (uint256 i = 0; i < n; ++i) {
            address from = vm.addr(0x5000 + i);
            if (escrow.available(from, key("gate")) == 0) {
                give(from, 1 ether);
                vm.startPrank(from);
                token.approve(address(escrow), 1 ether);
                escrow.depositAndReserve("gate", 1 ether);
                vm.stopPrank();
            }
            vs[i] = IEscrow.PaymentVoucher(from, key("gate"), amount);
            sigs[i] = signed(0x5000 + i, escrow.hashVoucher(vs[i]));
        }
    }

    function test_vouchers() public {
        (IEscrow.PaymentVoucher[] memory vs, bytes[] memory sigs) = vouchers(100, 0.1 ether);
        escrow.redeemBatch(vs, sigs);
        note("escrow: redeemBatch of 100, first vouchers");
        (vs, sigs) = vouchers(100, 0.2 ether);
        escrow.redeemBatch(vs, sigs);
        note("escrow: redeemBatch of 100, later vouchers");
        (vs, sigs) = vouchers(1, 0.3 ether);
        escrow.redeem(vs[0], sigs[0]);
        note("escrow: redeem");
    }

    function test_reservations() public {
        address from = address(0x77);
        give(from, 10 ether);
        vm.startPrank(from);
        token.approve(address(escrow), 10 ether);
        escrow.deposit(5 ether);
        note("escrow: deposit");
        escrow.reserve("gate", 2 ether);
        note("escrow: reserve, the first at a gateway");
        escrow.depositAndReserve("gate", 1 ether);
        note("escrow: depositAndReserve, one more");
        vm.stopPrank();
        give(address(0x78), 10 ether);
        vm.startPrank(address(0x78));
        token.approve(address(escrow), 10 ether);
        escrow.depositAndReserve("gate", 1 ether);
        note("escrow: depositAndReserve, the first at a gateway");
        escrow.thaw("gate", 1 ether);
        note("escrow: thaw");
        nextEpoch(DELAY + 1);
        escrow.withdrawReserved("gate");
        note("escrow: withdrawReserved");
    }

    function test_lines() public {
        string[] memory ids = new string[](10);
        uint256[] memory amounts = new uint256[](10);
        for (uint256 i = 0; i < 10; ++i) {
            ids[i] = string.concat("p", vm.toString(i));
            amounts[i] = 1 ether;
            newProvider(address(uint160(0x900 + i)), ids[i], modelId);
        }
        vm.startPrank(gatewayOwner);
        gatewayStaking.fundLines("gate", list("ann"), nums(1 ether));
        note("gateway: fundLines of 1");
        gatewayStaking.fundLines("gate", ids, amounts);
        note("gateway: fundLines of 10");
        gatewayStaking.fundLines("gate", ids, amounts);
        note("gateway: fundLines of 10, again");
        gatewayStaking.thawLine("gate", "ann", 1 ether);
        note("gateway: thawLine");
        nextEpoch(DELAY + 2);
        gatewayStaking.releaseLine("gate", "ann");
        note("gateway: releaseLine");
    }

    function test_challenges() public {
        nextEpoch(1);
        (uint64 epoch, Sibling[] memory proof) = settle(1024, false);
        line("gate", "ann", 10 ether);
        ContributionVoucher memory v = owe("gate", "ann", modelId, epoch, 2 * UNITS);
        bytes memory signature = signed(GATEWAY_KEY, settlement.hashVoucher(v));
        settlement.challengeOmission(v, signature, UNITS, proof);
        note("settlement: challengeOmission at depth 10");
        v.cumulativeUnits = 3 * UNITS;
        signature = signed(GATEWAY_KEY, settlement.hashVoucher(v));
        token.approve(address(settlement), 1 ether);
        uint256 id = settlement.openOmissionChallenge(v, signature);
        note("settlement: openOmissionChallenge");
        settlement.answerOmission(id, UNITS, proof);
        note("settlement: answerOmission at depth 10");
    }

    function test_checkpoint_and_proof() public {
        nextEpoch(1);
        settle(2, false);
        note("settlement: postCheckpoint, 2 leaves");
        nextEpoch(1);
        (uint64 epoch, Sibling[] memory proof) = settle(1024, false);
        note("settlement: postCheckpoint, 1024 leaves");
        eq(proof.length, 10, "depth");
        nextEpoch(DELAY - 1);
        settlement.finalize(modelId, epoch);
        note("settlement: finalize");
        settlement.proveContribution("ann", epoch, UNITS, proof);
        note("settlement: proveContribution at depth 10");
    }

    /// @dev What a checkpoint costs does not depend on what it stands for.
    function test_an_epoch_costs_the_same_whatever_it_contains() public {
        uint256[4] memory sizes = [uint256(2), 16, 256, 1024];
        uint256[4] memory spent;
        topUp("gate", 5000 ether);
        for (uint256 i = 0; i < 4; ++i) {
            nextEpoch(1);
            uint64 epoch = epochs.currentEpoch() - 1;
            uint256 units = UNITS * sizes[i] * 1000;
            uint256 fees = models.feeFor(modelId, epoch, units);
            vm.prank(gatewayOwner);
            settlement.postCheckpoint(modelId, epoch, keccak256(abi.encode(i)), units, fees, keccak256("data"));
            spent[i] = vm.lastCallGas().gasTotalUsed;
        }
        for (uint256 i = 1; i < 4; ++i) {
            uint256 difference = spent[i] > spent[0] ? spent[i] - spent[0] : spent[0] - spent[i];
            yes(
                difference < 200,
                string.concat(
                    "same cost but for a few bytes of calldata: ", vm.toString(spent[i]), " and ", vm.toString(spent[0])
                )
            );
        }
    }

    function claimOf(uint64 n) internal {
        uint64 from = epochs.currentEpoch();
        for (uint64 i = 0; i < n; ++i) {
            nextEpoch(1);
            settle(2, true);
        }
        nextEpoch(DELAY);
        vm.prank(ann);
        staking.claimRewards("ann", from, from + n - 1);
        note(string.concat("provider: claimRewards of ", vm.toString(n)));
        vm.prank(gatewayOwner);
        gatewayStaking.claimRewards("gate", from, from + n - 1);
        note(string.concat("gateway: claimRewards of ", vm.toString(n)));
    }

    function test_claim_of_1() public {
        claimOf(1);
    }

    function test_claim_of_10() public {
        claimOf(10);
    }

    function test_claim_of_100() public {
        claimOf(100);
    }
}
