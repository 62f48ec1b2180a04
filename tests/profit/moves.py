"""All moves by name: the coalition's single steps, and runs of steps that get it into a position worth having."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from tests.profit.coalition import GATES, WORKERS, Coalition, Move
from tests.profit.game import DEVELOPERS, GATEWAYS, MALS, MODEL, PROVIDERS
from tests.profit.world import DELAY, MIN_STAKE, PRICE, STAKE, Posted

Step: TypeAlias = Callable[[Coalition, int, int, int], None]
GREED: Final = 12
"""How often a move takes the same again."""


def next_epoch(coalition: Coalition, a: int, b: int, c: int) -> None:
    """On to another epoch: its first block, the one after, or its last."""
    world = coalition.game.world
    epoch = world.epoch + 1 + (b % 2) * (c % 3)
    coalition.game.advance((world.start_of(epoch), world.start_of(epoch) + 1, world.start_of(epoch + 1) - 1)[a % 3])


def trade(coalition: Coalition, a: int, b: int, c: int) -> None:
    """Honest people go about their business."""
    for _ in range(1 + c % 6):
        coalition.game.serve(DEVELOPERS[a % 2], GATEWAYS[a // 2 % 2], PROVIDERS[b % 2], MODEL, 10)


def restart(coalition: Coalition, a: int, b: int, c: int) -> None:
    """An honest process is killed, and starts again."""
    parties = (*coalition.game.gateways.values(), *coalition.game.providers.values())
    parties[a % len(parties)].restart()


def creator_price(coalition: Coalition, a: int, b: int, c: int) -> None:
    """The honest creator asks for more, or for less."""
    coalition.game.world.tries("models", "update_price", "cora", MODEL, (PRICE // 4, PRICE, 4 * PRICE, 0)[a % 4])


def open_shop(coalition: Coalition, a: int, b: int, c: int) -> None:
    """A gateway with a good stake, and lines for the honest providers."""
    gate, owner = coalition.gate(a)
    world = coalition.game.world
    if world.tries("gateways", "register_and_stake", owner, gate, "", (MIN_STAKE, 2 * MIN_STAKE, STAKE)[c % 3]):
        world.owners[gate] = owner
    line = (10, 50, 100, 500)[b % 4] * PRICE
    world.tries("gateway_staking", "fund_lines", owner, gate, list(PROVIDERS), [line] * len(PROVIDERS))


def own_model(coalition: Coalition, a: int, b: int, c: int) -> None:
    """A model of our own, and providers who serve it."""
    coalition.publish(a, b, c)
    for number in range(len(WORKERS)):
        coalition.become_provider(number, 0, c)


def customer(coalition: Coalition, a: int, b: int, c: int) -> None:
    """A developer with much reserved at honest gateways, and all of it promised."""
    for number in (0, 1) if c % 2 else (a,):
        coalition.reserve(number % 2, b, 4)
        coalition.promise(number, b, (2, 3, 4)[c % 3])


def feast(coalition: Coalition, a: int, b: int, c: int) -> None:
    """Be served as long as anything comes."""
    for _ in range(GREED):
        coalition.ask(a, b % 2 if c % 2 else b, 4 + 8 * (c // 2 % 2))


def toil(coalition: Coalition, a: int, b: int, c: int) -> None:
    """Serve honest developers' requests, claiming as we go (or only later)."""
    if coalition.worker(b)[0] not in coalition.game.world.owners:
        coalition.become_provider(b, a // 3, 0)
    for number in range(1 + c % GREED):
        coalition.work_for(a + number, b, 3)
        if a % 3:
            coalition.claim_units(a // 2, b, 0)


def spree(coalition: Coalition, a: int, b: int, c: int) -> None:
    """Buy from an honest provider as long as it works, signing for what it claims."""
    if coalition.gate(a)[0] not in coalition.game.world.owners:
        open_shop(coalition, a, b // 2, c // 2)
    for _ in range(GREED):
        if not coalition.game.serve(DEVELOPERS[a % 2] if c % 2 else None, GATES[a % 3], PROVIDERS[b % 2], MODEL, 10):
            break
        coalition.sign(a, b, 8 if c % 3 == 2 else 0)


def round_trip(coalition: Coalition, a: int, b: int, c: int) -> None:
    """A developer of ours pays an honest gateway for what a provider of ours does."""
    coalition.reserve(a % 2, b, 4 + c % 3)
    coalition.promise(a % 2, b, 3 + c % 3)
    worker, _ = coalition.worker(b)
    if worker not in coalition.game.world.owners:
        coalition.become_provider(b, c // 3, 0)
    coalition.game.serve(MALS[b % 2], GATEWAYS[a % 2], worker, coalition.model_of(worker), 2_000)
    coalition.claim_units(a, b, 0)


def season(coalition: Coalition, a: int, b: int, c: int) -> None:
    """Buy from honest providers, post it in the next epoch, and wait until the last block of some epoch."""
    for number in range(len(PROVIDERS)):
        spree(coalition, a, b + number, c)
    next_epoch(coalition, 1, 0, 0)
    coalition.post(a, (0, 3)[c // 2 % 2], 0)
    next_epoch(coalition, 2, c, b)


def prove(coalition: Coalition, a: int, b: int, c: int) -> None:
    """Prove leaves of others in our checkpoints, the smallest or the largest ones first; before all others."""
    world = coalition.game.world
    newest = max((epoch for gateway, _, epoch in world.posted if gateway in GATES), default=0)
    if b % 2 and newest:
        coalition.game.advance(world.start_of(max(newest + DELAY, world.epoch + 1)))
    for (gateway, _, epoch), posted in list(world.posted.items()):
        if gateway in GATES and epoch + DELAY <= world.epoch:
            for leaf in sorted(posted.tree.leaves, key=lambda leaf: leaf.units * (-1) ** a):
                name, proof = world.name_of(leaf.provider), posted.tree.proof(leaf.provider, leaf.units)
                world.tries("settlement", "prove_contribution_for", "mal5", gateway, name, epoch, leaf.units, proof)


def reveal(coalition: Coalition, a: int, b: int, c: int) -> None:
    """Show, or no longer show, the leaves that our gateways posted."""
    world = coalition.game.world
    for slot, posted in list(world.posted.items()):
        if slot[0] in GATES:
            world.posted[slot] = Posted(posted.tree, bool(a % 2) and posted.tree.is_plain)


def shift(coalition: Coalition, a: int, b: int, c: int) -> None:
    """Move a developer's money: to a gateway of ours and out of it as credit, or out of the escrow."""
    gate, owner = coalition.gate(a)
    world = coalition.game.world
    if world.tries("gateways", "register", owner, gate, ""):
        world.owners[gate] = owner
    coalition.redeem_to_ourselves(a, b, c)
    if c % 2:
        world.tries("escrow", "withdraw_credit", owner, gate)


MOVES: Final[dict[str, Step]] = {
    step.__name__: step
    for step in (
        Coalition.wait, Coalition.become_gateway, Coalition.become_provider, Coalition.publish, Coalition.reprice,
        Coalition.reserve, Coalition.promise, Coalition.thaw, Coalition.withdraw, Coalition.redeem_to_ourselves,
        Coalition.ask, Coalition.work_for, Coalition.claim_units, Coalition.buy, Coalition.sign, Coalition.fund_line,
        Coalition.thaw_line, Coalition.post, Coalition.redeem, Coalition.leave, Coalition.show_omission,
        Coalition.challenge_ourselves, Coalition.answer, Coalition.collect, Coalition.void, Coalition.freeze,
        Coalition.overdraw, Coalition.rotate,
        next_epoch, trade, restart, creator_price, open_shop, own_model, customer, feast, toil, spree, season,
        round_trip, prove, reveal, shift,
    )
}  # fmt: skip
WEIGHTS: Final[Sequence[int]] = [
    {"wait": 3, "next_epoch": 4, "post": 3}.get(
        name, 2 if name in ("ask", "buy", "feast", "spree", "season", "answer", "reveal") else 1
    )
    for name in MOVES
]


def play_move(coalition: Coalition, move: Move) -> None:
    """Whatever the chain or an honest party refuses simply does not happen."""
    name, a, b, c = move
    MOVES[name](coalition, a, b, c)
