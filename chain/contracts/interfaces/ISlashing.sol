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
    /// @dev EIP-712 type `SlaReport(bytes32 gateway,bytes32 provider,uint64 epoch,uint16 uptimeBps,uint32 latencyMs)`.
    struct SlaReport {
        bytes32 gateway;
        bytes32 provider;
        uint64 epoch;
        uint16 uptimeBps;
        uint32 latencyMs;
    }

    event SlaCommitted(
        string id, bytes32 indexed key, uint16 uptimeBps, uint32 latencyMs, uint16 penaltyBps, uint64 fromEpoch, uint64 untilEpoch
    );
    event SlaPenalized(bytes32 indexed key, uint64 indexed epoch, uint256 penalty, uint256 missed, uint256 reports);
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
    error TooFewReports(uint256 reports, uint256 quorum);
    error ReportsNotSorted();
    error WrongReport(uint256 index);
    error GatewayNotActive(bytes32 gateway);
    error SlaKept(uint256 missed, uint256 reports);
    error LengthMismatch();

    /// @notice Commits a provider from the next epoch on, for `epochs` (1 … 1000) epochs. Provider's owner.
    /// @param uptimeBps 1 … 10000. @param latencyMs positive. @param penaltyBps of the stake per missed epoch, 1 … 1000.
    function commitSla(string calldata id, uint16 uptimeBps, uint32 latencyMs, uint16 penaltyBps, uint64 epochs) external;

    /// @notice Penalises and jails when a strict majority of at least `quorum` reports by different active gateways
    /// (ascending by gateway) says that the commitment for `epoch` was missed. Anyone, in the epochs
    /// epoch + 1 … epoch + epochRewardDelay − 1, once.
    function enforceSla(string calldata id, uint64 epoch, SlaReport[] calldata reports, bytes[] calldata signatures) external;

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
