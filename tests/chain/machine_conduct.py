"""Rules of the state machines about conduct: commitments to a service level, their penalties, verifiers and cases."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from chain.merkle import ContributionTree, Leaf
from chain.primitives import Bytes32, key_of
from chain.vouchers import ContributionReceipt, SlaReport
from tests.chain.machine_accounts import fresh
from tests.chain.machine_base import ACTORS, GATEWAYS, OWNER, PROVIDERS, action, mostly, pick
from tests.chain.machine_challenges import Challenges
from tests.chain.spec.disputes import CaseStatus


class Conduct(Challenges):
    """After the work: who promised what, and who kept it."""

    # --- service levels ---

    @action(2)
    def commit_sla(self, rng: Random) -> None:
        provider = pick(rng, PROVIDERS)
        promise = pick(rng, [(9900, 50, 1000, 3), (9900, 50, 1000, 3), (1, 1, 1, 1), (0, 1, 1, 1), (1, 1, 1001, 1)])
        self.do("slashing", "commit_sla", self.caller(rng, self.owner_of_provider(provider)), provider, *promise)

    @action(3)
    def enforce_sla(self, rng: Random) -> None:
        """Mostly of an epoch in which the provider has proven work, by those that it served."""
        proven = [key for key in sorted(self.ledger.settlement.all_proven_units()) if mostly(rng, 2)]
        _, provider, epoch = pick(rng, proven) if proven else (b"", key_of("p0"), self.epoch)
        served = sorted(g for g, p, e in self.ledger.settlement.all_proven_units() if (p, e) == (provider, epoch))
        self.report(rng, self.name_of(provider), epoch, served if mostly(rng) else self.not_served(rng, served))

    def not_served(self, rng: Random, served: list[Bytes32]) -> list[Bytes32]:
        """Nearly those who were served."""
        return pick(rng, [served[::-1], served[1:], sorted([*served, fresh(1)]), [*served[:1], *served]])

    def report(self, rng: Random, provider: str, epoch: int, served: list[Bytes32]) -> None:
        """Reports of some of those served, mostly bad ones, and the call."""
        reports = []
        for gateway in served:
            requests, uptime, latency = (
                pick(rng, [5, 5, 900, 4]),
                pick(rng, [9000, 9000, 9950]),
                pick(rng, [40, 40, 51]),
            )
            reports.append(SlaReport(gateway, key_of(provider), epoch, requests, uptime, latency))
        if reports and not mostly(rng, 5):
            odd = replace(reports[0], epoch=epoch + 1)
            reports = pick(rng, [reports[1:], reports[::-1], [odd, *reports[1:]], [reports[0], *reports]])
        domain, signer_at = self.ledger.slashing.domain, self.ledger.gateways.signer_at
        signatures = [self.bent(rng, self.signed(domain, r, signer_at(r.gateway, r.epoch))) for r in reports]
        signatures = signatures if mostly(rng, 20) else signatures[1:]
        units = [pick(rng, [1, 20, 300, 300, 2**200]) if mostly(rng, 20) else 0 for _ in reports]
        key, model_id = key_of(provider), self.model_of(provider)
        receipts = [
            ContributionReceipt(report.gateway, key, model_id, epoch, own)
            for report, own in zip(reports, units, strict=True)
        ]
        domain, worker = self.ledger.settlement.domain, self.ledger.providers.signer_at(key, epoch)
        signed = [self.bent(rng, self.signed(domain, receipt, worker)) for receipt in receipts]
        arguments = (provider, epoch, served, reports, signatures, units, signed if mostly(rng, 20) else signed[1:])
        self.do("slashing", "enforce_sla", pick(rng, ACTORS), *arguments)

    @action()
    def set_quorum(self, rng: Random) -> None:
        self.do("slashing", "set_quorum", OWNER, pick(rng, [1, 2, 2, 2, 3, 65]))
        self.do("slashing", "set_sla_jail_epochs", OWNER, pick(rng, [0, 1, 4, 101]))

    # --- cases ---

    @action()
    def set_verifier(self, rng: Random) -> None:
        self.do("disputes", "set_verifier", OWNER, pick(rng, [*ACTORS, bytes(20)]), mostly(rng, 4))

    @action(2)
    def open_case(self, rng: Random) -> None:
        while len(self.ledger.disputes.verifiers) < 4:
            missing = next(actor for actor in ACTORS if actor not in self.ledger.disputes.verifiers)
            self.do("disputes", "set_verifier", OWNER, missing, True)
        caller = pick(rng, self.ledger.disputes.verifiers) if mostly(rng) else OWNER
        self.do("disputes", "open_case", caller, pick(rng, [*PROVIDERS, "nobody"]), self.epoch, fresh(1))

    @action(2)
    def draw(self, rng: Random) -> None:
        """Some time after the opening: too early, in time, or when the hash is forgotten."""
        cases = self.ledger.disputes.cases
        waiting = [i for i, case in enumerate(cases) if case.status is CaseStatus.DRAWING]
        number = pick(rng, waiting) if waiting and mostly(rng) else pick(rng, range(len(cases) + 1))
        if number < len(cases) and mostly(rng):
            # 256 blocks are many epochs; whoever waited for them would find no window open any more.
            later = pick(rng, [0, 1, 1, 2, 3]) if mostly(rng, 6) else pick(rng, [256, 257])
            self.block = max(self.block, cases[number].draw_block + later)
        self.do("disputes", "draw_panel", pick(rng, ACTORS), number)

    @action(3)
    def vote(self, rng: Random) -> None:
        if not self.ledger.disputes.cases and mostly(rng, 20):
            return
        guilty = rng.random() < 0.5
        votes = rng.randint(1, 4)
        disputes = self.ledger.disputes
        number = pick(rng, range(len(disputes.cases) + 1))
        for _ in range(votes):
            voters = list(disputes.verifiers) or list(ACTORS)
            if number < len(disputes.cases) and disputes.case_of(number).status is CaseStatus.VOTING:
                voters = list(disputes.case_of(number).panel)
            self.do("disputes", "vote", pick(rng, voters if mostly(rng) else ACTORS), number, guilty)

    @action(3)
    def dispute_or_close(self, rng: Random) -> None:
        cases = self.ledger.disputes.cases
        jailed = [i for i, case in enumerate(cases) if case.status is CaseStatus.JAILED]
        if jailed and mostly(rng, 3):
            self.do("disputes", "dispute", pick(rng, ACTORS), pick(rng, jailed))
        else:
            self.do("disputes", "close", pick(rng, ACTORS), pick(rng, range(len(cases) + 1)))

    @action()
    def set_dispute_parameters(self, rng: Random) -> None:
        values = pick(rng, [(10**19, 5000, 5, 1), (1, 1, 1, 2), (10**20, 2000, 16, 4), (0, 1, 1, 1), (1, 5001, 1, 1)])
        self.do("disputes", "set_parameters", OWNER, *values)

    @action(3)
    def try_a_case(self, rng: Random) -> None:
        """Opened, judged, disputed, judged again and closed, with some of it left out."""
        if mostly(rng, 2):
            self.do("disputes", "set_parameters", OWNER, 10**19, 5000, 5, 1)
        self.open_case(rng)
        number = len(self.ledger.disputes.cases) - 1
        if number < 0:
            return
        self.block = max(self.block, self.ledger.disputes.case_of(number).draw_block + mostly(rng, 6))
        if not mostly(rng):
            for verifier in self.ledger.disputes.verifiers[2:]:
                self.do("disputes", "set_verifier", OWNER, verifier, False)
        self.do("disputes", "draw_panel", pick(rng, ACTORS), number)
        for verifier in self.ledger.disputes.case_of(number).panel[: 2 if mostly(rng, 4) else 1]:
            self.do("disputes", "vote", verifier, number, mostly(rng, 5))
        if mostly(rng, 4):
            self.do("disputes", "dispute", pick(rng, ACTORS), number)
            guilty = mostly(rng, 3)
            for verifier in self.ledger.disputes.verifiers[: 3 if mostly(rng, 4) else 2]:
                self.do("disputes", "vote", verifier, number, guilty)
        deadline = self.ledger.disputes.case_of(number).deadline
        start = self.ledger.epochs.epoch_start_block(deadline + 1)
        self.block = max(self.block, start - (not mostly(rng, 5)))
        self.do("disputes", "close", pick(rng, ACTORS), number)
        for actor in rng.sample(ACTORS, 3):
            self.do("disputes", "withdraw_payments", actor)

    @action(4)
    def break_a_promise(self, rng: Random) -> None:
        """A commitment, an epoch in which it is missed, the work of it proven, and the reports of those served."""
        provider = pick(rng, PROVIDERS[:3])
        model_id, key, delay = self.model_of(provider), key_of(provider), self.ledger.epochs.epoch_reward_delay
        self.do("slashing", "set_quorum", OWNER, 2)
        self.do("slashing", "commit_sla", self.owner_of_provider(provider), provider, 9900, 50, 1000, 2)
        self.next_epoch(Random(1))
        epoch = self.epoch
        self.next_epoch(Random(1))
        trees = []
        for gateway in GATEWAYS:
            tree = ContributionTree(key_of(gateway), model_id, epoch, [Leaf(key, pick(rng, [1, 20, 300]))])
            if self.post_exactly(tree):
                trees.append(tree)
        self.go_to(epoch + delay + pick(rng, [0, 0, 0, delay]), early=not mostly(rng))
        served = []
        for tree in trees:
            arguments = (self.name_of(tree.gateway), provider, epoch, tree.total_units, ())
            if self.do("settlement", "prove_contribution_for", ACTORS[5], *arguments):
                served.append(tree.gateway)
        served.sort()
        if mostly(rng, 2):
            self.report(rng, provider, epoch, self.not_served(rng, served))
        for _ in range(2):
            self.report(rng, provider, epoch, served)
        pool = f"pool {model_id}"
        self.do(pool, "unstake_provider", self.owner_of_provider(provider), provider)
        if mostly(rng, 2):
            self.do(pool, "stake_for_provider", self.owner_of_provider(provider), provider)
