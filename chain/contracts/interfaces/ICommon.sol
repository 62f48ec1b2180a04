// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title Errors that more than one contract raises.
/// @notice `key` is always `keccak256(bytes(id))` of a provider's or gateway's id.
interface ICommon {
    /// @notice A contract is used before, or wired again after, its neighbours are known.
    error Wiring();
    /// @notice The caller may not do this.
    error Unauthorized(address caller);
    /// @notice An amount, a number of units or a score that must be positive is zero.
    error ZeroAmount();
    /// @notice An address that must be given is zero.
    error ZeroAddress();
    /// @notice The id is empty or longer than 64 bytes.
    error InvalidId(uint256 length);
    /// @notice The metadata is longer than 1024 bytes.
    error MetadataTooLong(uint256 length);
    /// @notice A parameter lies outside the bounds that its setter states.
    error OutOfBounds(uint256 value, uint256 min, uint256 max);
    /// @notice `from` is zero, after `to`, or the range is longer than 512 epochs.
    error InvalidEpochRange(uint64 from, uint64 to);
    /// @notice Rewards are claimable only up to `claimableTo` = currentEpoch − epochRewardDelay.
    error RewardsNotReady(uint64 to, uint64 claimableTo);
    /// @notice The range holds no unclaimed reward.
    error NothingToClaim();
    /// @notice No model has this number.
    error UnknownModel(uint256 modelId);
    /// @notice No provider is registered under this id.
    error UnknownProvider(bytes32 key);
    /// @notice No gateway is registered under this id.
    error UnknownGateway(bytes32 key);
    /// @notice The signature is not by the signer that this message needs.
    error InvalidSignature();
    /// @notice More is asked for than is there.
    error InsufficientBalance(uint256 wanted, uint256 available);
    /// @notice Two lists that belong together differ in length.
    error LengthMismatch();
}
