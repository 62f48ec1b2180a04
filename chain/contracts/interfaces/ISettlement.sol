// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "./ICommon.sol";

/// @title Types, events and errors of Settlement.
interface ISettlementTypes is ICommon {
    /// @notice «`gateway` owes `provider` for `cumulativeUnits` of work on `modelId` in `epoch`.»
    /// @dev EIP-712 type
    /// `ContributionVoucher(bytes32 gateway,bytes32 provider,uint256 modelId,uint64 epoch,uint256 cumulativeUnits)`,
    /// signed by the gateway's signer of that epoch. The provider signs the same fields as `ContributionReceipt(…)`.
    struct ContributionVoucher {
        bytes32 gateway;
        bytes32 provider;
        uint256 modelId;
        uint64 epoch;
        uint256 cumulativeUnits;
    }

    /// @notice What a gateway signs about a checkpoint before it posts it.
    /// @dev EIP-712 type `CheckpointCommitment(bytes32 gateway,uint256 modelId,uint64 epoch,bytes32 root,uint256 totalUnits,
    /// uint256 totalFees,bytes32 dataHash)` (without the line break).
    struct CheckpointCommitment {
        bytes32 gateway;
        uint256 modelId;
        uint64 epoch;
        bytes32 root;
        uint256 totalUnits;
        uint256 totalFees;
        bytes32 dataHash;
    }

    /// @notice A node beside the path from a leaf to the root of a sum tree: its hash and all units under it.
    struct Sibling {
        bytes32 hash;
        uint256 units;
    }

    struct Parameters {
        uint16 gatewayShareBps;
        uint16 burnBps;
        uint16 omissionPenaltyBps;
        uint16 fraudPenaltyBps;
        uint16 challengerBps;
        uint64 jailEpochs;
        uint16 bondBps;
    }

    enum CheckpointStatus {
        None,
        Posted
    }

    /// @notice Final once posted.
    struct Checkpoint {
        bytes32 root;
        uint96 totalUnits;
        uint128 totalFees;
        CheckpointStatus status;
    }

    /// @notice Sums over the checkpoints of one model and epoch; `shares` is what their gateways earn.
    struct ModelEpoch {
        uint128 units;
        uint128 fees;
        uint128 shares;
        uint32 checkpoints;
        bool finalized;
    }

    enum ChallengeStatus {
        None,
        Open,
        Answered,
        Upheld
    }

    /// @notice `units`: what the voucher promises. `held`: wei of the provider's line that wait for the answer.
    struct Challenge {
        ChallengeStatus status;
        uint64 epoch;
        uint64 answerBy;
        address challenger;
        bytes32 gateway;
        bytes32 provider;
        uint256 modelId;
        uint256 units;
        uint128 bond;
        uint128 held;
    }

    enum Offence {
        Omission,
        Equivocation
    }

    event CheckpointPosted(
        bytes32 indexed gateway,
        uint256 indexed modelId,
        uint64 indexed epoch,
        bytes32 root,
        uint256 totalUnits,
        uint256 totalFees,
        bytes32 dataHash
    );
    event ContributionProven(
        bytes32 indexed provider, bytes32 indexed gateway, uint256 indexed modelId, uint64 epoch, uint256 units
    );
    event EpochFinalized(
        uint256 indexed modelId, uint64 indexed epoch, uint256 pot, uint256 emission, uint256 boost, uint256 totalUnits
    );
    event ChallengeOpened(
        uint256 indexed challengeId,
        bytes32 indexed gateway,
        bytes32 indexed provider,
        uint64 epoch,
        uint256 units,
        uint64 answerBy
    );
    /// @notice The leaf, with its proof, that `challengeOmission` was shown: so that nobody can hide behind having shown it.
    event LeafShown(
        bytes32 indexed gateway, bytes32 indexed provider, uint64 indexed epoch, uint256 units, Sibling[] proof
    );
    /// @notice The leaf that a challenge asked for, with its proof, through whatever contract it came.
    event OmissionAnswered(uint256 indexed challengeId, uint256 units, Sibling[] proof);
    event ChallengeUpheld(uint256 indexed challengeId);
    event GatewayPenalized(
        bytes32 indexed gateway, Offence offence, uint256 penalty, address challenger, uint256 reward
    );
    event ProviderCompensated(
        bytes32 indexed provider,
        bytes32 indexed gateway,
        uint256 indexed modelId,
        uint64 epoch,
        uint256 units,
        uint256 amount
    );
    /// @notice The gateway still owes the provider for `units` of this epoch, for want of money.
    event DebtRecorded(bytes32 indexed gateway, bytes32 indexed provider, uint64 indexed epoch, uint256 units);
    event RoyaltyClaimed(uint256 indexed modelId, address indexed creator, uint256 amount);
    event PaymentWithdrawn(address indexed account, uint256 amount);
    event SettlementParametersUpdated(Parameters parameters, uint64 fromEpoch);

    error NotGatewaySigner(address caller);
    error PostingWindowClosed(uint64 epoch, uint64 current);
    error CheckpointExists(bytes32 gateway, uint256 modelId, uint64 epoch);
    error NoCheckpoint(bytes32 gateway, uint256 modelId, uint64 epoch);
    error ZeroRoot();
    /// @notice Fees are exactly `feeFor(modelId, epoch, totalUnits)`: were they higher, strangers' units would dilute them.
    error WrongFees(uint256 fees, uint256 expected);
    error InsufficientCover(uint256 wanted, uint256 available);
    error EpochNotReady(uint64 epoch, uint64 claimableTo);
    error AlreadyFinalized(uint256 modelId, uint64 epoch);
    error InvalidProof();
    error AlreadyProven(bytes32 provider, bytes32 gateway, uint64 epoch);
    error ChallengeWindowClosed(uint64 epoch);
    error ChallengeWindowNotOpen(uint64 epoch);
    error WrongModel(bytes32 provider, uint256 modelId);
    error NothingMissing();
    error NotEquivocation();
    /// @notice As many units of this gateway, provider and epoch have been challenged before.
    error AlreadyChallenged();
    /// @notice This offence in this slot has been punished.
    error AlreadyPenalized(bytes32 gateway, Offence offence);
    error UnknownChallenge(uint256 challengeId);
    error ChallengeNotOpen(uint256 challengeId);
    error AnswerWindowClosed(uint256 challengeId);
    error AnswerWindowOpen(uint256 challengeId, uint64 answerBy);
    error NotModelCreator(uint256 modelId, address caller);
}

/// @title Per-epoch checkpoints, contribution proofs and pots.
interface ISettlementCore is ISettlementTypes {
    /// @notice One root per model and epoch of the gateway that the caller signs for, in the epoch right after.
    /// @dev `totalFees` is taken from the gateway's escrow credit first, then from its effective stake.
    /// The root is that of a sum tree over leaves `keccak256(bytes.concat(keccak256(abi.encode(gateway, provider, modelId,
    /// epoch, units))))` with types (bytes32, bytes32, uint256, uint64, uint256): every parent binds the hashes and units
    /// of its two children, `keccak256(abi.encode(h1, u1, h2, u2))`, and has the units `u1 + u2`.
    function postCheckpoint(
        uint256 modelId,
        uint64 epoch,
        bytes32 root,
        uint256 totalUnits,
        uint256 totalFees,
        bytes32 dataHash
    ) external;

    /// @notice Writes a leaf of whichever gateway's checkpoint it belongs to; anyone, when the epoch is claimable.
    /// @dev Once a gateway and provider, but for a larger leaf, of which only the difference counts.
    function proveContribution(string calldata id, uint64 epoch, uint256 units, Sibling[] calldata proof) external;

    /// @notice The same for a named gateway, without searching.
    function proveContributionFor(
        string calldata gatewayId,
        string calldata id,
        uint64 epoch,
        uint256 units,
        Sibling[] calldata proof
    ) external;

    /// @notice Moves fees, emission and boosts of a claimable epoch into the model's pot. Anyone; proofs do it by themselves.
    function finalize(uint256 modelId, uint64 epoch) external;

    /// @notice Pays the royalties of a model to its creator.
    function claimRoyalty(uint256 modelId) external returns (uint256 amount);

    /// @notice Pays what challenges have credited to the caller.
    function withdrawPayments() external returns (uint256 amount);

    /// @notice Hands a gateway's routing shares of epochs `from … to` over to GatewayStaking, the only caller.
    function takeGatewayShares(bytes32 gateway, uint64 from, uint64 to) external returns (uint256 amount);

    /// @notice Takes effect with the next epoch, so that all checkpoints of an epoch are split alike. Owner.
    /// Bounds: share ≤ 2000, burn 100 … 2000, omission 5000 … 20000, fraud 1000 … 10000, challenger ≤ 5000,
    /// jail epochRewardDelay … 1000, bond 100 … 5000.
    function setParameters(
        uint16 gatewayShareBps,
        uint16 burnBps,
        uint16 omissionPenaltyBps,
        uint16 fraudPenaltyBps,
        uint16 challengerBps,
        uint64 jailEpochs,
        uint16 bondBps
    ) external;

    /// @notice The parameters in force now.
    function parameters() external view returns (Parameters memory);

    function checkpoint(bytes32 gateway, uint256 modelId, uint64 epoch) external view returns (Checkpoint memory);

    /// @notice Gateways with a checkpoint for this model and epoch, in order of posting.
    function postersOf(uint256 modelId, uint64 epoch) external view returns (bytes32[] memory gateways);

    function modelEpoch(uint256 modelId, uint64 epoch) external view returns (ModelEpoch memory);

    /// @notice Sum over the models of half their burns: what the epoch's emission is shared by and bounded by.
    function emissionWeight(uint64 epoch) external view returns (uint256);

    function gatewayShare(bytes32 gateway, uint64 epoch) external view returns (uint256);

    function royaltyOf(uint256 modelId) external view returns (uint256);

    function paymentsOf(address account) external view returns (uint256);

    /// @notice Units of the gateway's leaf for this provider that were proven for its claim; 0 if none was.
    function provenUnits(bytes32 gateway, bytes32 provider, uint64 epoch) external view returns (uint256);

    function leafHash(bytes32 gateway, bytes32 provider, uint256 modelId, uint64 epoch, uint256 units)
        external
        pure
        returns (bytes32);

    function hashVoucher(ContributionVoucher calldata voucher) external view returns (bytes32);

    /// @notice Digest of `ContributionReceipt(…)` with the fields of a voucher, which the provider signs.
    function hashReceipt(ContributionVoucher calldata receipt) external view returns (bytes32);

    function hashCommitment(CheckpointCommitment calldata commitment) external view returns (bytes32);
}

/// @title The disputes that the chain decides by itself; at the same address as the rest of Settlement.
interface ISettlementChallenges is ISettlementTypes {
    /// @notice A voucher above the leaf (shown by `proof`), or without a checkpoint (`leafUnits` 0, empty proof). The
    /// gateway pays what is missing, from the provider's line first; what it cannot pay becomes its debt.
    function challengeOmission(
        ContributionVoucher calldata voucher,
        bytes calldata signature,
        uint256 leafUnits,
        Sibling[] calldata proof
    ) external;

    /// @notice A voucher whose leaf is nowhere to be found: the gateway must show one, or pay. Takes a bond, a part
    /// (`bondBps`) of the fee that is in question.
    function openOmissionChallenge(ContributionVoucher calldata voucher, bytes calldata signature)
        external
        returns (uint256 challengeId);

    /// @notice Shows the leaf. With all challenged units it burns the bond, with fewer it upholds the challenge. Anyone.
    function answerOmission(uint256 challengeId, uint256 units, Sibling[] calldata proof) external;

    /// @notice Upholds a challenge that nobody answered in time. Anyone.
    function resolveChallenge(uint256 challengeId) external;

    /// @notice Pays a debt from money that the gateway has by now. Anyone, at any time.
    function collectDebt(string calldata gatewayId, string calldata providerId, uint64 epoch) external;

    /// @notice Two different commitments for one slot, both signed by the gateway.
    function challengeEquivocation(
        CheckpointCommitment calldata a,
        bytes calldata signatureA,
        CheckpointCommitment calldata b,
        bytes calldata signatureB
    ) external;

    /// @notice One signed commitment that differs from what was posted in its slot.
    function challengePosted(CheckpointCommitment calldata commitment, bytes calldata signature) external;

    function challenge(uint256 challengeId) external view returns (Challenge memory);

    function challengeCount() external view returns (uint256);

    /// @notice Units of the leaf that a challenge or an answer has shown.
    function shownUnits(bytes32 gateway, bytes32 provider, uint64 epoch) external view returns (uint256);

    /// @notice Units for which a provider has been compensated in a slot.
    function compensatedUnits(bytes32 gateway, bytes32 provider, uint64 epoch) external view returns (uint256);

    /// @notice The most units that were challenged interactively.
    function challengedUnits(bytes32 gateway, bytes32 provider, uint64 epoch) external view returns (uint256);

    /// @notice Units that the gateway still owes, for want of money.
    function debtUnits(bytes32 gateway, bytes32 provider, uint64 epoch) external view returns (uint256);

    /// @notice What all of a gateway's debt units cost, in wei.
    function debtOf(bytes32 gateway) external view returns (uint256);
}

/// @title Everything that the address of Settlement answers to.
interface ISettlement is ISettlementCore, ISettlementChallenges {}
