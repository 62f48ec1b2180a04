// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "./ICommon.sol";

/// @title What developers deposit, reserve for a gateway, and pay per request by cumulative vouchers.
interface IEscrow is ICommon {
    /// @notice «`payer` owes `gateway` `cumulativeAmount` wei in all, ever.»
    /// @dev EIP-712 type `PaymentVoucher(address payer,bytes32 gateway,uint256 cumulativeAmount)`.
    struct PaymentVoucher {
        address payer;
        bytes32 gateway;
        uint256 cumulativeAmount;
    }

    /// @notice What only one gateway's vouchers can take from a payer. `thawing` ≤ `amount` may leave from `thawEnd` on.
    struct Reservation {
        uint128 amount;
        uint128 thawing;
        uint64 thawEnd;
    }

    /// @notice A gateway's prepaid fees. `thawing` ≤ `amount` may leave from `thawEnd` on.
    struct Credit {
        uint128 amount;
        uint128 thawing;
        uint64 thawEnd;
    }

    /// @notice Tokens became `payer`'s free deposit.
    event Deposited(address indexed payer, address indexed from, uint256 amount);
    /// @notice Free tokens were paid out.
    event Withdrawn(address indexed payer, uint256 amount);
    /// @notice `amount` wei more are reserved; `total` is the whole reservation.
    event Reserved(address indexed payer, bytes32 indexed gateway, uint256 amount, uint256 total);
    event Thawing(address indexed payer, bytes32 indexed gateway, uint256 thawing, uint64 thawEnd);
    event ThawCancelled(address indexed payer, bytes32 indexed gateway);
    event ReservationWithdrawn(address indexed payer, bytes32 indexed gateway, uint256 amount);
    event SignerAuthorized(address indexed payer, address indexed signer);
    event SignerThawing(address indexed payer, address indexed signer, uint64 lastEpoch);
    /// @notice `paid` wei moved now; `outstanding` is what the voucher still promises, to be redeemed later.
    event VoucherRedeemed(
        address indexed payer, bytes32 indexed gateway, uint256 cumulativePaid, uint256 paid, uint256 outstanding
    );
    event GatewayCredited(bytes32 indexed gateway, uint256 amount);
    event GatewayCreditSpent(bytes32 indexed gateway, uint256 amount);
    event GatewayCreditThawing(bytes32 indexed gateway, uint256 thawing, uint64 thawEnd);
    event GatewayCreditWithdrawn(bytes32 indexed gateway, address indexed owner, uint256 amount);

    error NothingDue(address payer, bytes32 gateway);
    /// @notice The payer has reserved nothing at this gateway.
    error EmptyDeposit(address payer);
    error NothingThawing(address account);
    error StillThawing(uint64 thawEnd);
    error UnknownSigner(address payer, address signer);
    /// @notice The gateway has no stake, so nothing backs its promises.
    error NotStaked(bytes32 key);
    error NotGatewayOwner(bytes32 key, address caller);
    /// @notice The gateway owes providers `debt` wei (see Settlement).
    error GatewayInDebt(bytes32 key, uint256 debt);

    /// @notice Adds to the caller's free deposit.
    function deposit(uint256 amount) external;

    /// @notice Adds to `payer`'s free deposit from the caller's tokens.
    function depositFor(address payer, uint256 amount) external;

    /// @notice Pays out free tokens at once.
    function withdraw(uint256 amount) external;

    /// @notice Moves free tokens into the caller's reservation at a gateway.
    function reserve(string calldata gatewayId, uint256 amount) external;

    /// @notice `deposit` and `reserve` in one.
    function depositAndReserve(string calldata gatewayId, uint256 amount) external;

    /// @notice Marks `amount` more of a reservation for withdrawal; the clock restarts for all that is thawing.
    /// Vouchers can still take it.
    function thaw(string calldata gatewayId, uint256 amount) external;

    function cancelThaw(string calldata gatewayId) external;

    /// @notice Pays out what has thawed of a reservation, at most what is left of it.
    function withdrawReserved(string calldata gatewayId) external returns (uint256 amount);

    /// @notice Lets `signer` sign vouchers for the caller.
    function authorizeSigner(address signer) external;

    /// @notice The signer stays valid through currentEpoch + thawEpochs, then no longer.
    function thawSigner(address signer) external;

    /// @notice Pays the unpaid part of a voucher, or as much as the reservation holds, to the gateway's credit. Anyone.
    function redeem(PaymentVoucher calldata voucher, bytes calldata signature) external returns (uint256 paid);

    /// @notice `redeem` for many; a voucher with nothing due or nothing to pay with is passed over.
    function redeemBatch(PaymentVoucher[] calldata vouchers, bytes[] calldata signatures)
        external
        returns (uint256 paid);

    /// @notice Adds to a gateway's credit from the caller's own tokens. Anyone.
    function topUpCredit(string calldata gatewayId, uint256 amount) external;

    /// @notice Marks `amount` more of a gateway's credit for withdrawal. Fees and compensations can still take it.
    /// Gateway's owner.
    function thawCredit(string calldata gatewayId, uint256 amount) external;

    /// @notice Pays the thawed credit of a gateway without debt to its owner.
    function withdrawCredit(string calldata gatewayId) external returns (uint256 amount);

    /// @notice Takes up to `amount` of the gateway's credit and sends it to the caller. Settlement only.
    function spendCredit(bytes32 gateway, uint256 amount) external returns (uint256 taken);

    /// @notice The payer's tokens that no gateway's vouchers can take.
    function freeOf(address payer) external view returns (uint256);

    function reservationOf(address payer, bytes32 gateway) external view returns (Reservation memory);

    /// @notice Part of the reservation that is not thawing.
    function available(address payer, bytes32 gateway) external view returns (uint256);

    /// @notice All credit, thawing or not.
    function creditOf(bytes32 gateway) external view returns (uint256);

    function creditStateOf(bytes32 gateway) external view returns (Credit memory);

    /// @notice What has been paid, ever, from `payer` to `gateway`.
    function redeemed(address payer, bytes32 gateway) external view returns (uint256);

    /// @notice epochRewardDelay + 1: how long a reservation thaws, and a signer stays valid.
    function thawEpochs() external view returns (uint64);

    /// @notice Last epoch in which `signer` may sign for `payer`; 0 for never.
    function signerUntil(address payer, address signer) external view returns (uint64);

    /// @notice EIP-712 digest of a voucher on this chain and contract.
    function hashVoucher(PaymentVoucher calldata voucher) external view returns (bytes32);
}
