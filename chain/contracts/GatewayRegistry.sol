// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {Stoppable} from "./base/Stoppable.sol";
import {Wired} from "./base/Wired.sol";
import {IDirectory} from "./interfaces/IDirectory.sol";
import {IEpochController} from "./interfaces/IEpochController.sol";
import {IFuncToken} from "./interfaces/IFuncToken.sol";
import {IGatewayRegistry} from "./interfaces/IGatewayRegistry.sol";
import {IGatewayStaking} from "./interfaces/IGatewayStaking.sol";
import {ISlashing} from "./interfaces/ISlashing.sol";
import {Consent} from "./libraries/Consent.sol";
import {Ids} from "./libraries/Ids.sol";

/// @title Gateways and the keys that sign for them.
contract GatewayRegistry is IGatewayRegistry, Stoppable, EIP712 {
    using SafeERC20 for IFuncToken;
    using Checkpoints for Checkpoints.Trace160;

    IFuncToken private _token;
    IEpochController private _epochs;
    IGatewayStaking private _staking;
    ISlashing private _slashing;

    /// @inheritdoc IGatewayRegistry
    bool public autoWhitelist = true;
    /// @inheritdoc IGatewayRegistry
    mapping(address signer => bytes32 key) public gatewayOfSigner;
    mapping(bytes32 key => Gateway) private _gateways;
    mapping(bytes32 key => Checkpoints.Trace160) private _signers;

    constructor(IDirectory directory, address owner_) Wired(directory, owner_) EIP712("InferenceMesh", "1") {}

    /// @inheritdoc IGatewayRegistry
    function register(string calldata id, string calldata metadata) external whenNotPaused {
        _register(id, metadata);
    }

    /// @inheritdoc IGatewayRegistry
    function registerAndStake(string calldata id, string calldata metadata, uint256 amount)
        external
        whenNotPaused
        nonReentrant
    {
        bytes32 key = _register(id, metadata);
        if (!autoWhitelist) revert AutoWhitelistOff();
        if (amount == 0) revert ZeroAmount();
        uint256 sent = Math.min(amount, _token.sentTo(msg.sender));
        if (sent != 0) _token.takeSent(msg.sender, sent);
        if (sent < amount) _token.safeTransferFrom(msg.sender, address(this), amount - sent);
        _token.forceApprove(address(_staking), amount);
        _staking.stakeFromRegistry(id, msg.sender, amount);
        emit GatewayRegisteredAndStaked(id, key, msg.sender, metadata, amount);
    }

    /// @inheritdoc IGatewayRegistry
    function returnSent() external nonReentrant returns (uint256 amount) {
        amount = _token.sentTo(msg.sender);
        if (amount == 0) revert NothingToClaim();
        _token.takeSent(msg.sender, amount);
        _token.safeTransfer(msg.sender, amount);
        emit SentReturned(msg.sender, amount);
    }

    /// @inheritdoc IGatewayRegistry
    function deactivate(string calldata id) external {
        (bytes32 key, Gateway storage item) = _mine(id);
        if (item.deactivated) revert AlreadyDeactivated(key);
        item.deactivated = true;
        emit GatewayDeactivated(key);
    }

    /// @inheritdoc IGatewayRegistry
    function reactivate(string calldata id) external {
        (bytes32 key, Gateway storage item) = _mine(id);
        if (!item.deactivated) revert NotDeactivated(key);
        item.deactivated = false;
        emit GatewayReactivated(key);
    }

    /// @inheritdoc IGatewayRegistry
    function updateMetadata(string calldata id, string calldata metadata) external {
        (bytes32 key, Gateway storage item) = _mine(id);
        Ids.checkMetadata(metadata);
        item.metadata = metadata;
        emit GatewayMetadataUpdated(key, metadata);
    }

    /// @inheritdoc IGatewayRegistry
    function setSigner(string calldata id, address signer, bytes calldata consent) external {
        (bytes32 key,) = _mine(id);
        if (signer == address(0)) revert ZeroAddress();
        if (signer != msg.sender) Consent.check(hashConsent(key, msg.sender, signer), consent, signer);
        bytes32 user = gatewayOfSigner[signer];
        if (user != 0 && user != key) revert SignerInUse(signer);
        _setSigner(key, signer, _epochs.currentEpoch() + 1);
    }

    /// @inheritdoc IGatewayRegistry
    function setWhitelisted(string calldata id, bool whitelisted) external onlyOwner {
        (bytes32 key, Gateway storage item) = _find(id);
        item.whitelisted = whitelisted;
        emit GatewayWhitelisted(key, whitelisted);
    }

    /// @inheritdoc IGatewayRegistry
    function setAutoWhitelist(bool enabled) external onlyOwner {
        autoWhitelist = enabled;
        emit AutoWhitelistUpdated(enabled);
    }

    /// @inheritdoc IGatewayRegistry
    function gateway(string calldata id) external view returns (Gateway memory) {
        (, Gateway storage item) = _find(id);
        return item;
    }

    /// @inheritdoc IGatewayRegistry
    function ownerOf(bytes32 key) external view returns (address) {
        return _gateways[key].owner;
    }

    /// @inheritdoc IGatewayRegistry
    function signerAt(bytes32 key, uint64 epoch) external view returns (address) {
        return address(_signers[key].upperLookupRecent(epoch));
    }

    /// @inheritdoc IGatewayRegistry
    function isActive(string calldata id) external view returns (bool) {
        return isActiveKey(Ids.keyOf(id));
    }

    /// @inheritdoc IGatewayRegistry
    function isActiveKey(bytes32 key) public view returns (bool) {
        Gateway storage item = _gateways[key];
        if (item.owner == address(0) || item.deactivated || !item.whitelisted) return false;
        return !_staking.isOverdrawn(key);
    }

    /// @inheritdoc IGatewayRegistry
    function isEligible(string calldata id) external view returns (bool) {
        return isEligibleKey(Ids.keyOf(id));
    }

    /// @inheritdoc IGatewayRegistry
    function isEligibleKey(bytes32 key) public view returns (bool) {
        if (!isActiveKey(key) || _slashing.isGatewayJailed(key)) return false;
        IGatewayStaking.Stake memory stake = _staking.stakeOfKey(key);
        return stake.windDownEnd == 0 && stake.amount - stake.reserved >= _staking.minGatewayStake();
    }

    /// @inheritdoc IGatewayRegistry
    function hashConsent(bytes32 key, address owner_, address signer) public view returns (bytes32) {
        return _hashTypedDataV4(Consent.structHash(key, owner_, signer));
    }

    function _wire(IDirectory.Entries memory entries) internal override {
        _token = IFuncToken(entries.token);
        _epochs = IEpochController(entries.epochs);
        _staking = IGatewayStaking(entries.gatewayStaking);
        _slashing = ISlashing(entries.slashing);
    }

    function _register(string calldata id, string calldata metadata) private returns (bytes32 key) {
        Ids.checkId(id);
        Ids.checkMetadata(metadata);
        key = Ids.keyOf(id);
        Gateway storage item = _gateways[key];
        if (item.owner != address(0)) revert GatewayIdTaken(key);
        item.owner = msg.sender;
        item.whitelisted = autoWhitelist;
        item.id = id;
        item.metadata = metadata;
        emit GatewayRegistered(id, key, msg.sender, metadata);
        if (gatewayOfSigner[msg.sender] == 0) _setSigner(key, msg.sender, _epochs.currentEpoch());
    }

    function _setSigner(bytes32 key, address signer, uint64 from) private {
        gatewayOfSigner[signer] = key;
        _signers[key].push(from, uint160(signer));
        emit GatewaySignerUpdated(key, signer, from);
    }

    function _find(string calldata id) private view returns (bytes32 key, Gateway storage item) {
        key = Ids.keyOf(id);
        item = _gateways[key];
        if (item.owner == address(0)) revert UnknownGateway(key);
    }

    function _mine(string calldata id) private view returns (bytes32 key, Gateway storage item) {
        (key, item) = _find(id);
        if (item.owner != msg.sender) revert NotGatewayOwner(key, msg.sender);
    }
}
