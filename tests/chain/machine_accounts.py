"""Rules of the state machines about accounts: registries, stakes, models, claims, owners' settings."""

from __future__ import annotations

from random import Random

from chain.primitives import ZERO_ADDRESS, Address, keccak256, key_of, word
from chain.vouchers import SignerConsent, digest, sign
from tests.chain.machine_base import (
    ACTORS,
    GATEWAYS,
    KEYS,
    OWNER,
    PROVIDERS,
    SIGNING,
    SPARE,
    action,
    mostly,
    pick,
)
from tests.chain.machine_money import Money


class Accounts(Money):
    # --- models ---

    @action()
    def create_model(self, rng: Random) -> None:
        if self.ledger.models.model_count >= 3 and mostly(rng):
            return
        name = pick(rng, ["model 0", "third", "x" * 64, "x" * 65, "", "naïve"])
        manifest = pick(rng, [word(7), word(7), bytes(32)])
        uri = "u" * pick(rng, [0, 1024, 1025])
        numbers = pick(
            rng, [(5, 9, 500, 300), (0, 9, 500, 300), (4097, 9, 500, 300), (5, 0, 5001, 300), (5, 0, 5000, 0)]
        )
        blocks, price, royalty, stake = numbers
        self.do(
            "models",
            "create_model",
            pick(rng, ACTORS),
            name,
            manifest,
            uri,
            blocks,
            price * self.scale,
            royalty,
            stake * self.scale,
        )

    @action()
    def change_model(self, rng: Random) -> None:
        model_id = self.model(rng)
        creator = self.ledger.models.model(model_id).creator if self.ledger.models.exists(model_id) else ACTORS[0]
        caller = self.caller(rng, creator)
        match pick(rng, ["price", "price", "enable", "disable"]):
            case "price":
                price = pick(rng, [0, 5, 11, 23]) * self.scale
                self.do("models", "update_price", caller, model_id, price)
            case "enable":
                self.do("models", "enable", caller, model_id)
            case _:
                for method in ("disable", "disable", "enable") if mostly(rng, 2) else ("disable",):
                    self.do("models", method, caller, model_id)

    @action(2)
    def rate(self, rng: Random) -> None:
        score, rater = rng.choice([0, 1, 3, 5, 6]), pick(rng, [*GATEWAYS, "p0"])
        caller = self.caller(rng, self.owner_of_gateway(rater))
        self.do("models", "rate_model", caller, self.model(rng), rater, score)

    @action()
    def refresh_rating(self, rng: Random) -> None:
        self.do("models", "refresh_rating", pick(rng, ACTORS), self.model(rng), pick(rng, [*GATEWAYS, "p0"]))

    # --- registries ---

    @action(2)
    def register_provider(self, rng: Random) -> None:
        identifier = pick(rng, [*PROVIDERS, "é" * 32]) if mostly(rng) else pick(rng, ["", "é" * 33])
        metadata = '{"url": "y"}' if mostly(rng) else "m" * 1025
        method = pick(rng, ["register", "register_and_stake"])
        self.do("providers", method, pick(rng, ACTORS), identifier, self.model(rng), metadata)

    @action(2)
    def register_gateway(self, rng: Random) -> None:
        identifier = pick(rng, GATEWAYS) if mostly(rng) else pick(rng, ["", "g" * 65])
        metadata = "m" * pick(rng, [0, 1024, 1025])
        if mostly(rng, 3):
            stake = pick(rng, [60_000 * self.scale, self.amount(rng)])
            self.do("gateways", "register_and_stake", pick(rng, ACTORS), identifier, metadata, stake)
        else:
            self.do("gateways", "register", pick(rng, ACTORS), identifier, metadata)

    @action(2)
    def change_entry(self, rng: Random) -> None:
        part, ids = pick(rng, [("providers", PROVIDERS), ("gateways", GATEWAYS)])
        identifier = pick(rng, ids)
        owner = self.owner_of_provider(identifier) if part == "providers" else self.owner_of_gateway(identifier)
        caller = self.caller(rng, owner)
        match pick(rng, ["deactivate", "reactivate", "metadata", "signer", "signer", "whitelist", "auto"]):
            case "metadata":
                self.do(part, "update_metadata", caller, identifier, "m" * pick(rng, [3, 1025]))
            case "signer":
                signer = pick(rng, [*ACTORS, *SPARE, ZERO_ADDRESS])
                self.do(
                    part, "set_signer", caller, identifier, signer, self.consent(rng, part, caller, identifier, signer)
                )
            case "whitelist":
                self.do(part, "set_whitelisted", self.caller(rng, OWNER), identifier, mostly(rng, 3))
                self.do(part, "set_whitelisted", OWNER, identifier, mostly(rng, 3))
            case "auto":
                self.do(part, "set_auto_whitelist", OWNER, mostly(rng, 3))
            case method:
                for _ in range(pick(rng, [1, 2])):
                    self.do(part, method, caller, identifier)
                if mostly(rng, 3):
                    self.do(part, "reactivate", caller, identifier)

    def consent(self, rng: Random, part: str, owner: Address, identifier: str, signer: Address) -> bytes:
        """Mostly the signer's own; the owner's own key needs none."""
        if signer not in SIGNING or (signer == owner and mostly(rng, 2)):
            return b""
        agreed = SignerConsent(key_of(identifier), owner if mostly(rng, 12) else signer, signer)
        key = SIGNING[signer] if mostly(rng, 12) else next(iter(KEYS.values()))
        return self.bent(rng, sign(digest(self._part(part).domain, agreed), key))

    # --- stakes ---

    @action(3)
    def stake_or_unstake_provider(self, rng: Random) -> None:
        identifier = pick(rng, PROVIDERS)
        found = self.ledger.providers.by_key(key_of(identifier))
        count = self.ledger.models.model_count
        model_id = found.model_id if found and mostly(rng) else pick(rng, range(1, count + 1))
        method = pick(rng, ["stake_for_provider", "stake_for_provider", "unstake_provider"])
        self.do(f"pool {model_id}", method, self.caller(rng, self.owner_of_provider(identifier)), identifier)

    @action()
    def stake_gateway(self, rng: Random) -> None:
        gateway = pick(rng, GATEWAYS)
        caller = self.caller(rng, self.owner_of_gateway(gateway))
        amount = 40_000 * self.scale if mostly(rng, 3) else self.amount(rng)
        self.do("gateway_staking", "stake_for_gateway", caller, gateway, amount)

    @action(3)
    def leave_gateway(self, rng: Random) -> None:
        gateway = pick(rng, GATEWAYS)
        caller = self.caller(rng, self.owner_of_gateway(gateway))
        match pick(rng, ["wind", "wind", "restart", "unstake", "unstake"]):
            case "wind":
                ids = rng.choices(GATEWAYS, k=rng.randrange(3)) if not mostly(rng) else [gateway]
                self.do("gateway_staking", "wind_down_gateways", caller, ids)
            case "restart":
                self.do("gateway_staking", "restart_gateway", caller, gateway)
            case _:
                self.do("gateway_staking", "unstake_for_gateway", caller, gateway)

    @action(2)
    def leave_for_good(self, rng: Random) -> None:
        """Wound down, its lines thawed and released, waited for (or a block less), unstaked; the credit goes too."""
        gateway = pick(rng, GATEWAYS)
        key, owner, staking = key_of(gateway), self.owner_of_gateway(gateway), self.ledger.gateway_staking
        self.do("gateway_staking", "wind_down_gateways", owner, [gateway])
        for provider in PROVIDERS:
            left = staking.guaranteed(key, key_of(provider))
            if left and mostly(rng, 20):
                self.do("gateway_staking", "thaw_line", owner, gateway, provider, left)
        credit = self.ledger.escrow.credit_state_of(key)
        if credit.amount > credit.thawing:
            self.do("escrow", "thaw_credit", owner, gateway, credit.amount - credit.thawing)
        stake = staking.stake_of_key(key)
        ends = [staking.line_of(key, key_of(provider)).thaw_end for provider in PROVIDERS]
        self.go_to(max(stake.wind_down_end, stake.unlock_epoch, self.epoch, *ends), early=not mostly(rng, 6))
        for provider in PROVIDERS:
            if staking.line_of(key, key_of(provider)).thawing:
                self.do("gateway_staking", "release_line", owner, gateway, provider)
        self.do("gateway_staking", "unstake_for_gateway", owner, gateway)
        self.do("escrow", "withdraw_credit", owner, gateway)
        if mostly(rng, 3):
            self.do("gateway_staking", "restart_gateway", owner, gateway)
            self.do("gateway_staking", "stake_for_gateway", owner, gateway, 90_000 * self.scale)

    # --- claims ---

    def range_of_epochs(self, rng: Random) -> tuple[int, int]:
        ready = self.ledger.epochs.claimable_epoch(self.block)
        if mostly(rng, 10):
            first = rng.randint(1, max(ready, 1))
            return first, max(ready, first)
        return pick(rng, [(0, 1), (2, 1), (1, 513), (1, ready + 1), (1, 512)])

    @action(2)
    def claim_for_provider(self, rng: Random) -> None:
        provider = pick(rng, PROVIDERS)
        found = self.ledger.providers.by_key(key_of(provider))
        caller = self.caller(rng, self.owner_of_provider(provider))
        model_id = found.model_id if found else 1
        self.do(f"pool {model_id}", "claim_rewards", caller, provider, *self.range_of_epochs(rng))

    @action()
    def claim_for_all(self, rng: Random) -> None:
        caller = self.owner_of_provider(pick(rng, PROVIDERS)) if mostly(rng) else ACTORS[5]
        self.do("providers", "claim_rewards_cluster", caller, *self.range_of_epochs(rng))

    @action(3)
    def claim_for_gateway(self, rng: Random) -> None:
        gateway = pick(rng, GATEWAYS)
        caller = self.caller(rng, self.owner_of_gateway(gateway))
        self.do("gateway_staking", "claim_rewards", caller, gateway, *self.range_of_epochs(rng))

    @action(3)
    def collect(self, rng: Random) -> None:
        match pick(rng, ["royalty", "settlement", "disputes"]):
            case "royalty":
                model_id = self.model(rng)
                models = self.ledger.models
                creator = models.model(model_id).creator if models.exists(model_id) else ACTORS[0]
                self.do("settlement", "claim_royalty", self.caller(rng, creator), model_id)
            case part:
                self.do(part, "withdraw_payments", pick(rng, ACTORS))

    @action(2)
    def boost(self, rng: Random) -> None:
        ahead = rng.randint(-1, 2)
        epoch = max(self.epoch + ahead, 0)
        self.do("reward_pool", "boost", pick(rng, ACTORS), self.model(rng), epoch, self.amount(rng))

    # --- owners' settings ---

    @action()
    def set_delays(self, rng: Random) -> None:
        name = pick(rng, ["set_epoch_length", "set_min_epochs_locked", "set_epoch_reward_delay", "set_wind_down_delay"])
        value = pick(rng, [0, 1, 2, 3, 4, 5, 6, 7, 10, 65])
        self.do("epochs", name, self.caller(rng, OWNER) if not mostly(rng) else OWNER, value)

    @action()
    def set_minimum(self, rng: Random) -> None:
        old = self.ledger.gateway_staking.min_gateway_stake
        amount = pick(rng, [0, 1000 * self.scale, 1000 * self.scale, old * 2, old * 2 + 1, -(-old // 2), old // 2])
        self.do("gateway_staking", "set_min_gateway_stake", OWNER, amount)

    @action()
    def pause_for_a_call(self, rng: Random) -> None:
        """Nothing new is accepted while paused, and what is paused can be resumed."""
        parts = ("models", "providers", "router", "gateways", "gateway_staking", "escrow", "slashing")
        part = pick(rng, [*parts, "reward_pool"])
        self.do(part, "pause", OWNER if mostly(rng) else ACTORS[0])
        action = pick(
            rng,
            [self.register_gateway, self.stake_gateway, self.deposit, self.reserve, self.boost, self.fund_lines],
        )
        if action == self.boost:
            self.do("reward_pool", "boost", ACTORS[0], 1, self.epoch, 5)
            self.do("providers", "register_and_stake", ACTORS[0], f"n{self.transactions}", 1, "{}")
        else:
            action(rng)
        self.do(part, "unpause", OWNER)

    @action()
    def hand_over(self, rng: Random) -> None:
        """Ownership goes away and comes back; the wrong one cannot accept it."""
        part = pick(rng, ["escrow", "settlement", "models"])
        heir = pick(rng, ACTORS)
        self.do(part, "transfer_ownership", OWNER, heir)
        self.do(part, "accept_ownership", pick(rng, ACTORS))
        if self._part(part).owner == heir:
            self.do(part, "transfer_ownership", heir, OWNER)
            self.do(part, "accept_ownership", OWNER)


def fresh(number: int) -> bytes:
    """Any 32 bytes."""
    return keccak256(word(number))
