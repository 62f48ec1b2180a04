// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Proxy} from "@openzeppelin/contracts/proxy/Proxy.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {SettlementState} from "./base/SettlementState.sol";
import {IDirectory} from "./interfaces/IDirectory.sol";
import {IFuncToken} from "./interfaces/IFuncToken.sol";
import {IProviderStaking} from "./interfaces/IProviderStaking.sol";
import {ISettlementCore} from "./interfaces/ISettlement.sol";
import {Ids} from "./libraries/Ids.sol";
import {Leaves} from "./libraries/Leaves.sol";

/// @title From checkpoints to pots.
/// @dev One contract in two pieces of code, because it is larger than a contract may be: what is not here runs in
/// SettlementChallenges on this storage. That address is fixed for good.
contract Settlement is ISettlementCore, SettlementState, Proxy {
    using SafeERC20 for IFuncToken;
    using Checkpoints for Checkpoints.Trace208;

    address private immutable CHALLENGES;

    /// @param challenges the deployed code of SettlementChallenges.
    constructor(IDirectory directory, address owner_, address challenges) SettlementState(directory, owner_) {
        if (challenges == address(0)) revert ZeroAddress();
        CHALLENGES = challenges;
    }

    /// @dev Refuses plain ether.
    receive() external payable {
        revert Unauthorized(msg.sender);
    }

    /// @inheritdoc ISettlementCore
    function postCheckpoint(
        uint256 modelId,
        uint64 epoch,
        bytes32 root,
        uint256 totalUnits,
        uint256 totalFees,
        bytes32 dataHash
    ) external nonReentrant {
        bytes32 gateway = _requirePoster(modelId, epoch);
        Checkpoint storage posted = _checkpoints[_slot(gateway, modelId, epoch)];
        if (posted.status != CheckpointStatus.None) revert CheckpointExists(gateway, modelId, epoch);
        if (root == 0) revert ZeroRoot();
        if (totalUnits == 0) revert ZeroAmount();
        Ids.checkBounds(totalUnits, 1, MAX_UNITS);
        uint256 expected = _models.feeFor(modelId, epoch, totalUnits);
        if (totalFees != expected) revert WrongFees(totalFees, expected);
        uint256 cover = _escrow.creditOf(gateway) + _gatewayStaking.spareStakeOfKey(gateway);
        if (totalFees > cover) revert InsufficientCover(totalFees, cover);

        posted.root = root;
        posted.totalUnits = uint96(totalUnits);
        posted.totalFees = SafeCast.toUint128(totalFees);
        posted.status = CheckpointStatus.Posted;
        _posters[modelId][epoch].push(gateway);
        _book(gateway, modelId, epoch, totalUnits, totalFees);
        _charge(gateway, totalFees);
        emit CheckpointPosted(gateway, modelId, epoch, root, totalUnits, totalFees, dataHash);
    }

    /// @inheritdoc ISettlementCore
    function proveContribution(string calldata id, uint64 epoch, uint256 units, Sibling[] calldata proof)
        external
        nonReentrant
    {
        ContributionVoucher memory work = _requireWork(id, epoch, units);
        _finalizeOnce(work.modelId, epoch);
        bytes32[] storage posters = _posters[work.modelId][epoch];
        uint256 n = posters.length;
        for (uint256 i = 0; i < n; ++i) {
            work.gateway = posters[i];
            Checkpoint storage posted = _checkpoints[_slot(work.gateway, work.modelId, epoch)];
            if (_isLeaf(posted, work, proof)) {
                _record(work);
                return;
            }
        }
        revert InvalidProof();
    }

    /// @inheritdoc ISettlementCore
    function proveContributionFor(
        string calldata gatewayId,
        string calldata id,
        uint64 epoch,
        uint256 units,
        Sibling[] calldata proof
    ) external nonReentrant {
        ContributionVoucher memory work = _requireWork(id, epoch, units);
        work.gateway = Ids.keyOf(gatewayId);
        if (_gateways.ownerOf(work.gateway) == address(0)) revert UnknownGateway(work.gateway);
        _finalizeOnce(work.modelId, epoch);
        Checkpoint storage posted = _posted(work.gateway, work.modelId, epoch);
        if (!_isLeaf(posted, work, proof)) revert InvalidProof();
        _record(work);
    }

    /// @inheritdoc ISettlementCore
    function finalize(uint256 modelId, uint64 epoch) external nonReentrant {
        if (!_models.exists(modelId)) revert UnknownModel(modelId);
        _requireClaimable(epoch);
        if (_modelEpochs[modelId][epoch].finalized) revert AlreadyFinalized(modelId, epoch);
        _finalize(modelId, epoch);
    }

    /// @inheritdoc ISettlementCore
    function claimRoyalty(uint256 modelId) external nonReentrant returns (uint256 amount) {
        if (_models.creatorOf(modelId) != msg.sender) revert NotModelCreator(modelId, msg.sender);
        amount = _royalties[modelId];
        if (amount == 0) revert NothingToClaim();
        _royalties[modelId] = 0;
        _token.safeTransfer(msg.sender, amount);
        emit RoyaltyClaimed(modelId, msg.sender, amount);
    }

    /// @inheritdoc ISettlementCore
    function withdrawPayments() external nonReentrant returns (uint256 amount) {
        amount = _payments[msg.sender];
        if (amount == 0) revert NothingToClaim();
        _payments[msg.sender] = 0;
        _token.safeTransfer(msg.sender, amount);
        emit PaymentWithdrawn(msg.sender, amount);
    }

    /// @inheritdoc ISettlementCore
    function takeGatewayShares(bytes32 gateway, uint64 from, uint64 to)
        external
        only(address(_gatewayStaking))
        nonReentrant
        returns (uint256 amount)
    {
        mapping(uint64 epoch => uint256) storage shares = _gatewayShares[gateway];
        for (uint64 epoch = from; epoch <= to; ++epoch) {
            uint256 share = shares[epoch];
            if (share == 0) continue;
            shares[epoch] = 0;
            amount += share;
        }
        if (amount != 0) _token.safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc ISettlementCore
    function setParameters(
        uint16 gatewayShareBps,
        uint16 burnBps,
        uint16 omissionPenaltyBps,
        uint16 fraudPenaltyBps,
        uint16 challengerBps,
        uint64 jailEpochs,
        uint16 bondBps
    ) external onlyOwner {
        Ids.checkBounds(gatewayShareBps, 0, 2000);
        Ids.checkBounds(burnBps, 100, 2000);
        Ids.checkBounds(omissionPenaltyBps, 5000, 20_000);
        Ids.checkBounds(fraudPenaltyBps, 1000, 10_000);
        Ids.checkBounds(challengerBps, 0, 5000);
        Ids.checkBounds(jailEpochs, _epochs.epochRewardDelay(), 1000);
        Ids.checkBounds(bondBps, 100, 5000);
        Parameters memory p = Parameters(
            gatewayShareBps, burnBps, omissionPenaltyBps, fraudPenaltyBps, challengerBps, jailEpochs, bondBps
        );
        uint64 from = _epochs.currentEpoch() + 1;
        _parameters.push(uint48(from), _pack(p));
        emit SettlementParametersUpdated(p, from);
    }

    /// @inheritdoc ISettlementCore
    function parameters() external view returns (Parameters memory) {
        return _parametersAt(_epochs.currentEpoch());
    }

    /// @inheritdoc ISettlementCore
    function checkpoint(bytes32 gateway, uint256 modelId, uint64 epoch) external view returns (Checkpoint memory) {
        return _checkpoints[_slot(gateway, modelId, epoch)];
    }

    /// @inheritdoc ISettlementCore
    function postersOf(uint256 modelId, uint64 epoch) external view returns (bytes32[] memory) {
        return _posters[modelId][epoch];
    }

    /// @inheritdoc ISettlementCore
    function modelEpoch(uint256 modelId, uint64 epoch) external view returns (ModelEpoch memory) {
        return _modelEpochs[modelId][epoch];
    }

    /// @inheritdoc ISettlementCore
    function emissionWeight(uint64 epoch) external view returns (uint256) {
        return _emissionWeights[epoch];
    }

    /// @inheritdoc ISettlementCore
    function gatewayShare(bytes32 gateway, uint64 epoch) external view returns (uint256) {
        return _gatewayShares[gateway][epoch];
    }

    /// @inheritdoc ISettlementCore
    function royaltyOf(uint256 modelId) external view returns (uint256) {
        return _royalties[modelId];
    }

    /// @inheritdoc ISettlementCore
    function paymentsOf(address account) external view returns (uint256) {
        return _payments[account];
    }

    /// @inheritdoc ISettlementCore
    function provenUnits(bytes32 gateway, bytes32 provider, uint64 epoch) external view returns (uint256) {
        return _proven[gateway][provider][epoch];
    }

    /// @inheritdoc ISettlementCore
    function leafHash(bytes32 gateway, bytes32 provider, uint256 modelId, uint64 epoch, uint256 units)
        external
        pure
        returns (bytes32)
    {
        return Leaves.hash(gateway, provider, modelId, epoch, units);
    }

    /// @inheritdoc ISettlementCore
    function hashVoucher(ContributionVoucher calldata voucher) external view returns (bytes32) {
        return _voucherDigest(voucher);
    }

    /// @inheritdoc ISettlementCore
    function hashReceipt(ContributionVoucher calldata receipt) external view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(RECEIPT_TYPEHASH, receipt)));
    }

    /// @inheritdoc ISettlementCore
    function hashCommitment(CheckpointCommitment calldata commitment) external view returns (bytes32) {
        return _commitmentDigest(commitment);
    }

    function _implementation() internal view override returns (address) {
        return CHALLENGES;
    }

    /// @dev Of two leaves of one provider in one tree the larger counts, in whichever order they are proven.
    function _record(ContributionVoucher memory work) private {
        (bytes32 gateway, bytes32 provider, uint64 epoch) = (work.gateway, work.provider, work.epoch);
        uint256 units = work.cumulativeUnits;
        uint256 before = _proven[gateway][provider][epoch];
        if (units <= before) revert AlreadyProven(provider, gateway, epoch);
        _proven[gateway][provider][epoch] = units;
        IProviderStaking(_router.stakingPool(work.modelId)).recordContribution(provider, epoch, uint128(units - before));
        emit ContributionProven(provider, gateway, work.modelId, epoch, units);
    }

    function _finalizeOnce(uint256 modelId, uint64 epoch) private {
        _requireClaimable(epoch);
        if (!_modelEpochs[modelId][epoch].finalized) _finalize(modelId, epoch);
    }

    function _finalize(uint256 modelId, uint64 epoch) private {
        ModelEpoch storage sums = _modelEpochs[modelId][epoch];
        sums.finalized = true;
        uint128 units = sums.units;
        address pool = _router.stakingPool(modelId);
        (uint256 net, uint256 burned) = _payOut(modelId, epoch, sums, pool);
        (uint256 emission, uint256 boosted) =
            _rewardPool.settle(modelId, epoch, burned / 2, _emissionWeights[epoch], pool);
        if (units != 0) _models.recordUsage(modelId, epoch, units, sums.fees, uint128(burned - emission));
        uint128 amount = SafeCast.toUint128(net + emission + boosted);
        uint128 pot = IProviderStaking(pool).fundPot(epoch, amount, units);
        emit EpochFinalized(modelId, epoch, pot, emission, boosted, units);
    }

    /// @dev Splits an epoch's fees: royalty booked, burn burned, the net to the pool; shares stay for the gateways.
    function _payOut(uint256 modelId, uint64 epoch, ModelEpoch storage sums, address pool)
        private
        returns (uint256 net, uint256 burned)
    {
        uint256 fees = sums.fees;
        burned = fees * _parametersAt(epoch + 1).burnBps / BPS;
        uint256 royalty = fees * _models.royaltyBpsOf(modelId) / BPS;
        net = fees - sums.shares - burned - royalty;
        _royalties[modelId] += royalty;
        if (burned != 0) _token.burn(burned);
        if (net != 0) _token.safeTransfer(pool, net);
    }

    function _requirePoster(uint256 modelId, uint64 epoch) private view returns (bytes32 gateway) {
        gateway = _gateways.gatewayOfSigner(msg.sender);
        uint64 current = _epochs.currentEpoch();
        if (gateway == 0 || _gateways.signerAt(gateway, current) != msg.sender) revert NotGatewaySigner(msg.sender);
        if (!_models.exists(modelId)) revert UnknownModel(modelId);
        // Not `epoch + 1 != current`, which overflows for the largest epoch.
        if (epoch != current - 1) revert PostingWindowClosed(epoch, current);
    }

    /// @dev What is to be proven, but for the gateway.
    function _requireWork(string calldata id, uint64 epoch, uint256 units)
        private
        view
        returns (ContributionVoucher memory work)
    {
        bytes32 provider = Ids.keyOf(id);
        (address owner_, uint256 modelId) = _providers.ownerAndModel(provider);
        if (owner_ == address(0)) revert UnknownProvider(provider);
        if (units == 0) revert ZeroAmount();
        return ContributionVoucher(0, provider, modelId, epoch, units);
    }

    function _requireClaimable(uint64 epoch) private view {
        uint64 claimable = _epochs.claimableEpoch();
        if (epoch == 0 || epoch > claimable) revert EpochNotReady(epoch, claimable);
    }
}
