"""The moves of a coalition. A move is a name and some numbers, which its method reads as it likes, so that any sequence
of moves can be played, changed a little, and played again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from chain.primitives import MAX_UINT96, key_of
from chain.vouchers import SignerConsent
from tests.chain.spec.settlement_state import ChallengeStatus
from tests.profit.game import DEVELOPERS, GATEWAYS, MALS, MODEL, PROVIDERS, Game
from tests.profit.world import DELAY, MIN_STAKE, PRICE, STAKE, account, sign

Move: TypeAlias = tuple[str, int, int, int]
GATES: Final = ("mg0", "mg1", "mg2")
"""Ids of the coalition's gateways; each is another account's."""
WORKERS: Final = ("mp0", "mp1")
SPARE: Final = ("spare0", "spare1", "spare2")
"""Accounts that only sign."""
AMOUNTS: Final = (1, PRICE, 50 * PRICE, MIN_STAKE, STAKE // 2, STAKE, 3 * STAKE, MAX_UINT96)
TOKENS: Final = (1, 5, 40, 100, 400, 2_000)


@dataclass(slots=True)
class Coalition:
    """Plays moves in a game. Whatever the chain or an honest party refuses simply does not happen."""

    game: Game
    given: dict[tuple[str, str, int], int] = field(default_factory=dict)
    """Units of the vouchers that its gateways signed, by gateway, provider and epoch."""

    # --- names ---

    def gate(self, number: int) -> tuple[str, str]:
        """A gateway's id and its owner."""
        at = number % len(GATES)
        return GATES[at], MALS[at]

    def worker(self, number: int) -> tuple[str, str]:
        at = number % len(WORKERS)
        return WORKERS[at], MALS[3 + at]

    def signer(self, gate: str, owner: str, epoch: int) -> str:
        """The account whose signatures count for a gateway of ours in an epoch."""
        address = self.game.world.ledger.gateways.signer_at(key_of(gate), epoch)
        return next((name for name in SPARE if account(name).address == address), owner)

    def model_of(self, provider: str) -> int:
        return self.game.models.get(provider, MODEL)

    # --- time ---

    def wait(self, a: int, b: int, c: int) -> None:
        """The next block, the last or first block of an epoch, the second one."""
        world = self.game.world
        epoch = world.epoch + (1 + b % DELAY if a % 4 >= 2 else 1)
        start = world.start_of(epoch)
        self.game.advance((world.block + 1, start - 1, start, start + 1)[a % 4])

    # --- roles ---

    def become_gateway(self, a: int, b: int, c: int) -> None:
        gate, owner = self.gate(a)
        world = self.game.world
        amount = (0, 1, MIN_STAKE, 2 * MIN_STAKE, STAKE)[b % 5]
        if amount:
            done = world.tries("gateways", "register_and_stake", owner, gate, "", amount)
            done = done or world.tries("gateway_staking", "stake_for_gateway", owner, gate, amount)
        else:
            done = world.tries("gateways", "register", owner, gate, "")
        if done:
            world.owners[gate] = owner

    def become_provider(self, a: int, b: int, c: int) -> None:
        worker, owner = self.worker(a)
        world = self.game.world
        model_id = MODEL if b % 2 else world.ledger.models.model_count
        if world.tries("providers", "register_and_stake", owner, worker, model_id, "{}"):
            world.owners[worker] = owner
            self.game.models[worker] = model_id

    def publish(self, a: int, b: int, c: int) -> None:
        world = self.game.world
        if world.ledger.models.model_count < 3:
            world.create_model(
                "mal5", f"mal/{world.ledger.models.model_count}", (0, 1, PRICE, 100 * PRICE)[a % 4], (0, 5000)[b % 2]
            )

    def reprice(self, a: int, b: int, c: int) -> None:
        world = self.game.world
        world.tries(
            "models", "update_price", "mal5", world.ledger.models.model_count, (0, 1, PRICE, 1_000 * PRICE)[a % 4]
        )

    # --- as a developer ---

    def reserve(self, a: int, b: int, c: int) -> None:
        gateway = (*GATEWAYS, *GATES)[a % 5]
        self.game.world.tries("escrow", "deposit_and_reserve", MALS[b % 2], gateway, AMOUNTS[c % 7])

    def promise(self, a: int, b: int, c: int) -> None:
        """A voucher to an honest gateway."""
        gateway = self.game.gateways[GATEWAYS[a % 2]]
        developer = MALS[b % 2]
        gateway.pay(developer, gateway.accepted[developer] + AMOUNTS[c % 7])

    def thaw(self, a: int, b: int, c: int) -> None:
        gateway = (*GATEWAYS, *GATES)[a % 5]
        world, developer = self.game.world, MALS[b % 2]
        left = world.ledger.escrow.available(account(developer).address, key_of(gateway))
        world.tries("escrow", "thaw", developer, gateway, left if c % 2 else left // 2)

    def withdraw(self, a: int, b: int, c: int) -> None:
        world, developer = self.game.world, MALS[b % 2]
        for gateway in (*GATEWAYS, *GATES):
            world.tries("escrow", "withdraw_reserved", developer, gateway)
        world.tries("escrow", "withdraw", developer, world.ledger.escrow.free_of(account(developer).address))

    def redeem_to_ourselves(self, a: int, b: int, c: int) -> None:
        """A developer of ours pays a gateway of ours with all that it has."""
        gate, owner = self.gate(a)
        world, developer = self.game.world, MALS[b % 2]
        voucher, signature = world.payment(developer, developer, gate, MAX_UINT96)
        world.tries("escrow", "redeem", owner, voucher, signature)

    def ask(self, a: int, b: int, c: int) -> None:
        """Have an honest gateway serve us, by an honest provider or by one of ours."""
        provider = (*PROVIDERS, *WORKERS)[b % 4]
        developer = MALS[(c // 8) % 2]
        failed = c % 8 >= 6
        self.game.serve(developer, GATEWAYS[a % 2], provider, self.model_of(provider), TOKENS[c % 6], failed=failed)

    # --- as a provider ---

    def work_for(self, a: int, b: int, c: int) -> None:
        """An honest developer's request at an honest gateway comes to a provider of ours."""
        worker, _ = self.worker(b)
        self.game.serve(DEVELOPERS[a % 2], GATEWAYS[(a // 2) % 2], worker, self.model_of(worker), TOKENS[c % 4])

    def claim_units(self, a: int, b: int, c: int) -> None:
        """A receipt to an honest gateway: for what was done or for more, in this epoch or one beside it."""
        worker, _ = self.worker(b)
        gateway, world = self.game.gateways[GATEWAYS[a % 2]], self.game.world
        model_id, epoch = self.model_of(worker), max(1, world.epoch + (0, 0, 1, -1, 2)[c % 5])
        line = gateway.lines.get((worker, model_id))
        if line is None:
            return
        if c >= 48:
            gateway.short.add(worker)
        counts = line.epochs.get(epoch)
        claim = (0 if counts is None else counts.receipted) + (line.verified - line.signed, 1, 40, 1 << 22)[
            (c // 5) % 4
        ]
        units = gateway.receipt(worker, model_id, epoch, claim)
        if units is not None:
            self.game.taken[gateway.name, worker, epoch] = units

    # --- as a gateway ---

    def buy(self, a: int, b: int, c: int) -> None:
        """Have an honest provider work for a gateway of ours, for a developer who is honest or for nobody."""
        gate, _ = self.gate(a)
        developer = DEVELOPERS[b % 2] if b % 3 else None
        if developer is not None:
            world = self.game.world
            if not world.ledger.escrow.available(account(developer).address, key_of(gate)):
                world.tries("escrow", "deposit_and_reserve", developer, gate, 1_000 * PRICE)
        provider = PROVIDERS[(b // 3) % 2]
        for _ in range(1 + c % 12):
            done = self.game.serve(developer, gate, provider, MODEL, TOKENS[c % 4])
            if done and (c // 12) % 4:
                self.sign(a, (b // 3) % 2, 0)

    def sign(self, a: int, b: int, c: int) -> None:
        """A voucher of a gateway of ours: for what an honest provider is owed, for more, or with another epoch."""
        gate, owner = self.gate(a)
        provider = self.game.providers[PROVIDERS[b % 2]]
        epoch = max(1, self.game.world.epoch - (c // 4) % 2)
        asked = provider.asks(gate)
        units = min((asked, 1, asked + 4_000, 1 << 40)[c % 4], MAX_UINT96)
        if units:
            signer = owner if c % 3 == 2 else self.signer(gate, owner, epoch)
            provider.voucher(gate, epoch, units, signer)
            self.given[gate, provider.name, epoch] = units

    def fund_line(self, a: int, b: int, c: int) -> None:
        gate, owner = self.gate(a)
        provider = (*PROVIDERS, *WORKERS)[b % 4]
        self.game.world.tries("gateway_staking", "fund_lines", owner, gate, [provider], [AMOUNTS[c % 7]])

    def thaw_line(self, a: int, b: int, c: int) -> None:
        gate, owner = self.gate(a)
        provider, world = (*PROVIDERS, *WORKERS)[b % 4], self.game.world
        left = world.ledger.gateway_staking.guaranteed(key_of(gate), key_of(provider))
        world.tries("gateway_staking", "thaw_line", owner, gate, provider, left)
        world.tries("gateway_staking", "release_line", owner, gate, provider)

    def post(self, a: int, b: int, c: int) -> None:
        """The last epoch's checkpoint: whole, cut, without some, doubled, invented; shown or withheld."""
        gate, owner = self.gate(a)
        world = self.game.world
        epoch = max(1, world.epoch - 1)
        owed = {provider: units for (who, provider, past), units in self.given.items() if (who, past) == (gate, epoch)}
        worker, _ = self.worker(c)
        model_id, kind = MODEL, b % 6
        leaves = list(owed.items())
        if kind == 1:
            leaves = [(provider, units // 2 or 1) for provider, units in leaves]
        elif kind == 2:
            leaves = leaves[:1]
        elif kind == 3:
            leaves += [(provider, (1, units // 2 or 1)[c // 2 % 2]) for provider, units in leaves]
        elif kind >= 4:
            leaves = (leaves if kind == 5 else []) + [(worker, (1, 400, 40_000)[c % 3])]
            model_id = self.model_of(worker)
        if leaves:
            world.post(self.signer(gate, owner, world.epoch), gate, model_id, epoch, leaves, shown=c % 2 == 0)

    def redeem(self, a: int, b: int, c: int) -> None:
        """Honest developers' promises to a gateway of ours."""
        gate, owner = self.gate(a)
        for (developer, gateway), amount in self.game.pocket.items():
            if gateway == gate:
                voucher, signature = self.game.world.payment(developer, developer, gate, amount)
                self.game.world.tries("escrow", "redeem", owner, voucher, signature)

    def leave(self, a: int, b: int, c: int) -> None:
        """Wind down, thaw the credit, unstake, take it out: whatever is possible now."""
        gate, owner = self.gate(a)
        world = self.game.world
        world.tries("gateway_staking", "wind_down_gateways", owner, [gate])
        credit = world.ledger.escrow.credit_of(key_of(gate))
        world.tries("escrow", "thaw_credit", owner, gate, credit)
        world.tries("escrow", "withdraw_credit", owner, gate)
        world.tries("gateway_staking", "unstake_for_gateway", owner, gate)

    # --- disputes ---

    def show_omission(self, a: int, b: int, c: int) -> None:
        """A provider of ours shows a voucher of an honest gateway or of ours: at once, or by a challenge."""
        worker, owner = self.worker(b)
        gateway = (*GATEWAYS, *GATES)[a % 5]
        world = self.game.world
        epoch = max(1, world.epoch - c % (DELAY + 2))
        model_id = self.model_of(worker)
        units = self.game.taken.get((gateway, worker, epoch), 0)
        signer = gateway
        if gateway in GATES:
            units, signer = (1, 400, 40_000, 1 << 40)[(c // 8) % 4], world.owners.get(gateway, "mal0")
        if not units:
            return
        voucher, signature = world.contribution(signer, gateway, worker, model_id, epoch, units)
        posted = world.posted.get((gateway, model_id, epoch))
        leaf, proof = 0, ()
        if posted is not None:
            leaf = posted.tree.units(key_of(worker))
            proof = posted.tree.proof(key_of(worker), leaf) if leaf else ()
        if (c // 4) % 2:
            world.tries("settlement", "open_omission_challenge", owner, voucher, signature)
        else:
            world.tries("settlement", "challenge_omission", owner, voucher, signature, leaf, proof)

    def challenge_ourselves(self, a: int, b: int, c: int) -> None:
        """A gateway of ours shows, or asks for, what it signed for an honest provider, or a part of it."""
        gate, owner = self.gate(a)
        world, provider = self.game.world, PROVIDERS[b % 2]
        epoch = max(1, world.epoch - c % (DELAY + 2))
        units = self.given.get((gate, provider, epoch), 0)
        units = (units, 1, units // 2, units - 1)[(c // 8) % 4]
        if units <= 0:
            return
        signer = self.signer(gate, owner, epoch)
        voucher, signature = world.contribution(signer, gate, provider, MODEL, epoch, units)
        posted = world.posted.get((gate, MODEL, epoch))
        if posted is not None and (c // 4) % 2:
            world.tries("settlement", "open_omission_challenge", "mal5", voucher, signature)
        else:
            leaf = 0 if posted is None else posted.tree.units(key_of(provider))
            proof = posted.tree.proof(key_of(provider), leaf) if posted is not None and leaf else ()
            world.tries("settlement", "challenge_omission", "mal5", voucher, signature, leaf, proof)

    def answer(self, a: int, b: int, c: int) -> None:
        """Answer what is asked of our gateways, or have it decided."""
        world = self.game.world
        for number, challenge in enumerate(world.ledger.settlement.challenges()):
            if challenge.status is not ChallengeStatus.OPEN:
                continue
            for gate in GATES:
                posted = world.posted.get((gate, challenge.model_id, challenge.epoch))
                if challenge.gateway == key_of(gate) and posted is not None and a % 2:
                    for leaf in posted.tree.leaves:
                        if leaf.provider == challenge.provider:
                            proof = posted.tree.proof(leaf.provider, leaf.units)
                            world.tries("settlement", "answer_omission", "mal5", number, leaf.units, proof)
            world.tries("settlement", "resolve_challenge", "mal5", number)

    # --- what only the old rules have ---

    def void(self, a: int, b: int, c: int) -> None:
        """Void what a gateway of ours has posted."""
        gate, owner = self.gate(a)
        world = self.game.world
        if not hasattr(world.ledger.settlement, "void"):
            return
        for epoch in range(max(1, world.epoch - DELAY), world.epoch):
            if world.tries("settlement", "void", owner, gate, MODEL, epoch):
                world.posted.pop((gate, MODEL, epoch), None)

    def freeze(self, a: int, b: int, c: int) -> None:
        """Challenge a leaf, and never have it decided."""
        world = self.game.world
        if hasattr(world.ledger.settlement, "freeze"):
            world.tries("settlement", "freeze", "mal5", MODEL, max(1, world.epoch - 1 - a % DELAY))

    def overdraw(self, a: int, b: int, c: int) -> None:
        """Show that an honest gateway has signed for more than it has now."""
        world = self.game.world
        if hasattr(world.ledger.settlement, "overdraw"):
            for (gateway, worker, epoch), units in self.game.taken.items():
                if epoch >= world.epoch - 1:
                    model_id = self.model_of(worker)
                    voucher, signature = world.contribution(gateway, gateway, worker, model_id, epoch, units)
                    world.tries("settlement", "overdraw", "mal5", voucher, signature)

    def rotate(self, a: int, b: int, c: int) -> None:
        """A gateway of ours names another key of ours, from the next epoch on."""
        gate, owner = self.gate(a)
        world, signer = self.game.world, account(SPARE[a % len(GATES)])
        consent = SignerConsent(key_of(gate), account(owner).address, signer.address)
        signature = sign(world.ledger.gateways.domain, consent, signer.name)
        world.tries("gateways", "set_signer", owner, gate, signer.address, signature)

    def collect(self, a: int, b: int, c: int) -> None:
        """Debts of any gateway to any provider."""
        world = self.game.world
        for gateway in (*GATEWAYS, *GATES):
            for provider in (*PROVIDERS, *WORKERS):
                world.tries(
                    "settlement", "collect_debt", "mal5", gateway, provider, max(1, world.epoch - a % (DELAY + 3))
                )
