// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "./ICommon.sol";

/// @title Wrong computation: drawn verifiers jail first; a slash needs a bonded, capped dispute.
interface IDisputes is ICommon {
    enum CaseStatus {
        None,
        Voting,
        Acquitted,
        Jailed,
        Disputed,
        Slashed,
        Rejected,
        Drawing
    }

    struct Case {
        bytes32 provider;
        uint256 modelId;
        uint64 epoch;
        bytes32 evidenceHash;
        CaseStatus status;
        /// @notice Last epoch in which the draw, the running vote, or, once jailed, a dispute, is accepted.
        uint64 deadline;
        uint32 guilty;
        uint32 innocent;
        address bonder;
        uint128 bond;
        /// @notice The block whose hash draws the panel.
        uint64 drawBlock;
    }

    event VerifierUpdated(address indexed verifier, bool enabled);
    event CaseOpened(
        uint256 indexed caseId, bytes32 indexed provider, uint64 epoch, bytes32 evidenceHash, uint64 drawBlock
    );
    /// @notice The hash of the block to draw with is out of reach; a later block's is used.
    event DrawPostponed(uint256 indexed caseId, uint64 drawBlock);
    event PanelDrawn(uint256 indexed caseId, address[] panel, uint64 deadline);
    event Voted(uint256 indexed caseId, address indexed verifier, bool guilty);
    event CaseClosed(uint256 indexed caseId, CaseStatus status);
    event Disputed(uint256 indexed caseId, address indexed bonder, uint256 bond);
    event ProviderPenalized(uint256 indexed caseId, bytes32 indexed provider, uint256 penalty, uint256 reward);
    event PaymentWithdrawn(address indexed account, uint256 amount);
    event DisputeParametersUpdated(uint128 bond, uint16 capBps, uint64 jailEpochs, uint64 votingEpochs);

    error NotVerifier(address caller);
    error TooFewVerifiers(uint256 have, uint256 need);
    error TooManyVerifiers();
    error VerifierUnchanged(address verifier);
    error ProviderHasCase(bytes32 provider);
    error UnknownCase(uint256 caseId);
    error WrongStatus(uint256 caseId, CaseStatus status);
    error DrawTooEarly(uint256 drawBlock);
    error VotingClosed(uint256 caseId);
    error VotingOpen(uint256 caseId);
    error NotOnPanel(uint256 caseId, address verifier);
    error AlreadyVoted(uint256 caseId, address verifier);

    /// @notice Owner. At most 64 verifiers.
    function setVerifier(address verifier, bool enabled) external;

    /// @notice A verifier accuses a provider. One open case per provider; its panel is drawn two blocks later.
    function openCase(string calldata providerId, uint64 epoch, bytes32 evidenceHash) external returns (uint256 caseId);

    /// @notice Draws three verifiers with the hash of `drawBlock`, which nobody knew when the case was opened. Anyone.
    /// @dev When that hash is out of reach (after 256 blocks) it names a later block instead.
    function drawPanel(uint256 caseId) external;

    /// @notice While `Voting`: a drawn verifier's verdict; two of three decide. While `Disputed`: any verifier's.
    function vote(uint256 caseId, bool guilty) external;

    /// @notice After a guilty verdict: asks, with a bond, that the provider be slashed. Anyone.
    function dispute(uint256 caseId) external;

    /// @notice Closes a case whose deadline has passed. Anyone.
    function close(uint256 caseId) external;

    function withdrawPayments() external returns (uint256 amount);

    /// @notice Owner. Bounds: bond 1 wei … 10^24 wei, cap 1 … 5000, jail 1 … 1000, voting 1 … 100.
    function setParameters(uint128 bond, uint16 capBps, uint64 jailEpochs, uint64 votingEpochs) external;

    function caseOf(uint256 caseId) external view returns (Case memory);

    function panelOf(uint256 caseId) external view returns (address[] memory);

    function verifiers() external view returns (address[] memory);

    function paymentsOf(address account) external view returns (uint256);

    /// @notice True while a case against this provider is not closed.
    function hasOpenCase(bytes32 provider) external view returns (bool);
}
