// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {Escrow} from "contracts/Escrow.sol";
import {FuncToken} from "contracts/FuncToken.sol";
import {ICommon} from "contracts/interfaces/ICommon.sol";
import {IEscrow} from "contracts/interfaces/IEscrow.sol";
import {Deployment} from "./Deployment.sol";

/// @dev A wallet that is a contract and accepts one digest.
contract Wallet is IERC1271 {
    bytes32 public accepted;

    function pay(FuncToken token, Escrow escrow, uint256 amount) external {
        token.approve(address(escrow), amount);
        escrow.depositAndReserve("gate", amount);
    }

    function accept(bytes32 digest) external {
        accepted = digest;
    }

    function isValidSignature(bytes32 digest, bytes calldata) external view returns (bytes4) {
        return digest == accepted ? IERC1271.isValidSignature.selector : bytes4(0);
    }
}

/// @title Reservations and payment vouchers.
contract EscrowTest is Deployment {
    function setUp() public {
        deploy();
        newGateway(gatewayOwner, "gate", 20 ether);
        fund("gate", 10 ether);
    }

    function reserved() internal view returns (IEscrow.Reservation memory) {
        return escrow.reservationOf(payer, key("gate"));
    }

    function voucher(uint256 amount) internal view returns (IEscrow.PaymentVoucher memory) {
        return IEscrow.PaymentVoucher(payer, key("gate"), amount);
    }

    function sign(IEscrow.PaymentVoucher memory v) internal view returns (bytes memory) {
        return signed(PAYER_KEY, escrow.hashVoucher(v));
    }

    function test_vouchers_are_cumulative() public {
        eq(escrow.redeem(voucher(3 ether), sign(voucher(3 ether))), 3 ether, "first");
        eq(escrow.redeem(voucher(5 ether), sign(voucher(5 ether))), 2 ether, "the difference");
        (bytes memory again, bytes memory lower) = (sign(voucher(5 ether)), sign(voucher(4 ether)));
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NothingDue.selector, payer, key("gate")));
        escrow.redeem(voucher(5 ether), again);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NothingDue.selector, payer, key("gate")));
        escrow.redeem(voucher(4 ether), lower);
        eq(escrow.creditOf(key("gate")), 5 ether, "credit");
    }

    // --- free, reserved, thawing ---

    function test_what_is_free_is_paid_out_at_once_and_to_its_owner() public {
        token.approve(address(escrow), 5 ether);
        escrow.depositFor(payer, 5 ether);
        eq(escrow.freeOf(payer), 5 ether, "free");
        vm.startPrank(payer);
        vm.expectRevert(abi.encodeWithSelector(ICommon.InsufficientBalance.selector, 5 ether + 1, 5 ether));
        escrow.withdraw(5 ether + 1);
        escrow.withdraw(2 ether);
        escrow.reserve("gate", 3 ether);
        vm.stopPrank();
        eq(token.balanceOf(payer), 2 ether, "out at once");
        eq(reserved().amount, 13 ether, "reserved");
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(ICommon.InsufficientBalance.selector, 1, 0));
        escrow.reserve("gate", 1);
    }

    function test_a_reservation_is_for_a_known_gateway() public {
        bytes memory unknown = abi.encodeWithSelector(ICommon.UnknownGateway.selector, key("nobody"));
        vm.expectRevert(unknown);
        escrow.reserve("nobody", 1);
        vm.expectRevert(unknown);
        escrow.depositAndReserve("nobody", 1);
        vm.expectRevert(unknown);
        escrow.thaw("nobody", 1);
        vm.expectRevert(unknown);
        escrow.cancelThaw("nobody");
        vm.expectRevert(unknown);
        escrow.withdrawReserved("nobody");
    }

    /// @dev The attack of the old rules: redeem one's own deposit to a gateway of one's own, in the same block.
    function test_no_other_gateway_can_take_a_reservation() public {
        newGateway(payer, "mine", 20 ether);
        IEscrow.PaymentVoucher memory v = IEscrow.PaymentVoucher(payer, key("mine"), 10 ether);
        bytes memory signature = signed(PAYER_KEY, escrow.hashVoucher(v));
        vm.expectRevert(abi.encodeWithSelector(IEscrow.EmptyDeposit.selector, payer));
        escrow.redeem(v, signature);
        eq(escrow.redeem(voucher(10 ether), sign(voucher(10 ether))), 10 ether, "the one that it was reserved for");
    }

    /// @dev One developer, three gateways, any promises: each gets what is reserved for it, whatever the others do.
    function testFuzz_gateways_never_compete_for_a_reservation(uint64[3] memory reserve, uint64[3] memory promises)
        public
    {
        string[3] memory ids = ["gate", "two", "three"];
        newGateway(address(0x51), "two", 20 ether);
        newGateway(address(0x52), "three", 20 ether);
        for (uint256 i = 0; i < 3; ++i) {
            fund(ids[i], bound(reserve[i], 1, 1e20));
        }
        for (uint256 i = 3; i > 0; --i) {
            string memory id = ids[i - 1];
            uint256 held = escrow.reservationOf(payer, key(id)).amount;
            uint256 promise_ = bound(promises[i - 1], 1, 1e21);
            IEscrow.PaymentVoucher memory v = IEscrow.PaymentVoucher(payer, key(id), promise_);
            uint256 paid = escrow.redeem(v, signed(PAYER_KEY, escrow.hashVoucher(v)));
            eq(paid, promise_ < held ? promise_ : held, "as far as its own reservation goes");
            eq(escrow.creditOf(key(id)), paid, "credit");
        }
    }

    function test_a_dust_reservation_does_not_use_up_a_voucher() public {
        vm.startPrank(payer);
        escrow.thaw("gate", 10 ether);
        nextEpoch(DELAY + 1);
        escrow.withdrawReserved("gate");
        token.approve(address(escrow), type(uint256).max);
        bytes memory signature = sign(voucher(8 ether));
        vm.expectRevert(abi.encodeWithSelector(IEscrow.EmptyDeposit.selector, payer));
        escrow.redeem(voucher(8 ether), signature);
        escrow.depositAndReserve("gate", 1);
        eq(escrow.redeem(voucher(8 ether), sign(voucher(8 ether))), 1, "one wei");
        escrow.depositAndReserve("gate", 9 ether);
        eq(escrow.redeem(voucher(8 ether), sign(voucher(8 ether))), 8 ether - 1, "the remainder");
    }

    function testFuzz_a_voucher_is_paid_once_in_full_whatever_the_reservations(uint256 amount, uint256[8] memory parts)
        public
    {
        amount = bound(amount, 1, 1e24);
        uint256 deposited = 10 ether;
        uint256 paid;
        for (uint256 i = 0; i < parts.length; ++i) {
            uint256 part = bound(parts[i], 1, 1e23);
            fund("gate", part);
            deposited += part;
            if (amount > paid) paid += escrow.redeem(voucher(amount), sign(voucher(amount)));
            eq(paid, amount < deposited ? amount : deposited, "as far as the money goes");
        }
        eq(escrow.redeemed(payer, key("gate")), paid, "remembered");
        eq(token.balanceOf(address(escrow)), deposited, "nothing left the contract");
        eq(reserved().amount + escrow.creditOf(key("gate")), deposited, "nor its books");
    }

    function test_a_thaw_outlasts_the_challenge_window_and_restarts() public {
        vm.startPrank(payer);
        escrow.thaw("gate", 4 ether);
        eq(escrow.available(payer, key("gate")), 6 ether, "available");
        uint64 end = epochs.currentEpoch() + DELAY + 1;
        nextEpoch(2);
        escrow.thaw("gate", 1 ether);
        end += 2;
        vm.roll(epochs.epochStartBlock(end) - 1);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.StillThawing.selector, end));
        escrow.withdrawReserved("gate");
        vm.roll(epochs.epochStartBlock(end));
        eq(escrow.withdrawReserved("gate"), 5 ether, "both");
        eq(token.balanceOf(payer), 5 ether, "paid");
        vm.expectRevert(abi.encodeWithSelector(ICommon.InsufficientBalance.selector, 5 ether + 1, 5 ether));
        escrow.thaw("gate", 5 ether + 1);
    }

    function test_a_thaw_can_be_called_off() public {
        vm.startPrank(payer);
        escrow.thaw("gate", 4 ether);
        escrow.cancelThaw("gate");
        eq(escrow.available(payer, key("gate")), 10 ether, "all again");
        eq(reserved().thawEnd, 0, "no end");
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NothingThawing.selector, payer));
        escrow.cancelThaw("gate");
    }

    function test_vouchers_reach_what_is_thawing() public {
        vm.prank(payer);
        escrow.thaw("gate", 10 ether);
        escrow.redeem(voucher(7 ether), sign(voucher(7 ether)));
        nextEpoch(DELAY + 1);
        vm.prank(payer);
        eq(escrow.withdrawReserved("gate"), 3 ether, "the rest");
    }

    function test_redeeming_needs_a_staked_gateway() public {
        gateways.register("free", "");
        fund("free", 5 ether);
        IEscrow.PaymentVoucher memory v = IEscrow.PaymentVoucher(payer, key("free"), 1 ether);
        bytes memory signature = signed(PAYER_KEY, escrow.hashVoucher(v));
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NotStaked.selector, key("free")));
        escrow.redeem(v, signature);
        IEscrow.PaymentVoucher[] memory vs = new IEscrow.PaymentVoucher[](1);
        bytes[] memory sigs = new bytes[](1);
        (vs[0], sigs[0]) = (v, signature);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NotStaked.selector, key("free")));
        escrow.redeemBatch(vs, sigs);
    }

    function test_signers_are_authorised_and_thaw() public {
        uint256 deviceKey = 0xD;
        address device = vm.addr(deviceKey);
        bytes memory signature = signed(deviceKey, escrow.hashVoucher(voucher(1 ether)));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        escrow.redeem(voucher(1 ether), signature);
        vm.prank(payer);
        escrow.authorizeSigner(device);
        escrow.redeem(voucher(1 ether), signature);
        vm.prank(payer);
        escrow.thawSigner(device);
        uint64 last = epochs.currentEpoch() + DELAY + 1;
        vm.roll(epochs.epochStartBlock(last + 1) - 1);
        escrow.redeem(voucher(2 ether), signed(deviceKey, escrow.hashVoucher(voucher(2 ether))));
        vm.roll(epochs.epochStartBlock(last + 1));
        signature = signed(deviceKey, escrow.hashVoucher(voucher(3 ether)));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        escrow.redeem(voucher(3 ether), signature);
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.UnknownSigner.selector, payer, device));
        escrow.thawSigner(device);
    }

    function test_a_contract_may_pay() public {
        Wallet wallet = new Wallet();
        give(address(wallet), 5 ether);
        wallet.pay(token, escrow, 5 ether);
        IEscrow.PaymentVoucher memory v = IEscrow.PaymentVoucher(address(wallet), key("gate"), 2 ether);
        vm.expectRevert(ICommon.InvalidSignature.selector);
        escrow.redeem(v, "");
        wallet.accept(escrow.hashVoucher(v));
        eq(escrow.redeem(v, ""), 2 ether, "accepted by ERC-1271");
    }

    // --- attacks on signatures ---

    function test_the_other_half_of_the_curve_is_refused() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, escrow.hashVoucher(voucher(1 ether)));
        uint256 order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
        bytes memory twin = abi.encodePacked(r, bytes32(order - uint256(s)), v == 27 ? uint8(28) : uint8(27));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        escrow.redeem(voucher(1 ether), twin);
        bytes memory short = abi.encodePacked(r, bytes32(uint256(s) | (uint256(v - 27) << 255)));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        escrow.redeem(voucher(1 ether), short);
    }

    function test_a_voucher_of_another_chain_is_refused() public {
        bytes memory signature = sign(voucher(1 ether));
        vm.chainId(1234);
        vm.expectRevert(ICommon.InvalidSignature.selector);
        escrow.redeem(voucher(1 ether), signature);
    }

    function test_a_voucher_of_another_contract_is_refused() public {
        Escrow other = Escrow(vm.deployCode("Escrow.sol:Escrow", abi.encode(directory, address(this))));
        other.wire();
        bytes memory signature = signed(PAYER_KEY, other.hashVoucher(voucher(1 ether)));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        escrow.redeem(voucher(1 ether), signature);
    }

    function test_a_voucher_for_another_gateway_is_refused() public {
        newGateway(address(5), "two", 20 ether);
        bytes memory signature = sign(voucher(1 ether));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        escrow.redeem(IEscrow.PaymentVoucher(payer, key("two"), 1 ether), signature);
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownGateway.selector, key("nobody")));
        escrow.redeem(IEscrow.PaymentVoucher(payer, key("nobody"), 1 ether), signature);
    }

    function testFuzz_no_mutated_signature_is_accepted(uint256 seed, uint8 how) public {
        bytes memory good = sign(voucher(1 ether));
        bytes memory bad = bytes.concat(good);
        if (how % 3 == 0) {
            bad[seed % 65] ^= bytes1(uint8(1 << ((seed >> 8) % 8))); // one bit
        } else if (how % 3 == 1) {
            for (uint256 i = 0; i < 65; ++i) {
                bad[i] = bytes1(uint8(uint256(keccak256(abi.encode(seed, i)))));
            }
        } else {
            assembly ("memory-safe") {
                mstore(bad, mod(seed, 65)) // cut short
            }
        }
        vm.expectRevert(ICommon.InvalidSignature.selector);
        escrow.redeem(voucher(1 ether), bad);
    }

    function testFuzz_no_altered_voucher_is_accepted(uint256 amount) public {
        vm.assume(amount != 1 ether);
        bytes memory signature = sign(voucher(1 ether));
        vm.expectRevert(ICommon.InvalidSignature.selector);
        escrow.redeem(voucher(amount), signature);
    }

    // --- batches and limits ---

    function test_a_batch_passes_over_what_is_not_due() public {
        IEscrow.PaymentVoucher[] memory vs = new IEscrow.PaymentVoucher[](3);
        bytes[] memory sigs = new bytes[](3);
        (vs[0], vs[1], vs[2]) = (voucher(2 ether), voucher(2 ether), voucher(30 ether));
        for (uint256 i = 0; i < 3; ++i) {
            sigs[i] = sign(vs[i]);
        }
        eq(escrow.redeemBatch(vs, sigs), 10 ether, "two, nothing, the rest of the reservation");
        eq(escrow.redeemBatch(vs, sigs), 0, "nothing twice");
        vm.expectRevert(ICommon.LengthMismatch.selector);
        escrow.redeemBatch(vs, new bytes[](2));
        sigs[1] = sigs[0];
        vs[1].payer = address(9);
        vm.expectRevert(ICommon.InvalidSignature.selector);
        escrow.redeemBatch(vs, sigs);
    }

    function test_zero_amounts_are_refused() public {
        vm.expectRevert(ICommon.ZeroAmount.selector);
        escrow.deposit(0);
        vm.expectRevert(ICommon.ZeroAmount.selector);
        escrow.reserve("gate", 0);
        vm.expectRevert(ICommon.ZeroAmount.selector);
        escrow.depositAndReserve("gate", 0);
        vm.expectRevert(ICommon.ZeroAmount.selector);
        escrow.withdraw(0);
        vm.expectRevert(ICommon.ZeroAmount.selector);
        escrow.thaw("gate", 0);
        vm.expectRevert(ICommon.ZeroAmount.selector);
        escrow.topUpCredit("gate", 0);
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NothingThawing.selector, address(this)));
        escrow.withdrawReserved("gate");
        vm.expectRevert(ICommon.ZeroAddress.selector);
        escrow.depositFor(address(0), 1);
        bytes memory signature = sign(voucher(0));
        vm.expectRevert(abi.encodeWithSelector(IEscrow.NothingDue.selector, payer, key("gate")));
        escrow.redeem(voucher(0), signature);
    }

    function test_pausing_traps_neither_a_reservation_nor_a_voucher() public {
        escrow.pause();
        vm.expectRevert(Pausable.EnforcedPause.selector);
        escrow.deposit(1);
        vm.expectRevert(Pausable.EnforcedPause.selector);
        escrow.reserve("gate", 1);
        vm.expectRevert(Pausable.EnforcedPause.selector);
        escrow.depositAndReserve("gate", 1);
        topUp("gate", 1);
        IEscrow.PaymentVoucher[] memory vs = new IEscrow.PaymentVoucher[](1);
        bytes[] memory sigs = new bytes[](1);
        (vs[0], sigs[0]) = (voucher(2 ether), sign(voucher(2 ether)));
        eq(escrow.redeem(voucher(1 ether), sign(voucher(1 ether))), 1 ether, "redeemed although paused");
        eq(escrow.redeemBatch(vs, sigs), 1 ether, "in a batch too");
        vm.startPrank(payer);
        escrow.thaw("gate", 8 ether);
        nextEpoch(DELAY + 1);
        eq(escrow.withdrawReserved("gate"), 8 ether, "out although paused");
    }
}
