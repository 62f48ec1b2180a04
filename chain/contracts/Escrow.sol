// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Stoppable} from "./base/Stoppable.sol";
import {Wired} from "./base/Wired.sol";
import {IDirectory} from "./interfaces/IDirectory.sol";
import {IEpochController} from "./interfaces/IEpochController.sol";
import {IEscrow} from "./interfaces/IEscrow.sol";
import {IGatewayRegistry} from "./interfaces/IGatewayRegistry.sol";
import {IGatewayStaking} from "./interfaces/IGatewayStaking.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";
import {Ids} from "./libraries/Ids.sol";

/// @title What developers reserve for gateways, and the gateways' credit that vouchers turn it into.
contract Escrow is IEscrow, Stoppable, EIP712 {
    using SafeERC20 for IERC20;

    bytes32 private constant VOUCHER_TYPEHASH =
        keccak256("PaymentVoucher(address payer,bytes32 gateway,uint256 cumulativeAmount)");

    IERC20 private _token;
    IEpochController private _epochs;
    IGatewayRegistry private _gateways;
    IGatewayStaking private _gatewayStaking;
    ISettlement private _settlement;

    mapping(address payer => uint128) private _free;
    mapping(address payer => mapping(bytes32 gateway => Reservation)) private _reservations;
    mapping(bytes32 gateway => Credit) private _credits;
    /// @inheritdoc IEscrow
    mapping(address payer => mapping(address signer => uint64 lastEpoch)) public signerUntil;
    /// @inheritdoc IEscrow
    mapping(address payer => mapping(bytes32 gateway => uint256)) public redeemed;

    constructor(IDirectory directory, address owner_) Wired(directory, owner_) EIP712("InferenceMesh", "1") {}

    /// @inheritdoc IEscrow
    function deposit(uint256 amount) external whenNotPaused nonReentrant {
        _deposit(msg.sender, amount);
    }

    /// @inheritdoc IEscrow
    function depositFor(address payer, uint256 amount) external whenNotPaused nonReentrant {
        if (payer == address(0)) revert ZeroAddress();
        _deposit(payer, amount);
    }

    /// @inheritdoc IEscrow
    function withdraw(uint256 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        uint128 free = _free[msg.sender];
        if (amount > free) revert InsufficientBalance(amount, free);
        _free[msg.sender] = free - uint128(amount);
        _token.safeTransfer(msg.sender, amount);
        emit Withdrawn(msg.sender, amount);
    }

    /// @inheritdoc IEscrow
    function reserve(string calldata gatewayId, uint256 amount) external whenNotPaused {
        bytes32 key = _gatewayKey(gatewayId);
        if (amount == 0) revert ZeroAmount();
        uint128 free = _free[msg.sender];
        if (amount > free) revert InsufficientBalance(amount, free);
        _free[msg.sender] = free - uint128(amount);
        _reserve(key, amount);
    }

    /// @inheritdoc IEscrow
    function depositAndReserve(string calldata gatewayId, uint256 amount) external whenNotPaused nonReentrant {
        bytes32 key = _gatewayKey(gatewayId);
        if (amount == 0) revert ZeroAmount();
        _reserve(key, amount);
        _token.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @inheritdoc IEscrow
    function thaw(string calldata gatewayId, uint256 amount) external {
        bytes32 key = _gatewayKey(gatewayId);
        if (amount == 0) revert ZeroAmount();
        Reservation storage own = _reservations[msg.sender][key];
        uint256 firm = own.amount - own.thawing;
        if (amount > firm) revert InsufficientBalance(amount, firm);
        uint64 end = _epochs.currentEpoch() + thawEpochs();
        own.thawing += uint128(amount);
        own.thawEnd = end;
        emit Thawing(msg.sender, key, own.thawing, end);
    }

    /// @inheritdoc IEscrow
    function cancelThaw(string calldata gatewayId) external {
        bytes32 key = _gatewayKey(gatewayId);
        Reservation storage own = _reservations[msg.sender][key];
        if (own.thawing == 0) revert NothingThawing(msg.sender);
        own.thawing = 0;
        own.thawEnd = 0;
        emit ThawCancelled(msg.sender, key);
    }

    /// @inheritdoc IEscrow
    function withdrawReserved(string calldata gatewayId) external nonReentrant returns (uint256 amount) {
        bytes32 key = _gatewayKey(gatewayId);
        Reservation storage own = _reservations[msg.sender][key];
        amount = own.thawing;
        if (amount == 0) revert NothingThawing(msg.sender);
        if (_epochs.currentEpoch() < own.thawEnd) revert StillThawing(own.thawEnd);
        own.amount -= uint128(amount);
        own.thawing = 0;
        own.thawEnd = 0;
        _token.safeTransfer(msg.sender, amount);
        emit ReservationWithdrawn(msg.sender, key, amount);
    }

    /// @inheritdoc IEscrow
    function authorizeSigner(address signer) external whenNotPaused {
        if (signer == address(0)) revert ZeroAddress();
        signerUntil[msg.sender][signer] = type(uint64).max;
        emit SignerAuthorized(msg.sender, signer);
    }

    /// @inheritdoc IEscrow
    function thawSigner(address signer) external {
        uint64 current = _epochs.currentEpoch();
        uint64 until = signerUntil[msg.sender][signer];
        if (until < current) revert UnknownSigner(msg.sender, signer);
        uint64 last = uint64(Math.min(until, current + thawEpochs()));
        signerUntil[msg.sender][signer] = last;
        emit SignerThawing(msg.sender, signer, last);
    }

    /// @inheritdoc IEscrow
    function redeem(PaymentVoucher calldata voucher, bytes calldata signature)
        external
        nonReentrant
        returns (uint256 paid)
    {
        _requireStaked(voucher.gateway);
        _requireSignature(voucher, signature, _epochs.currentEpoch());
        uint256 due = _due(voucher);
        if (due == 0) revert NothingDue(voucher.payer, voucher.gateway);
        if (_reservations[voucher.payer][voucher.gateway].amount == 0) revert EmptyDeposit(voucher.payer);
        paid = _redeem(voucher, due);
        _credit(voucher.gateway, paid);
    }

    /// @inheritdoc IEscrow
    function redeemBatch(PaymentVoucher[] calldata vouchers, bytes[] calldata signatures)
        external
        nonReentrant
        returns (uint256 paid)
    {
        if (vouchers.length != signatures.length) revert LengthMismatch();
        uint64 current = _epochs.currentEpoch();
        bytes32 gateway;
        uint256 credit; // of this gateway, booked when another one's turn comes
        for (uint256 i = 0; i < vouchers.length; ++i) {
            if (i == 0 || vouchers[i].gateway != gateway) {
                if (credit != 0) _credit(gateway, credit);
                credit = 0;
                gateway = vouchers[i].gateway;
                _requireStaked(gateway);
            }
            _requireSignature(vouchers[i], signatures[i], current);
            uint256 due = _due(vouchers[i]);
            if (due == 0) continue;
            uint256 moved = _redeem(vouchers[i], due);
            credit += moved;
            paid += moved;
        }
        if (credit != 0) _credit(gateway, credit);
    }

    /// @inheritdoc IEscrow
    function topUpCredit(string calldata gatewayId, uint256 amount) external nonReentrant {
        bytes32 key = _gatewayKey(gatewayId);
        if (amount == 0) revert ZeroAmount();
        _credit(key, amount);
        _token.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @inheritdoc IEscrow
    function thawCredit(string calldata gatewayId, uint256 amount) external {
        bytes32 key = _mine(gatewayId);
        if (amount == 0) revert ZeroAmount();
        Credit storage own = _credits[key];
        uint256 firm = own.amount - own.thawing;
        if (amount > firm) revert InsufficientBalance(amount, firm);
        uint64 end = _epochs.currentEpoch() + thawEpochs() + 1;
        own.thawing += uint128(amount);
        own.thawEnd = end;
        emit GatewayCreditThawing(key, own.thawing, end);
    }

    /// @inheritdoc IEscrow
    function withdrawCredit(string calldata gatewayId) external nonReentrant returns (uint256 amount) {
        bytes32 key = _mine(gatewayId);
        Credit storage own = _credits[key];
        amount = own.thawing;
        if (amount == 0) revert NothingThawing(msg.sender);
        if (_epochs.currentEpoch() < own.thawEnd) revert StillThawing(own.thawEnd);
        uint256 debt = _settlement.debtOf(key);
        if (debt != 0) revert GatewayInDebt(key, debt);
        own.amount -= uint128(amount);
        own.thawing = 0;
        own.thawEnd = 0;
        _token.safeTransfer(msg.sender, amount);
        emit GatewayCreditWithdrawn(key, msg.sender, amount);
    }

    /// @inheritdoc IEscrow
    function spendCredit(bytes32 gateway, uint256 amount) external only(address(_settlement)) returns (uint256 taken) {
        Credit storage own = _credits[gateway];
        uint128 credit = own.amount;
        taken = Math.min(amount, credit);
        if (taken == 0) return 0;
        credit -= uint128(taken);
        own.amount = credit;
        if (own.thawing > credit) own.thawing = credit;
        _token.safeTransfer(msg.sender, taken);
        emit GatewayCreditSpent(gateway, taken);
    }

    /// @inheritdoc IEscrow
    function freeOf(address payer) external view returns (uint256) {
        return _free[payer];
    }

    /// @inheritdoc IEscrow
    function reservationOf(address payer, bytes32 gateway) external view returns (Reservation memory) {
        return _reservations[payer][gateway];
    }

    /// @inheritdoc IEscrow
    function available(address payer, bytes32 gateway) external view returns (uint256) {
        Reservation storage own = _reservations[payer][gateway];
        return own.amount - own.thawing;
    }

    /// @inheritdoc IEscrow
    function creditOf(bytes32 gateway) external view returns (uint256) {
        return _credits[gateway].amount;
    }

    /// @inheritdoc IEscrow
    function creditStateOf(bytes32 gateway) external view returns (Credit memory) {
        return _credits[gateway];
    }

    /// @inheritdoc IEscrow
    function thawEpochs() public view returns (uint64) {
        return _epochs.epochRewardDelay() + 1;
    }

    /// @inheritdoc IEscrow
    function hashVoucher(PaymentVoucher calldata voucher) public view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(abi.encode(VOUCHER_TYPEHASH, voucher.payer, voucher.gateway, voucher.cumulativeAmount))
        );
    }

    function _wire(IDirectory.Entries memory entries) internal override {
        _token = IERC20(entries.token);
        _epochs = IEpochController(entries.epochs);
        _gateways = IGatewayRegistry(entries.gateways);
        _gatewayStaking = IGatewayStaking(entries.gatewayStaking);
        _settlement = ISettlement(entries.settlement);
    }

    function _deposit(address payer, uint256 amount) private {
        if (amount == 0) revert ZeroAmount();
        _free[payer] += SafeCast.toUint128(amount);
        _token.safeTransferFrom(msg.sender, address(this), amount);
        emit Deposited(payer, msg.sender, amount);
    }

    function _reserve(bytes32 gateway, uint256 amount) private {
        Reservation storage own = _reservations[msg.sender][gateway];
        own.amount += SafeCast.toUint128(amount);
        emit Reserved(msg.sender, gateway, amount, own.amount);
    }

    /// @dev Pays what the reservation holds and remembers exactly that, so the rest of the voucher stays good.
    function _redeem(PaymentVoucher calldata voucher, uint256 due) private returns (uint256 paid) {
        Reservation storage own = _reservations[voucher.payer][voucher.gateway];
        uint128 amount = own.amount;
        paid = Math.min(due, amount);
        if (paid == 0) return 0;
        amount -= uint128(paid);
        own.amount = amount;
        if (own.thawing > amount) own.thawing = amount;
        uint256 total = redeemed[voucher.payer][voucher.gateway] + paid;
        redeemed[voucher.payer][voucher.gateway] = total;
        emit VoucherRedeemed(voucher.payer, voucher.gateway, total, paid, due - paid);
    }

    function _credit(bytes32 gateway, uint256 amount) private {
        _credits[gateway].amount += SafeCast.toUint128(amount);
        emit GatewayCredited(gateway, amount);
    }

    function _due(PaymentVoucher calldata voucher) private view returns (uint256) {
        (, uint256 due) = Math.trySub(voucher.cumulativeAmount, redeemed[voucher.payer][voucher.gateway]);
        return due;
    }

    function _gatewayKey(string calldata gatewayId) private view returns (bytes32 key) {
        key = Ids.keyOf(gatewayId);
        if (_gateways.ownerOf(key) == address(0)) revert UnknownGateway(key);
    }

    /// @dev Redeeming needs a stake, or a payer could name a gateway of its own to take a reservation back at once.
    function _requireStaked(bytes32 key) private view {
        if (_gateways.ownerOf(key) == address(0)) revert UnknownGateway(key);
        if (_gatewayStaking.stakeOfKey(key).amount == 0) revert NotStaked(key);
    }

    function _mine(string calldata gatewayId) private view returns (bytes32 key) {
        key = Ids.keyOf(gatewayId);
        address owner_ = _gateways.ownerOf(key);
        if (owner_ == address(0)) revert UnknownGateway(key);
        if (owner_ != msg.sender) revert NotGatewayOwner(key, msg.sender);
    }

    function _requireSignature(PaymentVoucher calldata voucher, bytes calldata signature, uint64 current) private view {
        bytes32 digest = hashVoucher(voucher);
        (address signer, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (failure == ECDSA.RecoverError.NoError) {
            if (signer == voucher.payer || signerUntil[voucher.payer][signer] >= current) return;
        }
        if (voucher.payer.code.length == 0) revert InvalidSignature();
        if (!SignatureChecker.isValidERC1271SignatureNowCalldata(voucher.payer, digest, signature)) {
            revert InvalidSignature();
        }
    }
}
