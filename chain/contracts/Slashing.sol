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
import {IGatewayStaking} from "./interfaces/IGatewayStaking.sol";
import {IProviderRegistry} from "./interfaces/IProviderRegistry.sol";
import {IProviderStaking} from "./interfaces/IProviderStaking.sol";
import {IRouter} from "./interfaces/IRouter.sol";
import {ISettlement, ISettlementTypes} from "./interfaces/ISettlement.sol";
import {ISlashing} from "./interfaces/ISlashing.sol";
import {Ids} from "./libraries/Ids.sol";

/// @title Service-level commitments, their penalties, and the jail for providers and gateways.
contract Slashing is ISlashing, Stoppable, EIP712 {
    uint16 public constant MAX_PENALTY_BPS = 1000;
    /// @notice A report on fewer requests says nothing.
    uint32 public constant MIN_REQUESTS = 5;

    bytes32 private constant REPORT_TYPEHASH = keccak256(
        "SlaReport(bytes32 gateway,bytes32 provider,uint64 epoch,uint32 requests,uint16 uptimeBps,uint32 latencyMs)"
    );

    /// @dev Who is accused of having missed what, and how much it worked in that epoch.
    struct Accusation {
        bytes32 provider;
        uint64 epoch;
        uint64 current;
        uint256 modelId;
        uint256 worked;
        Sla promised;
        IProviderStaking pool;
    }

    /// @dev Who was served how much, and what some of those say.
    struct Evidence {
        bytes32[] gateways;
        uint256[] served;
        SlaReport[] reports;
        bytes[] signatures;
        uint256[] receiptUnits;
        bytes[] receiptSignatures;
    }

    IFuncToken private _token;
    IEpochController private _epochs;
    IProviderRegistry private _providers;
    IGatewayRegistry private _gateways;
    IGatewayStaking private _gatewayStaking;
    IRouter private _router;
    IDisputes private _disputes;
    ISettlement private _settlement;

    /// @inheritdoc ISlashing
    uint256 public quorum = 3;
    /// @inheritdoc ISlashing
    uint64 public slaJailEpochs = 4;
    /// @inheritdoc ISlashing
    mapping(bytes32 gateway => uint64) public gatewayJailedUntil;
    mapping(bytes32 provider => uint64) private _jailedBySla;
    mapping(bytes32 provider => uint64) private _jailedByDispute;
    mapping(bytes32 key => Sla) private _slas;
    /// @dev The first epoch of the last commitment that was penalised: no commitment costs more than once.
    mapping(bytes32 key => uint64 fromEpoch) private _penalized;

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
    function enforceSla(
        string calldata id,
        uint64 epoch,
        bytes32[] memory gateways,
        SlaReport[] memory reports,
        bytes[] memory signatures,
        uint256[] memory receiptUnits,
        bytes[] memory receiptSignatures
    ) external nonReentrant {
        uint256 n = reports.length;
        if (signatures.length != n || receiptUnits.length != n || receiptSignatures.length != n) {
            revert LengthMismatch();
        }
        Accusation memory a = _requirePromise(id, epoch);
        uint256[] memory served = _servedUnits(a, gateways);
        if (gateways.length < quorum) revert TooFewReports(gateways.length, quorum);
        Evidence memory evidence = Evidence(gateways, served, reports, signatures, receiptUnits, receiptSignatures);
        (uint256 against, uint256 all) = _majority(a, evidence, _missedWork(a, evidence));

        Sla storage promised = _slas[a.provider];
        _penalized[a.provider] = promised.fromEpoch;
        if (promised.untilEpoch > a.current) promised.untilEpoch = a.current;
        _jailProvider(_jailedBySla, a.provider, a.current + slaJailEpochs);
        uint256 penalty = a.pool.slash(a.provider, a.pool.stakeOfKey(a.provider) * a.promised.penaltyBps / 10_000);
        _token.burn(penalty);
        emit SlaPenalized(a.provider, epoch, penalty, against, all);
    }

    /// @inheritdoc ISlashing
    function jailGateway(bytes32 key, uint64 untilEpoch) external only(address(_settlement)) {
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
    function hashReport(SlaReport calldata report) external view returns (bytes32) {
        return _reportDigest(report);
    }

    function _wire(IDirectory.Entries memory entries) internal override {
        _token = IFuncToken(entries.token);
        _epochs = IEpochController(entries.epochs);
        _providers = IProviderRegistry(entries.providers);
        _gateways = IGatewayRegistry(entries.gateways);
        _gatewayStaking = IGatewayStaking(entries.gatewayStaking);
        _router = IRouter(entries.router);
        _disputes = IDisputes(entries.disputes);
        _settlement = ISettlement(entries.settlement);
    }

    function _jailProvider(mapping(bytes32 => uint64) storage jail, bytes32 key, uint64 untilEpoch) private {
        if (untilEpoch <= jail[key]) return;
        jail[key] = untilEpoch;
        emit ProviderJailed(key, untilEpoch);
    }

    function _isNow(uint64 until) private view returns (bool) {
        return until != 0 && _epochs.currentEpoch() <= until;
    }

    function _requirePromise(string calldata id, uint64 epoch) private view returns (Accusation memory a) {
        bytes32 key = Ids.keyOf(id);
        (, uint256 modelId) = _provider(key);
        Sla memory promised = _slas[key];
        bool covers = promised.fromEpoch != 0 && epoch >= promised.fromEpoch && epoch <= promised.untilEpoch;
        if (!covers) revert NoSla(key, epoch);
        uint64 current = _epochs.currentEpoch();
        uint64 delay = _epochs.epochRewardDelay();
        if (current < epoch + delay || current > epoch + 2 * delay) revert EvidenceWindow(epoch, current);
        if (_penalized[key] == promised.fromEpoch) revert AlreadyPenalized(key, epoch);
        IProviderStaking pool = IProviderStaking(_router.stakingPool(modelId));
        (uint128 worked,) = pool.contribution(id, epoch);
        return Accusation(key, epoch, current, modelId, worked, promised, pool);
    }

    /// @dev Proven units by gateway. They must be all that the provider worked, so that nobody is left out of the count.
    function _servedUnits(Accusation memory a, bytes32[] memory gateways)
        private
        view
        returns (uint256[] memory units)
    {
        units = new uint256[](gateways.length);
        uint256 sum;
        bytes32 previous;
        for (uint256 i = 0; i < gateways.length; ++i) {
            if (gateways[i] <= previous) revert ReportsNotSorted();
            previous = gateways[i];
            units[i] = _settlement.provenUnits(previous, a.provider, a.epoch);
            if (units[i] == 0) revert NotServed(previous);
            sum += units[i];
        }
        if (sum != a.worked) revert ServedIncomplete(sum, a.worked);
    }

    /// @dev By gateway the work, proven and acknowledged, that it reports as missed; 0 if it does not.
    function _missedWork(Accusation memory a, Evidence memory e) private view returns (uint256[] memory work) {
        work = new uint256[](e.gateways.length);
        uint256 place; // of the first gateway that has not reported
        for (uint256 i = 0; i < e.reports.length; ++i) {
            SlaReport memory report = e.reports[i];
            while (place < work.length && e.gateways[place] < report.gateway) ++place;
            if (place == work.length || e.gateways[place] != report.gateway) revert WrongReport(i);
            if (report.provider != a.provider || report.epoch != a.epoch) revert WrongReport(i);
            _requireSigner(_reportDigest(report), e.signatures[i], _gateways.signerAt(report.gateway, a.epoch));
            _requireReceipt(a, report.gateway, e.receiptUnits[i], e.receiptSignatures[i]);
            bool missed = report.requests >= MIN_REQUESTS
                && (report.uptimeBps < a.promised.uptimeBps || report.latencyMs > a.promised.latencyMs);
            if (missed) work[place] = Math.min(e.receiptUnits[i], e.served[place]);
            ++place;
        }
    }

    /// @dev Anybody can post, and pay for, a leaf of a provider; only those that it acknowledged may accuse it.
    function _requireReceipt(Accusation memory a, bytes32 gateway, uint256 units, bytes memory signature) private view {
        if (units == 0) revert InvalidSignature();
        bytes32 digest = _settlement.hashReceipt(
            ISettlementTypes.ContributionVoucher(gateway, a.provider, a.modelId, a.epoch, units)
        );
        _requireSigner(digest, signature, _providers.signerAt(a.provider, a.epoch));
    }

    /// @dev Needs more than half, both of the effective stake and of the work.
    function _majority(Accusation memory a, Evidence memory e, uint256[] memory missedWork)
        private
        view
        returns (uint256 against, uint256 all)
    {
        uint256 work;
        for (uint256 i = 0; i < missedWork.length; ++i) {
            uint256 weight = _gatewayStaking.effectiveStakeOfKey(e.gateways[i]);
            all += weight;
            if (missedWork[i] == 0) continue;
            against += weight;
            work += missedWork[i];
        }
        if (2 * against <= all) revert SlaKept(against, all);
        if (2 * work <= a.worked) revert SlaKept(work, a.worked);
    }

    function _reportDigest(SlaReport memory report) private view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(REPORT_TYPEHASH, report)));
    }

    /// @dev Plain ECDSA, as for vouchers.
    function _requireSigner(bytes32 digest, bytes memory signature, address signer) private pure {
        (address found, ECDSA.RecoverError failure,) = ECDSA.tryRecover(digest, signature);
        if (failure != ECDSA.RecoverError.NoError || found != signer) revert InvalidSignature();
    }

    function _slaRuns(bytes32 key) private view returns (bool) {
        uint64 until = _slas[key].untilEpoch;
        return until != 0 && _epochs.currentEpoch() <= until + 2 * _epochs.epochRewardDelay();
    }

    function _provider(bytes32 key) private view returns (address owner_, uint256 modelId) {
        (owner_, modelId) = _providers.ownerAndModel(key);
        if (owner_ == address(0)) revert UnknownProvider(key);
    }
}
