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

    struct Parameters {
        uint16 gatewayShareBps;
        uint16 burnBps;
        uint16 omissionPenaltyBps;
        uint16 fraudPenaltyBps;
        uint16 challengerBps;
        uint64 jailEpochs;
        uint128 challengeBond;
    }

    struct Leaf {
        bytes32 provider;
        uint256 units;
    }

    enum CheckpointStatus {
        None,
        Posted,
        Voided
    }

    /// @notice `barredUnits`: units of leaves that nobody could open; they are no longer part of the total.
    struct Checkpoint {
        bytes32 root;
        uint128 totalUnits;
        uint128 provenUnits;
        uint128 totalFees;
        uint120 barredUnits;
        CheckpointStatus status;
    }

    /// @notice Sums over the valid checkpoints of one model and epoch; `shares` is what their gateways earn.
    struct ModelEpoch {
        uint128 units;
        uint128 fees;
        uint128 shares;
        uint32 checkpoints;
        uint32 openChallenges;
        bool finalized;
    }

    enum ChallengeKind {
        Omission,
        UnsupportedLeaf
    }

    enum ChallengeStatus {
        None,
        Open,
        Answered,
        Upheld
    }

    struct Challenge {
        ChallengeKind kind;
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
        SumMismatch,
        UnsupportedLeaf,
        Equivocation,
        Overdraw
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
    event CheckpointVoided(bytes32 indexed gateway, uint256 indexed modelId, uint64 indexed epoch);
    event ContributionProven(
        bytes32 indexed provider, bytes32 indexed gateway, uint256 indexed modelId, uint64 epoch, uint256 units
    );
    event EpochFinalized(
        uint256 indexed modelId, uint64 indexed epoch, uint256 pot, uint256 emission, uint256 boost, uint256 totalUnits
    );
    event ChallengeOpened(
        uint256 indexed challengeId, ChallengeKind kind, bytes32 indexed gateway, bytes32 indexed provider, uint64 epoch, uint64 answerBy
    );
    event ChallengeAnswered(uint256 indexed challengeId);
    event ChallengeUpheld(uint256 indexed challengeId);
    event GatewayPenalized(bytes32 indexed gateway, Offence offence, uint256 penalty, address challenger, uint256 reward);
    event ProviderCompensated(
        bytes32 indexed provider, bytes32 indexed gateway, uint256 indexed modelId, uint64 epoch, uint256 units, uint256 amount
    );
    event RoyaltyClaimed(uint256 indexed modelId, address indexed creator, uint256 amount);
    event PaymentWithdrawn(address indexed account, uint256 amount);
    event SettlementParametersUpdated(Parameters parameters, uint64 fromEpoch);

    error NotGatewaySigner(address caller);
    error PostingWindowClosed(uint64 epoch, uint64 current);
    error GatewayNotBonded(bytes32 gateway);
    error CheckpointExists(bytes32 gateway, uint256 modelId, uint64 epoch);
    error NoCheckpoint(bytes32 gateway, uint256 modelId, uint64 epoch);
    error ZeroRoot();
    /// @notice Fees are exactly `feeFor(modelId, epoch, totalUnits)`: were they higher, strangers' units would dilute them.
    error WrongFees(uint256 fees, uint256 expected);
    error InsufficientCover(uint256 wanted, uint256 available);
    error EpochNotReady(uint64 epoch, uint64 claimableTo);
    error AlreadyFinalized(uint256 modelId, uint64 epoch);
    error ChallengesOpen(uint256 modelId, uint64 epoch);
    error InvalidProof();
    error AlreadyProven(bytes32 provider, bytes32 gateway, uint64 epoch);
    error LeafBarred(bytes32 provider, bytes32 gateway, uint64 epoch);
    error UnitsExceedTotal(uint256 units, uint256 left);
    error ChallengeWindowClosed(uint64 epoch);
    error ChallengeWindowNotOpen(uint64 epoch);
    error WrongModel(bytes32 provider, uint256 modelId);
    error NothingMissing();
    error SumIsRight();
    error LeavesNotSorted();
    error NotEquivocation();
    error NotOverdrawn(uint256 owed, uint256 cover);
    error AlreadyChallenged();
    /// @notice This offence in this slot has been punished.
    error AlreadyPenalized(bytes32 gateway, Offence offence);
    error UnknownChallenge(uint256 challengeId);
    error ChallengeNotOpen(uint256 challengeId);
    error AnswerWindowClosed(uint256 challengeId);
    error AnswerWindowOpen(uint256 challengeId, uint64 answerBy);
    error NotModelCreator(uint256 modelId, address caller);
    error LengthMismatch();
}

/// @title Per-epoch checkpoints, contribution proofs and pots.
interface ISettlementCore is ISettlementTypes {
    /// @notice One root per model and epoch of the gateway that the caller signs for, in the epoch right after.
    /// @dev `totalFees` is taken from the gateway's escrow credit first, then from its stake.
    /// Leaves are `keccak256(bytes.concat(keccak256(abi.encode(gateway, provider, modelId, epoch, units))))` with types
    /// (bytes32, bytes32, uint256, uint64, uint256), in an OpenZeppelin StandardMerkleTree.
    function postCheckpoint(
        uint256 modelId, uint64 epoch, bytes32 root, uint256 totalUnits, uint256 totalFees, bytes32 dataHash
    ) external;

    /// @notice Writes a leaf of whichever gateway's checkpoint it belongs to; anyone, once a leaf, when the epoch is claimable.
    function proveContribution(string calldata id, uint64 epoch, uint256 units, bytes32[] calldata proof) external;

    /// @notice The same for a named gateway, without searching.
    function proveContributionFor(
        string calldata gatewayId, string calldata id, uint64 epoch, uint256 units, bytes32[] calldata proof
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
    /// jail epochRewardDelay … 1000, bond 1 wei … 10^24 wei.
    function setParameters(
        uint16 gatewayShareBps, uint16 burnBps, uint16 omissionPenaltyBps, uint16 fraudPenaltyBps, uint16 challengerBps,
        uint64 jailEpochs, uint128 challengeBond
    ) external;

    /// @notice The parameters in force now.
    function parameters() external view returns (Parameters memory);

    function checkpoint(bytes32 gateway, uint256 modelId, uint64 epoch) external view returns (Checkpoint memory);

    /// @notice Gateways with a checkpoint for this model and epoch, in order of posting.
    function postersOf(uint256 modelId, uint64 epoch) external view returns (bytes32[] memory gateways);

    function modelEpoch(uint256 modelId, uint64 epoch) external view returns (ModelEpoch memory);

    /// @notice Sum of burns over the models: what the epoch's emission is shared by and bounded by.
    function emissionWeight(uint64 epoch) external view returns (uint256);

    function gatewayShare(bytes32 gateway, uint64 epoch) external view returns (uint256);

    /// @notice True once a pot or a gateway's share of `epoch` was paid: no challenge of it is accepted any more.
    function isSealed(uint64 epoch) external view returns (bool);

    function royaltyOf(uint256 modelId) external view returns (uint256);

    function paymentsOf(address account) external view returns (uint256);

    function isProven(bytes32 gateway, bytes32 provider, uint64 epoch) external view returns (bool);

    function leafHash(bytes32 gateway, bytes32 provider, uint256 modelId, uint64 epoch, uint256 units)
        external
        pure
        returns (bytes32);

    function hashVoucher(ContributionVoucher calldata voucher) external view returns (bytes32);

    function hashReceipt(ContributionVoucher calldata receipt) external view returns (bytes32);

    function hashCommitment(CheckpointCommitment calldata commitment) external view returns (bytes32);
}

/// @title The disputes that the chain decides by itself; at the same address as the rest of Settlement.
interface ISettlementChallenges is ISettlementTypes {
    /// @notice A voucher above the leaf (shown by `proof`), or without a valid checkpoint (`leafUnits` 0, empty proof).
    function challengeOmission(
        ContributionVoucher calldata voucher, bytes calldata signature, uint256 leafUnits, bytes32[] calldata proof
    ) external;

    /// @notice A voucher whose leaf is nowhere to be found: the gateway must show one, or pay. Takes a bond.
    function openOmissionChallenge(ContributionVoucher calldata voucher, bytes calldata signature)
        external
        returns (uint256 challengeId);

    /// @notice Shows a leaf of at least the challenged units. Anyone.
    function answerOmission(uint256 challengeId, uint256 units, bytes32[] calldata proof) external;

    /// @notice A leaf that its provider never acknowledged: the gateway must open it with a receipt, or lose. Takes a bond.
    function openLeafChallenge(
        bytes32 gateway, uint256 modelId, uint64 epoch, Leaf calldata leaf, bytes32[] calldata proof
    ) external returns (uint256 challengeId);

    /// @notice Opens the leaf: the provider's receipt over at least the leaf's units. Anyone.
    function answerLeaf(uint256 challengeId, uint256 receiptUnits, bytes calldata receiptSignature) external;

    /// @notice Upholds a challenge that nobody answered in time. Anyone.
    function resolveChallenge(uint256 challengeId) external;

    /// @notice All leaves, in tree order, rebuild the root, but their sum is not `totalUnits`.
    function challengeSum(bytes32 gateway, uint256 modelId, uint64 epoch, Leaf[] calldata leaves) external;

    /// @notice Some leaves (ascending by leaf hash, with a multiproof) already sum to more than `totalUnits`.
    function challengeSumOverflow(
        bytes32 gateway, uint256 modelId, uint64 epoch, Leaf[] calldata leaves, bytes32[] calldata proof, bool[] calldata flags
    ) external;

    /// @notice Two different commitments for one slot, both signed by the gateway.
    function challengeEquivocation(
        CheckpointCommitment calldata a, bytes calldata signatureA, CheckpointCommitment calldata b, bytes calldata signatureB
    ) external;

    /// @notice One signed commitment that differs from what was posted in its slot.
    function challengePosted(CheckpointCommitment calldata commitment, bytes calldata signature) external;

    /// @notice Vouchers (ascending by provider) of one slot cost more than the gateway's credit and effective stake.
    function challengeOverdraw(ContributionVoucher[] calldata vouchers, bytes[] calldata signatures) external;

    function challenge(uint256 challengeId) external view returns (Challenge memory);

    function challengeCount() external view returns (uint256);

    /// @notice Challenges that hold this gateway's stake.
    function openChallengesOf(bytes32 gateway) external view returns (uint256);

    /// @notice Units for which a provider has been compensated in a slot.
    function compensatedUnits(bytes32 gateway, bytes32 provider, uint64 epoch) external view returns (uint256);
}

/// @title Everything that the address of Settlement answers to.
interface ISettlement is ISettlementCore, ISettlementChallenges {}
