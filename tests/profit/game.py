"""One play: the parties as they begin, work that is done between them, the end in which all take what is theirs, and
the count of who gained and who lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from chain.primitives import BPS, key_of
from tests.chain.spec.settlement_state import ChallengeStatus
from tests.profit.developer import Developer
from tests.profit.gateway import Gateway
from tests.profit.provider import Provider
from tests.profit.rules import CREDIT, INCREMENT, Rules
from tests.profit.world import BLOCKS, DELAY, DEPOSIT, PRICE, STAKE, Work, World, account

DEVELOPERS = ("dan", "dora")
GATEWAYS = ("gwen", "gus")
PROVIDERS = ("pia", "pol")
HONEST = (*DEVELOPERS, *GATEWAYS, *PROVIDERS, "cora")
MALS = ("mal0", "mal1", "mal2", "mal3", "mal4", "mal5")
MODEL = 1
"""The honest creator's."""
ROYALTY_BPS = 500
SHARE_BPS, BURN_BPS = 1000, 500
GRAIN = 64
"""Wei that roundings of one play may move."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a play came to, in wei. Positive: more than the stated risks explain."""

    gain: int
    """Of the coalition, beyond what it honestly earned and what others chose to risk."""
    losses: dict[str, int]
    """Of each honest party, beyond what it chose to risk."""
    broken: tuple[str, ...]
    """Invariants of the ledger, and of the marketplace."""
    taken: int = 0
    """What others lost and the coalition gained in all, before the stated risks are taken off: a search goes uphill."""

    @property
    def objective(self) -> int:
        return max(self.gain, *self.losses.values())

    @property
    def found(self) -> bool:
        return self.objective > 0 or bool(self.broken)

    def exceeds(self, other: Score) -> bool:
        """Whether somebody is worse off than in another play, or the coalition better."""
        return self.gain > other.gain + GRAIN or any(
            loss > max(0, other.losses[name]) + GRAIN for name, loss in self.losses.items()
        )


@dataclass(slots=True)
class Game:
    """Everybody is set up: honest gateways and providers staked, developers with reservations; the coalition has money
    and nothing else."""

    rules: Rules = field(default_factory=Rules)
    patch: tuple[object, ...] = ()
    new_world: Callable[[tuple[str, ...], tuple[str, ...]], World] = World
    world: World = field(init=False)
    gateways: dict[str, Gateway] = field(init=False)
    providers: dict[str, Provider] = field(init=False)
    developers: dict[str, Developer] = field(init=False)
    pocket: dict[tuple[str, str], int] = field(default_factory=dict)
    """The highest promise of an honest developer to a gateway of the coalition."""
    taken: dict[tuple[str, str, int], int] = field(default_factory=dict)
    """Units of the vouchers of honest gateways that the coalition's providers hold, by gateway, provider and epoch."""
    models: dict[str, int] = field(default_factory=dict)
    """What the coalition's providers serve, where it is not the honest creator's."""
    before: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        world = self.world = self.new_world(HONEST, MALS)
        for change in self.patch:
            change(world)  # type: ignore[operator]
        world.create_model("cora", "org/llama", PRICE, ROYALTY_BPS)
        for name in GATEWAYS:
            world.do("gateways", "register_and_stake", name, name, "", STAKE)
        for name in PROVIDERS:
            world.do("providers", "register_and_stake", name, name, MODEL, "{}")
        for name in DEVELOPERS:
            for gateway in GATEWAYS:
                world.do("escrow", "deposit_and_reserve", name, gateway, DEPOSIT)
        self.gateways = {name: Gateway(world, name, self.rules) for name in GATEWAYS}
        self.providers = {name: Provider(world, name, MODEL, self.rules) for name in PROVIDERS}
        self.developers = {name: Developer(world, name) for name in DEVELOPERS}
        self.before = {name: self.value(name) for name in (*HONEST, *MALS)}

    # --- time ---

    def advance(self, block: int) -> None:
        """Let blocks pass; the honest software acts in the first two blocks of every epoch and in its last one."""
        world = self.world
        while world.block < block:
            start, following = world.start_of(world.epoch), world.start_of(world.epoch + 1)
            stops = [stop for stop in (start + 1, following - 1, following, block) if world.block < stop <= block]
            world.block = min(stops)
            if world.block in (start + 1, following - 1, following):
                self.honest_round()

    def honest_round(self) -> None:
        for gateway in self.gateways.values():
            gateway.round()
        for provider in self.providers.values():
            provider.round()

    # --- work ---

    def serve(
        self, developer: str | None, gateway: str, provider: str, model_id: int, tokens: int, *, failed: bool = False
    ) -> int:
        """`provider` computes up to `tokens` for `gateway`, which hands them to `developer`; how many it came to."""
        world = self.world
        price = world.ledger.models.price_at(model_id, world.epoch)
        honest_gateway, honest_provider = self.gateways.get(gateway), self.providers.get(provider)
        honest_developer = self.developers.get(developer or "")
        if honest_gateway is not None:
            if developer is None or not honest_gateway.serves(provider):
                return 0
            if honest_developer is not None:
                honest_gateway.pay(developer, honest_developer.promise(gateway, price))
            tokens = min(tokens, honest_gateway.affordable(developer, price))
        if honest_provider is not None:
            if model_id != honest_provider.model_id:
                return 0
            tokens = min(tokens, honest_provider.room(gateway))
        if tokens <= 0:
            return 0
        world.work.append(Work(developer, gateway, provider, model_id, world.epoch, tokens))
        if honest_provider is not None:
            honest_provider.worked(gateway, tokens)
        if honest_developer is not None:
            honest_developer.receive(gateway, tokens, price)
            if honest_gateway is None:
                self.pocket[honest_developer.name, gateway] = honest_developer.promise(gateway, price)
        if honest_gateway is not None and developer is not None:
            honest_gateway.deliver(developer, provider, model_id, tokens, failed=failed)
            if honest_provider is not None:
                self._settle_up(honest_gateway, honest_provider)
        return tokens

    def _settle_up(self, gateway: Gateway, provider: Provider) -> None:
        """An honest provider's receipt, and the voucher of an honest gateway."""
        epoch = self.world.epoch
        units = gateway.receipt(provider.name, provider.model_id, epoch, provider.asks(gateway.name))
        if units is not None:
            provider.voucher(gateway.name, epoch, units, gateway.name)
        if provider.lines[gateway.name].uncovered:
            gateway.short.add(provider.name)

    # --- the end ---

    def unwind(self) -> None:
        """Time passes until every window has closed; honest parties and coalition take all that they can."""
        for _ in range(2 * DELAY + 3):
            self.advance(self.world.start_of(self.world.epoch + 1) + 1)
            self._collect()
            self.honest_round()
        self._redeem()
        self.honest_round()

    def _redeem(self) -> None:
        """Gateways of the coalition take what honest developers have promised them, when no window is open any more."""
        for (developer, gateway), amount in self.pocket.items():
            if gateway in self.world.owners:
                voucher, signature = self.world.payment(developer, developer, gateway, amount)
                self.world.tries("escrow", "redeem", self.world.owners[gateway], voucher, signature)

    def _collect(self) -> None:
        world, epoch = self.world, self.world.epoch
        last = epoch - DELAY
        for name in MALS:
            world.tries("settlement", "withdraw_payments", name)
        self._complain()
        if last < 1:
            return
        first = max(1, last - 20)
        for (gateway, _, past), posted in list(world.posted.items()):
            if past > last or (gateway in self.gateways and past < last - 1):
                continue
            for leaf in posted.tree.leaves:
                provider = next((each for each in world.owners if key_of(each) == leaf.provider), None)
                if provider is not None:
                    proof = posted.tree.proof(leaf.provider, leaf.units)
                    owner = world.owners[provider]
                    world.tries(
                        "settlement", "prove_contribution_for", owner, gateway, provider, past, leaf.units, proof
                    )
        for identifier, owner in world.owners.items():
            world.tries("gateway_staking", "claim_rewards", owner, identifier, first, last)
            for model_id in range(1, world.ledger.models.model_count + 1):
                world.tries(f"pool {model_id}", "claim_rewards", owner, identifier, first, last)
        for model_id, creator in world.creators.items():
            world.tries("settlement", "claim_royalty", creator, model_id)

    def _complain(self) -> None:
        """Providers of the coalition show the vouchers for which they have no leaf."""
        world = self.world
        for (gateway, worker, epoch), units in self.taken.items():
            if world.epoch - DELAY <= epoch < world.epoch - 1:
                model_id, key = self.models.get(worker, MODEL), key_of(worker)
                posted = world.posted.get((gateway, model_id, epoch))
                leaf = 0 if posted is None else posted.tree.units(key)
                if leaf < units and (posted is None or leaf):
                    proof = posted.tree.proof(key, leaf) if posted is not None else ()
                    shown = world.contribution(gateway, gateway, worker, model_id, epoch, units)
                    world.tries("settlement", "challenge_omission", world.owners[worker], *shown, leaf, proof)

    # --- the count ---

    def value(self, name: str) -> int:
        """All that an account owns: tokens, what lies in the escrow, stakes and credit."""
        ledger, address = self.world.ledger, account(name).address
        total = ledger.token.balance_of(address) + ledger.token.sent_to(address) + ledger.escrow.free_of(address)
        total += sum(held.amount for (payer, _), held in ledger.escrow.reservations().items() if payer == address)
        total += self._prepaid(name)
        for identifier in (name, *(each for each, owner in self.world.owners.items() if owner == name)):
            key = key_of(identifier)
            if ledger.gateways.owner_of(key) == address:
                total += ledger.gateway_staking.stake_of_key(key).amount + ledger.escrow.credit_of(key)
            provider = ledger.providers.by_key(key)
            if provider is not None and provider.owner == address:
                total += ledger.router.pool(provider.model_id).stake_of_key(key).amount
        return total

    def _prepaid(self, name: str) -> int:
        """What honest gateways have taken ahead of their service: the developer's still, and not the gateway's."""
        total = 0
        for gateway in self.gateways.values():
            for developer, charged in gateway.charged.items():
                payer, key = account(developer).address, key_of(gateway.name)
                ahead = max(0, self.world.ledger.escrow.redeemed(payer, key) - charged)
                total += ahead * (developer == name) - ahead * (gateway.name == name)
        return total

    def _bonds(self, provider: str) -> int:
        """Of its challenges that were answered: what withheld leaves cost it, and bring nobody."""
        address = account(provider).address
        return sum(
            each.bond
            for each in self.world.ledger.settlement.challenges()
            if each.challenger == address and each.status is ChallengeStatus.ANSWERED
        )

    def _credits(self, gateway: str, provider: str) -> int:
        """How often a provider has given a gateway its credit."""
        return 1 + self.providers[provider].restarts[gateway]

    def score(self) -> Score:
        """Who gained and who lost more than the work that was really done and the stated risks explain."""
        fair = dict.fromkeys(HONEST, 0)
        coalition = 0
        pairs: set[tuple[str, str]] = set()
        promised: set[tuple[str, str]] = set()
        models = self.world.ledger.models
        for each in self.world.work:
            price = models.price_at(each.model_id, each.epoch)
            fee = models.fee_for(each.model_id, each.epoch, each.units)
            royalty = fee * models.model(each.model_id).royalty_bps // BPS
            share, burn = fee * SHARE_BPS // BPS, fee * BURN_BPS // BPS
            net = fee - share - burn - royalty
            if each.gateway in fair:
                fair[each.gateway] += share - fee
            else:
                coalition += share - fee
            if each.provider in fair:
                fair[each.provider] += net
            else:
                coalition += net + burn // 2
            if each.developer in fair:
                fair[each.developer] -= each.tokens * price
            elif each.developer is not None:
                coalition -= each.tokens * price
            if each.developer is not None and each.gateway in fair:
                fair[each.gateway] += each.tokens * price
            elif each.developer is not None:
                coalition += each.tokens * price
            if self.world.creators[each.model_id] not in fair:
                coalition += royalty
            if each.provider in self.providers and each.gateway not in fair:
                pairs.add((each.gateway, each.provider))
            if each.developer in self.developers and each.gateway not in fair:
                promised.add((each.developer, each.gateway))
        price = max(models.price_at(MODEL, epoch) for epoch in range(1, self.world.epoch + 1))
        credit = CREDIT // BLOCKS * price
        increment = INCREMENT * price
        after = {name: self.value(name) for name in (*HONEST, *MALS)}
        losses = {}
        taken = 0
        for name in (*DEVELOPERS, *GATEWAYS, *PROVIDERS):
            bound = GRAIN + credit * sum(self._credits(*pair) for pair in pairs if pair[1] == name)
            bound += increment * sum(developer == name for developer, _ in promised)
            bound += self._bonds(name)
            loss = fair[name] - (after[name] - self.before[name])
            losses[name] = loss - bound
            taken += max(0, loss)
        risks = credit * sum(self._credits(*pair) for pair in pairs) + increment * len(promised) + GRAIN
        gain = sum(after[name] - self.before[name] for name in MALS) - coalition
        return Score(gain - risks, losses, tuple(self.world.ledger.broken_invariants()), taken + max(0, gain))
