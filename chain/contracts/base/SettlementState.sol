// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {IDirectory} from "../interfaces/IDirectory.sol";
import {IEpochController} from "../interfaces/IEpochController.sol";
import {IEscrow} from "../interfaces/IEscrow.sol";
import {IFuncToken} from "../interfaces/IFuncToken.sol";
import {IGatewayRegistry} from "../interfaces/IGatewayRegistry.sol";
import {IGatewayStaking} from "../interfaces/IGatewayStaking.sol";
import {IModelRegistry} from "../interfaces/IModelRegistry.sol";
import {IProviderRegistry} from "../interfaces/IProviderRegistry.sol";
import {IRewardPool} from "../interfaces/IRewardPool.sol";
import {IRouter} from "../interfaces/IRouter.sol";
import {ISettlementTypes} from "../interfaces/ISettlement.sol";
import {ISlashing} from "../interfaces/ISlashing.sol";
import {Leaves} from "../libraries/Leaves.sol";
import {Wired} from "./Wired.sol";

/// @title What the two halves of Settlement share: all their storage, parameters, the split of fees, and messages.
/// @dev The halves run on one storage (see Settlement), so neither may declare a variable of its own.
abstract contract SettlementState is ISettlementTypes, Wired, EIP712 {
    using SafeERC20 for IFuncToken;
    using Checkpoints for Checkpoints.Trace208;

    uint256 internal constant BPS = 10_000;
    uint256 public constant MAX_UNITS = Leaves.MAX_UNITS;

    bytes32 internal constant VOUCHER_TYPEHASH = keccak256(
        "ContributionVoucher(bytes32 gateway,bytes32 provider,uint256 modelId,uint64 epoch,uint256 cumulativeUnits)"
    );
    bytes32 internal constant RECEIPT_TYPEHASH = keccak256(
        "ContributionReceipt(bytes32 gateway,bytes32 provider,uint256 modelId,uint64 epoch,uint256 cumulativeUnits)"
    );
    bytes32 internal constant COMMITMENT_TYPEHASH = keccak256(
        "CheckpointCommitment(bytes32 gateway,uint256 modelId,uint64 epoch,bytes32 root,uint256 totalUnits,uint256 totalFees,bytes32 dataHash)"
    );

    /// @dev What is known of the work of one provider for one gateway in one epoch, in units.
    struct Work {
        uint96 shown;
        uint96 compensated;
        uint96 debt;
        uint96 challenged;
    }

    IFuncToken internal _token;
    IEpochController internal _epochs;
    IModelRegistry internal _models;
    IProviderRegistry internal _providers;
    IRouter internal _router;
    IGatewayRegistry internal _gateways;
    IGatewayStaking internal _gatewayStaking;
    IEscrow internal _escrow;
    ISlashing internal _slashing;
    IRewardPool internal _rewardPool;

    /// @dev Packed parameters by the first epoch that they hold in.
    Checkpoints.Trace208 internal _parameters;

    mapping(bytes32 slot => Checkpoint) internal _checkpoints;
    mapping(uint256 modelId => mapping(uint64 epoch => ModelEpoch)) internal _modelEpochs;
    mapping(uint256 modelId => mapping(uint64 epoch => bytes32[] gateways)) internal _posters;
    mapping(bytes32 gateway => mapping(bytes32 provider => mapping(uint64 epoch => uint256))) internal _proven;
    mapping(bytes32 gateway => mapping(uint64 epoch => uint256)) internal _gatewayShares;
    mapping(uint64 epoch => uint256) internal _emissionWeights;
    mapping(uint256 modelId => uint256) internal _royalties;
    mapping(address account => uint256) internal _payments;

    Challenge[] internal _challenges;
    mapping(bytes32 slot => bool) internal _equivocated;
    mapping(bytes32 gateway => mapping(bytes32 provider => mapping(uint64 epoch => Work))) internal _work;
    mapping(bytes32 gateway => uint256) internal _debts;

    constructor(IDirectory directory, address owner_) Wired(directory, owner_) EIP712("InferenceMesh", "1") {
        _parameters.push(0, _pack(Parameters(1000, 500, 10_000, 5000, 1000, 16, 1000)));
    }

    function _wire(IDirectory.Entries memory entries) internal override {
        _token = IFuncToken(entries.token);
        _epochs = IEpochController(entries.epochs);
        _models = IModelRegistry(entries.models);
        _providers = IProviderRegistry(entries.providers);
        _router = IRouter(entries.router);
        _gateways = IGatewayRegistry(entries.gateways);
        _gatewayStaking = IGatewayStaking(entries.gatewayStaking);
        _escrow = IEscrow(entries.escrow);
        _slashing = ISlashing(entries.slashing);
        _rewardPool = IRewardPool(entries.rewardPool);
    }

    /// @dev Credit first, then stake.
    function _charge(bytes32 gateway, uint256 amount) internal {
        uint256 taken = _escrow.spendCredit(gateway, amount);
        if (taken < amount) _gatewayStaking.charge(gateway, amount - taken);
    }

    /// @dev Adds a checkpoint to the sums that pots, shares, emission and ratings are computed from.
    function _book(bytes32 gateway, uint256 modelId, uint64 epoch, uint256 units, uint256 fees) internal {
        ModelEpoch storage sums = _modelEpochs[modelId][epoch];
        Parameters memory p = _parametersAt(epoch + 1);
        uint128 share = uint128(fees * p.gatewayShareBps / BPS);
        uint256 feesBefore = sums.fees;
        sums.units += uint128(units);
        sums.fees = uint128(feesBefore + fees);
        sums.shares += share;
        sums.checkpoints += 1;
        _gatewayShares[gateway][epoch] += share;
        _emissionWeights[epoch] += _weight(feesBefore + fees, p.burnBps) - _weight(feesBefore, p.burnBps);
        uint256 burned = fees * p.burnBps / BPS;
        if (burned != 0) _models.recordSpend(modelId, gateway, burned - burned / 2);
    }

    /// @dev Half of the burn: emission never gives back more, so that paying oneself always costs.
    function _weight(uint256 fees, uint256 burnBps) internal pure returns (uint256) {
        return fees * burnBps / BPS / 2;
    }

    function _parametersAt(uint64 epoch) internal view returns (Parameters memory) {
        uint208 packed = _parameters.upperLookupRecent(uint48(epoch));
        return Parameters({
            gatewayShareBps: uint16(packed),
            burnBps: uint16(packed >> 16),
            omissionPenaltyBps: uint16(packed >> 32),
            fraudPenaltyBps: uint16(packed >> 48),
            challengerBps: uint16(packed >> 64),
            jailEpochs: uint16(packed >> 80),
            bondBps: uint16(packed >> 96)
        });
    }

    /// @dev Plain ECDSA: a contract could take back what it signed, and a challenge must not depend on that.
    function _requireSignature(bytes32 digest, bytes calldata signature, address signer) internal pure {
        (address found, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (failure != ECDSA.RecoverError.NoError || found != signer) revert InvalidSignature();
    }

    function _posted(bytes32 gateway, uint256 modelId, uint64 epoch) internal view returns (Checkpoint storage posted) {
        posted = _checkpoints[_slot(gateway, modelId, epoch)];
        if (posted.status != CheckpointStatus.Posted) revert NoCheckpoint(gateway, modelId, epoch);
    }

    /// @dev True if the checkpoint has a leaf of exactly the units of `work`.
    function _isLeaf(Checkpoint storage posted, ContributionVoucher memory work, Sibling[] calldata proof)
        internal
        view
        returns (bool)
    {
        uint256 units = work.cumulativeUnits;
        bytes32 leaf = Leaves.hash(work.gateway, work.provider, work.modelId, work.epoch, units);
        return Leaves.verify(proof, posted.root, posted.totalUnits, leaf, units);
    }

    function _voucherDigest(ContributionVoucher memory voucher) internal view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(VOUCHER_TYPEHASH, voucher)));
    }

    function _commitmentDigest(CheckpointCommitment memory commitment) internal view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(COMMITMENT_TYPEHASH, commitment)));
    }

    function _slot(bytes32 gateway, uint256 modelId, uint64 epoch) internal pure returns (bytes32) {
        return keccak256(abi.encode(gateway, modelId, epoch));
    }

    function _pack(Parameters memory p) internal pure returns (uint208) {
        return uint208(p.gatewayShareBps) | uint208(p.burnBps) << 16 | uint208(p.omissionPenaltyBps) << 32
            | uint208(p.fraudPenaltyBps) << 48 | uint208(p.challengerBps) << 64 | uint208(p.jailEpochs) << 80
            | uint208(p.bondBps) << 96;
    }
}
