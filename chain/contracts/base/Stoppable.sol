// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {Wired} from "./Wired.sol";

/// @title A contract whose owner can stop what takes new money or new commitments, and only that.
/// @notice Whatever pays out, ends, proves or defends goes on; so does what has a deadline, such as redeeming vouchers and
/// posting checkpoints, because a pause must not make anybody miss it.
abstract contract Stoppable is Wired, Pausable {
    function pause() external onlyOwner {
        _pause();
    }

    function unpause() external onlyOwner {
        _unpause();
    }
}
