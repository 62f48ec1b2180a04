// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit, IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ICommon} from "./interfaces/ICommon.sol";
import {IFuncToken} from "./interfaces/IFuncToken.sol";

/// @title FUNC.
contract FuncToken is IFuncToken, ERC20Permit {
    /// @inheritdoc IFuncToken
    uint256 public constant SUPPLY_CAP = 1e28;

    address private immutable MINTER;
    address private immutable INBOX;

    /// @inheritdoc IFuncToken
    mapping(address from => uint256) public sentTo;

    /// @param minter_ where the reward pool is or will be. @param inbox_ where the gateway registry is or will be.
    constructor(address initialHolder, uint256 initialSupply, address minter_, address inbox_)
        ERC20("Function Token", "FUNC")
        ERC20Permit("Function Token")
    {
        if (minter_ == address(0) || inbox_ == address(0)) revert ICommon.ZeroAddress();
        MINTER = minter_;
        INBOX = inbox_;
        _mintCapped(initialHolder, initialSupply);
    }

    /// @inheritdoc IFuncToken
    function mint(address to, uint256 amount) external {
        if (msg.sender != MINTER) revert NotMinter(msg.sender);
        _mintCapped(to, amount);
    }

    /// @inheritdoc IFuncToken
    function burn(uint256 amount) external {
        _burn(msg.sender, amount);
    }

    /// @inheritdoc IFuncToken
    function takeSent(address from, uint256 amount) external {
        if (msg.sender != INBOX) revert ICommon.Unauthorized(msg.sender);
        uint256 sent = sentTo[from];
        if (amount > sent) revert ICommon.InsufficientBalance(amount, sent);
        sentTo[from] = sent - amount;
    }

    /// @inheritdoc IFuncToken
    function minter() external view returns (address) {
        return MINTER;
    }

    /// @inheritdoc IFuncToken
    function inbox() external view returns (address) {
        return INBOX;
    }

    /// @inheritdoc IERC20Permit
    function nonces(address owner_) public view override(ERC20Permit, IERC20Permit) returns (uint256) {
        return super.nonces(owner_);
    }

    /// @dev Remembers who sent tokens to the inbox by itself; what the inbox pulls is not meant.
    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (to == INBOX && from != address(0) && msg.sender != INBOX) {
            sentTo[from] += amount;
            emit SentToInbox(from, amount);
        }
    }

    function _mintCapped(address to, uint256 amount) private {
        uint256 wanted = totalSupply() + amount;
        if (wanted > SUPPLY_CAP) revert SupplyCapExceeded(wanted, SUPPLY_CAP);
        _mint(to, amount);
    }
}
