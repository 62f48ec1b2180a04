// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IDirectory} from "./interfaces/IDirectory.sol";

/// @title Directory of one deployment.
contract Directory is IDirectory, Ownable2Step {
    Entries private _entries;

    /// @inheritdoc IDirectory
    bool public isSealed;

    constructor(address owner_) Ownable(owner_) {}

    /// @inheritdoc IDirectory
    function seal(Entries calldata entries_) external {
        if (isSealed) revert Wiring();
        _checkOwner();
        if (
            entries_.token == address(0) || entries_.epochs == address(0) || entries_.models == address(0)
                || entries_.providers == address(0) || entries_.router == address(0) || entries_.gateways == address(0)
                || entries_.gatewayStaking == address(0) || entries_.escrow == address(0)
                || entries_.settlement == address(0) || entries_.slashing == address(0)
                || entries_.disputes == address(0) || entries_.rewardPool == address(0)
        ) revert ZeroAddress();
        isSealed = true;
        _entries = entries_;
        emit Sealed(entries_);
        _transferOwnership(address(0));
    }

    /// @inheritdoc IDirectory
    function entries() external view returns (Entries memory) {
        if (!isSealed) revert Wiring();
        return _entries;
    }
}
