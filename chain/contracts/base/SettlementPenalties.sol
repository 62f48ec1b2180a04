// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SettlementState} from "./SettlementState.sol";

/// @title What an upheld challenge costs a gateway, who gets it, and what stays owed.
abstract contract SettlementPenalties is SettlementState {
    /// @dev Compensates the units of `owed` that no leaf and no compensation covers.
    /// @return due false if that is not more than what is recorded as debt already, or costs nothing.
    function _enforce(ContributionVoucher memory owed, address challenger) internal returns (bool due) {
        uint256 missing = _missing(owed);
        Work storage work = _work[owed.gateway][owed.provider][owed.epoch];
        // Otherwise a small claim could take the place of a large debt.
        if (missing <= work.debt) return false;
        (uint256 units, uint256 fee, uint256 full,) = _affordable(owed, missing);
        if (full == 0) return false;
        _compensate(owed, missing, units, fee, challenger);
        return true;
    }

    /// @dev Pays a provider for `units` of the `missing` ones, which cost `fee`; the rest becomes debt.
    function _compensate(
        ContributionVoucher memory owed,
        uint256 missing,
        uint256 units,
        uint256 fee,
        address challenger
    ) internal {
        if (units != 0) {
            _work[owed.gateway][owed.provider][owed.epoch].compensated += uint96(units);
            _collect(owed.gateway, owed.provider, fee);
            uint256 net = _splitCompensation(owed.modelId, owed.epoch, fee);
            (address owner_,) = _providers.ownerAndModel(owed.provider);
            _payments[owner_] += net;
            emit ProviderCompensated(owed.provider, owed.gateway, owed.modelId, owed.epoch, units, net);
            uint256 penalty = Math.mulDiv(fee, _parametersAt(_epochs.currentEpoch()).omissionPenaltyBps, BPS);
            _punish(owed.gateway, Offence.Omission, penalty, challenger);
        }
        _setDebt(owed, missing - units);
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

    /// @dev Units of `owed` that are neither in the leaf that was shown nor compensated.
    function _missing(ContributionVoucher memory owed) internal view returns (uint256) {
        Work storage work = _work[owed.gateway][owed.provider][owed.epoch];
        return Math.saturatingSub(owed.cumulativeUnits, uint256(work.shown) + work.compensated);
    }

    /// @dev How many of `missing` units the gateway can pay for to this provider, what they cost, what all would cost, and
    /// what there is.
    function _affordable(ContributionVoucher memory owed, uint256 missing)
        internal
        view
        returns (uint256 units, uint256 fee, uint256 full, uint256 cover)
    {
        full = _models.feeFor(owed.modelId, owed.epoch, missing);
        cover = _gatewayStaking.lineOf(owed.gateway, owed.provider).amount + _escrow.creditOf(owed.gateway)
            + _gatewayStaking.effectiveStakeOfKey(owed.gateway);
        if (full <= cover) return (missing, full, full, cover);
        units = Math.min(missing, _models.unitsFor(owed.modelId, owed.epoch, cover));
        fee = _models.feeFor(owed.modelId, owed.epoch, units);
    }

    /// @dev The provider's own line first, then what the gateway has for everybody.
    function _collect(bytes32 gateway, bytes32 provider, uint256 amount) private {
        uint256 taken = _gatewayStaking.chargeLine(gateway, provider, amount);
        if (taken < amount) _charge(gateway, amount - taken);
    }

    /// @dev As for fees that were posted, but the gateway's share is burned too.
    function _splitCompensation(uint256 modelId, uint64 epoch, uint256 fee) private returns (uint256 net) {
        Parameters memory p = _parametersAt(epoch + 1);
        uint256 royalty = fee * _models.royaltyBpsOf(modelId) / BPS;
        uint256 burned = fee * p.gatewayShareBps / BPS + fee * p.burnBps / BPS;
        _royalties[modelId] += royalty;
        _token.burn(burned);
        return fee - royalty - burned;
    }

    function _setDebt(ContributionVoucher memory owed, uint256 units) private {
        Work storage work = _work[owed.gateway][owed.provider][owed.epoch];
        uint256 before = work.debt;
        if (units == before) return;
        work.debt = uint96(units);
        // The price of an epoch that has begun never changes, so that these differences add up.
        _debts[owed.gateway] = _debts[owed.gateway] + _models.feeFor(owed.modelId, owed.epoch, units)
            - _models.feeFor(owed.modelId, owed.epoch, before);
        emit DebtRecorded(owed.gateway, owed.provider, owed.epoch, units);
    }
}
