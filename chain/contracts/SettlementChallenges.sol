// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {IDirectory} from "./interfaces/IDirectory.sol";
import {IFuncToken} from "./interfaces/IFuncToken.sol";
import {ISettlementChallenges} from "./interfaces/ISettlement.sol";
import {Ids} from "./libraries/Ids.sol";
import {Leaves} from "./libraries/Leaves.sol";
import {SettlementState} from "./base/SettlementState.sol";

/// @title The disputes that the chain decides by itself.
/// @dev Code only: Settlement runs it on its own storage. Called at its own address it knows nobody and moves nothing.
contract SettlementChallenges is ISettlementChallenges, SettlementState {
    using SafeERC20 for IFuncToken;

    constructor(IDirectory directory, address owner_) SettlementState(directory, owner_) {
        _lockWiring();
    }

    /// @inheritdoc ISettlementChallenges
    function challengeOmission(
        ContributionVoucher calldata voucher,
        bytes calldata signature,
        uint256 leafUnits,
        bytes32[] calldata proof
    ) external nonReentrant {
        uint64 epoch = voucher.epoch;
        uint64 current = _requireWindow(epoch, 1);
        _requireVoucher(voucher, signature);
        Checkpoint storage posted = _checkpoints[_slot(voucher.gateway, voucher.modelId, epoch)];
        if (posted.status == CheckpointStatus.Posted) {
            bytes32 leaf = Leaves.hash(voucher.gateway, voucher.provider, voucher.modelId, epoch, leafUnits);
            if (!MerkleProof.verifyCalldata(proof, posted.root, leaf)) revert InvalidProof();
        } else {
            if (posted.status == CheckpointStatus.None && current <= epoch + 1) revert ChallengeWindowNotOpen(epoch);
            if (leafUnits != 0 || proof.length != 0) revert InvalidProof();
        }
        uint256 known = Math.saturatingAdd(leafUnits, _compensated[voucher.gateway][voucher.provider][epoch]);
        if (voucher.cumulativeUnits <= known) revert NothingMissing();
        uint256 missing = voucher.cumulativeUnits - known;
        if (!_compensate(voucher.gateway, voucher.provider, voucher.modelId, epoch, missing, msg.sender)) {
            revert InsufficientCover(_models.feeFor(voucher.modelId, epoch, missing), _cover(voucher.gateway));
        }
    }

    /// @inheritdoc ISettlementChallenges
    function openOmissionChallenge(ContributionVoucher calldata voucher, bytes calldata signature)
        external
        nonReentrant
        returns (uint256 challengeId)
    {
        _requireWindow(voucher.epoch, 2);
        _requireVoucher(voucher, signature);
        _posted(voucher.gateway, voucher.modelId, voucher.epoch);
        bytes32 subject = _omissionSubject(voucher.gateway, voucher.provider, voucher.epoch);
        if (_challenged[subject]) revert AlreadyChallenged();
        uint256 known = _compensated[voucher.gateway][voucher.provider][voucher.epoch];
        if (voucher.cumulativeUnits <= known) revert NothingMissing();
        _challenged[subject] = true;
        uint256 fee = _models.feeFor(voucher.modelId, voucher.epoch, voucher.cumulativeUnits - known);
        uint256 wanted = fee + Math.mulDiv(fee, _parametersAt(_epochs.currentEpoch()).omissionPenaltyBps, BPS);
        return _open(
            ChallengeKind.Omission,
            voucher.gateway,
            voucher.provider,
            voucher.modelId,
            voucher.epoch,
            voucher.cumulativeUnits,
            wanted
        );
    }

    /// @inheritdoc ISettlementChallenges
    function answerOmission(uint256 challengeId, uint256 units, bytes32[] calldata proof) external nonReentrant {
        Challenge storage c = _answerable(challengeId, ChallengeKind.Omission);
        Checkpoint storage posted = _posted(c.gateway, c.modelId, c.epoch);
        bytes32 leaf = Leaves.hash(c.gateway, c.provider, c.modelId, c.epoch, units);
        if (units < c.units || !MerkleProof.verifyCalldata(proof, posted.root, leaf)) revert InvalidProof();
        _challenged[_omissionSubject(c.gateway, c.provider, c.epoch)] = false;
        _answered(challengeId, c);
    }

    /// @inheritdoc ISettlementChallenges
    function openLeafChallenge(
        bytes32 gateway,
        uint256 modelId,
        uint64 epoch,
        Leaf calldata leaf,
        bytes32[] calldata proof
    ) external nonReentrant returns (uint256 challengeId) {
        _requireWindow(epoch, 2);
        Checkpoint storage posted = _posted(gateway, modelId, epoch);
        if (leaf.units == 0) revert ZeroAmount();
        bytes32 subject = Leaves.hash(gateway, leaf.provider, modelId, epoch, leaf.units);
        if (!MerkleProof.verifyCalldata(proof, posted.root, subject)) revert InvalidProof();
        if (_challenged[subject]) revert AlreadyChallenged();
        _challenged[subject] = true;
        _modelEpochs[modelId][epoch].openChallenges += 1;
        uint256 wanted = _fraudPenalty(gateway);
        return _open(ChallengeKind.UnsupportedLeaf, gateway, leaf.provider, modelId, epoch, leaf.units, wanted);
    }

    /// @inheritdoc ISettlementChallenges
    function answerLeaf(uint256 challengeId, uint256 receiptUnits, bytes calldata receiptSignature)
        external
        nonReentrant
    {
        Challenge storage c = _answerable(challengeId, ChallengeKind.UnsupportedLeaf);
        _posted(c.gateway, c.modelId, c.epoch);
        _requireProvider(c.provider, c.modelId);
        if (receiptUnits < c.units) revert InvalidProof();
        bytes32 digest =
            _receiptDigest(ContributionVoucher(c.gateway, c.provider, c.modelId, c.epoch, receiptUnits));
        _requireSignature(digest, receiptSignature, _providers.signerAt(c.provider, c.epoch));
        _modelEpochs[c.modelId][c.epoch].openChallenges -= 1;
        _answered(challengeId, c);
    }

    /// @inheritdoc ISettlementChallenges
    function resolveChallenge(uint256 challengeId) external nonReentrant {
        Challenge storage c = _openChallenge(challengeId);
        if (_epochs.currentEpoch() <= c.answerBy) revert AnswerWindowOpen(challengeId, c.answerBy);
        c.status = ChallengeStatus.Upheld;
        _payments[c.challenger] += c.bond;
        emit ChallengeUpheld(challengeId);
        if (c.kind == ChallengeKind.Omission) {
            _challenged[_omissionSubject(c.gateway, c.provider, c.epoch)] = false;
            _endHold(c);
            uint256 known = _compensated[c.gateway][c.provider][c.epoch];
            if (c.units > known) {
                _compensate(c.gateway, c.provider, c.modelId, c.epoch, c.units - known, c.challenger);
            }
        } else {
            ModelEpoch storage sums = _modelEpochs[c.modelId][c.epoch];
            sums.openChallenges -= 1;
            _endHold(c);
            Checkpoint storage posted = _checkpoints[_slot(c.gateway, c.modelId, c.epoch)];
            if (posted.status != CheckpointStatus.Posted) return;
            _barred[Leaves.hash(c.gateway, c.provider, c.modelId, c.epoch, c.units)] = true;
            uint128 lost = uint128(Math.min(c.units, posted.totalUnits - posted.barredUnits));
            posted.barredUnits += uint120(lost);
            sums.units -= lost;
            _punishFraud(c.gateway, c.modelId, c.epoch, Offence.UnsupportedLeaf, c.challenger);
        }
    }

    /// @inheritdoc ISettlementChallenges
    function challengeSum(bytes32 gateway, uint256 modelId, uint64 epoch, Leaf[] calldata leaves)
        external
        nonReentrant
    {
        Checkpoint storage posted = _requireSumChallenge(gateway, modelId, epoch, leaves);
        (bytes32[] memory hashes, uint256 sum) = _hashLeaves(gateway, modelId, epoch, leaves);
        if (Leaves.root(hashes) != posted.root) revert InvalidProof();
        if (sum == posted.totalUnits) revert SumIsRight();
        _punishFraud(gateway, modelId, epoch, Offence.SumMismatch, msg.sender);
        _void(gateway, modelId, epoch, posted);
    }

    /// @inheritdoc ISettlementChallenges
    function challengeSumOverflow(
        bytes32 gateway,
        uint256 modelId,
        uint64 epoch,
        Leaf[] calldata leaves,
        bytes32[] calldata proof,
        bool[] calldata flags
    ) external nonReentrant {
        Checkpoint storage posted = _requireSumChallenge(gateway, modelId, epoch, leaves);
        (bytes32[] memory hashes, uint256 sum) = _hashLeaves(gateway, modelId, epoch, leaves);
        // Ascending hashes are different leaves, so none is counted twice.
        for (uint256 i = 1; i < hashes.length; ++i) {
            if (hashes[i] <= hashes[i - 1]) revert LeavesNotSorted();
        }
        if (!MerkleProof.multiProofVerifyCalldata(proof, flags, posted.root, hashes)) revert InvalidProof();
        if (sum <= posted.totalUnits) revert SumIsRight();
        _punishFraud(gateway, modelId, epoch, Offence.SumMismatch, msg.sender);
        _void(gateway, modelId, epoch, posted);
    }

    /// @inheritdoc ISettlementChallenges
    function challengeEquivocation(
        CheckpointCommitment calldata a,
        bytes calldata signatureA,
        CheckpointCommitment calldata b,
        bytes calldata signatureB
    ) external nonReentrant {
        _requireWindow(a.epoch, 1);
        _requireGateway(a.gateway);
        if (a.gateway != b.gateway || a.modelId != b.modelId || a.epoch != b.epoch) revert NotEquivocation();
        bytes32 digestA = _commitmentDigest(a);
        bytes32 digestB = _commitmentDigest(b);
        if (digestA == digestB) revert NotEquivocation();
        address signer = _gateways.signerAt(a.gateway, a.epoch);
        _requireSignature(digestA, signatureA, signer);
        _requireSignature(digestB, signatureB, signer);
        _punishFirst(a.gateway, a.modelId, a.epoch, Offence.Equivocation);
    }

    /// @inheritdoc ISettlementChallenges
    function challengePosted(CheckpointCommitment calldata commitment, bytes calldata signature)
        external
        nonReentrant
    {
        _requireWindow(commitment.epoch, 1);
        _requireGateway(commitment.gateway);
        Checkpoint storage posted = _posted(commitment.gateway, commitment.modelId, commitment.epoch);
        if (
            commitment.root == posted.root && commitment.totalUnits == posted.totalUnits
                && commitment.totalFees == posted.totalFees
        ) revert NotEquivocation();
        address signer = _gateways.signerAt(commitment.gateway, commitment.epoch);
        _requireSignature(_commitmentDigest(commitment), signature, signer);
        _punishFirst(commitment.gateway, commitment.modelId, commitment.epoch, Offence.Equivocation);
    }

    /// @inheritdoc ISettlementChallenges
    function challengeOverdraw(ContributionVoucher[] calldata vouchers, bytes[] calldata signatures)
        external
        nonReentrant
    {
        if (vouchers.length != signatures.length) revert LengthMismatch();
        if (vouchers.length == 0) revert ZeroAmount();
        ContributionVoucher calldata first = vouchers[0];
        uint64 current = _requireWindow(first.epoch, 1);
        uint256 units;
        for (uint256 i = 0; i < vouchers.length; ++i) {
            ContributionVoucher calldata voucher = vouchers[i];
            if (i > 0) {
                bool sameSlot = voucher.gateway == first.gateway && voucher.modelId == first.modelId
                    && voucher.epoch == first.epoch;
                if (!sameSlot || voucher.provider <= vouchers[i - 1].provider) revert LeavesNotSorted();
            }
            _requireVoucher(voucher, signatures[i]);
            units += voucher.cumulativeUnits;
        }
        bytes32 slot = _slot(first.gateway, first.modelId, first.epoch);
        if (_checkpoints[slot].status != CheckpointStatus.None) {
            revert CheckpointExists(first.gateway, first.modelId, first.epoch);
        }
        if (_penalized[slot][Offence.Overdraw]) revert AlreadyPenalized(first.gateway, Offence.Overdraw);
        uint256 owed = _models.feeFor(first.modelId, first.epoch, units);
        uint256 cover = _cover(first.gateway);
        if (owed <= cover) revert NotOverdrawn(owed, cover);
        _penalized[slot][Offence.Overdraw] = true;
        _slashing.jailGateway(first.gateway, current + _parametersAt(current).jailEpochs);
        emit GatewayPenalized(first.gateway, Offence.Overdraw, 0, msg.sender, 0);
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
    function openChallengesOf(bytes32 gateway) external view returns (uint256) {
        return _openChallenges[gateway];
    }

    /// @inheritdoc ISettlementChallenges
    function compensatedUnits(bytes32 gateway, bytes32 provider, uint64 epoch) external view returns (uint256) {
        return _compensated[gateway][provider][epoch];
    }

    function _open(
        ChallengeKind kind,
        bytes32 gateway,
        bytes32 provider,
        uint256 modelId,
        uint64 epoch,
        uint256 units,
        uint256 wanted
    ) private returns (uint256 challengeId) {
        challengeId = _challenges.length;
        Challenge storage c = _challenges.push();
        c.kind = kind;
        c.status = ChallengeStatus.Open;
        c.epoch = epoch;
        c.answerBy = epoch + _epochs.epochRewardDelay() - 1;
        c.challenger = msg.sender;
        c.gateway = gateway;
        c.provider = provider;
        c.modelId = modelId;
        c.units = units;
        uint128 bond = _parametersAt(_epochs.currentEpoch()).challengeBond;
        c.bond = bond;
        _openChallenges[gateway] += 1;
        c.held = uint128(_gatewayStaking.reserve(gateway, wanted));
        emit ChallengeOpened(challengeId, kind, gateway, provider, epoch, c.answerBy);
        _token.safeTransferFrom(msg.sender, address(this), bond);
    }

    function _answered(uint256 challengeId, Challenge storage c) private {
        c.status = ChallengeStatus.Answered;
        _payments[_gateways.ownerOf(c.gateway)] += c.bond;
        _endHold(c);
        emit ChallengeAnswered(challengeId);
    }

    function _endHold(Challenge storage c) private {
        _openChallenges[c.gateway] -= 1;
        _gatewayStaking.release(c.gateway, c.held);
    }

    /// @dev Pays a provider for units that its gateway left out, as far as the gateway's money goes.
    /// @return paid false if nothing could be charged.
    function _compensate(
        bytes32 gateway,
        bytes32 provider,
        uint256 modelId,
        uint64 epoch,
        uint256 missing,
        address challenger
    ) private returns (bool paid) {
        uint256 fee = _models.feeFor(modelId, epoch, missing);
        uint256 cover = _cover(gateway);
        if (fee > cover) {
            missing = _models.unitsFor(modelId, epoch, cover);
            fee = _models.feeFor(modelId, epoch, missing);
        }
        if (fee == 0) return false;
        _compensated[gateway][provider][epoch] += missing;
        _charge(gateway, fee);
        uint256 net = _splitCompensation(modelId, epoch, fee);
        (address owner_,) = _providers.ownerAndModel(provider);
        _payments[owner_] += net;
        emit ProviderCompensated(provider, gateway, modelId, epoch, missing, net);
        uint256 penalty = Math.mulDiv(fee, _parametersAt(_epochs.currentEpoch()).omissionPenaltyBps, BPS);
        _punish(gateway, Offence.Omission, penalty, challenger);
        return true;
    }

    /// @dev As for fees that were posted, but the gateway's share is burned too.
    function _splitCompensation(uint256 modelId, uint64 epoch, uint256 fee) private returns (uint256 net) {
        Parameters memory p = _parametersAt(epoch + 1);
        uint256 royalty = fee * _models.royaltyBpsOf(modelId) / BPS;
        uint256 burned = fee * p.gatewayShareBps / BPS + fee * p.burnBps / BPS;
        _royalties[modelId] += royalty;
        _token.burn(burned);
        return fee - royalty - burned;
    }

    function _punishFirst(bytes32 gateway, uint256 modelId, uint64 epoch, Offence offence) private {
        if (_penalized[_slot(gateway, modelId, epoch)][offence]) revert AlreadyPenalized(gateway, offence);
        _punishFraud(gateway, modelId, epoch, offence, msg.sender);
    }

    /// @dev Once a slot and offence, so that one bad tree costs what the parameter says, not that times its leaves.
    function _punishFraud(bytes32 gateway, uint256 modelId, uint64 epoch, Offence offence, address challenger)
        private
    {
        bytes32 slot = _slot(gateway, modelId, epoch);
        if (_penalized[slot][offence]) return;
        _penalized[slot][offence] = true;
        uint64 current = _epochs.currentEpoch();
        _slashing.jailGateway(gateway, current + _parametersAt(current).jailEpochs);
        _punish(gateway, offence, _fraudPenalty(gateway), challenger);
    }

    function _punish(bytes32 gateway, Offence offence, uint256 penalty, address challenger) private {
        uint256 taken = Math.min(penalty, _gatewayStaking.effectiveStakeOfKey(gateway));
        uint256 reward;
        if (taken != 0) {
            _gatewayStaking.charge(gateway, taken);
            reward = taken * _parametersAt(_epochs.currentEpoch()).challengerBps / BPS;
            _payments[challenger] += reward;
            _token.burn(taken - reward);
        }
        emit GatewayPenalized(gateway, offence, taken, challenger, reward);
    }

    function _void(bytes32 gateway, uint256 modelId, uint64 epoch, Checkpoint storage posted) private {
        posted.status = CheckpointStatus.Voided;
        uint256 fees = posted.totalFees;
        _book(gateway, modelId, epoch, posted.totalUnits - posted.barredUnits, fees, false);
        _token.safeTransfer(address(_escrow), fees);
        _escrow.returnCredit(gateway, fees);
        emit CheckpointVoided(gateway, modelId, epoch);
    }

    function _fraudPenalty(bytes32 gateway) private view returns (uint256) {
        uint256 stake = _gatewayStaking.stakeOfKey(gateway).amount;
        return stake * _parametersAt(_epochs.currentEpoch()).fraudPenaltyBps / BPS;
    }

    function _cover(bytes32 gateway) private view returns (uint256) {
        return _escrow.creditOf(gateway) + _gatewayStaking.effectiveStakeOfKey(gateway);
    }

    /// @param before epochs before the claim in which the window closes.
    function _requireWindow(uint64 epoch, uint64 before) private view returns (uint64 current) {
        current = _epochs.currentEpoch();
        if (epoch > current) revert ChallengeWindowNotOpen(epoch);
        if (_sealed[epoch] || current > epoch + _epochs.epochRewardDelay() - before) {
            revert ChallengeWindowClosed(epoch);
        }
    }

    function _requireVoucher(ContributionVoucher calldata voucher, bytes calldata signature) private view {
        Ids.checkBounds(voucher.cumulativeUnits, 1, MAX_UNITS);
        _requireGateway(voucher.gateway);
        _requireProvider(voucher.provider, voucher.modelId);
        _requireSignature(_voucherDigest(voucher), signature, _gateways.signerAt(voucher.gateway, voucher.epoch));
    }

    function _requireGateway(bytes32 gateway) private view {
        if (_gateways.ownerOf(gateway) == address(0)) revert UnknownGateway(gateway);
    }

    function _requireProvider(bytes32 provider, uint256 modelId) private view {
        (address owner_, uint256 provides) = _providers.ownerAndModel(provider);
        if (owner_ == address(0)) revert UnknownProvider(provider);
        if (provides != modelId) revert WrongModel(provider, modelId);
    }

    function _requireSumChallenge(bytes32 gateway, uint256 modelId, uint64 epoch, Leaf[] calldata leaves)
        private
        view
        returns (Checkpoint storage posted)
    {
        _requireWindow(epoch, 1);
        posted = _posted(gateway, modelId, epoch);
        if (leaves.length == 0) revert ZeroAmount();
    }

    function _openChallenge(uint256 challengeId) private view returns (Challenge storage c) {
        if (challengeId >= _challenges.length) revert UnknownChallenge(challengeId);
        c = _challenges[challengeId];
        if (c.status != ChallengeStatus.Open) revert ChallengeNotOpen(challengeId);
    }

    function _answerable(uint256 challengeId, ChallengeKind kind) private view returns (Challenge storage c) {
        c = _openChallenge(challengeId);
        if (c.kind != kind) revert ChallengeNotOpen(challengeId);
        if (_epochs.currentEpoch() > c.answerBy) revert AnswerWindowClosed(challengeId);
    }

    /// @dev Saturates: leaves are a gateway's own numbers, and an overflow must not shield them from a challenge.
    function _hashLeaves(bytes32 gateway, uint256 modelId, uint64 epoch, Leaf[] calldata leaves)
        private
        pure
        returns (bytes32[] memory hashes, uint256 sum)
    {
        hashes = new bytes32[](leaves.length);
        for (uint256 i = 0; i < leaves.length; ++i) {
            hashes[i] = Leaves.hash(gateway, leaves[i].provider, modelId, epoch, leaves[i].units);
            sum = Math.saturatingAdd(sum, leaves[i].units);
        }
    }

    function _omissionSubject(bytes32 gateway, bytes32 provider, uint64 epoch) private pure returns (bytes32) {
        return keccak256(abi.encode(gateway, provider, epoch));
    }
}
