"""Rules of the state machines about accounts: registries, stakes, models, deposits, claims, owners' settings."""

from __future__ import annotations

from random import Random

from chain.primitives import MAX_UINT256, ZERO_ADDRESS, keccak256, key_of, word
from chain.vouchers import PaymentVoucher, digest, sign
from tests.chain.machine_base import (
    ACTORS,
    GATEWAYS,
    KEYS,
    OWNER,
    PROVIDERS,
    PULLERS,
    SPARE,
    Base,
    action,
    mostly,
    pick,
)
from tests.chain.spec.models import RaterKind


class Accounts(Base):
    # --- token ---

    @action()
    def approve(self, rng: Random) -> None:
        """Takes an approval away, or gives it back."""
        spender = getattr(self.ledger, pick(rng, PULLERS)).address
        self.do("token", "approve", pick(rng, ACTORS), spender, pick(rng, [10, MAX_UINT256, MAX_UINT256]))

    @action()
    def burn_or_transfer(self, rng: Random) -> None:
        actor, amount = pick(rng, ACTORS), self.amount(rng)
        if mostly(rng, 2):
            self.do("token", "transfer", actor, pick(rng, [*ACTORS, ZERO_ADDRESS]), amount)
        else:
            self.do("token", "burn", actor, amount)

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
        match pick(rng, ["price", "price", "enable", "enable", "disable"]):
            case "price":
                price = pick(rng, [0, 5, 11, 23]) * self.scale
                self.do("models", "update_price", caller, model_id, price)
            case "enable":
                self.do("models", "enable", caller, model_id)
            case _:
                self.do("models", "disable", caller, model_id)

    @action(2)
    def rate(self, rng: Random) -> None:
        score = rng.choice([0, 1, 3, 5, 6])
        kind = pick(rng, list(RaterKind))
        rater = pick(rng, [*PROVIDERS, *GATEWAYS])
        owned = self.owner_of_provider if kind is RaterKind.PROVIDER else self.owner_of_gateway
        self.do("models", "rate_model", self.caller(rng, owned(rater)), self.model(rng), kind, rater, score)

    @action()
    def refresh_rating(self, rng: Random) -> None:
        kind, rater = pick(rng, list(RaterKind)), pick(rng, [*PROVIDERS, *GATEWAYS])
        self.do("models", "refresh_rating", pick(rng, ACTORS), self.model(rng), kind, rater)

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
        match pick(rng, ["deactivate", "reactivate", "reactivate", "metadata", "signer", "whitelist", "auto"]):
            case "metadata":
                self.do(part, "update_metadata", caller, identifier, "m" * pick(rng, [3, 1025]))
            case "signer":
                self.do(part, "set_signer", caller, identifier, pick(rng, [*ACTORS, *SPARE, ZERO_ADDRESS]))
            case "whitelist":
                self.do(part, "set_whitelisted", self.caller(rng, OWNER), identifier, mostly(rng, 3))
                self.do(part, "set_whitelisted", OWNER, identifier, mostly(rng, 3))
            case "auto":
                self.do(part, "set_auto_whitelist", OWNER, mostly(rng, 3))
            case method:
                self.do(part, method, caller, identifier)

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
        match pick(rng, ["wind", "wind", "restart", "unstake", "unstake", "credit"]):
            case "wind":
                ids = rng.choices(GATEWAYS, k=rng.randrange(3)) if not mostly(rng) else [gateway]
                self.do("gateway_staking", "wind_down_gateways", caller, ids)
            case "restart":
                self.do("gateway_staking", "restart_gateway", caller, gateway)
            case "unstake":
                self.do("gateway_staking", "unstake_for_gateway", caller, gateway)
            case _:
                self.do("escrow", "withdraw_credit", caller, gateway)

    @action(2)
    def leave_for_good(self, rng: Random) -> None:
        """Wound down, waited for (or a block less), unstaked; the credit goes too."""
        gateway = pick(rng, GATEWAYS)
        owner = self.owner_of_gateway(gateway)
        self.do("gateway_staking", "wind_down_gateways", owner, [gateway])
        stake = self.ledger.gateway_staking.stake_of_key(key_of(gateway))
        wanted = max(stake.wind_down_end, stake.unlock_epoch, self.epoch)
        self.block = max(self.block, self.ledger.epochs.epoch_start_block(wanted) - (not mostly(rng, 4)))
        self.do("gateway_staking", "unstake_for_gateway", owner, gateway)
        self.do("escrow", "withdraw_credit", owner, gateway)
        if mostly(rng, 3):
            self.do("gateway_staking", "restart_gateway", owner, gateway)
            self.do("gateway_staking", "stake_for_gateway", owner, gateway, 90_000 * self.scale)

    @action(2)
    def thaw_and_withdraw(self, rng: Random) -> None:
        actor = pick(rng, ACTORS)
        self.do("escrow", "deposit", actor, 5000 * self.scale)
        self.do("escrow", "thaw", actor, 2000 * self.scale)
        wanted = self.ledger.escrow.deposit_of(actor).thaw_end
        start = self.ledger.epochs.epoch_start_block(max(wanted, 1))
        self.redeem(rng)
        self.block = max(self.block, start - (not mostly(rng, 3)))
        self.do("escrow", pick(rng, ["withdraw", "withdraw", "cancel_thaw"]), actor)

    # --- deposits ---

    @action(3)
    def deposit(self, rng: Random) -> None:
        actor, amount = pick(rng, ACTORS), self.amount(rng)
        if mostly(rng, 4):
            self.do("escrow", "deposit", actor, amount)
        else:
            self.do("escrow", "deposit_for", actor, pick(rng, [*ACTORS, ZERO_ADDRESS]), amount)

    @action(3)
    def thaw_or_withdraw(self, rng: Random) -> None:
        rich = [actor for actor in ACTORS if self.ledger.escrow.deposit_of(actor).balance]
        actor = pick(rng, rich if rich and mostly(rng) else ACTORS)
        match pick(rng, ["thaw", "thaw", "withdraw", "withdraw", "cancel"]):
            case "thaw":
                free = self.ledger.escrow.available(actor)
                self.do("escrow", "thaw", actor, pick(rng, [free, free // 3, free + 1, 0]))
            case "withdraw":
                self.do("escrow", "withdraw", actor)
            case _:
                self.do("escrow", "cancel_thaw", actor)

    @action()
    def change_signer(self, rng: Random) -> None:
        actor, signer = pick(rng, ACTORS), pick(rng, [*SPARE, ZERO_ADDRESS])
        for method in ("authorize_signer", "thaw_signer", "thaw_signer"):
            if mostly(rng, 2):
                self.do("escrow", method, actor, signer)

    @action(4)
    def redeem(self, rng: Random) -> None:
        """By the payer's or another key, over more or less than is due or there."""
        count = rng.randint(1, 3)
        vouchers, signatures = [], []
        for _ in range(count):
            payer, gateway = pick(rng, ACTORS), pick(rng, GATEWAYS) if mostly(rng) else "nobody"
            paid = self.ledger.escrow.redeemed(payer, key_of(gateway))
            voucher = PaymentVoucher(payer, key_of(gateway), max(0, paid + pick(rng, [0, -1, 7, 900 * self.scale])))
            key = KEYS[payer] if mostly(rng, 4) else SPARE[pick(rng, list(SPARE))]
            vouchers.append(voucher)
            signatures.append(self.bent(rng, sign(digest(self.ledger.escrow.domain, voucher), key)))
        if count == 1:
            self.do("escrow", "redeem", pick(rng, ACTORS), vouchers[0], signatures[0])
        else:
            self.do("escrow", "redeem_batch", pick(rng, ACTORS), vouchers, signatures[: None if mostly(rng) else -1])

    @action(2)
    def top_up(self, rng: Random) -> None:
        gateway = pick(rng, GATEWAYS)
        amount = pick(rng, [30_000 * self.scale, self.amount(rng)])
        self.do("escrow", "top_up_credit", pick(rng, ACTORS), gateway, amount)

    def bent(self, rng: Random, signature: bytes) -> bytes:
        """The signature, or rarely one that must not pass."""
        if mostly(rng, 12):
            return signature
        return pick(rng, [signature[:-1], signature[:64] + b"\x00", b"", signature[::-1], signature + b"\x00"])

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
        value = pick(rng, [0, 1, 2, 3, 4, 5, 6, 7, 1001])
        self.do("epochs", name, self.caller(rng, OWNER) if not mostly(rng) else OWNER, value)

    @action()
    def set_minimum(self, rng: Random) -> None:
        amount = pick(rng, [0, 1000, 1000, 1000, 2000, 30_000]) * self.scale
        self.do("gateway_staking", "set_min_gateway_stake", OWNER, amount)

    @action()
    def pause_for_a_call(self, rng: Random) -> None:
        """Nothing new is accepted while paused, and what is paused can be resumed."""
        parts = ("models", "providers", "router", "gateways", "gateway_staking", "escrow", "slashing")
        part = pick(rng, [*parts, "reward_pool"])
        self.do(part, "pause", OWNER if mostly(rng) else ACTORS[0])
        action = pick(
            rng,
            [self.register_provider, self.register_gateway, self.stake_gateway, self.deposit, self.boost, self.top_up],
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
        part = pick(rng, ["escrow", "settlement", "token"])
        heir = pick(rng, ACTORS)
        self.do(part, "transfer_ownership", OWNER, heir)
        self.do(part, "accept_ownership", pick(rng, ACTORS))
        if self._part(part).owner == heir:
            self.do(part, "transfer_ownership", heir, OWNER)
            self.do(part, "accept_ownership", OWNER)


def fresh(number: int) -> bytes:
    """Any 32 bytes."""
    return keccak256(word(number))
