// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "contracts/interfaces/ICommon.sol";
import {IEscrow} from "contracts/interfaces/IEscrow.sol";
import {ISettlementTypes} from "contracts/interfaces/ISettlement.sol";
import {ISlashing} from "contracts/interfaces/ISlashing.sol";
import {Deployment} from "./Deployment.sol";

/// @title Ten thousand signatures that are almost right, at every door that takes one.
contract SignaturesTest is Deployment {
    uint256 internal constant ANN_KEY = 0xA44;
    uint256 internal constant MUTATIONS = 10_000;
    uint256 internal constant ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
    uint256 internal modelId;
    uint64 internal epoch;

    function setUp() public {
        deploy();
        modelId = newModel("llama");
        newProvider(vm.addr(ANN_KEY), "ann", modelId);
        newGateway(gatewayOwner, "gate", 1000 ether);
        newGateway(vm.addr(0x77), "gate two", 1000 ether);
        newGateway(vm.addr(0x78), "served one", 1000 ether);
        newGateway(vm.addr(0x79), "served two", 1000 ether);
        fund("gate", 10 ether);
        vm.prank(vm.addr(ANN_KEY));
        slashing.commitSla("ann", 9900, 200, 500, 10);
        nextEpoch(2);
        epoch = epochs.currentEpoch() - 1;
    }

    // --- how a signature is spoiled: every single bit first, then by chance ---

    function mutated(bytes memory good, uint256 n) internal pure returns (bytes memory bad) {
        if (n < 65 * 8) {
            bad = bytes.concat(good);
            bad[n / 8] ^= bytes1(uint8(1 << (n % 8)));
            return bad;
        }
        uint256 seed = uint256(keccak256(abi.encode(n)));
        bytes32 r = word(good, 0);
        bytes32 s = word(good, 32);
        if (n % 6 == 0) return abi.encodePacked(bytes32(seed), s, good[64]);
        if (n % 6 == 1) return abi.encodePacked(r, bytes32(seed), good[64]);
        if (n % 6 == 2) return abi.encodePacked(keccak256(abi.encode(seed)), bytes32(seed), uint8(27 + seed % 2));
        if (n % 6 == 3) return abi.encodePacked(r, s, uint8(seed) == uint8(good[64]) ? uint8(0) : uint8(seed));
        if (n % 6 == 4) {
            bad = bytes.concat(good, bytes32(seed));
            uint256 length = seed % 97;
            if (length == 65) length = 0;
            assembly ("memory-safe") {
                mstore(bad, length) // cut short, or with something after it
            }
            return bad;
        }
        return abi.encodePacked(s, bytes32(uint256(r) ^ (1 << (seed % 256))), good[64]);
    }

    function word(bytes memory from, uint256 place) internal pure returns (bytes32 value) {
        assembly ("memory-safe") {
            value := mload(add(add(from, 32), place))
        }
    }

    /// @dev The same signature with −s: valid ECDSA, and therefore refused by hand.
    function twin(bytes memory good) internal pure returns (bytes memory) {
        return abi.encodePacked(
            word(good, 0), bytes32(ORDER - uint256(word(good, 32))), uint8(good[64]) == 27 ? uint8(28) : uint8(27)
        );
    }

    /// @dev 64 bytes with the parity in the highest bit (EIP-2098): valid too, and a second form of the same.
    function compact(bytes memory good) internal pure returns (bytes memory) {
        return
            abi.encodePacked(word(good, 0), bytes32(uint256(word(good, 32)) | (uint256(uint8(good[64]) - 27) << 255)));
    }

    function refused(address to, bytes memory data) internal {
        (bool ok, bytes memory reason) = to.call(data);
        yes(!ok && bytes4(reason) == ICommon.InvalidSignature.selector, "accepted, or refused for another reason");
    }

    // --- doors ---

    function payment(bytes memory signature) internal view returns (bytes memory) {
        return abi.encodeCall(escrow.redeem, (IEscrow.PaymentVoucher(payer, key("gate"), 1 ether), signature));
    }

    function contribution(bytes memory signature) internal view returns (bytes memory) {
        ISettlementTypes.ContributionVoucher memory v = owe("gate", "ann", modelId, epoch, 12_000_000_000);
        return abi.encodeCall(settlement.challengeOmission, (v, signature, 0, none()));
    }

    function report(uint256 which) internal view returns (ISlashing.SlaReport memory) {
        return ISlashing.SlaReport(servedBy()[which], key("ann"), epoch, 5, 5000, 100);
    }

    function reportKey(uint256 which) internal pure returns (uint256) {
        return servedBy()[which] == key("served one") ? 0x78 : 0x79;
    }

    function servedBy() internal pure returns (bytes32[] memory gateways_) {
        gateways_ = new bytes32[](2);
        (gateways_[0], gateways_[1]) = (key("served one"), key("served two"));
        if (gateways_[0] > gateways_[1]) (gateways_[0], gateways_[1]) = (gateways_[1], gateways_[0]);
    }

    /// @dev Both gateways post a leaf of ann's, which is proven.
    function serve() internal {
        string[2] memory ids = ["served one", "served two"];
        for (uint256 i = 0; i < 2; ++i) {
            bytes32 root = leaf(ids[i], "ann", modelId, epoch, 12).hash;
            uint256 fees = models.feeFor(modelId, epoch, 12);
            vm.prank(vm.addr(0x78 + i));
            settlement.postCheckpoint(modelId, epoch, root, 12, fees, 0);
        }
        nextEpoch(DELAY - 1);
        for (uint256 i = 0; i < 2; ++i) {
            settlement.proveContributionFor(ids[i], "ann", epoch, 12, none());
        }
    }

    function receipt(uint256 which) internal view returns (bytes memory) {
        ContributionVoucher memory r = ContributionVoucher(servedBy()[which], key("ann"), modelId, epoch, 12);
        return signed(ANN_KEY, settlement.hashReceipt(r));
    }

    function reports(bytes memory second) internal view returns (bytes memory) {
        return accusation(second, receipt(1));
    }

    function accusation(bytes memory second, bytes memory secondReceipt) internal view returns (bytes memory) {
        ISlashing.SlaReport[] memory r = new ISlashing.SlaReport[](2);
        bytes[] memory s = new bytes[](2);
        (r[0], r[1]) = (report(0), report(1));
        (s[0], s[1]) = (signed(reportKey(0), slashing.hashReport(r[0])), second);
        uint256[] memory units = nums(12, 12);
        bytes[] memory receipts = new bytes[](2);
        (receipts[0], receipts[1]) = (receipt(0), secondReceipt);
        return abi.encodeCall(slashing.enforceSla, ("ann", epoch, servedBy(), r, s, units, receipts));
    }

    function test_ten_thousand_mutated_payment_signatures_are_refused() public {
        bytes memory good = signed(PAYER_KEY, escrow.hashVoucher(IEscrow.PaymentVoucher(payer, key("gate"), 1 ether)));
        for (uint256 n = 0; n < MUTATIONS; ++n) {
            refused(address(escrow), payment(mutated(good, n)));
        }
        refused(address(escrow), payment(twin(good)));
        refused(address(escrow), payment(compact(good)));
        (bool ok,) = address(escrow).call(payment(good));
        yes(ok, "the signature itself is good");
    }

    function test_ten_thousand_mutated_contribution_signatures_are_refused() public {
        bytes memory good =
            signed(GATEWAY_KEY, settlement.hashVoucher(owe("gate", "ann", modelId, epoch, 12_000_000_000)));
        nextEpoch(1);
        for (uint256 n = 0; n < MUTATIONS; ++n) {
            refused(address(settlement), contribution(mutated(good, n)));
        }
        refused(address(settlement), contribution(twin(good)));
        refused(address(settlement), contribution(compact(good)));
        (bool ok,) = address(settlement).call(contribution(good));
        yes(ok, "the signature itself is good");
    }

    function test_mutated_report_and_receipt_signatures_are_refused() public {
        slashing.setQuorum(2);
        serve();
        bytes memory good = signed(reportKey(1), slashing.hashReport(report(1)));
        for (uint256 n = 0; n < 1000; ++n) {
            refused(address(slashing), reports(mutated(good, n)));
        }
        refused(address(slashing), reports(twin(good)));
        refused(address(slashing), reports(compact(good)));
        bytes memory owed = receipt(1);
        for (uint256 n = 0; n < 1000; ++n) {
            refused(address(slashing), accusation(good, mutated(owed, n)));
        }
        refused(address(slashing), accusation(good, twin(owed)));
        refused(address(slashing), accusation(good, compact(owed)));
        (bool ok,) = address(slashing).call(reports(good));
        yes(ok, "the signature itself is good");
    }
}
