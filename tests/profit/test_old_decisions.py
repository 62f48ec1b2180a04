"""Old rules that one move is enough to rob, or that no ledger sees: each as it was decided then, and as it is today."""

from __future__ import annotations

from typing import Any

import pytest

from chain.contract_errors import InvalidSignature
from chain.primitives import keccak256, key_of
from chain.vouchers import SlaReport, digest, sign
from mesh.payment.accounts.promises import AccountContradicted, PayerBooks, Told
from tests.chain.spec import Tx
from tests.chain.spec.base import call
from tests.chain.spec.disputes import drawn
from tests.chain.spec.gateways import GatewayRegistry
from tests.chain.spec.reward_pool import RewardPool
from tests.chain.spec.slashing import Slashing
from tests.profit.old_rules import become
from tests.profit.world import BLOCKS, DELAY, MIN_STAKE, PRICE, STAKE, World, account

HONEST = ("gwen", "gus", "pia", "cora")
MALS = tuple(f"mal{number}" for number in range(6))


def new_world(*changes: Any) -> World:
    world = World(HONEST, MALS)
    for change in changes:
        change(world)
    return world


# --- service levels ---


class CountingSlashing(Slashing):
    """Three gateways that paid for a leaf decide, whatever the provider did for others."""

    @call
    def enforce_sla(self, tx: Tx, identifier: str, epoch: int, gateways: Any, reports: Any, *signed: Any) -> None:
        key = key_of(identifier)
        pool = self.ledger.router.pool(self.ledger.providers.known(key).model_id)
        if len(reports) >= self.quorum:
            penalty = pool.stake_of_key(key).amount * self.sla(identifier).penalty_bps // 10_000
            self.ledger.token.destroy(self.address, pool.slash(key, penalty, self.address))


def play_service_level(world: World) -> tuple[int, int]:
    """What a provider loses to three gateways that it never worked for, and what that costs them."""
    world.do("models", "create_model", "cora", "org/llama", keccak256(b"m"), "", BLOCKS, PRICE, 0, STAKE)
    world.do("token", "approve", "pia", world.ledger.router.pool(1).address, STAKE)
    world.do("providers", "register_and_stake", "pia", "pia", 1, "{}")
    for name, stake in (("gwen", STAKE), *((mal, MIN_STAKE + PRICE) for mal in MALS[:3])):
        world.do("gateways", "register_and_stake", name, name, "", stake)
        world.owners[name] = name
    world.do("slashing", "commit_sla", "pia", "pia", 9_000, 1_000, 1_000, 50)
    before = world.wealth(MALS)
    world.block = world.start_of(3)
    for name, tokens in (("gwen", 100), ("mal0", 1), ("mal1", 1), ("mal2", 1)):
        assert world.post(name, name, 1, 2, [("pia", BLOCKS * tokens)], shown=True)
    world.block = world.start_of(2 + DELAY)
    for name in ("gwen", *MALS[:3]):
        tree = world.posted[name, 1, 2].tree
        units = tree.units(key_of("pia"))
        proof = tree.proof(key_of("pia"), units)
        world.do("settlement", "prove_contribution_for", "pia", name, "pia", 2, units, proof)
    by_key = {key_of(name): name for name in ("gwen", *MALS[:3])}
    accusers = sorted(key for key, name in by_key.items() if name in MALS)
    reports = [SlaReport(key, key_of("pia"), 2, 100, 0, 60_000) for key in accusers]
    signed = [sign(digest(world.ledger.slashing.domain, each), account(by_key[each.gateway]).key) for each in reports]
    world.tries(
        "slashing", "enforce_sla", "mal0", "pia", 2, sorted(by_key), reports, signed, [BLOCKS] * 3, [bytes(65)] * 3
    )
    lost = STAKE - world.ledger.router.pool(1).stake_of_key(key_of("pia")).amount
    return lost, before - world.wealth(MALS) + 3 * PRICE


def test_three_gateways_decided_about_a_service_level() -> None:
    lost, cost = play_service_level(new_world(become("slashing", CountingSlashing)))
    assert lost == STAKE // 10 > 10 * cost
    assert play_service_level(new_world())[0] == 0


# --- panels ---


def test_a_panel_was_drawn_from_what_the_accuser_could_see() -> None:
    """It opened its case in a block whose randomness drew its friends, and took back all others."""
    world = new_world()
    verifiers = [account(name).address for name in (*MALS[:3], *(f"judge{number}" for number in range(6)))]
    friends = set(verifiers[:3])
    for verifier in verifiers:
        world.do("disputes", "set_verifier", None, verifier, True)
    world.create_model("cora", "org/llama", PRICE, 0)

    def is_friendly(panel: tuple[bytes, ...]) -> bool:
        return len(friends & set(panel)) >= 2

    seen = (drawn(tuple(verifiers), keccak256(b"%d" % block), 0) for block in range(100))
    assert any(is_friendly(panel) for panel in seen)

    caught = 0
    for number in range(24):
        name = f"victim{number}"
        world.do("providers", "register", "pia", name, 1, "{}")
        case = world.do("disputes", "open_case", "mal0", name, 1, bytes(32))
        assert not world.tries("disputes", "open_case", "mal0", name, 1, bytes(32))
        assert not world.tries("disputes", "draw_panel", "mal0", case)
        world.block += 3
        world.do("disputes", "draw_panel", "pia", case)
        caught += is_friendly(world.ledger.disputes.case_of(case).panel)
    assert caught < 12  # 5.4 are expected of 24


# --- boosts ---


class GivingPool(RewardPool):
    """A boost is a gift to whoever works; whoever works for oneself gets it back whole."""

    @call
    def boost(self, tx: Tx, model_id: int, epoch: int, amount: int) -> None:
        self._boosts[model_id, epoch] += amount
        self.ledger.token.pull(self.address, tx.sender, self.address, amount)


def play_boost(world: World) -> tuple[int, int]:
    """What it costs to boost a model of one's own by 100,000 tokens' worth, and what counts as burned for it."""
    world.create_model("mal0", "mal/model", PRICE, 0)
    world.do("gateways", "register_and_stake", "mal1", "mg", "", STAKE)
    world.do("providers", "register_and_stake", "mal2", "mp", 1, "{}")
    before = world.wealth(MALS)
    world.do("reward_pool", "boost", "mal0", 1, 1, 100_000 * PRICE)
    world.block = world.start_of(2)
    assert world.post("mal1", "mg", 1, 1, [("mp", BLOCKS)], shown=True)
    world.block = world.start_of(1 + DELAY)
    proof = world.posted["mg", 1, 1].tree.proof(key_of("mp"), BLOCKS)
    world.do("settlement", "prove_contribution_for", "mal2", "mg", "mp", 1, BLOCKS, proof)
    world.do("pool 1", "claim_rewards", "mal2", "mp", 1, 1)
    world.do("gateway_staking", "claim_rewards", "mal1", "mg", 1, 1)
    fee = PRICE  # from the stake
    return before - world.wealth(MALS) + fee, world.ledger.models.usage(1).burned


def test_a_boost_of_ones_own_model_cost_nothing() -> None:
    cost, _ = play_boost(new_world(become("reward_pool", GivingPool)))
    assert cost <= PRICE
    cost, burned = play_boost(new_world())
    assert cost > 4_999 * PRICE
    assert burned <= cost


# --- keys ---


class TrustingRegistry(GatewayRegistry):
    """Anybody's key can be named as one's own."""

    @call
    def set_signer(self, tx: Tx, identifier: str, signer: bytes, consent: bytes) -> None:
        key, _ = self.mine(tx, identifier)
        self._set_signer(key, signer, self.epoch(tx) + 1)


def play_stranger(world: World) -> bool:
    """Whether a gateway can post after somebody has named its key as another gateway's."""
    world.create_model("cora", "org/llama", PRICE, 0)
    world.do("gateways", "register_and_stake", "mal0", "mg", "", STAKE)
    world.tries("gateways", "set_signer", "mal0", "mg", account("gus").address, bytes(65))
    world.do("gateways", "register_and_stake", "gus", "gus", "", STAKE)
    world.block = world.start_of(2)
    world.post("gus", "gus", 1, 1, [("pia", BLOCKS)], shown=True)
    return world.ledger.settlement.checkpoint(key_of("gus"), 1, 1).total_units == BLOCKS


def test_a_stranger_was_named_as_signer() -> None:
    assert not play_stranger(new_world(become("gateways", TrustingRegistry)))
    world = new_world()
    assert play_stranger(world)
    with pytest.raises(InvalidSignature):
        world.do("gateways", "set_signer", "mal0", "mg", account("gwen").address, bytes(65))


# --- names ---


def play_name(by_digest: bool) -> int:
    """Royalties of somebody who registered another's weights first, under a name of its own."""
    world = new_world()
    for creator, name, royalty in (("mal0", "mal/copy", 5_000), ("cora", "org/llama", 500)):
        world.do("models", "create_model", creator, name, keccak256(b"weights"), "", BLOCKS, PRICE, royalty, PRICE)
        world.creators[world.ledger.models.model_count] = creator
    models = world.ledger.models
    ids = [each for each in (1, 2) if models.model(each).manifest_hash == keccak256(b"weights")]
    model_id = ids[0] if by_digest else models.model_id_of("org/llama")
    world.do("token", "approve", "pia", world.ledger.router.pool(model_id).address, PRICE)
    world.do("providers", "register_and_stake", "pia", "pia", model_id, "{}")
    world.do("gateways", "register_and_stake", "gwen", "gwen", "", STAKE)
    world.block = world.start_of(2)
    assert world.post("gwen", "gwen", model_id, 1, [("pia", 400 * BLOCKS)], shown=True)
    world.block = world.start_of(1 + DELAY)
    world.do("settlement", "finalize", "pia", model_id, 1)
    before = world.wealth(["mal0"])
    world.tries("settlement", "claim_royalty", "mal0", 1)
    return world.wealth(["mal0"]) - before


def test_whoever_registered_a_digest_first_took_the_royalties() -> None:
    assert play_name(by_digest=True) == 200 * PRICE
    assert play_name(by_digest=False) == 0


# --- what a payer signs ---


def play_payer(follows_all: bool) -> int:
    """What a gateway gets signed that delivers nothing, and names more each time."""
    books = PayerBooks(ahead=10 * PRICE, budget=None)
    for _ in range(100):
        told = Told(books.promised, books.promised, 0, STAKE, STAKE if follows_all else 10 * PRICE)
        if follows_all:
            amount: int | None = min(told.spent + told.increment, told.deposit)
        else:
            amount = books.next_voucher(told)
        if amount is None:
            break
        books.sign(amount)
    return books.promised


def test_a_payer_signed_what_its_gateway_named() -> None:
    assert play_payer(follows_all=True) == STAKE
    assert play_payer(follows_all=False) <= 10 * PRICE
    with pytest.raises(AccountContradicted):
        PayerBooks(ahead=10 * PRICE, budget=None).follow(Told(0, STAKE, 0, STAKE, 10 * PRICE))
