// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {Deployment} from "./Deployment.sol";

/// @title The people of the invariant tests, and what they remember for themselves to hold the contracts against.
abstract contract Crew is Deployment {
    uint256 internal constant PROVIDERS = 4;
    uint256 internal constant GATEWAYS = 2;
    /// @dev Gateways after those: they report on providers and do nothing that could jail them.
    uint256 internal constant WATCHERS = 2;
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
    uint256 public penalties;
    uint256 public slashes;
    uint256 internal cases;

    Posting[] internal postings;
    /// @dev Wei paid to providers, by model and epoch.
    mapping(uint256 => mapping(uint64 => uint256)) internal claimedOf;
    mapping(uint256 => uint64) internal providerFree;
    mapping(uint256 => uint64) internal gatewayFree;
    mapping(uint256 => uint64) internal gatewayDown;
    mapping(uint256 => uint64) internal thawFree;
    mapping(uint256 => uint64) internal slaUntil;

    constructor() {
        deploy();
        newModel("one");
        newModel("two");
        for (uint256 i = 0; i < PROVIDERS; ++i) {
            newProvider(providerOwner(i), providerId(i), modelOf(i));
            providerFree[i] = epochs.currentEpoch() + LOCK;
        }
        for (uint256 i = 0; i < GATEWAYS + WATCHERS; ++i) {
            newGateway(vm.addr(gatewayKey(i)), gatewayId(i), 500 ether);
            gatewayFree[i] = epochs.currentEpoch() + LOCK;
        }
        for (uint256 i = 0; i < PAYERS; ++i) {
            give(vm.addr(payerKey(i)), 10_000 ether);
        }
        for (uint256 i = 0; i < VERIFIERS; ++i) {
            disputes.setVerifier(verifier(i), true);
        }
        slashing.setQuorum(WATCHERS);
    }

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

    function verifier(uint256 i) internal pure returns (address) {
        return address(uint160(0x4000 + i));
    }

    function poolOf(uint256 modelId) public view returns (ProviderStaking) {
        return pool(modelId);
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

    function stakeOfProvider(uint256 i) internal view returns (uint256) {
        return poolOf(modelOf(i)).stakeOf(providerId(i)).amount;
    }

    /// @dev As the rules say, from what was written down when it happened.
    function isHeld(uint256 i) internal view returns (bool) {
        bool promised = slaUntil[i] != 0 && epochs.currentEpoch() <= slaUntil[i] + DELAY - 1;
        return promised || disputes.hasOpenCase(key(providerId(i)));
    }

    function fail_(string memory what) internal {
        if (bytes(broken).length == 0) broken = what;
    }
}
