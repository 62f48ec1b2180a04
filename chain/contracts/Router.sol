// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {ProviderStaking} from "./ProviderStaking.sol";
import {Stoppable} from "./base/Stoppable.sol";
import {Wired} from "./base/Wired.sol";
import {IDirectory} from "./interfaces/IDirectory.sol";
import {IRouter} from "./interfaces/IRouter.sol";

/// @title Finds, and makes, the staking pool of each model. Pausing the router pauses staking in all pools.
contract Router is IRouter, Stoppable {
    address private _models;
    address private _implementation;
    mapping(uint256 modelId => address) private _pools;

    constructor(IDirectory directory, address owner_) Wired(directory, owner_) {}

    /// @inheritdoc IRouter
    function createPool(uint256 modelId) external only(_models) returns (address pool) {
        pool = Clones.clone(_implementation);
        _pools[modelId] = pool;
        ProviderStaking(pool).initialize(modelId);
        emit StakingPoolCreated(modelId, pool);
    }

    /// @inheritdoc IRouter
    function stakingPool(uint256 modelId) external view returns (address pool) {
        pool = _pools[modelId];
        if (pool == address(0)) revert UnknownModel(modelId);
    }

    function _wire(IDirectory.Entries memory entries) internal override {
        _models = entries.models;
        _implementation = address(new ProviderStaking(entries));
    }
}
