// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EnumerableSet} from "@openzeppelin/contracts/utils/structs/EnumerableSet.sol";
import {Wired} from "./base/Wired.sol";
import {IDirectory} from "./interfaces/IDirectory.sol";
import {IDisputes} from "./interfaces/IDisputes.sol";
import {IEpochController} from "./interfaces/IEpochController.sol";
import {IFuncToken} from "./interfaces/IFuncToken.sol";
import {IProviderRegistry} from "./interfaces/IProviderRegistry.sol";
import {IProviderStaking} from "./interfaces/IProviderStaking.sol";
import {IRouter} from "./interfaces/IRouter.sol";
import {ISlashing} from "./interfaces/ISlashing.sol";
import {Ids} from "./libraries/Ids.sol";

/// @title Wrong computation, judged by verifiers who ran it again.
contract Disputes is IDisputes, Wired {
    using SafeERC20 for IFuncToken;
    using EnumerableSet for EnumerableSet.AddressSet;

    uint256 public constant PANEL = 3;
    uint256 public constant MAX_VERIFIERS = 64;

    IFuncToken private _token;
    IEpochController private _epochs;
    IProviderRegistry private _providers;
    IRouter private _router;
    ISlashing private _slashing;

    uint128 public disputeBond = 1e20;
    uint16 public capBps = 2000;
    uint64 public jailEpochs = 16;
    uint64 public votingEpochs = 4;

    EnumerableSet.AddressSet private _verifiers;
    Case[] private _cases;
    mapping(uint256 caseId => address[]) private _panels;
    /// @dev A verifier votes once in each round: the panel's, and the dispute's.
    mapping(uint256 caseId => mapping(CaseStatus round => mapping(address verifier => bool))) private _voted;
    mapping(bytes32 provider => uint256 caseIdPlusOne) private _openCase;
    /// @inheritdoc IDisputes
    mapping(address account => uint256) public paymentsOf;

    constructor(IDirectory directory, address owner_) Wired(directory, owner_) {}

    /// @inheritdoc IDisputes
    function setVerifier(address verifier, bool enabled) external onlyOwner {
        if (verifier == address(0)) revert ZeroAddress();
        bool changed = enabled ? _verifiers.add(verifier) : _verifiers.remove(verifier);
        if (!changed) revert VerifierUnchanged(verifier);
        if (_verifiers.length() > MAX_VERIFIERS) revert TooManyVerifiers();
        emit VerifierUpdated(verifier, enabled);
    }

    /// @inheritdoc IDisputes
    function openCase(string calldata providerId, uint64 epoch, bytes32 evidenceHash)
        external
        returns (uint256 caseId)
    {
        if (!_verifiers.contains(msg.sender)) revert NotVerifier(msg.sender);
        if (_verifiers.length() < PANEL) revert TooFewVerifiers(_verifiers.length(), PANEL);
        bytes32 key = Ids.keyOf(providerId);
        (address owner_, uint256 modelId) = _providers.ownerAndModel(key);
        if (owner_ == address(0)) revert UnknownProvider(key);
        if (_openCase[key] != 0) revert ProviderHasCase(key);

        caseId = _cases.length;
        Case storage case_ = _cases.push();
        case_.provider = key;
        case_.modelId = modelId;
        case_.epoch = epoch;
        case_.evidenceHash = evidenceHash;
        case_.status = CaseStatus.Drawing;
        case_.deadline = _epochs.currentEpoch() + votingEpochs;
        case_.drawBlock = _laterBlock();
        _openCase[key] = caseId + 1;
        emit CaseOpened(caseId, key, epoch, evidenceHash, case_.drawBlock);
    }

    /// @inheritdoc IDisputes
    function drawPanel(uint256 caseId) external {
        Case storage case_ = _case(caseId);
        if (case_.status != CaseStatus.Drawing) revert WrongStatus(caseId, case_.status);
        uint64 drawBlock = case_.drawBlock;
        if (block.number <= drawBlock) revert DrawTooEarly(drawBlock);
        if (block.number > uint256(drawBlock) + 256) {
            case_.drawBlock = _laterBlock();
            emit DrawPostponed(caseId, case_.drawBlock);
            return;
        }
        if (_verifiers.length() < PANEL) revert TooFewVerifiers(_verifiers.length(), PANEL);
        case_.status = CaseStatus.Voting;
        case_.deadline = _epochs.currentEpoch() + votingEpochs;
        _panels[caseId] = _draw(caseId, blockhash(drawBlock));
        emit PanelDrawn(caseId, _panels[caseId], case_.deadline);
    }

    /// @inheritdoc IDisputes
    function vote(uint256 caseId, bool guilty) external {
        Case storage case_ = _case(caseId);
        CaseStatus round = case_.status;
        if (round != CaseStatus.Voting && round != CaseStatus.Disputed) revert WrongStatus(caseId, round);
        uint64 current = _epochs.currentEpoch();
        if (current > case_.deadline) revert VotingClosed(caseId);
        if (round == CaseStatus.Voting) {
            if (!_onPanel(caseId, msg.sender)) revert NotOnPanel(caseId, msg.sender);
        } else if (!_verifiers.contains(msg.sender)) {
            revert NotVerifier(msg.sender);
        }
        if (_voted[caseId][round][msg.sender]) revert AlreadyVoted(caseId, msg.sender);
        _voted[caseId][round][msg.sender] = true;
        if (guilty) ++case_.guilty;
        else ++case_.innocent;
        emit Voted(caseId, msg.sender, guilty);

        if (round == CaseStatus.Disputed) return;
        if (case_.guilty * 2 > PANEL) {
            case_.status = CaseStatus.Jailed;
            case_.deadline = current + votingEpochs;
            _slashing.jailProvider(case_.provider, current + jailEpochs);
        } else if (case_.innocent * 2 > PANEL) {
            _end(caseId, case_, CaseStatus.Acquitted);
        }
    }

    /// @inheritdoc IDisputes
    function dispute(uint256 caseId) external nonReentrant {
        Case storage case_ = _case(caseId);
        if (case_.status != CaseStatus.Jailed) revert WrongStatus(caseId, case_.status);
        uint64 current = _epochs.currentEpoch();
        if (current > case_.deadline) revert VotingClosed(caseId);
        case_.status = CaseStatus.Disputed;
        case_.deadline = current + votingEpochs;
        case_.guilty = 0;
        case_.innocent = 0;
        case_.bonder = msg.sender;
        case_.bond = disputeBond;
        _token.safeTransferFrom(msg.sender, address(this), disputeBond);
        emit Disputed(caseId, msg.sender, disputeBond);
    }

    /// @inheritdoc IDisputes
    function close(uint256 caseId) external nonReentrant {
        Case storage case_ = _case(caseId);
        CaseStatus status = case_.status;
        bool open = status == CaseStatus.Drawing || status == CaseStatus.Voting || status == CaseStatus.Jailed
            || status == CaseStatus.Disputed;
        if (!open) revert WrongStatus(caseId, status);
        if (_epochs.currentEpoch() <= case_.deadline) revert VotingOpen(caseId);
        // A case whose panel cannot be drawn must not hold a stake for ever.
        if (status == CaseStatus.Voting || status == CaseStatus.Drawing) {
            _end(caseId, case_, CaseStatus.Acquitted);
        } else if (status == CaseStatus.Jailed) {
            _end(caseId, case_, CaseStatus.Rejected);
        } else if (case_.guilty > case_.innocent && case_.guilty + case_.innocent >= PANEL) {
            _end(caseId, case_, CaseStatus.Slashed);
            _penalize(caseId, case_);
        } else {
            _end(caseId, case_, CaseStatus.Rejected);
            (address owner_,) = _providers.ownerAndModel(case_.provider);
            paymentsOf[owner_] += case_.bond;
            _slashing.releaseProvider(case_.provider);
        }
    }

    /// @inheritdoc IDisputes
    function withdrawPayments() external nonReentrant returns (uint256 amount) {
        amount = paymentsOf[msg.sender];
        if (amount == 0) revert NothingToClaim();
        paymentsOf[msg.sender] = 0;
        _token.safeTransfer(msg.sender, amount);
        emit PaymentWithdrawn(msg.sender, amount);
    }

    /// @inheritdoc IDisputes
    function setParameters(uint128 bond, uint16 capBps_, uint64 jailEpochs_, uint64 votingEpochs_) external onlyOwner {
        Ids.checkBounds(bond, 1, 1e24);
        Ids.checkBounds(capBps_, 1, 5000);
        Ids.checkBounds(jailEpochs_, 1, 1000);
        Ids.checkBounds(votingEpochs_, 1, 100);
        disputeBond = bond;
        capBps = capBps_;
        jailEpochs = jailEpochs_;
        votingEpochs = votingEpochs_;
        emit DisputeParametersUpdated(bond, capBps_, jailEpochs_, votingEpochs_);
    }

    /// @inheritdoc IDisputes
    function caseOf(uint256 caseId) external view returns (Case memory) {
        return _case(caseId);
    }

    /// @inheritdoc IDisputes
    function panelOf(uint256 caseId) external view returns (address[] memory) {
        return _panels[caseId];
    }

    /// @inheritdoc IDisputes
    function verifiers() external view returns (address[] memory) {
        return _verifiers.values();
    }

    /// @inheritdoc IDisputes
    function hasOpenCase(bytes32 provider) external view returns (bool) {
        return _openCase[provider] != 0;
    }

    function _wire(IDirectory.Entries memory entries) internal override {
        _token = IFuncToken(entries.token);
        _epochs = IEpochController(entries.epochs);
        _providers = IProviderRegistry(entries.providers);
        _router = IRouter(entries.router);
        _slashing = ISlashing(entries.slashing);
    }

    function _end(uint256 caseId, Case storage case_, CaseStatus status) private {
        case_.status = status;
        delete _openCase[case_.provider];
        emit CaseClosed(caseId, status);
    }

    function _penalize(uint256 caseId, Case storage case_) private {
        IProviderStaking pool = IProviderStaking(_router.stakingPool(case_.modelId));
        bytes32 provider = case_.provider;
        uint256 penalty = pool.slash(provider, pool.stakeOfKey(provider) * capBps / 10_000);
        uint256 reward = penalty / 10;
        paymentsOf[case_.bonder] += case_.bond + reward;
        _token.burn(penalty - reward);
        emit ProviderPenalized(caseId, provider, penalty, reward);
    }

    /// @dev A block whose hash no transaction that opens or postpones a case can know.
    function _laterBlock() private view returns (uint64) {
        return uint64(block.number + 2);
    }

    /// @dev The first places of a Fisher–Yates shuffle, seeded by a block that was still to come when the case was opened.
    function _draw(uint256 caseId, bytes32 blockHash) private view returns (address[] memory panel) {
        address[] memory pool = _verifiers.values();
        bytes32 seed = keccak256(abi.encode(blockHash, caseId));
        panel = new address[](PANEL);
        for (uint256 i = 0; i < PANEL; ++i) {
            uint256 j = i + uint256(keccak256(abi.encode(seed, i))) % (pool.length - i);
            (pool[i], pool[j]) = (pool[j], pool[i]);
            panel[i] = pool[i];
        }
    }

    function _case(uint256 caseId) private view returns (Case storage) {
        if (caseId >= _cases.length) revert UnknownCase(caseId);
        return _cases[caseId];
    }

    function _onPanel(uint256 caseId, address verifier) private view returns (bool) {
        address[] storage panel = _panels[caseId];
        for (uint256 i = 0; i < panel.length; ++i) {
            if (panel[i] == verifier) return true;
        }
        return false;
    }
}
