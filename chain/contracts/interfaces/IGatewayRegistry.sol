// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "./ICommon.sol";

/// @title Gateways and the keys that sign for them.
interface IGatewayRegistry is ICommon {
    struct Gateway {
        address owner;
        bool deactivated;
        bool whitelisted;
        string id;
        string metadata;
    }

    event GatewayRegistered(string id, bytes32 indexed key, address indexed owner, string metadata);
    event GatewayRegisteredAndStaked(
        string id, bytes32 indexed key, address indexed owner, string metadata, uint256 amount
    );
    event GatewayMetadataUpdated(bytes32 indexed key, string metadata);
    event GatewayDeactivated(bytes32 indexed key);
    event GatewayReactivated(bytes32 indexed key);
    event GatewayWhitelisted(bytes32 indexed key, bool whitelisted);
    event GatewaySignerUpdated(bytes32 indexed key, address signer, uint64 fromEpoch);
    event AutoWhitelistUpdated(bool enabled);
    /// @notice Tokens that `account` had transferred to the registry went back.
    event SentReturned(address indexed account, uint256 amount);

    error GatewayIdTaken(bytes32 key);
    error NotGatewayOwner(bytes32 key, address caller);
    error AlreadyDeactivated(bytes32 key);
    error NotDeactivated(bytes32 key);
    /// @notice The address signs, or once signed, for another gateway.
    error SignerInUse(address signer);
    /// @notice New gateways start without the whitelist, so their stake would be locked for nothing.
    error AutoWhitelistOff();

    /// @notice Registers a gateway. The caller becomes its signer unless it signs for another gateway already.
    /// @param id unique, 1 … 64 bytes. @param metadata at most 1024 bytes.
    function register(string calldata id, string calldata metadata) external;

    /// @notice `register`, then forwards `amount` wei of the caller's to `GatewayStaking`: first what the caller had
    /// transferred to this registry before, the rest by allowance to this registry.
    function registerAndStake(string calldata id, string calldata metadata, uint256 amount) external;

    /// @notice Gives the caller back what it transferred to this registry and did not stake.
    function returnSent() external returns (uint256 amount);

    function deactivate(string calldata id) external;

    function reactivate(string calldata id) external;

    function updateMetadata(string calldata id, string calldata metadata) external;

    /// @notice The key that signs vouchers and posts checkpoints from the next epoch on. Gateway's owner.
    /// @dev An address that ever signed for a gateway never signs for another.
    /// @param consent the signer's own signature over
    /// `SignerConsent(bytes32 key,address owner,address signer)`; not read if the signer is the caller.
    function setSigner(string calldata id, address signer, bytes calldata consent) external;

    /// @notice Owner of the contract.
    function setWhitelisted(string calldata id, bool whitelisted) external;

    /// @notice Owner of the contract.
    function setAutoWhitelist(bool enabled) external;

    function autoWhitelist() external view returns (bool);

    function gateway(string calldata id) external view returns (Gateway memory);

    /// @notice Owner by key; zero means unknown.
    function ownerOf(bytes32 key) external view returns (address);

    function signerAt(bytes32 key, uint64 epoch) external view returns (address);

    /// @notice The gateway that `signer` signs or signed for; zero if none.
    function gatewayOfSigner(address signer) external view returns (bytes32 key);

    /// @notice Registered, not deactivated, whitelisted, effective stake not overdrawn.
    function isActive(string calldata id) external view returns (bool);

    /// @notice `isActive` by key.
    function isActiveKey(bytes32 key) external view returns (bool);

    /// @notice Active, effective stake at least `minGatewayStake`, not winding down, not jailed.
    function isEligible(string calldata id) external view returns (bool);

    /// @notice `isEligible` by key.
    function isEligibleKey(bytes32 key) external view returns (bool);

    /// @notice EIP-712 digest that `signer` signs to be a signer of `owner`'s gateway.
    function hashConsent(bytes32 key, address owner, address signer) external view returns (bytes32);
}
