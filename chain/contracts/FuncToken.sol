// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit, IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ICommon} from "./interfaces/ICommon.sol";
import {IFuncToken} from "./interfaces/IFuncToken.sol";

/// @title FUNC.
contract FuncToken is IFuncToken, ERC20Permit, Ownable2Step {
    /// @inheritdoc IFuncToken
    uint256 public constant SUPPLY_CAP = 1e28;

    /// @inheritdoc IFuncToken
    address public minter;

    constructor(address owner_, address initialHolder, uint256 initialSupply)
        ERC20("Function Token", "FUNC")
        ERC20Permit("Function Token")
        Ownable(owner_)
    {
        _mintCapped(initialHolder, initialSupply);
    }

    /// @inheritdoc IFuncToken
    function setMinter(address minter_) external onlyOwner {
        if (minter_ == address(0)) revert ICommon.ZeroAddress();
        if (minter != address(0)) revert MinterAlreadySet();
        minter = minter_;
        emit MinterUpdated(minter_);
    }

    /// @inheritdoc IFuncToken
    function mint(address to, uint256 amount) external {
        if (msg.sender != minter) revert NotMinter(msg.sender);
        _mintCapped(to, amount);
    }

    /// @inheritdoc IFuncToken
    function burn(uint256 amount) external {
        _burn(msg.sender, amount);
    }

    /// @inheritdoc IERC20Permit
    function nonces(address owner_) public view override(ERC20Permit, IERC20Permit) returns (uint256) {
        return super.nonces(owner_);
    }

    function _mintCapped(address to, uint256 amount) private {
        uint256 wanted = totalSupply() + amount;
        if (wanted > SUPPLY_CAP) revert SupplyCapExceeded(wanted, SUPPLY_CAP);
        _mint(to, amount);
    }
}
