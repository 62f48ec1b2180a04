// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "./ICommon.sol";

/// @title Gateway stakes: what backs every voucher that a gateway signs.
interface IGatewayStaking is ICommon {
    struct Stake {
        uint128 amount;
        uint128 reserved;
        uint64 unlockEpoch;
        /// @notice 0, or the first epoch in which a wound-down gateway may unstake.
        uint64 windDownEnd;
    }

    event GatewayStaked(string id, bytes32 indexed key, address indexed owner, uint256 amount, uint64 unlockEpoch);
    event GatewayWoundDown(string id, bytes32 indexed key, uint64 windDownEnd);
    event GatewayRestarted(string id, bytes32 indexed key);
    event GatewayUnstaked(string id, bytes32 indexed key, address indexed owner, uint256 amount);
    event GatewayClaimedRewards(string id, bytes32 indexed key, address indexed owner, uint64 from, uint64 to, uint256 amount);
    event GatewayCharged(bytes32 indexed key, uint256 amount);
    event GatewayReserved(bytes32 indexed key, uint256 reserved);
    event MinGatewayStakeUpdated(uint256 previous, uint256 current);

    error NotGatewayOwner(bytes32 key, address caller);
    error GatewayWindingDown(bytes32 key);
    error GatewayNotWoundDown(bytes32 key);
    error NotStaked(bytes32 key);
    error StakeLocked(bytes32 key, uint64 unlockEpoch);
    error WindDownNotOver(bytes32 key, uint64 windDownEnd);
    error StakeUnderDispute(bytes32 key);
    error GatewayJailed(bytes32 key, uint64 untilEpoch);
    error GatewayOverdrawn(bytes32 key, uint256 wanted, uint256 effective);

    /// @notice Adds `amount` wei of the caller's, who owns the gateway. Needs an allowance to this contract.
    function stakeForGateway(string calldata id, uint256 amount) external;

    /// @notice The same, with tokens that the registry holds. Registry only.
    function stakeFromRegistry(string calldata id, address owner, uint256 amount) external;

    /// @notice Starts the wind-down of each; all or none.
    function windDownGateways(string[] calldata ids) external;

    /// @notice Ends a wind-down without unstaking.
    function restartGateway(string calldata id) external;

    /// @notice Pays the whole stake back to the gateway's owner, after wind-down, lock, jail and disputes.
    function unstakeForGateway(string calldata id) external;

    /// @notice Pays the gateway's routing shares of epochs `from … to` (both included) to its owner.
    function claimRewards(string calldata id, uint64 from, uint64 to) external returns (uint256 amount);

    function viewRewards(string calldata id, uint64 from, uint64 to) external view returns (uint256 amount);

    /// @notice Stake less what open challenges hold; never negative.
    function effectiveStake(string calldata id) external view returns (uint256);

    function effectiveStakeOfKey(bytes32 key) external view returns (uint256);

    /// @notice True when the effective stake is below `minGatewayStake`.
    function isOverdrawn(bytes32 key) external view returns (bool);

    function stakeOf(string calldata id) external view returns (Stake memory);

    function stakeOfKey(bytes32 key) external view returns (Stake memory);

    function minGatewayStake() external view returns (uint256);

    /// @notice Owner; 1 wei … 10^26 wei.
    function setMinGatewayStake(uint256 amount) external;

    /// @notice Takes `amount` from the effective stake and sends it to the caller. Settlement only.
    /// @dev Reverts with `GatewayOverdrawn`.
    function charge(bytes32 key, uint256 amount) external;

    /// @notice Holds up to `amount` of the effective stake for a challenge. Settlement only.
    function reserve(bytes32 key, uint256 amount) external returns (uint256 held);

    /// @notice Ends a hold. Settlement only.
    function release(bytes32 key, uint256 held) external;
}
