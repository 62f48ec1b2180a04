// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {Promises} from "./Promises.sol";
import {Tree} from "./Tree.sol";

/// @title Random but sensible use of all contracts by a few people.
/// @dev A step that cannot apply returns at once. Steps that must fail are tried too; `broken` says what went through.
contract Handler is Promises {
    function pass(uint8 blocks) external {
        ++steps;
        vm.roll(vm.getBlockNumber() + 1 + blocks % (2 * EPOCH));
    }

    /// @dev A gateway, or now and then all of them, for the epoch that has ended.
    function postCheckpoint(uint256 where, uint256 model, uint64 a, uint64 b, uint8 lie) external {
        ++steps;
        if (epochs.currentEpoch() == 1) return;
        bool all = lie % 2 == 1;
        for (uint256 g = 0; g < GATEWAYS; ++g) {
            if (all || g == where % GATEWAYS) postAs(g, 1 + model % 2, a, b, lie % 8 != 0);
        }
    }

    function postAs(uint256 g, uint256 modelId, uint64 a, uint64 b, bool honest) internal {
        uint64 epoch = epochs.currentEpoch() - 1;
        Posting memory p = Posting(g, modelId, epoch, [bound(a, 1, 1e11), bound(b, 1, 1e11)], honest);
        uint256 sum = p.units[0] + p.units[1];
        if (!honest) sum = sum / 2 + 1;
        if (sum == p.units[0] + p.units[1]) p.honestSum = true;
        uint256 fees = models.feeFor(modelId, epoch, sum);
        bytes32 root = Tree.root(leavesOf(p));
        bytes32 lines = linesBut(g, PROVIDERS);
        vm.prank(gatewayOwner_(g));
        try settlement.postCheckpoint(modelId, epoch, root, sum, fees, 0) {
            postings.push(p);
            postingOf[slot(g, modelId, epoch)] = postings.length;
        } catch {}
        if (linesBut(g, PROVIDERS) != lines) fail_("fees were paid from providers' lines");
    }

    /// @dev One leaf, or now and then both of all gateways of that epoch.
    function prove(uint256 which, uint256 side) external {
        ++steps;
        if (postings.length == 0) return;
        Posting memory p = posting(which, 16);
        if (side % 4 != 0) return proveOne(p, side / 4 % 2);
        for (uint256 g = 0; g < GATEWAYS; ++g) {
            uint256 place = postingOf[slot(g, p.modelId, p.epoch)];
            if (place == 0) continue;
            proveOne(postings[place - 1], 0);
            proveOne(postings[place - 1], 1);
        }
    }

    function proveOne(Posting memory p, uint256 i) internal {
        string memory id = providerId(2 * (p.modelId - 1) + i);
        Sibling[] memory leaves = leavesOf(p);
        Sibling[] memory proof = Tree.proof(leaves, leaves[i]);
        bool ready = epochs.claimableEpoch() >= p.epoch;
        try settlement.proveContributionFor(gatewayId(p.gateway), id, p.epoch, p.units[i], proof) {
            ++proofs;
            if (!ready) fail_("a proof before the window closed");
            if (!p.honestSum) fail_("a leaf under a wrong sum was proven");
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
        vm.startPrank(gatewayOwner_(where % GATEWAYS));
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
        address account = gatewayOwner_(where % GATEWAYS);
        uint256 staked = gatewayStaking.stakeOf(id).amount;
        uint64 end = gatewayStaking.stakeOf(id).windDownEnd;
        bool free = gatewayStaking.stakeOf(id).reserved == 0 && settlement.debtOf(key(id)) == 0
            && !slashing.isGatewayJailed(key(id));
        uint64 now_ = epochs.currentEpoch();
        bool poor = end == 0 && gatewayStaking.spareStakeOfKey(key(id)) < 50 ether;
        if (staked == 0 || poor) {
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
}
