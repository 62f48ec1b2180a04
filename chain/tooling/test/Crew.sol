// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {IGatewayStaking} from "contracts/interfaces/IGatewayStaking.sol";
import {Deployment} from "./Deployment.sol";

/// @title The people of the invariant tests, and what they remember for themselves to hold the contracts against.
/// @dev Gateways sign anything to anybody (a friend among the providers included), developers promise the same money to
/// several gateways, and this contract is the challenger.
abstract contract Crew is Deployment {
    uint256 internal constant PROVIDERS = 4;
    uint256 internal constant GATEWAYS = 3;
    uint256 internal constant PAYERS = 2;
    uint256 internal constant VERIFIERS = 4;
    uint64 internal constant LOCK = 3;

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
    uint256 public answered;
    uint256 public compensated;
    uint256 public penalties;
    uint256 public slashes;
    uint256 internal cases;

    Posting[] internal postings;
    mapping(bytes32 slot => uint256 indexPlusOne) internal postingOf;
    /// @dev Wei paid to providers, by model and epoch.
    mapping(uint256 => mapping(uint64 => uint256)) internal claimedOf;
    mapping(uint256 => uint64) internal providerFree;
    mapping(uint256 => uint64) internal gatewayFree;
    mapping(uint256 => uint64) internal gatewayDown;
    mapping(uint256 payer => mapping(uint256 gateway => uint64)) internal thawFree;
    mapping(uint256 gateway => mapping(uint256 provider => uint64)) internal lineFree;
    mapping(uint256 gateway => uint64) internal creditFree;
    mapping(uint256 => uint64) internal slaUntil;
    mapping(uint256 => bool) internal slaPunished;

    constructor() {
        deploy();
        newModel("one");
        newModel("two");
        for (uint256 i = 0; i < PROVIDERS; ++i) {
            newProvider(providerOwner(i), providerId(i), modelOf(i));
            providerFree[i] = epochs.currentEpoch() + LOCK;
        }
        for (uint256 i = 0; i < GATEWAYS; ++i) {
            newGateway(gatewayOwner_(i), gatewayId(i), 500 ether);
            gatewayFree[i] = epochs.currentEpoch() + LOCK;
        }
        for (uint256 i = 0; i < PAYERS; ++i) {
            give(vm.addr(payerKey(i)), 10_000 ether);
            vm.prank(vm.addr(payerKey(i)));
            token.approve(address(escrow), type(uint256).max);
        }
        for (uint256 i = 0; i < VERIFIERS; ++i) {
            disputes.setVerifier(verifier(i), true);
        }
        slashing.setQuorum(2);
        token.approve(address(settlement), type(uint256).max);
    }

    function providerOwner(uint256 i) internal pure returns (address) {
        return vm.addr(providerKey(i));
    }

    function providerKey(uint256 i) internal pure returns (uint256) {
        return 0x1000 + i;
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

    function gatewayOwner_(uint256 i) internal pure returns (address) {
        return vm.addr(gatewayKey(i));
    }

    function gatewayId(uint256 i) internal pure returns (string memory) {
        return string.concat("g", vm.toString(i));
    }

    function payerKey(uint256 i) internal pure returns (uint256) {
        return 0x3000 + i;
    }

    function verifier(uint256 i) internal pure returns (address) {
        return address(uint160(0x4000 + i));
    }

    function poolOf(uint256 modelId) public view returns (ProviderStaking) {
        return pool(modelId);
    }

    function lineOf(uint256 g, uint256 i) internal view returns (IGatewayStaking.Line memory) {
        return gatewayStaking.lineOf(key(gatewayId(g)), key(providerId(i)));
    }

    /// @dev The lines of a gateway but for one provider's (any number for all of them).
    function linesBut(uint256 g, uint256 but) internal view returns (bytes32 digest) {
        for (uint256 i = 0; i < PROVIDERS; ++i) {
            if (i != but) digest = keccak256(abi.encode(digest, lineOf(g, i).amount));
        }
    }

    function stakeOfProvider(uint256 i) internal view returns (uint256) {
        return poolOf(modelOf(i)).stakeOf(providerId(i)).amount;
    }

    /// @dev As the rules say, from what was written down when it happened.
    function isHeld(uint256 i) internal view returns (bool) {
        bool promised = slaUntil[i] != 0 && epochs.currentEpoch() <= slaUntil[i] + 2 * DELAY;
        return promised || disputes.hasOpenCase(key(providerId(i)));
    }

    function leavesOf(Posting memory p) internal pure returns (Sibling[] memory leaves) {
        leaves = new Sibling[](2);
        for (uint256 i = 0; i < 2; ++i) {
            leaves[i] = leaf(gatewayId(p.gateway), providerId(2 * (p.modelId - 1) + i), p.modelId, p.epoch, p.units[i]);
        }
    }

    function slot(uint256 g, uint256 modelId, uint64 epoch) internal pure returns (bytes32) {
        return keccak256(abi.encode(g, modelId, epoch));
    }

    /// @dev One of the latest few.
    function posting(uint256 which, uint256 few) internal view returns (Posting memory) {
        uint256 n = postings.length;
        return postings[n - 1 - which % (n < few ? n : few)];
    }

    function fail_(string memory what) internal {
        if (bytes(broken).length == 0) broken = what;
    }
}
