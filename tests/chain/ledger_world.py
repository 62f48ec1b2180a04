"""A small ledger for tests of its rules: one model, two providers, one gateway, and keys that sign for them."""

from __future__ import annotations

from chain.emission import HalvingSchedule
from chain.merkle import ContributionTree, Leaf
from chain.primitives import MAX_UINT256, Address, keccak256, key_of, word
from chain.vouchers import ContributionVoucher, Domain, Message, PaymentVoucher, address_of, digest, sign
from tests.chain.spec import Genesis, Ledger, Tx

OWNER = keccak256(b"owner")[12:]
KEYS = {
    address_of(key): key for key in (keccak256(name) for name in (b"creator", b"alice", b"bob", b"gary", b"developer"))
}
CREATOR, ALICE, BOB, GARY, DEV = KEYS
LENGTH = 10
MINIMUM = 1000


class World:
    """One model of 4 blocks at 100 wei a token and 10 % royalty; two providers and a gateway, all staked."""

    def __init__(self, budget: int = 10**6) -> None:
        genesis = Genesis(
            owner=OWNER,
            holder=OWNER,
            start_block=1,
            epoch_length=LENGTH,
            min_gateway_stake=MINIMUM,
            schedule=HalvingSchedule(budget, 1000),
        )
        self.ledger = Ledger(genesis)
        self.block = 1
        ledger = self.ledger
        for actor in (CREATOR, ALICE, BOB, GARY, DEV):
            ledger.token.transfer(self.by(OWNER), actor, 10**9)
        ledger.models.create_model(self.by(CREATOR), "m", word(1), "", 4, 100, 1000, 5000)
        for actor in (ALICE, BOB, GARY, DEV):
            for part in (
                ledger.providers,
                ledger.gateways,
                ledger.gateway_staking,
                ledger.escrow,
                ledger.settlement,
                ledger.router.pool(1),
            ):
                ledger.token.approve(self.by(actor), part.address, MAX_UINT256)
        ledger.providers.register_and_stake(self.by(ALICE), "a", 1, "{}")
        ledger.providers.register_and_stake(self.by(BOB), "b", 1, "{}")
        ledger.gateways.register_and_stake(self.by(GARY), "g", "", 50_000)

    def by(self, sender: Address) -> Tx:
        return Tx(sender, self.block)

    @property
    def epoch(self) -> int:
        return self.ledger.epochs.current_epoch(self.block)

    def go_to(self, epoch: int, last_block: bool = False) -> None:
        self.block = self.ledger.epochs.epoch_start_block(epoch + last_block) - last_block

    def post(self, *units: int) -> ContributionTree:
        """Posts the last epoch's checkpoint for a and b."""
        named = zip(("a", "b"), units, strict=False)
        tree = ContributionTree(key_of("g"), 1, self.epoch - 1, (Leaf(key_of(name), own) for name, own in named))
        fees = self.ledger.models.fee_for(1, self.epoch - 1, tree.total_units)
        arguments = (1, self.epoch - 1, tree.root, tree.total_units, fees, bytes(32))
        self.ledger.settlement.post_checkpoint(self.by(GARY), *arguments)
        return tree

    def prove(self, tree: ContributionTree, name: str, units: int) -> None:
        self.ledger.settlement.prove_contribution(self.by(DEV), name, tree.epoch, units, tree.proof(key_of(name)))

    def signed(self, domain: Domain, message: Message, signer: Address) -> bytes:
        return sign(digest(domain, message), KEYS[signer])

    def redeem(self, amount: int, gateway: str = "g") -> int:
        """With a voucher of the developer over `amount` in all; wei paid."""
        escrow, voucher = self.ledger.escrow, PaymentVoucher(DEV, key_of(gateway), amount)
        return escrow.redeem(self.by(ALICE), voucher, self.signed(escrow.domain, voucher, DEV))

    def voucher(self, name: str, units: int, epoch: int) -> tuple[ContributionVoucher, bytes]:
        """What the gateway signed for a provider."""
        voucher = ContributionVoucher(key_of("g"), key_of(name), 1, epoch, units)
        return voucher, self.signed(self.ledger.settlement.domain, voucher, GARY)

    def omit(self, name: str, units: int, epoch: int, tree: ContributionTree | None = None) -> None:
        """Shows that a voucher is above its leaf, or that there is no checkpoint."""
        leaf = next((leaf for leaf in tree.leaves if leaf.provider == key_of(name)), None) if tree else None
        shown = (leaf.units, tree.proof(leaf.provider)) if tree and leaf else (0, ())
        self.ledger.settlement.challenge_omission(self.by(BOB), *self.voucher(name, units, epoch), *shown)

    def healthy(self) -> bool:
        """Every contract holds exactly what it owes, and no invariant is broken."""
        exact = all(held == owed for held, owed in self.ledger.held_and_owed().values())
        return exact and not self.ledger.broken_invariants()
