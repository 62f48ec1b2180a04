"""Rules of the state machines about accounts: registries, stakes, models, deposits, claims, owners' settings."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from chain.ledger.models import RaterKind
from chain.primitives import MAX_UINT256, ZERO_ADDRESS, keccak256, key_of, word
from chain.vouchers import PaymentVoucher, digest, sign
from tests.chain.machine_base import ACTORS, GATEWAYS, KEYS, OWNER, PROVIDERS, PULLERS, SPARE, Base, mostly, pick

OTHERS = st.data()


class Accounts(Base):
    # --- token ---

    @rule(data=st.data())
    def approve(self, data: st.DataObject) -> None:
        """Takes an approval away, or gives it back."""
        spender = getattr(self.ledger, pick(data, PULLERS)).address
        self.do("token", "approve", pick(data, ACTORS), spender, pick(data, [10, MAX_UINT256, MAX_UINT256]))

    @rule(data=st.data())
    def burn_or_transfer(self, data: st.DataObject) -> None:
        actor, amount = pick(data, ACTORS), self.amount(data)
        if mostly(data, 2):
            self.do("token", "transfer", actor, pick(data, [*ACTORS, ZERO_ADDRESS]), amount)
        else:
            self.do("token", "burn", actor, amount)

    # --- models ---

    @rule(data=st.data())
    def create_model(self, data: st.DataObject) -> None:
        if self.ledger.models.model_count >= 3 and mostly(data):
            return
        name = pick(data, ["model 0", "third", "x" * 64, "x" * 65, "", "naïve"])
        manifest = pick(data, [word(7), word(7), bytes(32)])
        uri = "u" * pick(data, [0, 1024, 1025])
        numbers = pick(
            data, [(5, 9, 500, 300), (0, 9, 500, 300), (4097, 9, 500, 300), (5, 0, 5001, 300), (5, 0, 5000, 0)]
        )
        blocks, price, royalty, stake = numbers
        self.do(
            "models",
            "create_model",
            pick(data, ACTORS),
            name,
            manifest,
            uri,
            blocks,
            price * self.scale,
            royalty,
            stake * self.scale,
        )

    @rule(data=st.data())
    def change_model(self, data: st.DataObject) -> None:
        model_id = self.model(data)
        creator = self.ledger.models.model(model_id).creator if self.ledger.models.exists(model_id) else ACTORS[0]
        caller = self.caller(data, creator)
        match pick(data, ["price", "price", "enable", "enable", "disable"]):
            case "price":
                price = pick(data, [0, 5, 11, 23]) * self.scale
                self.do("models", "update_price", caller, model_id, price)
            case "enable":
                self.do("models", "enable", caller, model_id)
            case _:
                self.do("models", "disable", caller, model_id)

    @rule(data=st.data(), score=st.sampled_from([0, 1, 3, 5, 6]))
    def rate(self, data: st.DataObject, score: int) -> None:
        kind = pick(data, list(RaterKind))
        rater = pick(data, [*PROVIDERS, *GATEWAYS])
        owned = self.owner_of_provider if kind is RaterKind.PROVIDER else self.owner_of_gateway
        self.do("models", "rate_model", self.caller(data, owned(rater)), self.model(data), kind, rater, score)

    @rule(data=st.data())
    def refresh_rating(self, data: st.DataObject) -> None:
        kind, rater = pick(data, list(RaterKind)), pick(data, [*PROVIDERS, *GATEWAYS])
        self.do("models", "refresh_rating", pick(data, ACTORS), self.model(data), kind, rater)

    # --- registries ---

    @rule(data=st.data())
    def register_provider(self, data: st.DataObject) -> None:
        identifier = pick(data, [*PROVIDERS, "é" * 32]) if mostly(data) else pick(data, ["", "é" * 33])
        metadata = '{"url": "y"}' if mostly(data) else "m" * 1025
        method = pick(data, ["register", "register_and_stake"])
        self.do("providers", method, pick(data, ACTORS), identifier, self.model(data), metadata)

    @rule(data=st.data())
    def register_gateway(self, data: st.DataObject) -> None:
        identifier = pick(data, GATEWAYS) if mostly(data) else pick(data, ["", "g" * 65])
        metadata = "m" * pick(data, [0, 1024, 1025])
        if mostly(data, 3):
            stake = pick(data, [60_000 * self.scale, self.amount(data)])
            self.do("gateways", "register_and_stake", pick(data, ACTORS), identifier, metadata, stake)
        else:
            self.do("gateways", "register", pick(data, ACTORS), identifier, metadata)

    @rule(data=st.data())
    def change_entry(self, data: st.DataObject) -> None:
        part, ids = pick(data, [("providers", PROVIDERS), ("gateways", GATEWAYS)])
        identifier = pick(data, ids)
        owner = self.owner_of_provider(identifier) if part == "providers" else self.owner_of_gateway(identifier)
        caller = self.caller(data, owner)
        match pick(data, ["deactivate", "reactivate", "reactivate", "metadata", "signer", "whitelist", "auto"]):
            case "metadata":
                self.do(part, "update_metadata", caller, identifier, "m" * pick(data, [3, 1025]))
            case "signer":
                self.do(part, "set_signer", caller, identifier, pick(data, [*ACTORS, *SPARE, ZERO_ADDRESS]))
            case "whitelist":
                self.do(part, "set_whitelisted", self.caller(data, OWNER), identifier, mostly(data, 3))
                self.do(part, "set_whitelisted", OWNER, identifier, mostly(data, 3))
            case "auto":
                self.do(part, "set_auto_whitelist", OWNER, mostly(data, 3))
            case method:
                self.do(part, method, caller, identifier)

    # --- stakes ---

    @rule(data=st.data())
    def stake_or_unstake_provider(self, data: st.DataObject) -> None:
        identifier = pick(data, PROVIDERS)
        found = self.ledger.providers.by_key(key_of(identifier))
        count = self.ledger.models.model_count
        model_id = found.model_id if found and mostly(data) else pick(data, range(1, count + 1))
        method = pick(data, ["stake_for_provider", "stake_for_provider", "unstake_provider"])
        self.do(f"pool {model_id}", method, self.caller(data, self.owner_of_provider(identifier)), identifier)

    @rule(data=st.data())
    def stake_gateway(self, data: st.DataObject) -> None:
        gateway = pick(data, GATEWAYS)
        caller = self.caller(data, self.owner_of_gateway(gateway))
        self.do("gateway_staking", "stake_for_gateway", caller, gateway, self.amount(data))

    @rule(data=st.data())
    def leave_gateway(self, data: st.DataObject) -> None:
        gateway = pick(data, GATEWAYS)
        caller = self.caller(data, self.owner_of_gateway(gateway))
        match pick(data, ["wind", "wind", "restart", "unstake", "unstake", "credit"]):
            case "wind":
                ids = data.draw(st.lists(st.sampled_from(GATEWAYS), max_size=2)) if not mostly(data) else [gateway]
                self.do("gateway_staking", "wind_down_gateways", caller, ids)
            case "restart":
                self.do("gateway_staking", "restart_gateway", caller, gateway)
            case "unstake":
                self.do("gateway_staking", "unstake_for_gateway", caller, gateway)
            case _:
                self.do("escrow", "withdraw_credit", caller, gateway)

    # --- deposits ---

    @rule(data=st.data())
    def deposit(self, data: st.DataObject) -> None:
        actor, amount = pick(data, ACTORS), self.amount(data)
        if mostly(data, 4):
            self.do("escrow", "deposit", actor, amount)
        else:
            self.do("escrow", "deposit_for", actor, pick(data, [*ACTORS, ZERO_ADDRESS]), amount)

    @rule(data=st.data())
    def thaw_or_withdraw(self, data: st.DataObject) -> None:
        actor = pick(data, ACTORS)
        match pick(data, ["thaw", "thaw", "withdraw", "withdraw", "cancel"]):
            case "thaw":
                free = self.ledger.escrow.available(actor)
                self.do("escrow", "thaw", actor, pick(data, [free, free // 3, free + 1, 0]))
            case "withdraw":
                self.do("escrow", "withdraw", actor)
            case _:
                self.do("escrow", "cancel_thaw", actor)

    @rule(data=st.data())
    def change_signer(self, data: st.DataObject) -> None:
        actor, signer = pick(data, ACTORS), pick(data, [*SPARE, ZERO_ADDRESS])
        self.do("escrow", pick(data, ["authorize_signer", "authorize_signer", "thaw_signer"]), actor, signer)

    @rule(data=st.data(), count=st.integers(1, 3))
    def redeem(self, data: st.DataObject, count: int) -> None:
        """By the payer's or another key, over more or less than is due or there."""
        vouchers, signatures = [], []
        for _ in range(count):
            payer, gateway = pick(data, ACTORS), pick(data, GATEWAYS) if mostly(data) else "nobody"
            paid = self.ledger.escrow.redeemed(payer, key_of(gateway))
            voucher = PaymentVoucher(payer, key_of(gateway), max(0, paid + pick(data, [0, -1, 7, 900 * self.scale])))
            key = KEYS[payer] if mostly(data, 4) else SPARE[pick(data, list(SPARE))]
            vouchers.append(voucher)
            signatures.append(self.bent(data, sign(digest(self.ledger.escrow.domain, voucher), key)))
        if count == 1:
            self.do("escrow", "redeem", pick(data, ACTORS), vouchers[0], signatures[0])
        else:
            self.do("escrow", "redeem_batch", pick(data, ACTORS), vouchers, signatures[: None if mostly(data) else -1])

    @rule(data=st.data())
    def top_up(self, data: st.DataObject) -> None:
        gateway = pick(data, GATEWAYS)
        amount = pick(data, [30_000 * self.scale, self.amount(data)])
        self.do("escrow", "top_up_credit", pick(data, ACTORS), gateway, amount)

    def bent(self, data: st.DataObject, signature: bytes) -> bytes:
        """The signature, or rarely one that must not pass."""
        if mostly(data, 12):
            return signature
        return pick(data, [signature[:-1], signature[:64] + b"\x00", b"", signature[::-1], signature + b"\x00"])

    # --- claims ---

    def range_of_epochs(self, data: st.DataObject) -> tuple[int, int]:
        ready = self.ledger.epochs.claimable_epoch(self.block)
        if mostly(data, 10):
            first = data.draw(st.integers(1, max(ready, 1)), "first")
            return first, max(ready, first)
        return pick(data, [(0, 1), (2, 1), (1, 513), (1, ready + 1), (1, 512)])

    @rule(data=st.data())
    def claim_for_provider(self, data: st.DataObject) -> None:
        provider = pick(data, PROVIDERS)
        found = self.ledger.providers.by_key(key_of(provider))
        caller = self.caller(data, self.owner_of_provider(provider))
        model_id = found.model_id if found else 1
        self.do(f"pool {model_id}", "claim_rewards", caller, provider, *self.range_of_epochs(data))

    @rule(data=st.data())
    def claim_for_all(self, data: st.DataObject) -> None:
        caller = self.owner_of_provider(pick(data, PROVIDERS)) if mostly(data) else ACTORS[5]
        self.do("providers", "claim_rewards_cluster", caller, *self.range_of_epochs(data))

    @rule(data=st.data())
    def claim_for_gateway(self, data: st.DataObject) -> None:
        gateway = pick(data, GATEWAYS)
        caller = self.caller(data, self.owner_of_gateway(gateway))
        self.do("gateway_staking", "claim_rewards", caller, gateway, *self.range_of_epochs(data))

    @rule(data=st.data())
    def collect(self, data: st.DataObject) -> None:
        match pick(data, ["royalty", "settlement", "disputes"]):
            case "royalty":
                model_id = self.model(data)
                models = self.ledger.models
                creator = models.model(model_id).creator if models.exists(model_id) else ACTORS[0]
                self.do("settlement", "claim_royalty", self.caller(data, creator), model_id)
            case part:
                self.do(part, "withdraw_payments", pick(data, ACTORS))

    @rule(data=st.data(), ahead=st.integers(-1, 2))
    def boost(self, data: st.DataObject, ahead: int) -> None:
        epoch = max(self.epoch + ahead, 0)
        self.do("reward_pool", "boost", pick(data, ACTORS), self.model(data), epoch, self.amount(data))

    # --- owners' settings ---

    @rule(data=st.data())
    def set_delays(self, data: st.DataObject) -> None:
        name = pick(
            data, ["set_epoch_length", "set_min_epochs_locked", "set_epoch_reward_delay", "set_wind_down_delay"]
        )
        value = pick(data, [0, 1, 2, 3, 4, 5, 6, 7, 1001])
        self.do("epochs", name, self.caller(data, OWNER) if not mostly(data) else OWNER, value)

    @rule(data=st.data())
    def set_minimum(self, data: st.DataObject) -> None:
        amount = pick(data, [0, 1000, 1000, 2000, 50_000]) * self.scale
        self.do("gateway_staking", "set_min_gateway_stake", OWNER, amount)

    @rule(data=st.data())
    def pause_for_a_call(self, data: st.DataObject) -> None:
        """Nothing new is accepted while paused, and what is paused can be resumed."""
        parts = ("models", "providers", "router", "gateways", "gateway_staking", "escrow", "settlement", "slashing")
        part = pick(data, [*parts, "reward_pool"])
        self.do(part, "pause", OWNER if mostly(data) else ACTORS[0])
        action = pick(
            data,
            [self.register_provider, self.register_gateway, self.stake_gateway, self.deposit, self.boost, self.top_up],
        )
        if action == self.boost:
            self.do("reward_pool", "boost", ACTORS[0], 1, self.epoch, 5)
            self.do("providers", "register_and_stake", ACTORS[0], f"n{self.transactions}", 1, "{}")
        else:
            action(data)  # type: ignore[call-arg]
        self.do(part, "unpause", OWNER)

    @rule(data=st.data())
    def hand_over(self, data: st.DataObject) -> None:
        """Ownership goes away and comes back; the wrong one cannot accept it."""
        part = pick(data, ["escrow", "settlement", "token"])
        heir = pick(data, ACTORS)
        self.do(part, "transfer_ownership", OWNER, heir)
        self.do(part, "accept_ownership", pick(data, ACTORS))
        if self._part(part).owner == heir:
            self.do(part, "transfer_ownership", heir, OWNER)
            self.do(part, "accept_ownership", OWNER)


def fresh(number: int) -> bytes:
    """Any 32 bytes."""
    return keccak256(word(number))
