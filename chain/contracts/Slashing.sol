// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Stoppable} from "./base/Stoppable.sol";
import {Wired} from "./base/Wired.sol";
import {IDirectory} from "./interfaces/IDirectory.sol";
import {IDisputes} from "./interfaces/IDisputes.sol";
import {IEpochController} from "./interfaces/IEpochController.sol";
import {IFuncToken} from "./interfaces/IFuncToken.sol";
import {IGatewayRegistry} from "./interfaces/IGatewayRegistry.sol";
import {IProviderRegistry} from "./interfaces/IProviderRegistry.sol";
import {IProviderStaking} from "./interfaces/IProviderStaking.sol";
import {IRouter} from "./interfaces/IRouter.sol";
import {ISlashing} from "./interfaces/ISlashing.sol";
import {Ids} from "./libraries/Ids.sol";

/// @title Service-level commitments, their penalties, and the jail for providers and gateways.
contract Slashing is ISlashing, Stoppable, EIP712 {
    uint16 public constant MAX_PENALTY_BPS = 1000;

    bytes32 private constant REPORT_TYPEHASH =
        keccak256("SlaReport(bytes32 gateway,bytes32 provider,uint64 epoch,uint16 uptimeBps,uint32 latencyMs)");

    IFuncToken private _token;
    IEpochController private _epochs;
    IProviderRegistry private _providers;
    IGatewayRegistry private _gateways;
    IRouter private _router;
    IDisputes private _disputes;
    address private _settlement;

    /// @inheritdoc ISlashing
    uint256 public quorum = 3;
    /// @inheritdoc ISlashing
    uint64 public slaJailEpochs = 4;
    /// @inheritdoc ISlashing
    mapping(bytes32 gateway => uint64) public gatewayJailedUntil;
    mapping(bytes32 provider => uint64) private _jailedBySla;
    mapping(bytes32 provider => uint64) private _jailedByDispute;
    mapping(bytes32 key => Sla) private _slas;
    mapping(bytes32 key => mapping(uint64 epoch => bool)) private _penalized;

    constructor(IDirectory directory, address owner_) Wired(directory, owner_) EIP712("InferenceMesh", "1") {}

    /// @inheritdoc ISlashing
    function commitSla(string calldata id, uint16 uptimeBps, uint32 latencyMs, uint16 penaltyBps, uint64 epochs)
        external
        whenNotPaused
    {
        bytes32 key = Ids.keyOf(id);
        (address provider,) = _provider(key);
        if (provider != msg.sender) revert NotProviderOwner(key, msg.sender);
        Ids.checkBounds(uptimeBps, 1, 10_000);
        Ids.checkBounds(latencyMs, 1, type(uint32).max);
        Ids.checkBounds(penaltyBps, 1, MAX_PENALTY_BPS);
        Ids.checkBounds(epochs, 1, 1000);
        if (_slaRuns(key)) revert SlaRunning(key, _slas[key].untilEpoch);
        uint64 current = _epochs.currentEpoch();
        _slas[key] = Sla(uptimeBps, latencyMs, penaltyBps, current + 1, current + epochs);
        emit SlaCommitted(id, key, uptimeBps, latencyMs, penaltyBps, current + 1, current + epochs);
    }

    /// @inheritdoc ISlashing
    function enforceSla(string calldata id, uint64 epoch, SlaReport[] calldata reports, bytes[] calldata signatures)
        external
        nonReentrant
    {
        if (reports.length != signatures.length) revert LengthMismatch();
        bytes32 key = Ids.keyOf(id);
        (, uint256 modelId) = _provider(key);
        Sla memory promised = _slas[key];
        if (epoch < promised.fromEpoch || epoch > promised.untilEpoch) revert NoSla(key, epoch);
        uint64 current = _epochs.currentEpoch();
        if (current <= epoch || current >= epoch + _epochs.epochRewardDelay()) revert EvidenceWindow(epoch, current);
        if (_penalized[key][epoch]) revert AlreadyPenalized(key, epoch);
        if (reports.length < quorum) revert TooFewReports(reports.length, quorum);

        uint256 missed = _countMissed(key, epoch, promised, reports, signatures);
        if (missed * 2 <= reports.length) revert SlaKept(missed, reports.length);

        _penalized[key][epoch] = true;
        _jailProvider(_jailedBySla, key, current + slaJailEpochs);
        IProviderStaking pool = IProviderStaking(_router.stakingPool(modelId));
        uint256 penalty = pool.slash(key, pool.stakeOfKey(key) * promised.penaltyBps / 10_000);
        _token.burn(penalty);
        emit SlaPenalized(key, epoch, penalty, missed, reports.length);
    }

    /// @inheritdoc ISlashing
    function jailGateway(bytes32 key, uint64 untilEpoch) external only(_settlement) {
        if (untilEpoch <= gatewayJailedUntil[key]) return;
        gatewayJailedUntil[key] = untilEpoch;
        emit GatewayJailed(key, untilEpoch);
    }

    /// @inheritdoc ISlashing
    function jailProvider(bytes32 key, uint64 untilEpoch) external only(address(_disputes)) {
        _jailProvider(_jailedByDispute, key, untilEpoch);
    }

    /// @inheritdoc ISlashing
    function releaseProvider(bytes32 key) external only(address(_disputes)) {
        _jailedByDispute[key] = 0;
        emit ProviderReleased(key);
    }

    /// @inheritdoc ISlashing
    function setQuorum(uint256 quorum_) external onlyOwner {
        Ids.checkBounds(quorum_, 2, 64);
        emit QuorumUpdated(quorum, quorum_);
        quorum = quorum_;
    }

    /// @inheritdoc ISlashing
    function setSlaJailEpochs(uint64 epochs) external onlyOwner {
        Ids.checkBounds(epochs, 1, 100);
        emit SlaJailEpochsUpdated(slaJailEpochs, epochs);
        slaJailEpochs = epochs;
    }

    /// @inheritdoc ISlashing
    function isGatewayJailed(bytes32 key) external view returns (bool) {
        return _isNow(gatewayJailedUntil[key]);
    }

    /// @inheritdoc ISlashing
    function isProviderJailed(bytes32 key) external view returns (bool) {
        return _isNow(providerJailedUntil(key));
    }

    /// @inheritdoc ISlashing
    function providerJailedUntil(bytes32 key) public view returns (uint64) {
        return uint64(Math.max(_jailedBySla[key], _jailedByDispute[key]));
    }

    /// @inheritdoc ISlashing
    function sla(string calldata id) external view returns (Sla memory) {
        return _slas[Ids.keyOf(id)];
    }

    /// @inheritdoc ISlashing
    function isStakeHeld(bytes32 key) external view returns (bool) {
        return _slaRuns(key) || _disputes.hasOpenCase(key);
    }

    /// @inheritdoc ISlashing
    function hashReport(SlaReport calldata report) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(REPORT_TYPEHASH, report)));
    }

    function _wire(IDirectory.Entries memory entries) internal override {
        _token = IFuncToken(entries.token);
        _epochs = IEpochController(entries.epochs);
        _providers = IProviderRegistry(entries.providers);
        _gateways = IGatewayRegistry(entries.gateways);
        _router = IRouter(entries.router);
        _disputes = IDisputes(entries.disputes);
        _settlement = entries.settlement;
    }

    function _jailProvider(mapping(bytes32 => uint64) storage jail, bytes32 key, uint64 untilEpoch) private {
        if (untilEpoch <= jail[key]) return;
        jail[key] = untilEpoch;
        emit ProviderJailed(key, untilEpoch);
    }

    function _isNow(uint64 until) private view returns (bool) {
        return until != 0 && _epochs.currentEpoch() <= until;
    }

    function _countMissed(
        bytes32 key,
        uint64 epoch,
        Sla memory promised,
        SlaReport[] calldata reports,
        bytes[] calldata signatures
    ) private view returns (uint256 missed) {
        bytes32 previous;
        for (uint256 i = 0; i < reports.length; ++i) {
            SlaReport calldata report = reports[i];
            if (report.provider != key || report.epoch != epoch) revert WrongReport(i);
            if (report.gateway <= previous) revert ReportsNotSorted();
            previous = report.gateway;
            if (!_gateways.isActiveKey(report.gateway)) revert GatewayNotActive(report.gateway);
            address signer = _gateways.signerAt(report.gateway, epoch);
            (address found, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(hashReport(report), signatures[i]);
            if (failure != ECDSA.RecoverError.NoError || found != signer) revert InvalidSignature();
            if (report.uptimeBps < promised.uptimeBps || report.latencyMs > promised.latencyMs) ++missed;
        }
    }

    function _slaRuns(bytes32 key) private view returns (bool) {
        uint64 until = _slas[key].untilEpoch;
        return until != 0 && _epochs.currentEpoch() < until + _epochs.epochRewardDelay();
    }

    function _provider(bytes32 key) private view returns (address owner_, uint256 modelId) {
        (owner_, modelId) = _providers.ownerAndModel(key);
        if (owner_ == address(0)) revert UnknownProvider(key);
    }
}
