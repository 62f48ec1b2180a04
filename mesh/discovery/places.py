"""Who keeps a place where there are too few for all: drawn anew every few seconds, unforeseeably (pure).

Peer ids are free, so no rule can tell a flood from a crowd; this one treats all ids alike. A newcomer is not refused
because others were first, one id has one ticket in a draw however often it asks, a large item has proportionally worse
luck, and ids cannot be made to win, since the order depends on a secret. Half of the room belongs to those that have
been there longest: a flood does not displace those that were there before it.
"""

from __future__ import annotations

import math
import secrets
from bisect import insort
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Generic, TypeVar

DRAW_SECONDS: Final = 2.0
"""How often places are drawn anew."""
SETTLED_SHARE: Final = 0.5
"""Part of the room that belongs to those that have held a place longest."""

K = TypeVar("K", bound=Hashable)


class Draw:
    """A number for every name in every draw; who does not know the secret cannot foresee it."""

    def __init__(self, secret: bytes | None = None, *, seconds: float = DRAW_SECONDS) -> None:
        """`secret` (at most 64 bytes; default: random) makes the order; `seconds` is how long one draw counts."""
        self._secret = secrets.token_bytes(32) if secret is None else secret
        self._seconds = seconds

    def turn(self, now: float) -> int:
        """Which draw counts at `now` (seconds)."""
        return math.floor(now / self._seconds)

    def number(self, name: bytes, turn: int, weight: float = 1.0) -> float:
        """Smaller is better. Of names that compete for room, each wins in inverse proportion to its weight."""
        salt = (turn & (1 << 64) - 1).to_bytes(8, "big")
        digest = blake2b(name, digest_size=8, key=self._secret, salt=salt).digest()
        return -math.log((int.from_bytes(digest, "big") + 1) / (1 << 64)) * weight


@dataclass(slots=True)
class _Held:
    weight: int
    expires: float
    since: float
    number: float = 0.0


class Places(Generic[K]):
    """Room for `room` units of weight. Time is an argument (Unix time, seconds)."""

    def __init__(self, room: int, draw: Draw, name: Callable[[K], bytes]) -> None:
        """`name` gives the bytes under which a holder takes part in the draw."""
        self._room = room
        self._draw = draw
        self._name = name
        self._held: dict[K, _Held] = {}
        self._turn: int | None = None
        self._order: list[tuple[float, int, K]] = []  # those that may have to go, the first to go last
        self._count = 0
        self.used = 0
        """Units taken."""

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, who: K) -> bool:
        return who in self._held

    @property
    def full(self) -> bool:
        """Whether the next newcomer needs the place of another."""
        return self.used >= self._room

    def weight(self, who: K) -> int:
        """Units that `who` holds; 0 without a place."""
        held = self._held.get(who)
        return 0 if held is None else held.weight

    def since(self, who: K) -> float:
        """Since when `who` has had its place without a break; infinity without one."""
        held = self._held.get(who)
        return math.inf if held is None else held.since

    def losers(self, who: K, weight: int, now: float, *, leaving: Collection[K] = ()) -> Sequence[K] | None:
        """Those that must go so that `who` gets `weight` units; None where `who` gets none.

        Those that are `leaving` go in any case. Nothing changes by asking, except that a new draw may be due.
        """
        free = self._room - self.used + self.weight(who) + sum(self.weight(each) for each in leaving)
        if weight <= free:
            return ()
        if weight > self._room:
            return None
        self._rank(now)
        number, going = self._number(who, weight), dict[K, None]()
        for theirs, _, other in reversed(self._order):
            held = self._held.get(other)
            if held is None or held.number != theirs or other == who or other in going or other in leaving:
                continue
            if theirs <= number:
                return None
            going[other] = None
            free += held.weight
            if weight <= free:
                return tuple(going)
        return None

    def take(self, who: K, weight: int, expires: float, now: float) -> None:
        """Give `who` its place, or a longer one; call it once `losers` are dropped."""
        known = self._held.get(who)
        self.used += weight - self.weight(who)
        if known is not None and known.weight == weight:
            known.expires = expires
            return
        held = self._held[who] = _Held(weight, expires, now if known is None else known.since)
        if self._turn is not None:
            held.number = self._number(who, weight)
            self._count += 1
            insort(self._order, (held.number, self._count, who))

    def drop(self, who: K) -> None:
        """Take the place of `who` away, if it has one."""
        held = self._held.pop(who, None)
        if held is not None:
            self.used -= held.weight
            while self._order and self._order[-1][2] not in self._held:
                self._order.pop()

    def expire(self, now: float) -> Sequence[K]:
        """Drop and return those whose time is over."""
        over = [who for who, held in self._held.items() if held.expires <= now]
        for who in over:
            self.drop(who)
        return over

    def settled(self) -> frozenset[K]:
        """Those that have been there longest, up to half of the room."""
        most, taken, settled = int(self._room * SETTLED_SHARE), 0, set()
        for who, held in sorted(self._held.items(), key=lambda item: item[1].since):
            taken += held.weight
            if taken > most:
                break
            settled.add(who)
        return frozenset(settled)

    def _number(self, who: K, weight: int) -> float:
        return self._draw.number(self._name(who), self._turn or 0, weight)

    def _rank(self, now: float) -> None:
        turn = self._draw.turn(now)
        if turn == self._turn:
            return
        self._turn, self._order, settled = turn, [], self.settled()
        for count, (who, held) in enumerate(self._held.items()):
            if who not in settled:
                held.number = self._number(who, held.weight)
                self._order.append((held.number, count, who))
        self._count = len(self._held)
        self._order.sort()
