// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";

/// @title FUNC: ERC-20 with Permit (ERC-2612), 18 decimals, without an owner.
/// @notice The initial supply is minted at deployment; only the reward pool mints later, up to its own hard cap.
interface IFuncToken is IERC20, IERC20Permit {
    /// @notice `from` sent tokens to the gateway registry itself; they stay `from`'s until used or returned.
    event SentToInbox(address indexed from, uint256 amount);

    error NotMinter(address caller);
    error SupplyCapExceeded(uint256 wanted, uint256 cap);

    /// @notice The most that may ever be in circulation, 10^28 wei (ten thousand million FUNC).
    function SUPPLY_CAP() external view returns (uint256);

    /// @notice The reward pool, fixed at deployment.
    function minter() external view returns (address);

    /// @notice The gateway registry, fixed at deployment.
    function inbox() external view returns (address);

    /// @notice Wei that `from` transferred to `inbox` and that were neither staked nor returned.
    function sentTo(address from) external view returns (uint256);

    /// @notice Takes `amount` wei off `sentTo(from)`. Inbox only.
    function takeSent(address from, uint256 amount) external;

    /// @notice Creates `amount` wei for `to`. Minter only.
    function mint(address to, uint256 amount) external;

    /// @notice Destroys `amount` wei of the caller's.
    function burn(uint256 amount) external;
}
