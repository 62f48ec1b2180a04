// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEscrow} from "contracts/interfaces/IEscrow.sol";
import {IGatewayStaking} from "contracts/interfaces/IGatewayStaking.sol";
import {Conduct} from "./Conduct.sol";
import {Tree} from "./Tree.sol";

/// @title Steps about what is promised to others: reservations, credit, lines, vouchers, and debts.
abstract contract Promises is Conduct {
    // --- developers ---

    /// @dev The same developer at any gateway, free money first.
    function reserve(uint256 who, uint256 where, uint256 amount) external {
        ++steps;
        address from = vm.addr(payerKey(who % PAYERS));
        amount = bound(amount, 1, 40 ether);
        vm.startPrank(from);
        if (amount % 3 == 0 && token.balanceOf(from) >= amount) escrow.deposit(amount);
        else if (escrow.freeOf(from) >= amount) escrow.reserve(gatewayId(where % GATEWAYS), amount);
        else if (token.balanceOf(from) >= amount) escrow.depositAndReserve(gatewayId(where % GATEWAYS), amount);
        vm.stopPrank();
    }

    function withdrawFree(uint256 who, uint256 amount) external {
        ++steps;
        address from = vm.addr(payerKey(who % PAYERS));
        uint256 free = escrow.freeOf(from);
        if (free == 0) return;
        vm.prank(from);
        escrow.withdraw(bound(amount, 1, free));
    }

    /// @dev One developer promises more than it has, to all gateways: each takes from its own reservation only.
    function redeem(uint256 who, uint256 where, uint256 promise_) external {
        ++steps;
        uint256 k = payerKey(who % PAYERS);
        address from = vm.addr(k);
        bytes32 g = key(gatewayId(where % GATEWAYS));
        uint256 before = escrow.redeemed(from, g);
        IEscrow.PaymentVoucher memory v = IEscrow.PaymentVoucher(from, g, before + bound(promise_, 1, 60 ether));
        bytes memory signature = signed(k, escrow.hashVoucher(v));
        bytes32 others = reservationsBut(from, where % GATEWAYS);
        uint256 held = escrow.reservationOf(from, g).amount;
        bool staked = gatewayStaking.stakeOf(gatewayId(where % GATEWAYS)).amount != 0;
        try escrow.redeem(v, signature) returns (uint256 paid) {
            if (!staked) fail_("a gateway without stake redeemed");
            uint256 due = v.cumulativeAmount - before;
            if (paid != (due < held ? due : held)) fail_("paid something else than the reservation holds");
        } catch {
            if (staked && held != 0) fail_("a covered voucher was refused");
        }
        if (reservationsBut(from, where % GATEWAYS) != others) fail_("another gateway's reservation was taken");
        if (escrow.redeemed(from, g) == v.cumulativeAmount) {
            try escrow.redeem(v, signature) {
                fail_("a voucher was paid twice");
            } catch {}
        }
    }

    function reservationsBut(address from, uint256 but) internal view returns (bytes32 digest) {
        for (uint256 g = 0; g < GATEWAYS; ++g) {
            if (g == but) continue;
            digest = keccak256(abi.encode(digest, escrow.reservationOf(from, key(gatewayId(g))).amount));
        }
    }

    function thawOrWithdraw(uint256 who, uint256 where, uint256 amount) external {
        ++steps;
        (uint256 p, uint256 g) = (who % PAYERS, where % GATEWAYS);
        address from = vm.addr(payerKey(p));
        IEscrow.Reservation memory own = escrow.reservationOf(from, key(gatewayId(g)));
        vm.startPrank(from);
        if (own.thawing > 0) {
            bool due = epochs.currentEpoch() >= thawFree[p][g];
            try escrow.withdrawReserved(gatewayId(g)) {
                if (!due) fail_("a withdrawal before its thaw ended");
            } catch {
                if (due) fail_("a withdrawal was trapped");
            }
        } else if (own.amount > 0) {
            escrow.thaw(gatewayId(g), bound(amount, 1, own.amount));
            thawFree[p][g] = epochs.currentEpoch() + DELAY + 1;
        }
        vm.stopPrank();
    }

    // --- gateways ---

    /// @dev The seeds' first step, and its way back.
    function sendToRegistry(uint256 where, uint256 amount) external {
        ++steps;
        address owner = gatewayOwner_(where % GATEWAYS);
        uint256 sent = token.sentTo(owner);
        if (sent == 0) {
            amount = bound(amount, 1, 5 ether);
            give(owner, amount);
            vm.prank(owner);
            token.transfer(address(gateways), amount);
        } else {
            vm.prank(owner);
            if (gateways.returnSent() != sent) fail_("something else came back");
        }
    }

    function fundLine(uint256 where, uint256 who, uint256 amount) external {
        ++steps;
        (uint256 g, uint256 i) = (where % GATEWAYS, who % PROVIDERS);
        uint256 spare = gatewayStaking.spareStakeOfKey(key(gatewayId(g)));
        amount = bound(amount, 1, 60 ether);
        vm.prank(gatewayOwner_(g));
        try gatewayStaking.fundLines(gatewayId(g), list(providerId(i)), nums(amount)) {
            if (amount > spare) fail_("a line from stake that was not free");
        } catch {}
    }

    function thawOrReleaseLine(uint256 where, uint256 who, uint256 amount) external {
        ++steps;
        (uint256 g, uint256 i) = (where % GATEWAYS, who % PROVIDERS);
        IGatewayStaking.Line memory line_ = lineOf(g, i);
        vm.startPrank(gatewayOwner_(g));
        if (line_.thawing > 0) {
            bool due = epochs.currentEpoch() >= lineFree[g][i] && line_.held < line_.amount;
            bytes32 others = linesBut(g, i);
            try gatewayStaking.releaseLine(gatewayId(g), providerId(i)) {
                if (!due) fail_("a line was released too early");
            } catch {
                if (due) fail_("a line was trapped");
            }
            if (linesBut(g, i) != others) fail_("another line was released");
        } else if (line_.amount > 0) {
            gatewayStaking.thawLine(gatewayId(g), providerId(i), bound(amount, 1, line_.amount));
            lineFree[g][i] = epochs.currentEpoch() + DELAY + 2;
        }
        vm.stopPrank();
    }

    function thawOrWithdrawCredit(uint256 where, uint256 amount) external {
        ++steps;
        uint256 g = where % GATEWAYS;
        string memory id = gatewayId(g);
        IEscrow.Credit memory credit = escrow.creditStateOf(key(id));
        vm.startPrank(gatewayOwner_(g));
        if (credit.thawing > 0) {
            bool due = epochs.currentEpoch() >= creditFree[g] && settlement.debtOf(key(id)) == 0;
            try escrow.withdrawCredit(id) {
                if (!due) fail_("credit left early, or before a debt");
            } catch {
                if (due) fail_("credit was trapped");
            }
        } else if (credit.amount > 0 && amount % 4 == 0) {
            escrow.thawCredit(id, bound(amount, 1, credit.amount));
            creditFree[g] = epochs.currentEpoch() + DELAY + 2;
        }
        vm.stopPrank();
    }

    function sponsor(uint256 where, uint256 amount) external {
        ++steps;
        topUp(gatewayId(where % GATEWAYS), bound(amount, 1, 200 ether));
    }

    function equivocate(uint256 where, uint256 model) external {
        ++steps;
        if (model % 8 != 0) return;
        uint256 g = where % GATEWAYS;
        uint64 now_ = epochs.currentEpoch();
        CheckpointCommitment memory a = CheckpointCommitment(key(gatewayId(g)), 1, now_, "a", 1, 1, 0);
        CheckpointCommitment memory b = CheckpointCommitment(key(gatewayId(g)), 1, now_, "b", 1, 1, 0);
        bytes memory sa = signed(gatewayKey(g), settlement.hashCommitment(a));
        bytes memory sb = signed(gatewayKey(g), settlement.hashCommitment(b));
        bytes32 all = linesBut(g, PROVIDERS);
        try settlement.challengeEquivocation(a, sa, b, sb) {
            if (!slashing.isGatewayJailed(a.gateway)) fail_("two signatures, and free");
        } catch {}
        if (linesBut(g, PROVIDERS) != all) fail_("a fraud was paid from providers' lines");
    }

    // --- challengers ---

    /// @dev A gateway signs anything to any provider, its friend among them; whoever has the voucher enforces it.
    function omission(uint256 who, uint256 where, uint64 units, uint8 back) external {
        ++steps;
        (uint256 i, uint256 g) = (who % PROVIDERS, where % GATEWAYS);
        uint64 now_ = epochs.currentEpoch();
        if (now_ <= back % (DELAY + 2)) return;
        uint64 epoch = now_ - back % (DELAY + 2);
        (uint256 leafUnits, Sibling[] memory proof) = shownLeaf(g, i, epoch);
        uint256 more = bound(units, 1, units % 8 == 0 ? 1e13 : 1e11);
        ContributionVoucher memory v = owe(gatewayId(g), providerId(i), modelOf(i), epoch, leafUnits + more);
        bytes memory signature = signed(gatewayKey(g), settlement.hashVoucher(v));
        bytes32 others = linesBut(g, i);
        try settlement.challengeOmission(v, signature, leafUnits, proof) {
            ++compensated;
            checkCompensation(g, i, epoch);
            if (now_ > epoch + DELAY) fail_("an omission after its window");
            if (accounted(v) < v.cumulativeUnits) fail_("units that are neither paid nor owed");
        } catch {}
        if (linesBut(g, i) != others) fail_("a compensation took another provider's line");
    }

    function shownLeaf(uint256 g, uint256 i, uint64 epoch)
        internal
        view
        returns (uint256 units, Sibling[] memory proof)
    {
        uint256 place = postingOf[slot(g, modelOf(i), epoch)];
        if (place == 0) return (0, proof);
        Posting memory p = postings[place - 1];
        Sibling[] memory leaves = leavesOf(p);
        return (p.units[i % 2], Tree.proof(leaves, leaves[i % 2]));
    }

    /// @dev What is in the leaf, was compensated, or stays owed.
    function accounted(ContributionVoucher memory v) internal view returns (uint256) {
        return settlement.shownUnits(v.gateway, v.provider, v.epoch)
            + settlement.compensatedUnits(v.gateway, v.provider, v.epoch)
            + settlement.debtUnits(v.gateway, v.provider, v.epoch);
    }

    /// @dev Debt means that neither the provider's own line nor anything else was left for even one unit.
    function checkCompensation(uint256 g, uint256 i, uint64 epoch) internal {
        if (settlement.debtUnits(key(gatewayId(g)), key(providerId(i)), epoch) == 0) return;
        uint256 unit = models.feeFor(modelOf(i), epoch, 1);
        if (lineOf(g, i).amount >= unit) fail_("a debt beside a line");
        if (escrow.creditOf(key(gatewayId(g))) >= unit) fail_("a debt beside credit");
    }

    function openChallenge(uint256 which, uint256 side, uint64 more) external {
        ++steps;
        if (postings.length == 0) return;
        Posting memory p = posting(which, 6);
        uint256 i = 2 * (p.modelId - 1) + side % 2;
        uint256 units = p.units[side % 2] + (more % 3 == 0 ? more % 1e11 : 0);
        ContributionVoucher memory v = owe(gatewayId(p.gateway), providerId(i), p.modelId, p.epoch, units);
        bytes memory signature = signed(gatewayKey(p.gateway), settlement.hashVoucher(v));
        IGatewayStaking.Stake memory stake = gatewayStaking.stakeOfKey(v.gateway);
        try settlement.openOmissionChallenge(v, signature) {
            bytes32 now_ = keccak256(abi.encode(gatewayStaking.stakeOfKey(v.gateway)));
            if (now_ != keccak256(abi.encode(stake))) fail_("an open challenge touched the stake");
        } catch {}
    }

    function answer(uint256 which) external {
        ++steps;
        uint256 n = settlement.challengeCount();
        if (n == 0) return;
        uint256 c = n - 1 - which % (n < 6 ? n : 6);
        Challenge memory ch = settlement.challenge(c);
        uint256 g;
        while (key(gatewayId(g)) != ch.gateway) ++g;
        Posting memory p = postings[postingOf[slot(g, ch.modelId, ch.epoch)] - 1];
        uint256 i = 2 * (p.modelId - 1);
        if (key(providerId(i)) != ch.provider) ++i;
        Sibling[] memory leaves = leavesOf(p);
        Sibling[] memory proof = Tree.proof(leaves, leaves[i % 2]);
        bytes32 others = linesBut(g, i);
        try settlement.answerOmission(c, p.units[i % 2], proof) {
            ++answered;
            if (!p.honestSum) fail_("a leaf under a wrong sum was shown");
            if (epochs.currentEpoch() > ch.answerBy) fail_("an answer too late");
        } catch {
            bool open = ch.status == ChallengeStatus.Open && epochs.currentEpoch() <= ch.answerBy;
            if (open && p.honestSum) fail_("an honest answer was refused");
        }
        if (linesBut(g, i) != others) fail_("an answer took another provider's line");
    }

    function resolve(uint256 which) external {
        ++steps;
        uint256 n = settlement.challengeCount();
        if (n == 0) return;
        uint256 c = n - 1 - which % (n < 4 ? n : 4);
        Challenge memory ch = settlement.challenge(c);
        bool early = epochs.currentEpoch() <= ch.answerBy;
        uint256 g;
        while (key(gatewayId(g)) != ch.gateway) ++g;
        uint256 i;
        while (key(providerId(i)) != ch.provider) ++i;
        bytes32 others = linesBut(g, i);
        try settlement.resolveChallenge(c) {
            ++upheld;
            if (early) fail_("a challenge was upheld while it could be answered");
        } catch {
            if (!early && ch.status == ChallengeStatus.Open) fail_("a challenge that never ends");
        }
        if (linesBut(g, i) != others) fail_("a challenge took another provider's line");
    }

    function collectDebt(uint256 who, uint256 where, uint8 back) external {
        ++steps;
        (uint256 i, uint256 g) = (who % PROVIDERS, where % GATEWAYS);
        uint64 now_ = epochs.currentEpoch();
        uint64 epoch = now_ > back % 16 ? now_ - back % 16 : 1;
        bytes32 others = linesBut(g, i);
        try settlement.collectDebt(gatewayId(g), providerId(i), epoch) {
            ++compensated;
            checkCompensation(g, i, epoch);
        } catch {}
        if (linesBut(g, i) != others) fail_("a debt was paid from another provider's line");
    }
}
