// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "./ICommon.sol";

/// @title Service-level commitments, their capped penalties, and the jail.
interface ISlashing is ICommon {
    /// @notice What a provider promises. `uptimeBps`: share of requests served; `latencyMs`: p95 of a step.
    struct Sla {
        uint16 uptimeBps;
        uint32 latencyMs;
        uint16 penaltyBps;
        uint64 fromEpoch;
        uint64 untilEpoch;
    }

    /// @notice What one gateway saw of a provider in an epoch.
    /// @dev EIP-712 type `SlaReport(bytes32 gateway,bytes32 provider,uint64 epoch,uint32 requests,uint16 uptimeBps,
    /// uint32 latencyMs)` (without the line break).
    struct SlaReport {
        bytes32 gateway;
        bytes32 provider;
        uint64 epoch;
        uint32 requests;
        uint16 uptimeBps;
        uint32 latencyMs;
    }

    event SlaCommitted(
        string id,
        bytes32 indexed key,
        uint16 uptimeBps,
        uint32 latencyMs,
        uint16 penaltyBps,
        uint64 fromEpoch,
        uint64 untilEpoch
    );
    /// @notice `missed` of `weight` wei of the served gateways' effective stake say that the commitment was missed.
    event SlaPenalized(bytes32 indexed key, uint64 indexed epoch, uint256 penalty, uint256 missed, uint256 weight);
    event ProviderJailed(bytes32 indexed key, uint64 untilEpoch);
    event ProviderReleased(bytes32 indexed key);
    event GatewayJailed(bytes32 indexed key, uint64 untilEpoch);
    event QuorumUpdated(uint256 previous, uint256 current);
    event SlaJailEpochsUpdated(uint64 previous, uint64 current);

    error NotProviderOwner(bytes32 key, address caller);
    error SlaRunning(bytes32 key, uint64 untilEpoch);
    error NoSla(bytes32 key, uint64 epoch);
    error EvidenceWindow(uint64 epoch, uint64 current);
    error AlreadyPenalized(bytes32 key, uint64 epoch);
    /// @notice The provider served fewer gateways than may judge it.
    error TooFewReports(uint256 gateways, uint256 quorum);
    error ReportsNotSorted();
    /// @notice The provider has no proven leaf of this gateway in this epoch.
    error NotServed(bytes32 gateway);
    /// @notice The gateways are not all that the provider served: `sum` of `units` proven units.
    error ServedIncomplete(uint256 sum, uint256 units);
    error WrongReport(uint256 index);
    /// @notice No majority: first by effective stake (wei), then by proven units.
    error SlaKept(uint256 missed, uint256 all);

    /// @notice Commits a provider from the next epoch on, for `epochs` (1 … 1000) epochs. Provider's owner.
    /// @param uptimeBps 1 … 10000. @param latencyMs positive. @param penaltyBps of the stake at the first miss, 1 … 1000.
    function commitSla(string calldata id, uint16 uptimeBps, uint32 latencyMs, uint16 penaltyBps, uint64 epochs)
        external;

    /// @notice Penalises, jails and ends the commitment when reports by a strict majority, both by effective stake and by
    /// proven units, of all gateways that the provider served in `epoch` say that it was missed. Anyone, in the epochs
    /// epoch + epochRewardDelay … epoch + 2 × epochRewardDelay, once a commitment.
    /// @param gateways all gateways, at least `quorum`, with proven work of this provider in `epoch`, ascending.
    /// @param reports by some of them, ascending by gateway, with `signatures` of their signers of `epoch`.
    /// @param receiptUnits what the provider acknowledged to each of those, with `receiptSignatures` over
    /// `ContributionReceipt` (see Settlement) by its signer of `epoch`: anybody can post a leaf of a provider, but only
    /// those that it worked for accuse it.
    function enforceSla(
        string calldata id,
        uint64 epoch,
        bytes32[] calldata gateways,
        SlaReport[] calldata reports,
        bytes[] calldata signatures,
        uint256[] calldata receiptUnits,
        bytes[] calldata receiptSignatures
    ) external;

    /// @notice Jails a gateway through `untilEpoch`; never shortens. Settlement only.
    /// @dev Providers and gateways are kept apart, because one id may name one of each.
    function jailGateway(bytes32 key, uint64 untilEpoch) external;

    /// @notice Jails a provider through `untilEpoch`; never shortens. Disputes only.
    function jailProvider(bytes32 key, uint64 untilEpoch) external;

    /// @notice Ends a jail that disputes imposed (the accusation was rejected). Disputes only.
    function releaseProvider(bytes32 key) external;

    /// @notice True while currentEpoch ≤ gatewayJailedUntil(key).
    function isGatewayJailed(bytes32 key) external view returns (bool);

    /// @notice True while currentEpoch ≤ providerJailedUntil(key).
    function isProviderJailed(bytes32 key) external view returns (bool);

    function gatewayJailedUntil(bytes32 key) external view returns (uint64);

    /// @notice The later end of the jails imposed by missed commitments and by disputes.
    function providerJailedUntil(bytes32 key) external view returns (uint64);

    function sla(string calldata id) external view returns (Sla memory);

    /// @notice True while the provider's stake must stay: its commitment's evidence window or a dispute is open.
    function isStakeHeld(bytes32 key) external view returns (bool);

    function quorum() external view returns (uint256);

    /// @notice Owner; 2 … 64.
    function setQuorum(uint256 quorum_) external;

    function slaJailEpochs() external view returns (uint64);

    /// @notice Owner; 1 … 100.
    function setSlaJailEpochs(uint64 epochs) external;

    function hashReport(SlaReport calldata report) external view returns (bytes32);
}
