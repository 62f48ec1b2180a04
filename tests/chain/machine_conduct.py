"""Rules of the state machines about conduct: commitments to a service level, their penalties, verifiers and cases."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from chain.primitives import key_of
from chain.vouchers import (
    SlaReport,
)
from tests.chain.machine_accounts import fresh
from tests.chain.machine_base import ACTORS, GATEWAYS, OWNER, PROVIDERS, action, mostly, pick
from tests.chain.machine_work import Work
from tests.chain.spec.disputes import CaseStatus


class Conduct(Work):
    """After the work: who promised what, and who kept it."""

    # --- service levels ---

    @action(2)
    def commit_sla(self, rng: Random) -> None:
        provider = pick(rng, PROVIDERS)
        promise = pick(rng, [(9900, 50, 1000, 3), (9900, 50, 1000, 3), (1, 1, 1, 1), (0, 1, 1, 1), (1, 1, 1001, 1)])
        self.do("slashing", "commit_sla", self.caller(rng, self.owner_of_provider(provider)), provider, *promise)

    @action(3)
    def enforce_sla(self, rng: Random) -> None:
        back = rng.randint(0, 5)
        provider, epoch = pick(rng, PROVIDERS), max(self.epoch - back, 0)
        named = sorted(key_of(gateway) for gateway in GATEWAYS[: pick(rng, [2, 2, 3])])
        uptime = pick(rng, [9000, 9000, 9950])
        reports = [SlaReport(gateway, key_of(provider), epoch, uptime, 40) for gateway in named]
        if not mostly(rng):
            reports = pick(rng, [reports[::-1], [replace(reports[0], epoch=epoch + 1), *reports[1:]], reports[1:]])
        signatures = [
            self.bent(
                rng, self.signed(self.ledger.slashing.domain, r, self.ledger.gateways.signer_at(r.gateway, r.epoch))
            )
            for r in reports
        ]
        self.do("slashing", "enforce_sla", pick(rng, ACTORS), provider, epoch, reports, signatures)

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

    @action(3)
    def break_a_promise(self, rng: Random) -> None:
        """A commitment, an epoch in which it is missed, and the reports of it."""
        provider = pick(rng, PROVIDERS[:3])
        self.do("slashing", "set_quorum", OWNER, 2)
        self.do("slashing", "commit_sla", self.owner_of_provider(provider), provider, 9900, 50, 1000, 2)
        epoch = self.epoch + 1
        self.block = self.ledger.epochs.epoch_start_block(epoch + 1)
        active = [g for g in GATEWAYS if self.ledger.gateways.is_active(g, self.block)]
        uptime = pick(rng, [9000, 9000, 9950])
        reports = sorted(
            (SlaReport(key_of(g), key_of(provider), epoch, uptime, 40) for g in active), key=lambda r: r.gateway
        )
        domain, gateways = self.ledger.slashing.domain, self.ledger.gateways
        signatures = [self.signed(domain, r, gateways.signer_at(r.gateway, epoch)) for r in reports]
        for _ in range(2):
            self.do("slashing", "enforce_sla", pick(rng, ACTORS), provider, epoch, reports, signatures)
        pool = f"pool {self.model_of(provider)}"
        self.do(pool, "unstake_provider", self.owner_of_provider(provider), provider)
        if mostly(rng, 2):
            self.do(pool, "stake_for_provider", self.owner_of_provider(provider), provider)
