// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "./ICommon.sol";

/// @title Gateway stakes: what backs every voucher that a gateway signs.
interface IGatewayStaking is ICommon {
    /// @notice `reserved`: the sum of the gateway's lines, part of `amount`.
    struct Stake {
        uint128 amount;
        uint128 reserved;
        uint64 unlockEpoch;
        /// @notice 0, or the first epoch in which a wound-down gateway may unstake.
        uint64 windDownEnd;
    }

    /// @notice The part of a gateway's stake that only one provider's compensations can take.
    struct Line {
        uint128 amount;
        /// @notice At most `amount`; may be released from `thawEnd` on.
        uint128 thawing;
        uint64 thawEnd;
        /// @notice At most `amount`; waits for the answer to open challenges.
        uint128 held;
    }

    event GatewayStaked(string id, bytes32 indexed key, address indexed owner, uint256 amount, uint64 unlockEpoch);
    event GatewayWoundDown(string id, bytes32 indexed key, uint64 windDownEnd);
    event GatewayRestarted(string id, bytes32 indexed key);
    event GatewayUnstaked(string id, bytes32 indexed key, address indexed owner, uint256 amount);
    event GatewayClaimedRewards(
        string id, bytes32 indexed key, address indexed owner, uint64 from, uint64 to, uint256 amount
    );
    event GatewayCharged(bytes32 indexed key, uint256 amount);
    event LineFunded(bytes32 indexed key, bytes32 indexed provider, uint256 amount, uint256 total);
    event LineThawing(bytes32 indexed key, bytes32 indexed provider, uint256 thawing, uint64 thawEnd);
    event LineReleased(bytes32 indexed key, bytes32 indexed provider, uint256 amount);
    event LineCharged(bytes32 indexed key, bytes32 indexed provider, uint256 amount);
    event MinGatewayStakeUpdated(uint256 previous, uint256 current);

    error NotGatewayOwner(bytes32 key, address caller);
    error GatewayWindingDown(bytes32 key);
    error GatewayNotWoundDown(bytes32 key);
    error NotStaked(bytes32 key);
    error StakeLocked(bytes32 key, uint64 unlockEpoch);
    error WindDownNotOver(bytes32 key, uint64 windDownEnd);
    /// @notice Lines must be released first.
    error LinesOpen(bytes32 key, uint256 reserved);
    /// @notice The gateway owes providers `debt` wei (see Settlement).
    error GatewayInDebt(bytes32 key, uint256 debt);
    /// @notice Lines may take the effective stake down to `minGatewayStake`, and no further.
    error InsufficientStake(uint256 wanted, uint256 spare);
    error NothingThawing(address account);
    error StillThawing(uint64 thawEnd);
    /// @notice Open challenges hold all of the line.
    error LineHeld(bytes32 key, bytes32 provider);
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

    /// @notice Pays the whole stake back to the gateway's owner, after wind-down, lock and jail, without lines and debt.
    function unstakeForGateway(string calldata id) external;

    /// @notice Moves effective stake into lines, one amount a provider; all or none. Gateway's owner.
    function fundLines(string calldata id, string[] calldata providerIds, uint256[] calldata amounts) external;

    /// @notice Marks `amount` more of a line for release after epochRewardDelay + 2 epochs; the clock restarts for all
    /// that is thawing. Gateway's owner.
    function thawLine(string calldata id, string calldata providerId, uint256 amount) external;

    /// @notice Makes what has thawed, and is not held, effective stake again. Gateway's owner.
    function releaseLine(string calldata id, string calldata providerId) external returns (uint256 amount);

    /// @notice Pays the gateway's routing shares of epochs `from … to` (both included) to its owner.
    function claimRewards(string calldata id, uint64 from, uint64 to) external returns (uint256 amount);

    function viewRewards(string calldata id, uint64 from, uint64 to) external view returns (uint256 amount);

    /// @notice Stake less lines.
    function effectiveStake(string calldata id) external view returns (uint256);

    function effectiveStakeOfKey(bytes32 key) external view returns (uint256);

    /// @notice Effective stake above `minGatewayStake`: what fees and new lines may take.
    function spareStakeOfKey(bytes32 key) external view returns (uint256);

    /// @notice True when there is no effective stake.
    function isOverdrawn(bytes32 key) external view returns (bool);

    function stakeOf(string calldata id) external view returns (Stake memory);

    function stakeOfKey(bytes32 key) external view returns (Stake memory);

    function lineOf(bytes32 gateway, bytes32 provider) external view returns (Line memory);

    /// @notice What work from now on may count on: the line less what thaws.
    function guaranteed(bytes32 gateway, bytes32 provider) external view returns (uint256);

    function minGatewayStake() external view returns (uint256);

    /// @notice Owner; from half to twice the present value, within 1 wei … 10^26 wei.
    function setMinGatewayStake(uint256 amount) external;

    /// @notice Takes `amount` from the effective stake and sends it to the caller. Settlement only.
    /// @dev Reverts with `GatewayOverdrawn`.
    function charge(bytes32 key, uint256 amount) external;

    /// @notice Holds up to `amount` of a line for a challenge. Settlement only.
    function holdLine(bytes32 gateway, bytes32 provider, uint256 amount) external returns (uint256 held);

    /// @notice Ends a hold, or what a charge left of it. Settlement only.
    function endHold(bytes32 gateway, bytes32 provider, uint256 amount) external;

    /// @notice Takes up to `amount` of a line, thawing and held or not, and sends it to the caller. Settlement only.
    function chargeLine(bytes32 gateway, bytes32 provider, uint256 amount) external returns (uint256 taken);
}
