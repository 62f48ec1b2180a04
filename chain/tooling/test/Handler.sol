// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {IEscrow} from "contracts/interfaces/IEscrow.sol";
import {ISettlementTypes} from "contracts/interfaces/ISettlement.sol";
import {Conduct} from "./Conduct.sol";
import {Tree} from "./Tree.sol";

/// @title Random but sensible use of all contracts by a few people.
/// @dev A step that cannot apply returns at once. Steps that must fail are tried too; `broken` says what went through.
contract Handler is Conduct {
    function pass(uint8 blocks) external {
        ++steps;
        vm.roll(vm.getBlockNumber() + 1 + blocks % (2 * EPOCH));
    }

    function depositAndRedeem(uint256 who, uint256 where, uint256 deposit, uint256 promise_) external {
        ++steps;
        uint256 k = payerKey(who % PAYERS);
        address from = vm.addr(k);
        deposit = bound(deposit, 0, 20 ether);
        if (deposit > token.balanceOf(from)) return;
        if (deposit > 0) {
            vm.startPrank(from);
            token.approve(address(escrow), deposit);
            escrow.deposit(deposit);
            vm.stopPrank();
        }
        bytes32 g = key(gatewayId(where % GATEWAYS));
        uint256 before = escrow.redeemed(from, g);
        IEscrow.PaymentVoucher memory v = IEscrow.PaymentVoucher(from, g, before + bound(promise_, 1, 30 ether));
        bytes memory signature = signed(k, escrow.hashVoucher(v));
        if (escrow.depositOf(from).balance == 0) return;
        escrow.redeem(v, signature);
        if (escrow.redeemed(from, g) < before) fail_("a redemption went backwards");
        if (escrow.redeemed(from, g) == v.cumulativeAmount) {
            try escrow.redeem(v, signature) {
                fail_("a voucher was paid twice");
            } catch {}
        }
    }

    function thawOrWithdraw(uint256 who, uint256 amount) external {
        ++steps;
        address from = vm.addr(payerKey(who % PAYERS));
        IEscrow.Deposit memory d = escrow.depositOf(from);
        vm.startPrank(from);
        if (d.thawing > 0) {
            bool due = epochs.currentEpoch() >= thawFree[who % PAYERS];
            try escrow.withdraw() {
                if (!due) fail_("a withdrawal before its thaw ended");
            } catch {
                if (due) fail_("a withdrawal was trapped");
            }
        } else if (d.balance > 0) {
            escrow.thaw(bound(amount, 1, d.balance));
            thawFree[who % PAYERS] = epochs.currentEpoch() + DELAY + 1;
        }
        vm.stopPrank();
    }

    function postCheckpoint(uint256 where, uint256 model, uint64 a, uint64 b, uint8 lie) external {
        ++steps;
        uint64 epoch = epochs.currentEpoch() - 1;
        if (epoch == 0) return;
        Posting memory p;
        p.gateway = where % GATEWAYS;
        p.modelId = 1 + model % 2;
        p.epoch = epoch;
        p.units = [bound(a, 1, 1e11), bound(b, 1, 1e11)];
        p.honestSum = lie % 8 != 0;
        bytes32[] memory leaves = leavesOf(p);
        uint256 sum = p.units[0] + p.units[1];
        if (!p.honestSum) sum = sum / 2 + 1;
        uint256 fees = models.feeFor(p.modelId, epoch, sum);
        vm.prank(vm.addr(gatewayKey(p.gateway)));
        try settlement.postCheckpoint(p.modelId, epoch, Tree.root(leaves), sum, fees, 0) {
            postings.push(p);
        } catch {}
    }

    function leavesOf(Posting memory p) internal pure returns (bytes32[] memory leaves) {
        leaves = new bytes32[](2);
        for (uint256 i = 0; i < 2; ++i) {
            leaves[i] = leaf(gatewayId(p.gateway), providerId(2 * (p.modelId - 1) + i), p.modelId, p.epoch, p.units[i]);
        }
    }

    function prove(uint256 which, uint256 side) external {
        ++steps;
        if (postings.length == 0) return;
        Posting memory p = postings[postings.length - 1 - which % (postings.length < 8 ? postings.length : 8)];
        uint256 i = side % 2;
        string memory id = providerId(2 * (p.modelId - 1) + i);
        bytes32[] memory leaves = leavesOf(p);
        bytes32[] memory proof = Tree.proof(leaves, leaves[i]);
        bool ready = epochs.claimableEpoch() >= p.epoch;
        try settlement.proveContributionFor(gatewayId(p.gateway), id, p.epoch, p.units[i], proof) {
            ++proofs;
            if (!ready) fail_("a proof before the window closed");
            try settlement.proveContributionFor(gatewayId(p.gateway), id, p.epoch, p.units[i], proof) {
                fail_("a leaf was proven twice");
            } catch {}
        } catch {}
    }

    function claim(uint256 who, uint8 span) external {
        ++steps;
        uint256 i = who % PROVIDERS;
        ProviderStaking staking = poolOf(modelOf(i));
        uint64 to = epochs.claimableEpoch();
        vm.startPrank(providerOwner(i));
        try staking.claimRewards(providerId(i), to + 1, to + 1) {
            fail_("a claim before its time");
        } catch {}
        if (to > 0) {
            uint64 from = to > span % 40 ? to - span % 40 : 1;
            uint256 view_ = staking.viewRewards(providerId(i), from, to);
            uint256[] memory each = unclaimed(i, from, to);
            try staking.claimRewards(providerId(i), from, to) returns (uint256 paid) {
                ++claims;
                if (paid != view_) fail_("a claim differs from its view");
                for (uint64 e = from; e <= to; ++e) {
                    claimedOf[modelOf(i)][e] += each[e - from];
                    paid -= each[e - from];
                }
                if (paid != 0) fail_("a claim differs from its epochs");
                try staking.claimRewards(providerId(i), from, to) {
                    fail_("a reward was claimed twice");
                } catch {}
            } catch {
                if (view_ > 0) fail_("a reward was trapped");
            }
        }
        vm.stopPrank();
    }

    function unclaimed(uint256 i, uint64 from, uint64 to) internal view returns (uint256[] memory each) {
        each = new uint256[](to - from + 1);
        for (uint64 e = from; e <= to; ++e) {
            (, each[e - from]) = poolOf(modelOf(i)).contribution(providerId(i), e);
        }
    }

    function claimShare(uint256 where, uint8 span) external {
        ++steps;
        uint64 to = epochs.claimableEpoch();
        if (to == 0) return;
        uint64 from = to > span % 40 ? to - span % 40 : 1;
        string memory id = gatewayId(where % GATEWAYS);
        vm.startPrank(vm.addr(gatewayKey(where % GATEWAYS)));
        try gatewayStaking.claimRewards(id, from, to) {
            try gatewayStaking.claimRewards(id, from, to) {
                fail_("a share was claimed twice");
            } catch {}
        } catch {}
        vm.stopPrank();
    }

    function withdrawEarnings(uint256 who) external {
        ++steps;
        address account = who % 3 == 0 ? creator : who % 3 == 1 ? providerOwner(who % PROVIDERS) : address(this);
        vm.startPrank(account);
        if (account == creator) {
            try settlement.claimRoyalty(1 + who % 2) {} catch {}
        }
        uint256 owed = settlement.paymentsOf(account);
        if (owed > 0) settlement.withdrawPayments();
        if (disputes.paymentsOf(account) > 0) disputes.withdrawPayments();
        vm.stopPrank();
    }

    function cycleProvider(uint256 who) external {
        ++steps;
        uint256 i = who % PROVIDERS;
        address account = providerOwner(i);
        ProviderStaking staking = poolOf(modelOf(i));
        ProviderStaking.Stake memory stake = staking.stakeOf(providerId(i));
        give(account, STAKE - stake.amount);
        vm.startPrank(account);
        if (stake.amount == STAKE || (stake.amount > 0 && who % 8 < 4)) {
            bool due = epochs.currentEpoch() >= providerFree[i] && !isHeld(i);
            try staking.unstakeProvider(providerId(i)) {
                if (!due) fail_("a stake left before its lock ended");
            } catch {
                if (due) fail_("a stake was trapped");
            }
        } else {
            token.approve(address(staking), STAKE - stake.amount);
            staking.stakeForProvider(providerId(i));
            providerFree[i] = epochs.currentEpoch() + LOCK;
        }
        vm.stopPrank();
    }

    function cycleGateway(uint256 where, uint256 amount) external {
        ++steps;
        string memory id = gatewayId(where % GATEWAYS);
        address account = vm.addr(gatewayKey(where % GATEWAYS));
        (uint128 staked,,, uint64 end) = stakeOf(id);
        bool free = settlement.openChallengesOf(key(id)) == 0 && !slashing.isGatewayJailed(key(id));
        uint64 now_ = epochs.currentEpoch();
        if (staked == 0) {
            amount = bound(amount, 100 ether, 900 ether);
            give(account, amount);
            vm.startPrank(account);
            if (end != 0) gatewayStaking.restartGateway(id);
            token.approve(address(gatewayStaking), amount);
            gatewayStaking.stakeForGateway(id, amount);
            gatewayFree[where % GATEWAYS] = now_ + LOCK;
        } else {
            vm.startPrank(account);
            if (end == 0) {
                if (amount % 4 != 0) return vm.stopPrank();
                gatewayStaking.windDownGateways(list(id));
                gatewayDown[where % GATEWAYS] = now_ + DELAY;
            } else {
                bool due = now_ >= gatewayDown[where % GATEWAYS] && now_ >= gatewayFree[where % GATEWAYS] && free;
                try gatewayStaking.unstakeForGateway(id) {
                    if (!due) fail_("a gateway's stake left too early");
                } catch {
                    if (due) fail_("a gateway's stake was trapped");
                }
            }
        }
        vm.stopPrank();
    }

    function boost(uint256 model, uint256 amount, uint8 ahead) external {
        ++steps;
        amount = bound(amount, 1, 10 ether);
        token.approve(address(rewards), amount);
        rewards.boost(1 + model % 2, epochs.currentEpoch() + ahead % 3, amount);
    }

    function finalize(uint256 model, uint8 back) external {
        ++steps;
        uint64 to = epochs.claimableEpoch();
        if (to <= back % 6) return;
        try settlement.finalize(1 + model % 2, to - back % 6) {} catch {}
    }

    function omission(uint256 who, uint256 where, uint64 units, uint8 back) external {
        ++steps;
        uint256 i = who % PROVIDERS;
        uint64 now_ = epochs.currentEpoch();
        if (now_ <= 2 + back % 2) return;
        ISettlementTypes.ContributionVoucher memory v =
            owe(gatewayId(where % GATEWAYS), providerId(i), modelOf(i), now_ - 2 - back % 2, bound(units, 1, 1e12));
        bytes memory signature = signed(gatewayKey(where % GATEWAYS), settlement.hashVoucher(v));
        try settlement.challengeOmission(v, signature, 0, new bytes32[](0)) {} catch {}
    }

    function openChallenge(uint256 which, uint256 side, bool hidden) external {
        ++steps;
        if (postings.length == 0) return;
        Posting memory p = postings[postings.length - 1 - which % (postings.length < 4 ? postings.length : 4)];
        uint256 i = side % 2;
        token.approve(address(settlement), 10 ether);
        string memory id = providerId(2 * (p.modelId - 1) + i);
        ISettlementTypes.ContributionVoucher memory v = owe(gatewayId(p.gateway), id, p.modelId, p.epoch, p.units[i]);
        if (hidden) {
            bytes memory signature = signed(gatewayKey(p.gateway), settlement.hashVoucher(v));
            try settlement.openOmissionChallenge(v, signature) {} catch {}
        } else {
            bytes32[] memory leaves = leavesOf(p);
            bytes32[] memory proof = Tree.proof(leaves, leaves[i]);
            try settlement.openLeafChallenge(
                v.gateway, p.modelId, p.epoch, ISettlementTypes.Leaf(v.provider, p.units[i]), proof
            ) {}
                catch {}
        }
    }

    function resolve(uint256 which) external {
        ++steps;
        uint256 n = settlement.challengeCount();
        if (n == 0) return;
        uint256 c = n - 1 - which % (n < 4 ? n : 4);
        bool early = epochs.currentEpoch() <= settlement.challenge(c).answerBy;
        try settlement.resolveChallenge(c) {
            ++upheld;
            if (early) fail_("a challenge was upheld while it could be answered");
        } catch {}
    }

    function challengeSum(uint256 which) external {
        ++steps;
        if (postings.length == 0) return;
        Posting memory p = postings[postings.length - 1 - which % (postings.length < 4 ? postings.length : 4)];
        bytes32[] memory leaves = leavesOf(p);
        ISettlementTypes.Leaf[] memory l = new ISettlementTypes.Leaf[](2);
        for (uint256 i = 0; i < 2; ++i) {
            l[i] = ISettlementTypes.Leaf(key(providerId(2 * (p.modelId - 1) + i)), p.units[i]);
        }
        if (leaves[0] > leaves[1]) (l[0], l[1]) = (l[1], l[0]);
        try settlement.challengeSum(key(gatewayId(p.gateway)), p.modelId, p.epoch, l) {
            if (p.honestSum) fail_("an honest sum was punished");
        } catch {}
    }
}
