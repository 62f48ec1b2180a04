// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "./ICommon.sol";

/// @title Developer deposits, which reserve capacity and pay per request by cumulative vouchers.
interface IEscrow is ICommon {
    /// @notice «`payer` owes `gateway` `cumulativeAmount` wei in all, ever.»
    /// @dev EIP-712 type `PaymentVoucher(address payer,bytes32 gateway,uint256 cumulativeAmount)`.
    struct PaymentVoucher {
        address payer;
        bytes32 gateway;
        uint256 cumulativeAmount;
    }

    struct Deposit {
        uint128 balance;
        uint128 thawing;
        uint64 thawEnd;
    }

    event Deposited(address indexed payer, address indexed from, uint256 amount);
    event Thawing(address indexed payer, uint256 amount, uint64 thawEnd);
    event ThawCancelled(address indexed payer);
    event Withdrawn(address indexed payer, uint256 amount);
    event SignerAuthorized(address indexed payer, address indexed signer);
    event SignerThawing(address indexed payer, address indexed signer, uint64 lastEpoch);
    /// @notice `paid` wei moved now; `outstanding` is what the voucher still promises, to be redeemed later.
    event VoucherRedeemed(address indexed payer, bytes32 indexed gateway, uint256 cumulativePaid, uint256 paid, uint256 outstanding);
    event GatewayCredited(bytes32 indexed gateway, uint256 amount);
    event GatewayCreditSpent(bytes32 indexed gateway, uint256 amount);
    event GatewayCreditWithdrawn(bytes32 indexed gateway, address indexed owner, uint256 amount);

    error NothingDue(address payer, bytes32 gateway);
    error EmptyDeposit(address payer);
    error InsufficientBalance(uint256 wanted, uint256 available);
    error NothingThawing(address payer);
    error StillThawing(uint64 thawEnd);
    error UnknownSigner(address payer, address signer);
    error GatewayStillStaked(bytes32 gateway);
    error NotGatewayOwner(bytes32 key, address caller);
    error LengthMismatch();

    function deposit(uint256 amount) external;

    function depositFor(address payer, uint256 amount) external;

    /// @notice Marks `amount` more for withdrawal; the clock restarts for all that is thawing. Vouchers can still take it.
    function thaw(uint256 amount) external;

    function cancelThaw() external;

    /// @notice Pays out what has thawed, at most the balance.
    function withdraw() external returns (uint256 amount);

    /// @notice Lets `signer` sign vouchers for the caller.
    function authorizeSigner(address signer) external;

    /// @notice The signer stays valid through currentEpoch + thawEpochs, then no longer.
    function thawSigner(address signer) external;

    /// @notice Pays the unpaid part of a voucher, or as much as the deposit holds, to the gateway's credit. Anyone.
    function redeem(PaymentVoucher calldata voucher, bytes calldata signature) external returns (uint256 paid);

    /// @notice `redeem` for many; a voucher with nothing due or nothing to pay with is passed over.
    function redeemBatch(PaymentVoucher[] calldata vouchers, bytes[] calldata signatures) external returns (uint256 paid);

    /// @notice Adds to a gateway's credit from the caller's own tokens. Anyone.
    function topUpCredit(string calldata gatewayId, uint256 amount) external;

    /// @notice Pays the credit of a gateway that has unstaked to its owner.
    function withdrawCredit(string calldata gatewayId) external returns (uint256 amount);

    /// @notice Takes up to `amount` of the gateway's credit and sends it to the caller. Settlement only.
    function spendCredit(bytes32 gateway, uint256 amount) external returns (uint256 taken);

    /// @notice Books `amount` wei, already sent by the caller, to the gateway. Settlement only.
    function returnCredit(bytes32 gateway, uint256 amount) external;

    function depositOf(address payer) external view returns (Deposit memory);

    /// @notice Balance that is not thawing.
    function available(address payer) external view returns (uint256);

    function creditOf(bytes32 gateway) external view returns (uint256);

    /// @notice What has been paid, ever, from `payer` to `gateway`.
    function redeemed(address payer, bytes32 gateway) external view returns (uint256);

    /// @notice epochRewardDelay + 1.
    function thawEpochs() external view returns (uint64);

    /// @notice Last epoch in which `signer` may sign for `payer`; 0 for never.
    function signerUntil(address payer, address signer) external view returns (uint64);

    /// @notice EIP-712 digest of a voucher on this chain and contract.
    function hashVoucher(PaymentVoucher calldata voucher) external view returns (bytes32);
}
