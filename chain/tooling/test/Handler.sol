// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {IEscrow} from "contracts/interfaces/IEscrow.sol";
import {ISettlementTypes} from "contracts/interfaces/ISettlement.sol";
import {Deployment} from "./Deployment.sol";
import {Tree} from "./Tree.sol";

/// @title Random but sensible use of all contracts by a few people, and what the books should say.
/// @dev A step that cannot apply returns at once. Steps that must fail are tried too; `broken` says what went through.
contract Handler is Deployment {
    uint256 internal constant PROVIDERS = 4;
    uint256 internal constant GATEWAYS = 2;
    uint256 internal constant PAYERS = 2;

    struct Posting {
        uint256 gateway;
        uint256 modelId;
        uint64 epoch;
        uint256[2] units;
        bool honestSum;
    }

    string public broken;
    uint256 public immutable initialSupply = 1e27;
    uint256 public steps;
    uint256 public claims;
    uint256 public proofs;
    uint256 public upheld;

    Posting[] internal postings;
    uint256[] public openBonds;
    mapping(uint256 => uint256[]) internal byModel;
    uint256 internal lastRedeemed;

    constructor() {
        deploy();
        newModel("one");
        newModel("two");
        for (uint256 i = 0; i < PROVIDERS; ++i) newProvider(providerOwner(i), providerId(i), modelOf(i));
        for (uint256 i = 0; i < GATEWAYS; ++i) newGateway(vm.addr(gatewayKey(i)), gatewayId(i), 500 ether);
        for (uint256 i = 0; i < PAYERS; ++i) give(vm.addr(payerKey(i)), 10_000 ether);
    }

    // --- who is who ---

    function providerOwner(uint256 i) internal pure returns (address) {
        return address(uint160(0x1000 + i));
    }

    function providerId(uint256 i) internal pure returns (string memory) {
        return string.concat("p", vm.toString(i));
    }

    /// @dev Providers 0 and 1 serve model 1, 2 and 3 serve model 2.
    function modelOf(uint256 i) internal pure returns (uint256) {
        return 1 + i / 2;
    }

    function gatewayKey(uint256 i) internal pure returns (uint256) {
        return 0x2000 + i;
    }

    function gatewayId(uint256 i) internal pure returns (string memory) {
        return string.concat("g", vm.toString(i));
    }

    function payerKey(uint256 i) internal pure returns (uint256) {
        return 0x3000 + i;
    }

    function fail_(string memory what) internal {
        if (bytes(broken).length == 0) broken = what;
    }

    // --- steps ---

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
            bool due = epochs.currentEpoch() >= d.thawEnd;
            try escrow.withdraw() {
                if (!due) fail_("a withdrawal before its thaw ended");
            } catch {
                if (due) fail_("a withdrawal was trapped");
            }
        } else if (d.balance > 0) {
            escrow.thaw(bound(amount, 1, d.balance));
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
            try staking.claimRewards(providerId(i), from, to) returns (uint256 paid) {
                ++claims;
                if (paid != view_) fail_("a claim differs from its view");
                try staking.claimRewards(providerId(i), from, to) {
                    fail_("a reward was claimed twice");
                } catch {}
            } catch {
                if (view_ > 0) fail_("a reward was trapped");
            }
        }
        vm.stopPrank();
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
        vm.stopPrank();
    }

    function cycleProvider(uint256 who) external {
        ++steps;
        uint256 i = who % PROVIDERS;
        address account = providerOwner(i);
        ProviderStaking staking = poolOf(modelOf(i));
        ProviderStaking.Stake memory stake = staking.stakeOf(providerId(i));
        vm.startPrank(account);
        if (stake.amount > 0) {
            bool due = epochs.currentEpoch() >= stake.unlockEpoch;
            try staking.unstakeProvider(providerId(i)) {
                if (!due) fail_("a stake left before its lock ended");
            } catch {
                if (due) fail_("a stake was trapped");
            }
        } else {
            token.approve(address(staking), STAKE);
            staking.stakeForProvider(providerId(i));
        }
        vm.stopPrank();
    }

    function cycleGateway(uint256 where, uint256 amount) external {
        ++steps;
        string memory id = gatewayId(where % GATEWAYS);
        address account = vm.addr(gatewayKey(where % GATEWAYS));
        (uint128 staked,, uint64 unlock, uint64 end) = stakeOf(id);
        bool free = settlement.openChallengesOf(key(id)) == 0 && !slashing.isGatewayJailed(key(id));
        uint64 now_ = epochs.currentEpoch();
        if (staked == 0) {
            amount = bound(amount, 100 ether, 900 ether);
            give(account, amount);
            vm.startPrank(account);
            if (end != 0) gatewayStaking.restartGateway(id);
            token.approve(address(gatewayStaking), amount);
            gatewayStaking.stakeForGateway(id, amount);
        } else {
            vm.startPrank(account);
            if (end == 0) {
                if (amount % 4 == 0) gatewayStaking.windDownGateways(list(id));
            } else {
                bool due = now_ >= end && now_ >= unlock && free;
                try gatewayStaking.unstakeForGateway(id) {
                    if (!due) fail_("a gateway's stake left too early");
                } catch {
                    if (due) fail_("a gateway's stake was trapped");
                }
            }
        }
        vm.stopPrank();
    }

    function stakeOf(string memory id) internal view returns (uint128, uint128, uint64, uint64) {
        (uint128 a, uint128 r, uint64 u, uint64 w) = (
            gatewayStaking.stakeOf(id).amount,
            gatewayStaking.stakeOf(id).reserved,
            gatewayStaking.stakeOf(id).unlockEpoch,
            gatewayStaking.stakeOf(id).windDownEnd
        );
        return (a, r, u, w);
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
        ISettlementTypes.ContributionVoucher memory v =
            owe(gatewayId(p.gateway), id, p.modelId, p.epoch, p.units[i]);
        if (hidden) {
            bytes memory signature = signed(gatewayKey(p.gateway), settlement.hashVoucher(v));
            try settlement.openOmissionChallenge(v, signature) returns (uint256 c) {
                openBonds.push(c);
            } catch {}
        } else {
            bytes32[] memory leaves = leavesOf(p);
            bytes32[] memory proof = Tree.proof(leaves, leaves[i]);
            try settlement.openLeafChallenge(
                v.gateway, p.modelId, p.epoch, ISettlementTypes.Leaf(v.provider, p.units[i]), proof
            ) returns (uint256 c) {
                openBonds.push(c);
            } catch {}
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

    // --- what the books say ---

    function poolOf(uint256 modelId) public view returns (ProviderStaking) {
        return pool(modelId);
    }

    function checkSolvency() external view {
        uint256 now_ = epochs.currentEpoch();
        uint256 owed;
        for (uint256 i = 0; i < PAYERS; ++i) owed += escrow.depositOf(vm.addr(payerKey(i))).balance;
        for (uint256 i = 0; i < GATEWAYS; ++i) owed += escrow.creditOf(key(gatewayId(i)));
        eq(token.balanceOf(address(escrow)), owed, "escrow");

        owed = 0;
        for (uint256 i = 0; i < GATEWAYS; ++i) {
            (uint128 amount, uint128 reserved,,) = stakeOf(gatewayId(i));
            yes(reserved <= amount, "an effective stake below zero");
            owed += amount;
        }
        eq(token.balanceOf(address(gatewayStaking)), owed, "gateway stakes");

        uint256 boosts;
        uint256 settled;
        for (uint256 m = 1; m <= 2; ++m) {
            ProviderStaking staking = poolOf(m);
            uint256 pots = staking.carried();
            for (uint64 e = 1; e <= now_ + 3; ++e) {
                ProviderStaking.Pot memory p = staking.pot(e);
                yes(p.allotted <= p.amount, "claims above a pot");
                yes(p.provenUnits <= p.totalUnits, "units above a pot");
                pots += p.amount - p.allotted;
                for (uint256 i = 0; i < PROVIDERS; ++i) {
                    (, uint128 unclaimed) = staking.contribution(providerId(i), e);
                    pots += unclaimed;
                }
                boosts += rewards.boostOf(m, e);
                ISettlementTypes.ModelEpoch memory me = settlement.modelEpoch(m, e);
                if (!me.finalized) settled += me.fees - me.shares;
            }
            settled += settlement.royaltyOf(m);
            eq(token.balanceOf(address(staking)), staking.totalStake() + pots, "pool");
        }
        eq(token.balanceOf(address(rewards)), boosts, "boosts");
        for (uint256 g = 0; g < GATEWAYS; ++g) {
            for (uint64 e = 1; e <= now_; ++e) settled += settlement.gatewayShare(key(gatewayId(g)), e);
            settled += settlement.paymentsOf(vm.addr(gatewayKey(g)));
        }
        for (uint256 i = 0; i < PROVIDERS; ++i) settled += settlement.paymentsOf(providerOwner(i));
        settled += settlement.paymentsOf(address(this));
        for (uint256 c = 0; c < settlement.challengeCount(); ++c) {
            ISettlementTypes.Challenge memory ch = settlement.challenge(c);
            if (ch.status == ISettlementTypes.ChallengeStatus.Open) settled += ch.bond;
        }
        eq(token.balanceOf(address(settlement)), settled, "settlement");
    }

    function checkSupply() external view {
        yes(token.totalSupply() <= initialSupply, "traffic unlocked more emission than it burned");
        yes(rewards.emitted() <= rewards.EMISSION_CAP(), "emission above its cap");
        for (uint64 e = 1; e <= epochs.currentEpoch(); ++e) {
            uint256 weight;
            for (uint256 m = 1; m <= 2; ++m) weight += uint256(settlement.modelEpoch(m, e).fees) * 500 / 10_000;
            eq(settlement.emissionWeight(e), weight, "emission weight");
        }
    }
}
