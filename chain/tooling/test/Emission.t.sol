// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {Directory} from "contracts/Directory.sol";
import {Escrow} from "contracts/Escrow.sol";
import {FuncToken} from "contracts/FuncToken.sol";
import {ICommon} from "contracts/interfaces/ICommon.sol";
import {IDirectory} from "contracts/interfaces/IDirectory.sol";
import {IFuncToken} from "contracts/interfaces/IFuncToken.sol";
import {IRewardPool} from "contracts/interfaces/IRewardPool.sol";
import {RewardPool} from "contracts/RewardPool.sol";
import {HalvingSchedule} from "contracts/schedules/HalvingSchedule.sol";
import {TableSchedule} from "contracts/schedules/TableSchedule.sol";
import {Deployment} from "./Deployment.sol";

/// @title The token, the schedules and the pool that mints.
contract EmissionTest is Deployment {
    function setUp() public {
        deploy();
    }

    function table(uint256[] memory cumulative, uint64 month) internal returns (TableSchedule) {
        return new TableSchedule(cumulative, month);
    }

    function halving(uint256 initial, uint64 epochs_) internal returns (HalvingSchedule) {
        return new HalvingSchedule(initial, epochs_);
    }

    // --- token ---

    function test_permit_approves_by_signature_once() public {
        bytes32 kind = keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 structHash = keccak256(abi.encode(kind, payer, address(escrow), 5 ether, 0, type(uint256).max));
        bytes32 digest = keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), structHash));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, digest);
        token.permit(payer, address(escrow), 5 ether, type(uint256).max, v, r, s);
        eq(token.allowance(payer, address(escrow)), 5 ether, "allowance");
        vm.expectPartialRevert(ERC20Permit.ERC2612InvalidSigner.selector);
        token.permit(payer, address(escrow), 5 ether, type(uint256).max, v, r, s);
        eq(token.decimals(), 18, "decimals");
    }

    function fresh(uint256 supply, address minter, address inbox) internal returns (FuncToken) {
        return FuncToken(vm.deployCode("FuncToken.sol:FuncToken", abi.encode(address(this), supply, minter, inbox)));
    }

    function test_only_the_reward_pool_mints_up_to_the_cap() public {
        yes(token.minter() == address(rewards) && token.inbox() == address(gateways), "fixed at deployment");
        vm.expectRevert(abi.encodeWithSelector(IFuncToken.NotMinter.selector, address(this)));
        token.mint(address(this), 1);
        FuncToken other = fresh(1e28 - 1, address(this), address(1));
        other.mint(address(this), 1);
        vm.expectRevert(abi.encodeWithSelector(IFuncToken.SupplyCapExceeded.selector, 1e28 + 1, 1e28));
        other.mint(address(this), 1);
        other.burn(1);
        other.mint(address(this), 1);
    }

    function test_a_token_without_minter_or_inbox_is_not_deployed() public {
        vm.expectRevert(ICommon.ZeroAddress.selector);
        new FuncToken(address(this), 1, address(0), address(1));
        vm.expectRevert(ICommon.ZeroAddress.selector);
        new FuncToken(address(this), 1, address(1), address(0));
    }

    // --- schedules ---

    function test_a_budget_halves() public {
        HalvingSchedule s = halving(1001, 10);
        eq(s.budget(0), 0, "no epoch 0");
        eq(s.budget(1), 1001, "first");
        eq(s.budget(10), 1001, "last of the first era");
        eq(s.budget(11), 500, "second era");
        eq(s.budget(21), 250, "third era");
        eq(s.budget(type(uint64).max), 0, "in the end nothing");
    }

    function testFuzz_halving_stays_within_its_total(uint128 initial, uint64 length, uint64 epoch) public {
        length = uint64(bound(length, 1, 1e6));
        HalvingSchedule s = halving(initial, length);
        yes(s.total() <= 2 * uint256(initial) * length, "bounded by twice the first era");
        yes(s.budget(epoch) <= initial, "never above the first");
        yes(epoch == 0 || epoch == type(uint64).max || s.budget(epoch + 1) <= s.budget(epoch), "never rising");
    }

    function testFuzz_a_table_emits_exactly_its_last_entry(uint96[6] memory steps, uint8 month) public {
        uint256[] memory cumulative = new uint256[](7);
        for (uint256 i = 0; i < 6; ++i) {
            cumulative[i + 1] = cumulative[i] + steps[i];
        }
        uint64 length = uint64(bound(month, 1, 40));
        TableSchedule s = table(cumulative, length);
        uint256 sum;
        for (uint64 e = 0; e <= 6 * length + 3; ++e) {
            sum += s.budget(e);
            eq(s.cumulativeAfter(e), sum, "budgets add up to the curve");
            if (e % length == 0 && e / length <= 6) eq(sum, cumulative[e / length], "the table at a month's end");
        }
        eq(sum, s.total(), "everything in the end");
    }

    function test_a_table_may_begin_above_zero_and_must_not_fall() public {
        uint256[] memory cumulative = new uint256[](2);
        (cumulative[0], cumulative[1]) = (100, 200);
        TableSchedule s = table(cumulative, 4);
        eq(s.budget(1), 125, "what the curve has at zero comes with the first epoch");
        eq(s.budget(2), 25, "then its slope");
        (cumulative[0], cumulative[1]) = (200, 199);
        vm.expectRevert(abi.encodeWithSelector(ICommon.OutOfBounds.selector, 199, 200, type(uint128).max));
        new TableSchedule(cumulative, 4);
        vm.expectRevert(abi.encodeWithSelector(ICommon.OutOfBounds.selector, 1, 2, 1024));
        new TableSchedule(new uint256[](1), 4);
        (cumulative[0], cumulative[1]) = (200, 200);
        vm.expectRevert(abi.encodeWithSelector(ICommon.OutOfBounds.selector, 0, 1, type(uint32).max));
        new TableSchedule(cumulative, 0);
        eq(new TableSchedule(cumulative, 4).total(), 200, "level is allowed");
    }

    // --- pool ---

    function test_a_pool_refuses_a_schedule_beyond_its_cap() public {
        HalvingSchedule s = halving(1000, 10);
        uint256 all = s.total();
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.CapTooSmall.selector, all - 1, all));
        new RewardPool(directory, address(this), all - 1, s);
        new RewardPool(directory, address(this), all, s);
    }

    function test_emission_is_shared_by_what_was_burned() public view {
        eq(rewards.emissionFor(1, 10 ether, 30 ether), 10 ether, "below the budget: its weight");
        eq(rewards.emissionFor(1, 1000 ether, 4000 ether), 250 ether, "above it: in proportion");
        eq(rewards.emissionFor(1, 0, 0), 0, "nothing burned");
        eq(rewards.emissionFor(0, 5, 5), 0, "no epoch 0");
    }

    function test_boosts_are_checked() public {
        newModel("llama");
        vm.expectRevert(abi.encodeWithSelector(ICommon.UnknownModel.selector, 2));
        rewards.boost(2, 1, 1);
        vm.expectRevert(ICommon.ZeroAmount.selector);
        rewards.boost(1, 1, 0);
        nextEpoch(2);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.EpochPassed.selector, 2, 3));
        rewards.boost(1, 2, 1);
        token.approve(address(rewards), 3);
        rewards.boost(1, 3, 1);
        rewards.boost(1, 3, 2);
        eq(rewards.boostOf(1, 3), 3, "they add up, and of a few wei nothing is burned");
    }

    // --- directory ---

    function test_a_directory_is_sealed_once_and_complete() public {
        yes(directory.isSealed(), "sealed");
        Directory empty = Directory(vm.deployCode("Directory.sol:Directory", abi.encode(address(this))));
        vm.expectRevert(ICommon.Wiring.selector);
        empty.entries();
        IDirectory.Entries memory entries = directory.entries();
        entries.escrow = address(0);
        vm.expectRevert(ICommon.ZeroAddress.selector);
        empty.seal(entries);
        vm.expectRevert(ICommon.Wiring.selector);
        directory.seal(entries);
        yes(directory.owner() == address(0), "and nobody owns it");
        vm.prank(address(9));
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(9)));
        empty.seal(entries);
        address early = vm.deployCode("Escrow.sol:Escrow", abi.encode(empty, address(this)));
        vm.expectRevert(ICommon.Wiring.selector);
        Escrow(early).wire();
    }
}
