// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IDisputes} from "contracts/interfaces/IDisputes.sol";
import {ISlashing} from "contracts/interfaces/ISlashing.sol";
import {Books} from "./Books.sol";

/// @title Steps about promises kept or not, accusations and their end.
abstract contract Conduct is Books {
    uint16 internal constant PENALTY_BPS = 1000;
    uint16 internal constant CAP_BPS = 2000;

    function commitSla(uint256 who, uint8 length) external {
        ++steps;
        uint256 i = who % PROVIDERS;
        uint64 now_ = epochs.currentEpoch();
        vm.prank(providerOwner(i));
        try slashing.commitSla(providerId(i), 9900, 200, PENALTY_BPS, 1 + length % 5) {
            if (slaUntil[i] != 0 && now_ <= slaUntil[i] + DELAY - 1) fail_("two commitments at once");
            slaUntil[i] = now_ + 1 + length % 5;
        } catch {}
    }

    function enforceSla(uint256 who, uint8 back, bool missed) external {
        ++steps;
        uint256 i = who % PROVIDERS;
        uint64 now_ = epochs.currentEpoch();
        if (now_ <= back % 6) return;
        uint64 epoch = now_ - back % 6;
        (ISlashing.SlaReport[] memory r, bytes[] memory s) = reports(providerId(i), epoch, missed);
        uint256 before = stakeOfProvider(i);
        try slashing.enforceSla(providerId(i), epoch, r, s) {
            ++penalties;
            if (!missed) fail_("a promise that was kept was punished");
            if (now_ < epoch + 1 || now_ > epoch + DELAY - 1) fail_("evidence outside its window");
            if (before - stakeOfProvider(i) != before * PENALTY_BPS / 10_000) fail_("another penalty than promised");
            try slashing.enforceSla(providerId(i), epoch, r, s) {
                fail_("a missed epoch was punished twice");
            } catch {}
        } catch {}
    }

    /// @dev One a watcher, ascending by key, as the contract wants them.
    function reports(string memory id, uint64 epoch, bool missed)
        internal
        view
        returns (ISlashing.SlaReport[] memory r, bytes[] memory s)
    {
        r = new ISlashing.SlaReport[](WATCHERS);
        s = new bytes[](WATCHERS);
        uint256 first = key(gatewayId(GATEWAYS)) < key(gatewayId(GATEWAYS + 1)) ? 0 : 1;
        for (uint256 n = 0; n < WATCHERS; ++n) {
            uint256 g = GATEWAYS + (n == 0 ? first : 1 - first);
            r[n] = ISlashing.SlaReport(key(gatewayId(g)), key(id), epoch, missed ? 9000 : 10_000, 100);
            s[n] = signed(gatewayKey(g), slashing.hashReport(r[n]));
        }
    }

    function accuse(uint256 who, uint256 by) external {
        ++steps;
        uint64 now_ = epochs.currentEpoch();
        vm.prank(verifier(by % VERIFIERS));
        try disputes.openCase(providerId(who % PROVIDERS), now_, "evidence") {
            ++cases;
        } catch {}
    }

    function vote(uint256 which, uint256 by, bool guilty) external {
        ++steps;
        if (cases == 0) return;
        uint256 c = recent(which);
        IDisputes.Case memory case_ = disputes.caseOf(c);
        bool late = epochs.currentEpoch() > case_.deadline;
        address voter = verifier(by % VERIFIERS);
        vm.prank(voter);
        try disputes.vote(c, guilty) {
            if (late) fail_("a vote after the deadline");
            vm.prank(voter);
            try disputes.vote(c, guilty) {
                fail_("a verifier voted twice in one round");
            } catch {}
        } catch {}
    }

    function disputeVerdict(uint256 which) external {
        ++steps;
        if (cases == 0) return;
        token.approve(address(disputes), disputes.disputeBond());
        try disputes.dispute(recent(which)) {} catch {}
    }

    function closeCase(uint256 which) external {
        ++steps;
        if (cases == 0) return;
        uint256 c = recent(which);
        IDisputes.Case memory case_ = disputes.caseOf(c);
        bool early = epochs.currentEpoch() <= case_.deadline;
        uint256 i = accused(case_.provider);
        uint256 before = stakeOfProvider(i);
        try disputes.close(c) {
            if (early) fail_("a case was closed while it could be voted on");
            bool slashed = disputes.caseOf(c).status == IDisputes.CaseStatus.Slashed;
            if (slashed) ++slashes;
            if (before - stakeOfProvider(i) != (slashed ? before * CAP_BPS / 10_000 : 0)) fail_("another slash");
            try disputes.close(c) {
                fail_("a case was closed twice");
            } catch {}
        } catch {
            bool open = case_.status == IDisputes.CaseStatus.Voting || case_.status == IDisputes.CaseStatus.Jailed
                || case_.status == IDisputes.CaseStatus.Disputed;
            if (open && !early) fail_("a case that never ends");
        }
    }

    function recent(uint256 which) internal view returns (uint256) {
        return cases - 1 - which % (cases < 3 ? cases : 3);
    }

    function accused(bytes32 provider) internal pure returns (uint256 i) {
        while (key(providerId(i)) != provider) ++i;
    }
}
