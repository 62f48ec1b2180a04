// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Conduct} from "./Conduct.sol";
import {Handler} from "./Handler.sol";

/// @title What holds after every step of everybody.
contract InvariantsTest {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    Handler internal handler;

    function setUp() public {
        handler = new Handler();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        bytes4[23] memory all = [
            Handler.pass.selector,
            Handler.pass.selector,
            Handler.depositAndRedeem.selector,
            Handler.thawOrWithdraw.selector,
            Handler.postCheckpoint.selector,
            Handler.prove.selector,
            Handler.claim.selector,
            Handler.claimShare.selector,
            Handler.withdrawEarnings.selector,
            Handler.cycleProvider.selector,
            Handler.cycleGateway.selector,
            Handler.boost.selector,
            Handler.finalize.selector,
            Handler.omission.selector,
            Handler.openChallenge.selector,
            Handler.resolve.selector,
            Handler.challengeSum.selector,
            Conduct.commitSla.selector,
            Conduct.enforceSla.selector,
            Conduct.accuse.selector,
            Conduct.vote.selector,
            Conduct.disputeVerdict.selector,
            Conduct.closeCase.selector
        ];
        targets = new FuzzSelector[](1);
        targets[0].addr = address(handler);
        targets[0].selectors = new bytes4[](all.length);
        for (uint256 i = 0; i < all.length; ++i) {
            targets[0].selectors[i] = all[i];
        }
    }

    /// @dev Without this, the invariants could hold because nothing ever happens.
    function test_the_steps_reach_proofs_claims_and_upheld_challenges() public {
        for (uint256 i = 0; i < 2500; ++i) {
            uint256 a = uint256(keccak256(abi.encode("a", i)));
            uint256 b = uint256(keccak256(abi.encode("b", i)));
            uint256 step = a % 26;
            a >>= 8;
            if (step <= 2) handler.pass(uint8(b));
            else if (step == 3) handler.depositAndRedeem(a, b, a >> 64, b >> 64);
            else if (step == 4) handler.thawOrWithdraw(a, b);
            else if (step == 5) handler.postCheckpoint(a, b, uint64(a), uint64(b), uint8(b >> 64));
            else if (step == 6) handler.prove(a, b);
            else if (step == 7) handler.claim(a, uint8(b));
            else if (step == 8) handler.claimShare(a, uint8(b));
            else if (step == 9) handler.withdrawEarnings(a);
            else if (step == 10) handler.cycleProvider(a);
            else if (step == 11) handler.cycleGateway(a, b);
            else if (step == 12) handler.boost(a, b, uint8(a));
            else if (step == 13) handler.omission(a, b, uint64(b >> 64), uint8(a));
            else if (step == 14) handler.openChallenge(a, b, b % 3 == 0);
            else if (step == 15) handler.resolve(a);
            else if (step == 16) handler.finalize(a, uint8(b));
            else if (step == 17) handler.commitSla(a, uint8(b));
            else if (step == 18) handler.enforceSla(a, uint8(b), b % 3 != 0);
            else if (step == 19) handler.accuse(a, b);
            else if (step <= 22) handler.vote(a, b, b % 4 != 0);
            else if (step == 23) handler.disputeVerdict(a);
            else if (step == 24) handler.closeCase(a);
            else if (b % 4 == 0) handler.challengeSum(a);
        }
        handler.checkSolvency();
        handler.checkPots();
        handler.checkStakes();
        handler.checkSupply();
        require(bytes(handler.broken()).length == 0, handler.broken());
        require(handler.proofs() > 10, "proofs");
        require(handler.claims() > 10, "claims");
        require(handler.upheld() > 3, "upheld challenges");
        require(handler.penalties() > 1, "penalties");
        require(handler.slashes() > 0, "slashes");
    }

    /// @dev Every contract holds exactly what it owes, and those that owe nothing hold nothing.
    function invariant_every_contract_holds_what_it_owes() public view {
        handler.checkSolvency();
    }

    /// @dev Of each pot no more is claimed than it has; once all is proven, less than a wei a provider is left over.
    function invariant_claims_never_exceed_a_pot_and_only_dust_is_left() public view {
        handler.checkPots();
    }

    function invariant_no_effective_stake_is_negative() public view {
        handler.checkStakes();
    }

    /// @dev Burning outweighs emission, emission stays below its cap, and the books of weights agree.
    function invariant_traffic_never_creates_tokens() public view {
        handler.checkSupply();
    }

    /// @dev Nothing twice, nothing early, nothing trapped: the handler tries all of it.
    function invariant_no_rule_is_broken() public view {
        require(bytes(handler.broken()).length == 0, handler.broken());
    }
}
