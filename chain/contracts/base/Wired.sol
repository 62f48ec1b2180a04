// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IDirectory, IWired} from "../interfaces/IDirectory.sol";

/// @title What all contracts but the token share: two-step owner, reentrancy guard, and neighbours by directory.
abstract contract Wired is IWired, Ownable2Step, ReentrancyGuardTransient {
    IDirectory private immutable DIRECTORY;
    bool private _wired;

    constructor(IDirectory directory, address owner_) Ownable(owner_) {
        if (address(directory) == address(0)) revert ZeroAddress();
        DIRECTORY = directory;
    }

    modifier only(address caller) {
        _only(caller);
        _;
    }

    /// @inheritdoc IWired
    function wire() external {
        if (_wired) revert Wiring();
        _wired = true;
        _wire(DIRECTORY.entries());
    }

    /// @dev For code that is never used at its own address.
    function _lockWiring() internal {
        _wired = true;
    }

    function _wire(IDirectory.Entries memory entries) internal virtual;

    function _only(address caller) private view {
        if (msg.sender != caller) revert Unauthorized(msg.sender);
    }
}
