// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {Deployment} from "./Deployment.sol";
import {Tree} from "./Tree.sol";

interface IReceiver {
    function tokensReceived() external;
}

/// @dev Unlike FUNC, a token that calls whoever receives it: the worst token the contracts could be pointed at.
contract CallingToken is ERC20 {
    constructor() ERC20("Calling", "CALL") {
        _mint(msg.sender, 1e27);
    }

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function burn(uint256 amount) external {
        _burn(msg.sender, amount);
    }

    function sentTo(address) external pure returns (uint256) {
        return 0;
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (from != address(0) && to.code.length > 0) {
            try IReceiver(to).tokensReceived() {} catch {}
        }
    }
}

/// @dev Owns a provider, a gateway and a deposit, and repeats a call whenever it is paid.
contract Thief {
    address public target;
    bytes public call_;
    uint256 public entered;
    bool public succeeded;

    function arm(address target_, bytes calldata data) external {
        target = target_;
        call_ = data;
        entered = 0;
        succeeded = false;
    }

    function act(address to, bytes calldata data) external returns (bytes memory) {
        (bool ok, bytes memory result) = to.call(data);
        if (!ok) {
            assembly ("memory-safe") {
                revert(add(result, 32), mload(result))
            }
        }
        return result;
    }

    function tokensReceived() external {
        if (target == address(0)) return;
        ++entered;
        (bool ok,) = target.call(call_);
        if (ok) succeeded = true;
    }
}

/// @title A receiver that calls back gets nothing twice.
contract ReentrancyTest is Deployment {
    uint256 internal constant UNITS = 12_000_000_000;
    Thief internal thief;
    ProviderStaking internal staking;
    uint256 internal modelId;
    uint64 internal epoch;

    function setUp() public {
        deployAll(address(new CallingToken()), address(this));
        modelId = newModel("llama");
        staking = pool(modelId);
        thief = new Thief();
        newProvider(address(0xB), "ben", modelId);
        newGateway(gatewayOwner, "gate", 1000 ether);
        give(address(thief), 1000 ether);
        does(address(token), abi.encodeCall(token.approve, (address(providers), 1e27)));
        does(address(token), abi.encodeCall(token.approve, (address(gateways), 1e27)));
        does(address(token), abi.encodeCall(token.approve, (address(escrow), 1e27)));
        does(address(providers), abi.encodeCall(providers.registerAndStake, ("thief", modelId, "")));
        does(address(gateways), abi.encodeCall(gateways.registerAndStake, ("theirs", "", 50 ether)));
        nextEpoch(1);
        epoch = epochs.currentEpoch() - 1;
    }

    function does(address to, bytes memory data) internal {
        thief.act(to, data);
    }

    function attack(address to, bytes memory data, uint256 expected) internal {
        thief.arm(to, data);
        uint256 before = token.balanceOf(address(thief));
        uint256 held = token.balanceOf(to);
        does(to, data);
        yes(thief.entered() > 0, "the attack was tried");
        yes(!thief.succeeded(), "and failed");
        eq(token.balanceOf(address(thief)) - before, expected, "paid once");
        eq(held - token.balanceOf(to), expected, "and no more");
        thief.arm(address(0), "");
    }

    function test_no_claim_unstake_or_withdrawal_can_be_entered_twice() public {
        Sibling[] memory leaves = post("gate", modelId, list("thief", "ben"), nums(UNITS, UNITS));
        nextEpoch(DELAY);
        settlement.proveContribution("thief", epoch, UNITS, Tree.proof(leaves, leaves[0]));
        uint256 reward = staking.viewRewards("thief", epoch, epoch);
        yes(reward > 0, "a reward");
        attack(address(staking), abi.encodeCall(staking.claimRewards, ("thief", epoch, epoch)), reward);
        attack(address(staking), abi.encodeCall(staking.unstakeProvider, ("thief")), STAKE);

        does(address(gatewayStaking), abi.encodeCall(gatewayStaking.windDownGateways, (list("theirs"))));
        nextEpoch(DELAY);
        attack(address(gatewayStaking), abi.encodeCall(gatewayStaking.unstakeForGateway, ("theirs")), 50 ether);

        does(address(escrow), abi.encodeCall(escrow.deposit, (5 ether)));
        does(address(escrow), abi.encodeCall(escrow.depositAndReserve, ("gate", 30 ether)));
        does(address(escrow), abi.encodeCall(escrow.thaw, ("gate", 30 ether)));
        does(address(escrow), abi.encodeCall(escrow.topUpCredit, ("theirs", 7 ether)));
        does(address(escrow), abi.encodeCall(escrow.thawCredit, ("theirs", 7 ether)));
        nextEpoch(DELAY + 2);
        attack(address(escrow), abi.encodeCall(escrow.withdraw, (3 ether)), 3 ether);
        attack(address(escrow), abi.encodeCall(escrow.withdrawReserved, ("gate")), 30 ether);
        attack(address(escrow), abi.encodeCall(escrow.withdrawCredit, ("theirs")), 7 ether);
    }

    /// @dev Another door of the same contract is shut as well while one is in use.
    function test_claiming_cannot_enter_unstaking() public {
        Sibling[] memory leaves = post("gate", modelId, list("thief", "ben"), nums(UNITS, UNITS));
        nextEpoch(DELAY);
        settlement.proveContribution("thief", epoch, UNITS, Tree.proof(leaves, leaves[0]));
        thief.arm(address(staking), abi.encodeCall(staking.unstakeProvider, ("thief")));
        does(address(staking), abi.encodeCall(staking.claimRewards, ("thief", epoch, epoch)));
        yes(thief.entered() == 1 && !thief.succeeded(), "refused");
        does(address(staking), abi.encodeCall(staking.unstakeProvider, ("thief")));
    }

    function test_a_royalty_is_paid_once() public {
        does(
            address(models),
            abi.encodeCall(models.createModel, ("thiefs", bytes32(uint256(1)), "", BLOCKS, PRICE, 1000, STAKE))
        );
        uint256 own = models.modelCount();
        newProvider(address(0xC), "cat", own);
        uint64 later = epochs.currentEpoch();
        nextEpoch(1);
        post("gate", own, list("cat"), nums(UNITS));
        nextEpoch(DELAY);
        settlement.finalize(own, later);
        uint256 royalty = settlement.royaltyOf(own);
        yes(royalty > 0, "a royalty");
        attack(address(settlement), abi.encodeCall(settlement.claimRoyalty, (own)), royalty);
    }

    /// @dev A gateway's share, a compensation and a bond: what Settlement and Disputes pay out.
    function test_shares_and_payments_are_paid_once() public {
        bytes32 l = leaf("theirs", "ben", modelId, epoch, UNITS).hash;
        uint256 fees = models.feeFor(modelId, epoch, UNITS);
        does(address(settlement), abi.encodeCall(settlement.postCheckpoint, (modelId, epoch, l, UNITS, fees, 0)));
        nextEpoch(1);
        ContributionVoucher memory v = owe("gate", "thief", modelId, epoch, UNITS);
        settlement.challengeOmission(v, signed(GATEWAY_KEY, settlement.hashVoucher(v)), 0, none());
        uint256 owed = settlement.paymentsOf(address(thief));
        yes(owed > 0, "a compensation");
        attack(address(settlement), abi.encodeCall(settlement.withdrawPayments, ()), owed);

        for (uint160 i = 1; i <= 3; ++i) {
            disputes.setVerifier(address(0x9000 + i), true);
        }
        vm.prank(address(0x9001));
        uint256 caseId = disputes.openCase("thief", epoch, "evidence");
        vm.roll(vm.getBlockNumber() + 3);
        disputes.drawPanel(caseId);
        for (uint160 i = 1; i <= 2; ++i) {
            vm.prank(address(0x9000 + i));
            disputes.vote(caseId, true);
        }
        token.approve(address(disputes), 100 ether);
        disputes.dispute(caseId);
        nextEpoch(5);
        disputes.close(caseId);
        attack(address(disputes), abi.encodeCall(disputes.withdrawPayments, ()), 100 ether);

        uint256 share = gatewayStaking.viewRewards("theirs", epoch, epoch);
        yes(share > 0, "a share");
        thief.arm(address(gatewayStaking), abi.encodeCall(gatewayStaking.claimRewards, ("theirs", epoch, epoch)));
        uint256 before = token.balanceOf(address(thief));
        does(address(gatewayStaking), abi.encodeCall(gatewayStaking.claimRewards, ("theirs", epoch, epoch)));
        yes(thief.entered() > 0 && !thief.succeeded(), "tried and refused");
        eq(token.balanceOf(address(thief)) - before, share, "the share once");
    }

    function test_a_cluster_claim_cannot_be_entered_twice() public {
        Sibling[] memory leaves = post("gate", modelId, list("thief", "ben"), nums(UNITS, UNITS));
        nextEpoch(DELAY);
        settlement.proveContribution("thief", epoch, UNITS, Tree.proof(leaves, leaves[0]));
        uint256 reward = staking.viewRewards("thief", epoch, epoch);
        bytes memory claim = abi.encodeCall(providers.claimRewardsCluster, (epoch, epoch));
        thief.arm(address(providers), claim);
        uint256 before = token.balanceOf(address(thief));
        does(address(providers), claim);
        yes(thief.entered() > 0, "tried");
        eq(token.balanceOf(address(thief)) - before, reward, "paid once");
        eq(staking.viewRewards("thief", epoch, epoch), 0, "nothing left");
    }
}
