// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {IFuncToken} from "../interfaces/IFuncToken.sol";
import {SettlementState} from "./SettlementState.sol";

/// @title What an upheld challenge costs a gateway, and who gets it.
abstract contract SettlementPenalties is SettlementState {
    using SafeERC20 for IFuncToken;

    /// @dev Pays a provider for units that its gateway left out, as far as the gateway's money goes.
    /// @return paid false if nothing could be charged.
    function _compensate(
        bytes32 gateway,
        bytes32 provider,
        uint256 modelId,
        uint64 epoch,
        uint256 missing,
        address challenger
    ) internal returns (bool paid) {
        uint256 fee = _models.feeFor(modelId, epoch, missing);
        uint256 cover = _cover(gateway);
        if (fee > cover) {
            missing = _models.unitsFor(modelId, epoch, cover);
            fee = _models.feeFor(modelId, epoch, missing);
        }
        if (fee == 0) return false;
        _compensated[gateway][provider][epoch] += missing;
        _charge(gateway, fee);
        uint256 net = _splitCompensation(modelId, epoch, fee);
        (address owner_,) = _providers.ownerAndModel(provider);
        _payments[owner_] += net;
        emit ProviderCompensated(provider, gateway, modelId, epoch, missing, net);
        uint256 penalty = Math.mulDiv(fee, _parametersAt(_epochs.currentEpoch()).omissionPenaltyBps, BPS);
        _punish(gateway, Offence.Omission, penalty, challenger);
        return true;
    }

    /// @dev As for fees that were posted, but the gateway's share is burned too.
    function _splitCompensation(uint256 modelId, uint64 epoch, uint256 fee) internal returns (uint256 net) {
        Parameters memory p = _parametersAt(epoch + 1);
        uint256 royalty = fee * _models.royaltyBpsOf(modelId) / BPS;
        uint256 burned = fee * p.gatewayShareBps / BPS + fee * p.burnBps / BPS;
        _royalties[modelId] += royalty;
        _token.burn(burned);
        return fee - royalty - burned;
    }

    function _punishFirst(bytes32 gateway, uint256 modelId, uint64 epoch, Offence offence) internal {
        if (_penalized[_slot(gateway, modelId, epoch)][offence]) revert AlreadyPenalized(gateway, offence);
        _punishFraud(gateway, modelId, epoch, offence, msg.sender);
    }

    /// @dev Once a slot and offence, so that one bad tree costs what the parameter says, not that times its leaves.
    function _punishFraud(bytes32 gateway, uint256 modelId, uint64 epoch, Offence offence, address challenger)
        internal
    {
        bytes32 slot = _slot(gateway, modelId, epoch);
        if (_penalized[slot][offence]) return;
        _penalized[slot][offence] = true;
        uint64 current = _epochs.currentEpoch();
        _slashing.jailGateway(gateway, current + _parametersAt(current).jailEpochs);
        _punish(gateway, offence, _fraudPenalty(gateway), challenger);
    }

    function _punish(bytes32 gateway, Offence offence, uint256 penalty, address challenger) internal {
        uint256 taken = Math.min(penalty, _gatewayStaking.effectiveStakeOfKey(gateway));
        uint256 reward;
        if (taken != 0) {
            _gatewayStaking.charge(gateway, taken);
            reward = taken * _parametersAt(_epochs.currentEpoch()).challengerBps / BPS;
            _payments[challenger] += reward;
            _token.burn(taken - reward);
        }
        emit GatewayPenalized(gateway, offence, taken, challenger, reward);
    }

    function _void(bytes32 gateway, uint256 modelId, uint64 epoch, Checkpoint storage posted) internal {
        posted.status = CheckpointStatus.Voided;
        uint256 fees = posted.totalFees;
        _book(gateway, modelId, epoch, posted.totalUnits - posted.barredUnits, fees, false);
        _token.safeTransfer(address(_escrow), fees);
        _escrow.returnCredit(gateway, fees);
        emit CheckpointVoided(gateway, modelId, epoch);
    }

    function _fraudPenalty(bytes32 gateway) internal view returns (uint256) {
        uint256 stake = _gatewayStaking.stakeOfKey(gateway).amount;
        return stake * _parametersAt(_epochs.currentEpoch()).fraudPenaltyBps / BPS;
    }

    function _cover(bytes32 gateway) internal view returns (uint256) {
        return _escrow.creditOf(gateway) + _gatewayStaking.effectiveStakeOfKey(gateway);
    }
}
