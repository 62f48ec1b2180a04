// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IDisputes} from "contracts/interfaces/IDisputes.sol";
import {ISlashing} from "contracts/interfaces/ISlashing.sol";
import {Books} from "./Books.sol";
import {Tree} from "./Tree.sol";

/// @title Steps about promises kept or not, accusations and their end.
abstract contract Conduct is Books {
    uint16 internal constant PENALTY_BPS = 1000;
    uint16 internal constant CAP_BPS = 2000;

    function commitSla(uint256 who, uint8 length) external {
        ++steps;
        uint256 i = who % PROVIDERS;
        uint64 now_ = epochs.currentEpoch();
        vm.prank(providerOwner(i));
        try slashing.commitSla(providerId(i), 9900, 200, PENALTY_BPS, 6 + length % 12) {
            if (slaUntil[i] != 0 && now_ <= slaUntil[i] + 2 * DELAY) fail_("two commitments at once");
            slaUntil[i] = now_ + 6 + length % 12;
            slaPunished[i] = false;
        } catch {}
    }

    function enforceSla(uint256 who, uint8 back, bool missed) external {
        ++steps;
        uint256 i = who % PROVIDERS;
        uint64 now_ = epochs.currentEpoch();
        uint64 ago = DELAY - 1 + back % (DELAY + 3); // from an epoch too early to one too late
        if (now_ <= ago) return;
        uint64 epoch = now_ - ago;
        proveAll(i, epoch);
        bytes32[] memory served = servedBy(providerId(i), epoch);
        (ISlashing.SlaReport[] memory r, bytes[] memory s) = reports(served, providerId(i), epoch, missed);
        uint256 before = stakeOfProvider(i);
        (uint256[] memory units, bytes[] memory receipts) = receiptsOf(served, i, epoch);
        try slashing.enforceSla(providerId(i), epoch, served, r, s, units, receipts) {
            ++penalties;
            if (!missed) fail_("a promise that was kept was punished");
            if (slaPunished[i]) fail_("a commitment was punished twice");
            if (now_ < epoch + DELAY || now_ > epoch + 2 * DELAY) fail_("evidence outside its window");
            if (before - stakeOfProvider(i) != before * PENALTY_BPS / 10_000) fail_("another penalty than promised");
            slaPunished[i] = true;
            if (slaUntil[i] > now_) slaUntil[i] = now_;
        } catch {}
    }

    /// @dev Who wants to enforce a promise first proves what was served.
    function proveAll(uint256 i, uint64 epoch) internal {
        for (uint256 g = 0; g < GATEWAYS; ++g) {
            uint256 place = postingOf[slot(g, modelOf(i), epoch)];
            if (place == 0) continue;
            Posting memory p = postings[place - 1];
            Sibling[] memory leaves = leavesOf(p);
            Sibling[] memory proof = Tree.proof(leaves, leaves[i % 2]);
            try settlement.proveContributionFor(gatewayId(g), providerId(i), epoch, p.units[i % 2], proof) {} catch {}
        }
    }

    /// @dev The gateways with a proven leaf of the provider, ascending by key.
    function servedBy(string memory id, uint64 epoch) internal view returns (bytes32[] memory served) {
        served = new bytes32[](GATEWAYS);
        uint256 n;
        for (uint256 g = 0; g < GATEWAYS; ++g) {
            bytes32 k = key(gatewayId(g));
            if (settlement.provenUnits(k, key(id), epoch) == 0) continue;
            uint256 j = n++;
            for (; j > 0 && served[j - 1] > k; --j) {
                served[j] = served[j - 1];
            }
            served[j] = k;
        }
        assembly ("memory-safe") {
            mstore(served, n)
        }
    }

    function reports(bytes32[] memory served, string memory id, uint64 epoch, bool missed)
        internal
        view
        returns (ISlashing.SlaReport[] memory r, bytes[] memory s)
    {
        r = new ISlashing.SlaReport[](served.length);
        s = new bytes[](served.length);
        for (uint256 n = 0; n < served.length; ++n) {
            uint256 g;
            while (key(gatewayId(g)) != served[n]) ++g;
            r[n] = ISlashing.SlaReport(served[n], key(id), epoch, 5, missed ? 9000 : 10_000, 100);
            s[n] = signed(gatewayKey(g), slashing.hashReport(r[n]));
        }
    }

    /// @dev What the provider signed to each of them: as much as was proven.
    function receiptsOf(bytes32[] memory served, uint256 i, uint64 epoch)
        internal
        view
        returns (uint256[] memory units, bytes[] memory signatures)
    {
        units = new uint256[](served.length);
        signatures = new bytes[](served.length);
        for (uint256 n = 0; n < served.length; ++n) {
            bytes32 k = key(providerId(i));
            units[n] = settlement.provenUnits(served[n], k, epoch);
            ContributionVoucher memory receipt = ContributionVoucher(served[n], k, modelOf(i), epoch, units[n]);
            signatures[n] = signed(providerKey(i), settlement.hashReceipt(receipt));
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

    function draw(uint256 which) external {
        ++steps;
        if (cases == 0) return;
        uint256 c = recent(which);
        uint256 chosen = disputes.caseOf(c).drawBlock;
        try disputes.drawPanel(c) {
            if (vm.getBlockNumber() <= chosen) fail_("a draw with a block that was known");
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
                || case_.status == IDisputes.CaseStatus.Disputed || case_.status == IDisputes.CaseStatus.Drawing;
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
