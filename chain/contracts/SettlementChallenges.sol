// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IDirectory} from "./interfaces/IDirectory.sol";
import {IFuncToken} from "./interfaces/IFuncToken.sol";
import {ISettlementChallenges} from "./interfaces/ISettlement.sol";
import {Ids} from "./libraries/Ids.sol";
import {SettlementPenalties} from "./base/SettlementPenalties.sol";
import {SettlementState} from "./base/SettlementState.sol";

/// @title The disputes that the chain decides by itself.
/// @dev Code only: Settlement runs it on its own storage. Called at its own address it knows nobody and moves nothing.
/// No challenge changes a checkpoint or a pot, so none can hold up a claim.
contract SettlementChallenges is ISettlementChallenges, SettlementPenalties {
    using SafeERC20 for IFuncToken;

    constructor(IDirectory directory, address owner_) SettlementState(directory, owner_) {
        _lockWiring();
    }

    /// @inheritdoc ISettlementChallenges
    function challengeOmission(
        ContributionVoucher calldata voucher,
        bytes calldata signature,
        uint256 leafUnits,
        Sibling[] calldata proof
    ) external nonReentrant {
        uint64 epoch = voucher.epoch;
        uint64 current = _requireWindow(epoch, 0);
        _requireVoucher(voucher, signature);
        Checkpoint storage posted = _checkpoints[_slot(voucher.gateway, voucher.modelId, epoch)];
        if (posted.status == CheckpointStatus.Posted) {
            _show(posted, voucher, leafUnits, proof);
            emit LeafShown(voucher.gateway, voucher.provider, epoch, leafUnits, proof);
        } else {
            if (current <= epoch + 1) revert ChallengeWindowNotOpen(epoch);
            if (leafUnits != 0 || proof.length != 0) revert InvalidProof();
        }
        if (!_enforce(voucher, msg.sender)) revert NothingMissing();
    }

    /// @inheritdoc ISettlementChallenges
    function openOmissionChallenge(ContributionVoucher calldata voucher, bytes calldata signature)
        external
        nonReentrant
        returns (uint256 challengeId)
    {
        _requireWindow(voucher.epoch, 1);
        _requireVoucher(voucher, signature);
        _posted(voucher.gateway, voucher.modelId, voucher.epoch);
        Work storage work = _work[voucher.gateway][voucher.provider][voucher.epoch];
        if (voucher.cumulativeUnits <= work.challenged) revert AlreadyChallenged();
        uint256 missing = _missing(voucher);
        uint256 fee = _models.feeFor(voucher.modelId, voucher.epoch, missing);
        if (missing <= work.debt || fee == 0) revert NothingMissing();
        work.challenged = uint96(voucher.cumulativeUnits);

        uint256 bond = Math.max(1, Math.mulDiv(fee, _parametersAt(_epochs.currentEpoch()).bondBps, BPS));
        challengeId = _challenges.length;
        Challenge storage c = _challenges.push();
        c.status = ChallengeStatus.Open;
        c.epoch = voucher.epoch;
        c.answerBy = voucher.epoch + _epochs.epochRewardDelay();
        c.challenger = msg.sender;
        c.gateway = voucher.gateway;
        c.provider = voucher.provider;
        c.modelId = voucher.modelId;
        c.units = voucher.cumulativeUnits;
        c.bond = SafeCast.toUint128(bond);
        c.held = uint128(_gatewayStaking.holdLine(voucher.gateway, voucher.provider, fee));
        emit ChallengeOpened(challengeId, c.gateway, c.provider, c.epoch, c.units, c.answerBy);
        _token.safeTransferFrom(msg.sender, address(this), bond);
    }

    /// @inheritdoc ISettlementChallenges
    function answerOmission(uint256 challengeId, uint256 units, Sibling[] calldata proof) external nonReentrant {
        Challenge storage c = _openChallenge(challengeId);
        if (_epochs.currentEpoch() > c.answerBy) revert AnswerWindowClosed(challengeId);
        ContributionVoucher memory owed = ContributionVoucher(c.gateway, c.provider, c.modelId, c.epoch, c.units);
        _show(_checkpoints[_slot(owed.gateway, owed.modelId, owed.epoch)], owed, units, proof);
        emit OmissionAnswered(challengeId, units, proof);
        if (units < owed.cumulativeUnits) {
            _uphold(challengeId, c, owed);
            return;
        }
        c.status = ChallengeStatus.Answered;
        _gatewayStaking.endHold(owed.gateway, owed.provider, c.held);
        // Burned: nobody gains by a wrong challenge, nor by withholding a leaf until one comes.
        _token.burn(c.bond);
    }

    /// @inheritdoc ISettlementChallenges
    function resolveChallenge(uint256 challengeId) external nonReentrant {
        Challenge storage c = _openChallenge(challengeId);
        if (_epochs.currentEpoch() <= c.answerBy) revert AnswerWindowOpen(challengeId, c.answerBy);
        _uphold(challengeId, c, ContributionVoucher(c.gateway, c.provider, c.modelId, c.epoch, c.units));
    }

    /// @inheritdoc ISettlementChallenges
    function collectDebt(string calldata gatewayId, string calldata providerId, uint64 epoch) external nonReentrant {
        bytes32 gateway = Ids.keyOf(gatewayId);
        _requireGateway(gateway);
        bytes32 provider = Ids.keyOf(providerId);
        (address owner_, uint256 modelId) = _providers.ownerAndModel(provider);
        if (owner_ == address(0)) revert UnknownProvider(provider);
        uint256 debt = _work[gateway][provider][epoch].debt;
        if (debt == 0) revert NothingMissing();
        ContributionVoucher memory owed = ContributionVoucher(gateway, provider, modelId, epoch, debt);
        (uint256 units, uint256 fee, uint256 full, uint256 cover) = _affordable(owed, debt);
        if (units == 0) revert InsufficientCover(full, cover);
        _compensate(owed, debt, units, fee, msg.sender);
    }

    /// @inheritdoc ISettlementChallenges
    function challengeEquivocation(
        CheckpointCommitment calldata a,
        bytes calldata signatureA,
        CheckpointCommitment calldata b,
        bytes calldata signatureB
    ) external nonReentrant {
        _requireWindow(a.epoch, 0);
        _requireGateway(a.gateway);
        if (a.gateway != b.gateway || a.modelId != b.modelId || a.epoch != b.epoch) revert NotEquivocation();
        bytes32 digestA = _commitmentDigest(a);
        bytes32 digestB = _commitmentDigest(b);
        if (digestA == digestB) revert NotEquivocation();
        address signer = _gateways.signerAt(a.gateway, a.epoch);
        _requireSignature(digestA, signatureA, signer);
        _requireSignature(digestB, signatureB, signer);
        _punishEquivocation(a.gateway, a.modelId, a.epoch);
    }

    /// @inheritdoc ISettlementChallenges
    function challengePosted(CheckpointCommitment calldata commitment, bytes calldata signature) external nonReentrant {
        _requireWindow(commitment.epoch, 0);
        _requireGateway(commitment.gateway);
        Checkpoint storage posted = _posted(commitment.gateway, commitment.modelId, commitment.epoch);
        if (
            commitment.root == posted.root && commitment.totalUnits == posted.totalUnits
                && commitment.totalFees == posted.totalFees
        ) revert NotEquivocation();
        address signer = _gateways.signerAt(commitment.gateway, commitment.epoch);
        _requireSignature(_commitmentDigest(commitment), signature, signer);
        _punishEquivocation(commitment.gateway, commitment.modelId, commitment.epoch);
    }

    /// @inheritdoc ISettlementChallenges
    function challenge(uint256 challengeId) external view returns (Challenge memory) {
        if (challengeId >= _challenges.length) revert UnknownChallenge(challengeId);
        return _challenges[challengeId];
    }

    /// @inheritdoc ISettlementChallenges
    function challengeCount() external view returns (uint256) {
        return _challenges.length;
    }

    /// @inheritdoc ISettlementChallenges
    function shownUnits(bytes32 gateway, bytes32 provider, uint64 epoch) external view returns (uint256) {
        return _work[gateway][provider][epoch].shown;
    }

    /// @inheritdoc ISettlementChallenges
    function compensatedUnits(bytes32 gateway, bytes32 provider, uint64 epoch) external view returns (uint256) {
        return _work[gateway][provider][epoch].compensated;
    }

    /// @inheritdoc ISettlementChallenges
    function challengedUnits(bytes32 gateway, bytes32 provider, uint64 epoch) external view returns (uint256) {
        return _work[gateway][provider][epoch].challenged;
    }

    /// @inheritdoc ISettlementChallenges
    function debtUnits(bytes32 gateway, bytes32 provider, uint64 epoch) external view returns (uint256) {
        return _work[gateway][provider][epoch].debt;
    }

    /// @inheritdoc ISettlementChallenges
    function debtOf(bytes32 gateway) external view returns (uint256) {
        return _debts[gateway];
    }

    /// @dev Records the leaf of a checkpoint that a challenge or an answer shows.
    function _show(Checkpoint storage posted, ContributionVoucher memory owed, uint256 units, Sibling[] calldata proof)
        private
    {
        ContributionVoucher memory leaf =
            ContributionVoucher(owed.gateway, owed.provider, owed.modelId, owed.epoch, units);
        if (units == 0 || !_isLeaf(posted, leaf, proof)) revert InvalidProof();
        _work[owed.gateway][owed.provider][owed.epoch].shown = uint96(units);
    }

    function _uphold(uint256 challengeId, Challenge storage c, ContributionVoucher memory owed) private {
        c.status = ChallengeStatus.Upheld;
        _gatewayStaking.endHold(owed.gateway, owed.provider, c.held);
        _payments[c.challenger] += c.bond;
        emit ChallengeUpheld(challengeId);
        _enforce(owed, c.challenger);
    }

    /// @dev Once a slot. Lines stay untouched: they are the providers'.
    function _punishEquivocation(bytes32 gateway, uint256 modelId, uint64 epoch) private {
        bytes32 slot = _slot(gateway, modelId, epoch);
        if (_equivocated[slot]) revert AlreadyPenalized(gateway, Offence.Equivocation);
        _equivocated[slot] = true;
        uint64 current = _epochs.currentEpoch();
        Parameters memory p = _parametersAt(current);
        _slashing.jailGateway(gateway, current + p.jailEpochs);
        uint256 stake = _gatewayStaking.stakeOfKey(gateway).amount;
        _punish(gateway, Offence.Equivocation, stake * p.fraudPenaltyBps / BPS, msg.sender);
    }

    /// @param early epochs before the last one of the challenge window in which this one closes.
    function _requireWindow(uint64 epoch, uint64 early) private view returns (uint64 current) {
        current = _epochs.currentEpoch();
        if (epoch > current) revert ChallengeWindowNotOpen(epoch);
        if (current > epoch + _epochs.epochRewardDelay() - early) revert ChallengeWindowClosed(epoch);
    }

    function _requireVoucher(ContributionVoucher calldata voucher, bytes calldata signature) private view {
        Ids.checkBounds(voucher.cumulativeUnits, 1, MAX_UNITS);
        _requireGateway(voucher.gateway);
        (address owner_, uint256 provides) = _providers.ownerAndModel(voucher.provider);
        if (owner_ == address(0)) revert UnknownProvider(voucher.provider);
        if (provides != voucher.modelId) revert WrongModel(voucher.provider, voucher.modelId);
        _requireSignature(_voucherDigest(voucher), signature, _gateways.signerAt(voucher.gateway, voucher.epoch));
    }

    function _requireGateway(bytes32 gateway) private view {
        if (_gateways.ownerOf(gateway) == address(0)) revert UnknownGateway(gateway);
    }

    function _openChallenge(uint256 challengeId) private view returns (Challenge storage c) {
        if (challengeId >= _challenges.length) revert UnknownChallenge(challengeId);
        c = _challenges[challengeId];
        if (c.status != ChallengeStatus.Open) revert ChallengeNotOpen(challengeId);
    }
}
