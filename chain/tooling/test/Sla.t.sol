// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {ICommon} from "contracts/interfaces/ICommon.sol";
import {IProviderStaking} from "contracts/interfaces/IProviderStaking.sol";
import {ISlashing} from "contracts/interfaces/ISlashing.sol";
import {Deployment} from "./Deployment.sol";

/// @title Service levels: only those that were really served judge, by stake and by work.
contract SlaTest is Deployment {
    uint256 internal constant UNITS = 1_200_000_000; // 1.2 FUNC of fees
    uint256 internal modelId;
    ProviderStaking internal staking;
    uint256 internal constant ANN_KEY = 0xA44;
    address internal ann = vm.addr(ANN_KEY);
    /// @dev What ann acknowledges to each gateway: at first whatever was proven.
    uint256 internal acknowledged = type(uint96).max;
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
            newGateway(vm.addr(keys[i]), names[i], 100 ether);
            topUp(names[i], 50 ether);
        }
        vm.prank(ann);
        slashing.commitSla("ann", 9900, 200, 500, 20);
        nextEpoch(1);
    }

    /// @dev Ann works `units[i]` for gateway i in this epoch; it is posted, and proven when the evidence window opens.
    function serve(uint256[3] memory units) internal {
        epoch = epochs.currentEpoch();
        nextEpoch(1);
        for (uint256 i = 0; i < 3; ++i) {
            if (units[i] == 0) continue;
            uint256 fees = models.feeFor(modelId, epoch, units[i]);
            bytes32 root = leaf(ids[i], "ann", modelId, epoch, units[i]).hash;
            vm.prank(vm.addr(keys[i]));
            settlement.postCheckpoint(modelId, epoch, root, units[i], fees, 0);
        }
        nextEpoch(DELAY - 1);
        for (uint256 i = 0; i < 3; ++i) {
            if (units[i] != 0) settlement.proveContributionFor(ids[i], "ann", epoch, units[i], none());
        }
    }

    function all() internal view returns (bytes32[] memory served) {
        served = new bytes32[](3);
        for (uint256 i = 0; i < 3; ++i) {
            served[i] = key(ids[i]);
        }
    }

    /// @dev Gateway i reports this uptime, or nothing if it is 0.
    function reports(uint16[3] memory uptime)
        internal
        view
        returns (ISlashing.SlaReport[] memory list_, bytes[] memory signatures)
    {
        uint256 n;
        for (uint256 i = 0; i < 3; ++i) {
            if (uptime[i] != 0) ++n;
        }
        list_ = new ISlashing.SlaReport[](n);
        signatures = new bytes[](n);
        n = 0;
        for (uint256 i = 0; i < 3; ++i) {
            if (uptime[i] == 0) continue;
            list_[n] = ISlashing.SlaReport(key(ids[i]), key("ann"), epoch, 5, uptime[i], 200);
            signatures[n] = signed(keys[i], slashing.hashReport(list_[n]));
            ++n;
        }
    }

    /// @dev With a receipt for every report.
    function accuse(bytes32[] memory served, ISlashing.SlaReport[] memory r, bytes[] memory s) internal {
        (bool ok, bytes memory reason) = address(slashing).call(accusation(served, r, s));
        if (!ok) {
            assembly ("memory-safe") {
                revert(add(reason, 32), mload(reason))
            }
        }
    }

    function accusation(bytes32[] memory served, ISlashing.SlaReport[] memory r, bytes[] memory s)
        internal
        view
        returns (bytes memory)
    {
        uint256[] memory units = new uint256[](r.length);
        bytes[] memory receipts = new bytes[](r.length);
        for (uint256 i = 0; i < r.length; ++i) {
            uint256 proven = settlement.provenUnits(r[i].gateway, key("ann"), epoch);
            units[i] = acknowledged < proven ? acknowledged : proven;
            ContributionVoucher memory receipt = ContributionVoucher(r[i].gateway, key("ann"), modelId, epoch, units[i]);
            receipts[i] = signed(ANN_KEY, settlement.hashReceipt(receipt));
        }
        return abi.encodeCall(slashing.enforceSla, ("ann", epoch, served, r, s, units, receipts));
    }

    function fails(bytes32[] memory served, ISlashing.SlaReport[] memory r, bytes[] memory s, bytes memory expected)
        internal
    {
        (bool ok, bytes memory reason) = address(slashing).call(accusation(served, r, s));
        yes(!ok && keccak256(reason) == keccak256(expected), "refused, and for that reason");
    }

    function enforce(uint16[3] memory uptime) internal {
        (ISlashing.SlaReport[] memory r, bytes[] memory s) = reports(uptime);
        accuse(all(), r, s);
    }

    function refuse(uint16[3] memory uptime, bytes memory reason) internal {
        (ISlashing.SlaReport[] memory r, bytes[] memory s) = reports(uptime);
        bytes32[] memory served = all();
        fails(served, r, s, reason);
    }

    function test_a_majority_of_those_served_penalises_and_jails_once_a_commitment() public {
        serve([UNITS, UNITS, UNITS]);
        uint256 supply = token.totalSupply();
        enforce([uint16(9899), 1, 0]);
        eq(staking.stakeOf("ann").amount, 95 ether, "five per cent");
        eq(supply - token.totalSupply(), 5 ether, "burned whole");
        yes(slashing.isProviderJailed(key("ann")), "jailed");
        yes(!providers.isEligible("ann"), "not eligible");
        eq(slashing.sla("ann").untilEpoch, epochs.currentEpoch(), "the commitment ends");
        refuse([uint16(1), 1, 1], abi.encodeWithSelector(ISlashing.AlreadyPenalized.selector, key("ann"), epoch));
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
        yes(providers.isEligible("ann"), "topped up");
    }

    /// @dev Before, each further epoch of the commitment could be punished as well.
    function test_no_other_epoch_of_a_punished_commitment_is_punished() public {
        serve([UNITS, UNITS, UNITS]);
        uint64 first = epoch;
        vm.roll(epochs.epochStartBlock(first + 1));
        serveAgain();
        enforce([uint16(1), 1, 1]);
        bytes memory reason = abi.encodeWithSelector(ISlashing.AlreadyPenalized.selector, key("ann"), first);
        epoch = first;
        refuse([uint16(1), 1, 1], reason);
    }

    function serveAgain() internal {
        epoch = epochs.currentEpoch();
        nextEpoch(1);
        for (uint256 i = 0; i < 3; ++i) {
            bytes32 root = leaf(ids[i], "ann", modelId, epoch, UNITS).hash;
            vm.prank(vm.addr(keys[i]));
            settlement.postCheckpoint(modelId, epoch, root, UNITS, 0.1 ether, 0);
        }
        nextEpoch(DELAY - 1);
        for (uint256 i = 0; i < 3; ++i) {
            settlement.proveContributionFor(ids[i], "ann", epoch, UNITS, none());
        }
    }

    function test_it_takes_a_majority_by_stake_and_one_by_work() public {
        serve([UNITS, UNITS, 3 * UNITS]);
        refuse([uint16(1), 0, 0], abi.encodeWithSelector(ISlashing.SlaKept.selector, 100 ether, 300 ether));
        refuse([uint16(1), 1, 0], abi.encodeWithSelector(ISlashing.SlaKept.selector, 2 * UNITS, 5 * UNITS));
        refuse([uint16(9900), 9900, 1], abi.encodeWithSelector(ISlashing.SlaKept.selector, 100 ether, 300 ether));
        enforce([uint16(9900), 1, 1]);
    }

    /// @dev Many little gateways weigh no more than their stake.
    function test_stake_counts_and_not_heads() public {
        serve([3 * UNITS, 3 * UNITS, UNITS]);
        uint256 more = 1000 ether;
        give(vm.addr(keys[2]), more);
        vm.startPrank(vm.addr(keys[2]));
        token.approve(address(gatewayStaking), more);
        gatewayStaking.stakeForGateway(ids[2], more);
        vm.stopPrank();
        refuse([uint16(1), 1, 0], abi.encodeWithSelector(ISlashing.SlaKept.selector, 200 ether, 1300 ether));
    }

    function testFuzz_no_minority_by_stake_or_work_penalises(uint64[3] memory work, uint64[3] memory stake, uint8 who)
        public
    {
        uint256[3] memory units;
        uint256 against;
        uint256 sum;
        uint256 workAgainst;
        uint256 workSum;
        uint16[3] memory uptime;
        for (uint256 i = 0; i < 3; ++i) {
            units[i] = bound(work[i], 1, 1e11);
            workSum += units[i];
            uint256 more = bound(stake[i], 1, 1e19);
            give(vm.addr(keys[i]), more);
            vm.startPrank(vm.addr(keys[i]));
            token.approve(address(gatewayStaking), more);
            gatewayStaking.stakeForGateway(ids[i], more);
            vm.stopPrank();
            sum += 100 ether + more;
            if ((who >> i) & 1 == 0) continue;
            uptime[i] = 1;
            against += 100 ether + more;
            workAgainst += units[i];
        }
        serve(units);
        (ISlashing.SlaReport[] memory r, bytes[] memory s) = reports(uptime);
        (bool ok,) = address(slashing).call(accusation(all(), r, s));
        yes(ok == (2 * against > sum && 2 * workAgainst > workSum), "a majority of both, and nothing less");
    }

    function test_few_requests_say_nothing() public {
        serve([UNITS, UNITS, UNITS]);
        (ISlashing.SlaReport[] memory r, bytes[] memory s) = reports([uint16(1), 1, 1]);
        for (uint256 i = 0; i < 3; ++i) {
            r[i].requests = 4;
            s[i] = signed(keys[i], slashing.hashReport(r[i]));
        }
        bytes32[] memory served = all();
        fails(served, r, s, abi.encodeWithSelector(ISlashing.SlaKept.selector, 0, 300 ether));
    }

    /// @dev Anybody can post, and pay for, a leaf of a provider that never worked for it.
    function test_work_that_the_provider_did_not_acknowledge_accuses_nobody() public {
        serve([UNITS, UNITS, UNITS]);
        (ISlashing.SlaReport[] memory r, bytes[] memory s) = reports([uint16(1), 1, 1]);
        acknowledged = 0;
        fails(all(), r, s, abi.encodeWithSelector(ICommon.InvalidSignature.selector));
        acknowledged = UNITS / 2;
        fails(all(), r, s, abi.encodeWithSelector(ISlashing.SlaKept.selector, 3 * (UNITS / 2), 3 * UNITS));
        acknowledged = UNITS / 2 + 1;
        accuse(all(), r, s);
    }

    function test_a_receipt_is_the_providers_for_this_gateway_and_epoch() public {
        serve([UNITS, UNITS, UNITS]);
        (ISlashing.SlaReport[] memory r, bytes[] memory s) = reports([uint16(1), 1, 1]);
        uint256[] memory units = new uint256[](3);
        bytes[] memory receipts = new bytes[](3);
        for (uint256 i = 0; i < 3; ++i) {
            units[i] = UNITS;
            receipts[i] = signed(ANN_KEY, settlement.hashReceipt(owe(ids[i], "ann", modelId, epoch, UNITS)));
        }
        bytes memory good = receipts[1];
        receipts[1] = receipts[0];
        refusedReceipt(r, s, units, receipts); // another gateway's
        receipts[1] = signed(ANN_KEY, settlement.hashReceipt(owe(ids[1], "ann", modelId, epoch + 1, UNITS)));
        refusedReceipt(r, s, units, receipts); // of another epoch
        receipts[1] = signed(ANN_KEY, settlement.hashVoucher(owe(ids[1], "ann", modelId, epoch, UNITS)));
        refusedReceipt(r, s, units, receipts); // a voucher
        receipts[1] = signed(keys[1], settlement.hashReceipt(owe(ids[1], "ann", modelId, epoch, UNITS)));
        refusedReceipt(r, s, units, receipts); // by the gateway itself
        receipts[1] = good;
        units[1] = UNITS + 1;
        refusedReceipt(r, s, units, receipts); // over other units
        units[1] = UNITS;
        slashing.enforceSla("ann", epoch, all(), r, s, units, receipts);
    }

    function refusedReceipt(
        ISlashing.SlaReport[] memory r,
        bytes[] memory s,
        uint256[] memory units,
        bytes[] memory receipts
    ) internal {
        bytes32[] memory served = all();
        vm.expectRevert(ICommon.InvalidSignature.selector);
        slashing.enforceSla("ann", epoch, served, r, s, units, receipts);
    }

    function test_latency_counts_as_well() public {
        serve([UNITS, UNITS, UNITS]);
        (ISlashing.SlaReport[] memory r, bytes[] memory s) = reports([uint16(9900), 9900, 0]);
        for (uint256 i = 0; i < 2; ++i) {
            r[i].latencyMs = 201;
            s[i] = signed(keys[i], slashing.hashReport(r[i]));
        }
        accuse(all(), r, s);
    }

    function test_the_gateways_must_be_all_that_were_served_and_no_others() public {
        serve([UNITS, UNITS, 0]);
        (ISlashing.SlaReport[] memory r, bytes[] memory s) = reports([uint16(1), 1, 0]);
        bytes32[] memory served = all();
        fails(served, r, s, abi.encodeWithSelector(ISlashing.NotServed.selector, key(ids[2])));
        served = new bytes32[](1);
        served[0] = key(ids[0]);
        fails(served, r, s, abi.encodeWithSelector(ISlashing.ServedIncomplete.selector, UNITS, 2 * UNITS));
        served = new bytes32[](2);
        (served[0], served[1]) = (key(ids[1]), key(ids[0]));
        fails(served, r, s, abi.encodeWithSelector(ISlashing.ReportsNotSorted.selector));
        (served[0], served[1]) = (key(ids[0]), key(ids[0]));
        fails(served, r, s, abi.encodeWithSelector(ISlashing.ReportsNotSorted.selector));
        served[1] = key(ids[1]);
        fails(served, r, s, abi.encodeWithSelector(ISlashing.TooFewReports.selector, 2, 3));
        slashing.setQuorum(2);
        accuse(served, r, s);
    }

    function test_a_report_is_by_a_gateway_that_was_served_and_about_this() public {
        serve([UNITS, UNITS, UNITS]);
        bytes32[] memory served = all();
        (ISlashing.SlaReport[] memory r, bytes[] memory s) = reports([uint16(1), 1, 1]);
        fails(served, r, new bytes[](2), abi.encodeWithSelector(ICommon.LengthMismatch.selector));
        r[0].uptimeBps = 2;
        fails(served, r, s, abi.encodeWithSelector(ICommon.InvalidSignature.selector));
        (r, s) = reports([uint16(1), 1, 1]);
        (r[2], s[2]) = (r[1], s[1]);
        fails(served, r, s, abi.encodeWithSelector(ISlashing.WrongReport.selector, 2));
        (r, s) = reports([uint16(1), 1, 1]);
        r[1].provider = key("ben");
        fails(served, r, s, abi.encodeWithSelector(ISlashing.WrongReport.selector, 1));
        (r, s) = reports([uint16(1), 1, 1]);
        r[0].epoch = epoch + 1;
        fails(served, r, s, abi.encodeWithSelector(ISlashing.WrongReport.selector, 0));
        (r, s) = reports([uint16(1), 1, 1]);
        r[2].gateway = bytes32(type(uint256).max);
        fails(served, r, s, abi.encodeWithSelector(ISlashing.WrongReport.selector, 2));
    }

    function test_evidence_is_heard_after_the_proofs_and_for_a_while() public {
        serve([UNITS, UNITS, UNITS]);
        uint64 first = epoch + DELAY;
        uint64 last = epoch + 2 * DELAY;
        uint256 snapshot = vm.snapshotState();
        vm.roll(epochs.epochStartBlock(last + 1) - 1);
        enforce([uint16(1), 1, 1]);
        vm.revertToState(snapshot);
        vm.roll(epochs.epochStartBlock(first) - 1);
        refuse([uint16(1), 1, 1], abi.encodeWithSelector(ISlashing.EvidenceWindow.selector, epoch, first - 1));
        vm.roll(epochs.epochStartBlock(last + 1));
        refuse([uint16(1), 1, 1], abi.encodeWithSelector(ISlashing.EvidenceWindow.selector, epoch, last + 1));
        epoch = 1;
        refuse([uint16(1), 1, 1], abi.encodeWithSelector(ISlashing.NoSla.selector, key("ann"), 1));
    }

    function test_a_commitment_holds_the_stake_until_its_evidence_is_too_old() public {
        uint64 until = slashing.sla("ann").untilEpoch;
        vm.roll(epochs.epochStartBlock(until + 2 * DELAY + 1) - 1);
        vm.startPrank(ann);
        vm.expectRevert(abi.encodeWithSelector(IProviderStaking.StakeUnderDispute.selector, key("ann")));
        staking.unstakeProvider("ann");
        vm.expectRevert(abi.encodeWithSelector(ISlashing.SlaRunning.selector, key("ann"), until));
        slashing.commitSla("ann", 9900, 200, 500, 10);
        vm.roll(epochs.epochStartBlock(until + 2 * DELAY + 1));
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
}
