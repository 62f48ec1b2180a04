// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Conduct} from "./Conduct.sol";
import {Handler} from "./Handler.sol";
import {Promises} from "./Promises.sol";

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
        bytes4[36] memory all = [
            Handler.pass.selector,
            Handler.pass.selector,
            Handler.pass.selector,
            Handler.postCheckpoint.selector,
            Handler.postCheckpoint.selector,
            Handler.prove.selector,
            Handler.prove.selector,
            Handler.claim.selector,
            Handler.claimShare.selector,
            Handler.withdrawEarnings.selector,
            Handler.cycleProvider.selector,
            Handler.cycleGateway.selector,
            Handler.boost.selector,
            Handler.finalize.selector,
            Promises.reserve.selector,
            Promises.withdrawFree.selector,
            Promises.redeem.selector,
            Promises.thawOrWithdraw.selector,
            Promises.sendToRegistry.selector,
            Promises.fundLine.selector,
            Promises.thawOrReleaseLine.selector,
            Promises.thawOrWithdrawCredit.selector,
            Promises.sponsor.selector,
            Promises.equivocate.selector,
            Promises.omission.selector,
            Promises.openChallenge.selector,
            Promises.answer.selector,
            Promises.resolve.selector,
            Promises.collectDebt.selector,
            Conduct.commitSla.selector,
            Conduct.enforceSla.selector,
            Conduct.accuse.selector,
            Conduct.draw.selector,
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
        for (uint256 i = 0; i < 5000; ++i) {
            step(uint256(keccak256(abi.encode("a", i))), uint256(keccak256(abi.encode("b", i))));
        }
        handler.checkSolvency();
        handler.checkPots();
        handler.checkLines();
        handler.checkDebts();
        handler.checkSupply();
        require(bytes(handler.broken()).length == 0, handler.broken());
        require(handler.proofs() > 10, "proofs");
        require(handler.claims() > 10, "claims");
        require(handler.upheld() > 3, "upheld challenges");
        require(handler.answered() > 3, "answers");
        require(handler.compensated() > 3, "compensations");
        require(handler.penalties() > 1, "penalties");
        require(handler.slashes() > 0, "slashes");
    }

    function step(uint256 a, uint256 b) internal {
        uint256 which = a % 57;
        a >>= 8;
        if (which <= 3) handler.pass(uint8(b));
        else if (which <= 6) handler.postCheckpoint(a, b, uint64(a), uint64(b), uint8(b >> 64));
        else if (which <= 11) handler.prove(a, b);
        else if (which == 12) handler.claim(a, uint8(b));
        else if (which == 13) handler.claimShare(a, uint8(b));
        else if (which == 14) handler.withdrawEarnings(a);
        else if (which == 15) handler.cycleProvider(a);
        else if (which == 16) handler.cycleGateway(a, b);
        else if (which == 17) handler.boost(a, b, uint8(a));
        else if (which == 18) handler.finalize(a, uint8(b));
        else if (which == 19) handler.reserve(a, a >> 8, b);
        else if (which == 20) handler.withdrawFree(a, b);
        else if (which == 21) handler.redeem(a, a >> 8, b);
        else if (which == 22) handler.thawOrWithdraw(a, a >> 8, b);
        else if (which == 23) handler.sendToRegistry(a, b);
        else if (which == 24) handler.fundLine(a, a >> 8, b);
        else if (which == 25) handler.thawOrReleaseLine(a, a >> 8, b);
        else if (which == 26) handler.thawOrWithdrawCredit(a, b);
        else if (which == 27) handler.omission(a, a >> 8, uint64(b >> 64), uint8(b));
        else if (which == 28) handler.openChallenge(a, a >> 8, uint64(b));
        else if (which == 29) handler.answer(a);
        else if (which == 30) handler.resolve(a);
        else if (which == 31) handler.collectDebt(a, a >> 8, uint8(b));
        else if (which == 32) handler.commitSla(a, uint8(b));
        else if (which == 33) handler.enforceSla(a, uint8(b), b % 256 > 60);
        else if (which == 34) handler.accuse(a, b);
        else if (which == 35) handler.draw(a);
        else if (which <= 37) handler.vote(a, b, b % 4 != 0);
        else if (which == 38) handler.disputeVerdict(a);
        else if (which == 39) handler.closeCase(a);
        else if (which <= 41) handler.openChallenge(a, a >> 8, uint64(b));
        else if (which <= 43) handler.answer(a);
        else if (which == 44) handler.commitSla(a, uint8(b));
        else if (which == 45) handler.enforceSla(a, uint8(b), b % 256 > 60);
        else if (which <= 50) handler.vote(a, b, b % 4 != 0);
        else if (which == 51) handler.draw(a);
        else if (which <= 53) handler.disputeVerdict(a);
        else handler.sponsor(a, b);
        if (b % 64 == 5) handler.equivocate(a, 0);
    }

    /// @dev Every contract holds exactly what it owes, and those that owe nothing hold nothing.
    function invariant_every_contract_holds_what_it_owes() public view {
        handler.checkSolvency();
    }

    /// @dev Of each pot no more is claimed than it has; once all is proven, less than a wei a provider is left over.
    function invariant_claims_never_exceed_a_pot_and_only_dust_is_left() public view {
        handler.checkPots();
    }

    /// @dev A gateway's lines are what is reserved of its stake, and never more than the stake.
    function invariant_lines_are_a_part_of_the_stake() public view {
        handler.checkLines();
    }

    function invariant_debts_add_up() public view {
        handler.checkDebts();
    }

    /// @dev Emission is at most half of what traffic burned and below its cap, and the books of weights agree.
    function invariant_traffic_never_creates_tokens() public view {
        handler.checkSupply();
    }

    /// @dev Nothing twice, nothing early, nothing trapped: the handler tries all of it.
    function invariant_no_rule_is_broken() public view {
        require(bytes(handler.broken()).length == 0, handler.broken());
    }
}
