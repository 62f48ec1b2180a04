// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {Stoppable} from "./base/Stoppable.sol";
import {Wired} from "./base/Wired.sol";
import {IDirectory} from "./interfaces/IDirectory.sol";
import {IEpochController} from "./interfaces/IEpochController.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";
import {IProviderRegistry} from "./interfaces/IProviderRegistry.sol";
import {IProviderStaking} from "./interfaces/IProviderStaking.sol";
import {IRouter} from "./interfaces/IRouter.sol";
import {ISlashing} from "./interfaces/ISlashing.sol";
import {Consent} from "./libraries/Consent.sol";
import {Ids} from "./libraries/Ids.sol";

/// @title Who provides which model, and where.
contract ProviderRegistry is IProviderRegistry, Stoppable, EIP712 {
    using SafeERC20 for IERC20;
    using Checkpoints for Checkpoints.Trace160;

    /// @notice So that a cluster claim stays within a block.
    uint256 public constant MAX_PROVIDERS_PER_OWNER = 100;

    IERC20 private _token;
    IEpochController private _epochs;
    IModelRegistry private _models;
    IRouter private _router;
    ISlashing private _slashing;

    /// @inheritdoc IProviderRegistry
    bool public autoWhitelist = true;
    mapping(bytes32 key => Provider) private _providers;
    mapping(bytes32 key => Checkpoints.Trace160) private _signers;
    mapping(address owner => bytes32[]) private _owned;

    constructor(IDirectory directory, address owner_) Wired(directory, owner_) EIP712("InferenceMesh", "1") {}

    /// @inheritdoc IProviderRegistry
    function register(string calldata id, uint256 modelId, string calldata metadata) external whenNotPaused {
        _register(id, modelId, metadata);
    }

    /// @inheritdoc IProviderRegistry
    function registerAndStake(string calldata id, uint256 modelId, string calldata metadata)
        external
        whenNotPaused
        nonReentrant
    {
        bytes32 key = _register(id, modelId, metadata);
        if (!autoWhitelist) revert AutoWhitelistOff();
        uint256 amount = _models.modelStakeAmount(modelId);
        address pool = _router.stakingPool(modelId);
        _token.safeTransferFrom(msg.sender, address(this), amount);
        _token.forceApprove(pool, amount);
        // The pool takes exactly what the model asks of a provider without stake, which is what was approved.
        uint256 staked = IProviderStaking(pool).stakeFromRegistry(id, msg.sender);
        emit ProviderRegisteredAndStaked(id, key, msg.sender, modelId, metadata, staked);
    }

    /// @inheritdoc IProviderRegistry
    function claimRewardsCluster(uint64 from, uint64 to)
        external
        nonReentrant
        returns (uint256 amount, string[] memory failed)
    {
        bytes32[] memory keys = _owned[msg.sender];
        if (keys.length == 0) revert NoProvidersOwned(msg.sender);
        failed = new string[](keys.length);
        uint256 failures;
        for (uint256 i = 0; i < keys.length; ++i) {
            Provider storage item = _providers[keys[i]];
            string memory id = item.id;
            try IProviderStaking(_router.stakingPool(item.modelId)).claimRewards(id, from, to) returns (uint256 paid) {
                amount += paid;
            } catch (bytes memory reason) {
                failed[failures++] = id;
                emit ClusterClaimFailed(id, reason);
            }
        }
        // Shortens the array to the items that failed.
        assembly ("memory-safe") {
            mstore(failed, failures)
        }
        emit RewardClaimedForCluster(msg.sender, from, to, amount, failed);
    }

    /// @inheritdoc IProviderRegistry
    function deactivate(string calldata id) external {
        (bytes32 key, Provider storage item) = _mine(id);
        if (item.deactivated) revert AlreadyDeactivated(key);
        item.deactivated = true;
        emit ProviderDeactivated(key);
    }

    /// @inheritdoc IProviderRegistry
    function reactivate(string calldata id) external {
        (bytes32 key, Provider storage item) = _mine(id);
        if (!item.deactivated) revert NotDeactivated(key);
        item.deactivated = false;
        emit ProviderReactivated(key);
    }

    /// @inheritdoc IProviderRegistry
    function updateMetadata(string calldata id, string calldata metadata) external {
        (bytes32 key, Provider storage item) = _mine(id);
        Ids.checkMetadata(metadata);
        item.metadata = metadata;
        emit ProviderMetadataUpdated(key, metadata);
    }

    /// @inheritdoc IProviderRegistry
    function setSigner(string calldata id, address signer, bytes calldata consent) external {
        (bytes32 key,) = _mine(id);
        if (signer == address(0)) revert ZeroAddress();
        if (signer != msg.sender) Consent.check(hashConsent(key, msg.sender, signer), consent, signer);
        uint64 from = _epochs.currentEpoch() + 1;
        _signers[key].push(from, uint160(signer));
        emit ProviderSignerUpdated(key, signer, from);
    }

    /// @inheritdoc IProviderRegistry
    function setWhitelisted(string calldata id, bool whitelisted) external onlyOwner {
        (bytes32 key, Provider storage item) = _find(id);
        item.whitelisted = whitelisted;
        emit ProviderWhitelisted(key, whitelisted);
    }

    /// @inheritdoc IProviderRegistry
    function setAutoWhitelist(bool enabled) external onlyOwner {
        autoWhitelist = enabled;
        emit AutoWhitelistUpdated(enabled);
    }

    /// @inheritdoc IProviderRegistry
    function provider(string calldata id) external view returns (Provider memory) {
        (, Provider storage item) = _find(id);
        return item;
    }

    /// @inheritdoc IProviderRegistry
    function ownerAndModel(bytes32 key) external view returns (address, uint256) {
        Provider storage item = _providers[key];
        return (item.owner, item.modelId);
    }

    /// @inheritdoc IProviderRegistry
    function providersOf(address owner_) external view returns (string[] memory ids) {
        bytes32[] memory keys = _owned[owner_];
        ids = new string[](keys.length);
        for (uint256 i = 0; i < keys.length; ++i) {
            ids[i] = _providers[keys[i]].id;
        }
    }

    /// @inheritdoc IProviderRegistry
    function signerAt(bytes32 key, uint64 epoch) external view returns (address) {
        return address(_signers[key].upperLookupRecent(epoch));
    }

    /// @inheritdoc IProviderRegistry
    function isActive(string calldata id) external view returns (bool) {
        return _isActive(Ids.keyOf(id));
    }

    /// @inheritdoc IProviderRegistry
    function isEligible(string calldata id) external view returns (bool) {
        bytes32 key = Ids.keyOf(id);
        return _isActive(key) && !_slashing.isProviderJailed(key);
    }

    /// @inheritdoc IProviderRegistry
    function hashConsent(bytes32 key, address owner_, address signer) public view returns (bytes32) {
        return _hashTypedDataV4(Consent.structHash(key, owner_, signer));
    }

    function _wire(IDirectory.Entries memory entries) internal override {
        _token = IERC20(entries.token);
        _epochs = IEpochController(entries.epochs);
        _models = IModelRegistry(entries.models);
        _router = IRouter(entries.router);
        _slashing = ISlashing(entries.slashing);
    }

    function _isActive(bytes32 key) private view returns (bool) {
        Provider storage item = _providers[key];
        if (item.owner == address(0) || item.deactivated || !item.whitelisted) return false;
        uint256 modelId = item.modelId;
        if (!_models.isEnabled(modelId)) return false;
        return IProviderStaking(_router.stakingPool(modelId)).stakeOfKey(key) >= _models.modelStakeAmount(modelId);
    }

    function _register(string calldata id, uint256 modelId, string calldata metadata) private returns (bytes32 key) {
        Ids.checkId(id);
        Ids.checkMetadata(metadata);
        key = Ids.keyOf(id);
        Provider storage item = _providers[key];
        if (item.owner != address(0)) revert ProviderIdTaken(key);
        if (!_models.exists(modelId)) revert UnknownModel(modelId);
        if (!_models.isEnabled(modelId)) revert ModelNotEnabled(modelId);
        bytes32[] storage owned = _owned[msg.sender];
        if (owned.length >= MAX_PROVIDERS_PER_OWNER) revert TooManyProviders(msg.sender, MAX_PROVIDERS_PER_OWNER);

        item.owner = msg.sender;
        item.modelId = modelId;
        item.whitelisted = autoWhitelist;
        item.id = id;
        item.metadata = metadata;
        owned.push(key);
        _signers[key].push(_epochs.currentEpoch(), uint160(msg.sender));
        emit ProviderRegistered(id, key, msg.sender, modelId, metadata);
    }

    function _find(string calldata id) private view returns (bytes32 key, Provider storage item) {
        key = Ids.keyOf(id);
        item = _providers[key];
        if (item.owner == address(0)) revert UnknownProvider(key);
    }

    function _mine(string calldata id) private view returns (bytes32 key, Provider storage item) {
        (key, item) = _find(id);
        if (item.owner != msg.sender) revert NotProviderOwner(key, msg.sender);
    }
}
