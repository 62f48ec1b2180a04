// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {IDisputes} from "contracts/interfaces/IDisputes.sol";
import {IEscrow} from "contracts/interfaces/IEscrow.sol";
import {IGatewayStaking} from "contracts/interfaces/IGatewayStaking.sol";
import {Crew} from "./Crew.sol";

/// @title What the books must say after every step.
abstract contract Books is Crew {
    function checkSolvency() external view {
        uint256 now_ = epochs.currentEpoch();
        uint256 owed;
        for (uint256 i = 0; i < PAYERS; ++i) {
            address from = vm.addr(payerKey(i));
            owed += escrow.freeOf(from);
            for (uint256 g = 0; g < GATEWAYS; ++g) {
                IEscrow.Reservation memory own = escrow.reservationOf(from, key(gatewayId(g)));
                yes(own.thawing <= own.amount, "more of a reservation thaws than there is");
                owed += own.amount;
            }
        }
        for (uint256 i = 0; i < GATEWAYS; ++i) {
            IEscrow.Credit memory credit = escrow.creditStateOf(key(gatewayId(i)));
            yes(credit.thawing <= credit.amount, "more credit thaws than there is");
            owed += credit.amount;
        }
        eq(token.balanceOf(address(escrow)), owed, "escrow");

        owed = 0;
        uint256 sent;
        for (uint256 i = 0; i < GATEWAYS; ++i) {
            owed += gatewayStaking.stakeOf(gatewayId(i)).amount;
            sent += token.sentTo(gatewayOwner_(i));
        }
        eq(token.balanceOf(address(gatewayStaking)), owed, "gateway stakes");
        eq(token.balanceOf(address(gateways)), sent, "what was sent to the registry");

        owed = disputes.paymentsOf(address(this));
        for (uint256 c = 0; c < cases; ++c) {
            IDisputes.Case memory case_ = disputes.caseOf(c);
            if (case_.status == IDisputes.CaseStatus.Disputed) owed += case_.bond;
        }
        for (uint256 i = 0; i < PROVIDERS; ++i) {
            owed += disputes.paymentsOf(providerOwner(i));
        }
        eq(token.balanceOf(address(disputes)), owed, "disputes");

        uint256 boosts;
        uint256 settled;
        for (uint256 m = 1; m <= 2; ++m) {
            ProviderStaking staking = poolOf(m);
            uint256 pots = staking.carried();
            for (uint64 e = 1; e <= now_ + 3; ++e) {
                ProviderStaking.Pot memory p = staking.pot(e);
                yes(p.allotted <= p.amount, "claims above a pot");
                yes(p.provenUnits <= p.totalUnits, "units above a pot");
                pots += p.amount - p.allotted;
                for (uint256 i = 2 * m - 2; i < 2 * m; ++i) {
                    (, uint128 unclaimed) = staking.contribution(providerId(i), e);
                    pots += unclaimed;
                }
                boosts += rewards.boostOf(m, e);
                ModelEpoch memory me = settlement.modelEpoch(m, e);
                if (!me.finalized) settled += me.fees - me.shares;
            }
            settled += settlement.royaltyOf(m);
            uint256 stakes;
            for (uint256 i = 2 * m - 2; i < 2 * m; ++i) {
                stakes += staking.stakeOf(providerId(i)).amount;
            }
            eq(staking.totalStake(), stakes, "stakes");
            eq(token.balanceOf(address(staking)), stakes + pots, "pool");
        }
        eq(token.balanceOf(address(rewards)), boosts, "boosts");
        for (uint256 g = 0; g < GATEWAYS; ++g) {
            for (uint64 e = 1; e <= now_; ++e) {
                settled += settlement.gatewayShare(key(gatewayId(g)), e);
            }
            settled += settlement.paymentsOf(gatewayOwner_(g));
        }
        for (uint256 i = 0; i < PROVIDERS; ++i) {
            settled += settlement.paymentsOf(providerOwner(i));
        }
        settled += settlement.paymentsOf(address(this));
        for (uint256 c = 0; c < settlement.challengeCount(); ++c) {
            Challenge memory ch = settlement.challenge(c);
            if (ch.status == ChallengeStatus.Open) settled += ch.bond;
        }
        eq(token.balanceOf(address(settlement)), settled, "settlement");
        address[7] memory empty = [
            address(token),
            address(directory),
            address(epochs),
            address(models),
            address(providers),
            address(router),
            address(slashing)
        ];
        for (uint256 i = 0; i < empty.length; ++i) {
            eq(token.balanceOf(empty[i]), 0, "a contract that owes nothing");
        }
    }

    /// @dev What was paid out, as the steps counted it, against the pots; and what rounding leaves of each.
    function checkPots() external view {
        uint64 last = epochs.currentEpoch();
        for (uint256 m = 1; m <= 2; ++m) {
            ProviderStaking staking = poolOf(m);
            for (uint64 e = 1; e <= last; ++e) {
                ProviderStaking.Pot memory p = staking.pot(e);
                uint256 given = claimedOf[m][e];
                uint256 served;
                for (uint256 i = 2 * m - 2; i < 2 * m; ++i) {
                    (uint128 units, uint128 unclaimed) = staking.contribution(providerId(i), e);
                    given += unclaimed;
                    if (units > 0) ++served;
                }
                yes(claimedOf[m][e] <= given && given <= p.amount, "claims above a pot");
                if (p.totalUnits == 0 || p.provenUnits < p.totalUnits) {
                    eq(given, p.allotted, "allotted");
                } else {
                    yes(p.amount - given < served, "dust of a wei a provider or more");
                }
            }
        }
    }

    /// @dev A gateway's lines are what is reserved of its stake, and no line promises more than it has.
    function checkLines() external view {
        for (uint256 g = 0; g < GATEWAYS; ++g) {
            IGatewayStaking.Stake memory stake = gatewayStaking.stakeOf(gatewayId(g));
            uint256 sum;
            for (uint256 i = 0; i < PROVIDERS; ++i) {
                IGatewayStaking.Line memory line_ = lineOf(g, i);
                yes(line_.thawing <= line_.amount && line_.held <= line_.amount, "a line below what thaws or is held");
                sum += line_.amount;
            }
            eq(stake.reserved, sum, "reserved");
            yes(sum <= stake.amount, "lines above the stake");
            eq(gatewayStaking.effectiveStake(gatewayId(g)), stake.amount - sum, "effective stake");
        }
    }

    /// @dev A gateway's debt is the sum of what it owes for single providers and epochs.
    function checkDebts() external view {
        for (uint256 g = 0; g < GATEWAYS; ++g) {
            uint256 owed;
            for (uint256 i = 0; i < PROVIDERS; ++i) {
                for (uint64 e = 1; e <= epochs.currentEpoch(); ++e) {
                    uint256 units = settlement.debtUnits(key(gatewayId(g)), key(providerId(i)), e);
                    if (units != 0) owed += models.feeFor(modelOf(i), e, units);
                }
            }
            eq(settlement.debtOf(key(gatewayId(g))), owed, "debt");
        }
    }

    function checkSupply() external view {
        yes(rewards.emitted() <= rewards.EMISSION_CAP(), "emission above its cap");
        uint256 weights;
        for (uint64 e = 1; e <= epochs.currentEpoch(); ++e) {
            uint256 weight;
            for (uint256 m = 1; m <= 2; ++m) {
                weight += uint256(settlement.modelEpoch(m, e).fees) * 500 / 10_000 / 2;
            }
            eq(settlement.emissionWeight(e), weight, "emission weight");
            weights += weight;
        }
        yes(rewards.emitted() <= weights, "emission above half of what traffic burned");
        yes(token.totalSupply() + rewards.emitted() <= initialSupply, "less was burned than twice the emission");
    }
}
