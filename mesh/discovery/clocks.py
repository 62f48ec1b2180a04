"""Whether this machine's clock is right, as far as its neighbours' clocks tell.

Records live for half a minute of everybody's clock. Of a node whose clock is off by more, nobody takes the records, and
it takes nobody's: it is alone without any error, which is why it has to be said.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import statistics
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from mesh.errors import ConfigError, WrongClock

log = logging.getLogger(__name__)

WRONG_SECONDS: Final = 10.0
"""A difference that matters: a record is renewed every 8 s and lives for 30."""
REMEMBERED_SECONDS: Final = 60.0
REMIND_SECONDS: Final = 60.0
_MOST: Final = 64
_TIMES: Final = re.compile(r"local time .*\(local: (?P<local>\d+\.\d+), peer: (?P<peer>\d+\.\d+)\)")


class ClockWatch:
    """How far the clocks of peers are ahead of ours (seconds). `now` is monotonic."""

    def __init__(self) -> None:
        self._ahead: dict[str, tuple[float, float]] = {}
        self._said_at: float | None = None

    def note(self, peer: str, ahead: float, now: float) -> None:
        """A peer's clock was `ahead` of ours."""
        self._ahead.pop(peer, None)
        self._ahead[peer] = now, ahead
        while len(self._ahead) > _MOST:
            del self._ahead[next(iter(self._ahead))]

    def ahead(self, now: float) -> Mapping[str, float]:
        """By peer, as heard not long ago."""
        return {peer: ahead for peer, (at, ahead) in self._ahead.items() if now - at <= REMEMBERED_SECONDS}

    def problem(self, now: float) -> str | None:
        """What is wrong, in words; None where nobody was heard or most agree with us."""
        heard = self.ahead(now)
        if not heard:
            return None
        off = -statistics.median(heard.values())
        if abs(off) <= WRONG_SECONDS:
            return None
        return (
            f"this machine's clock is {spoken(off)} its neighbours' ({len(heard)} asked): they take no record of "
            "ours and we none of theirs until it is set right"
        )

    def due(self, now: float) -> tuple[str | None, bool]:
        """The problem where it is time to say it, again once a minute; and whether it has just gone."""
        problem = self.problem(now)
        if problem is None:
            gone, self._said_at = self._said_at is not None and bool(self.ahead(now)), None
            return None, gone
        if self._said_at is not None and now - self._said_at < REMIND_SECONDS:
            return None, False
        self._said_at = now
        return problem, False


async def compare(
    watch: ClockWatch, peers: Collection[str], most: int, ask: Callable[[str], Awaitable[float | None]]
) -> Mapping[str, float]:
    """Ask `most` of the peers by how much they are ahead of us, and log where we are wrong; by peer, in seconds."""
    asked = random.sample(sorted(peers), min(most, len(peers)))
    answers = await asyncio.gather(*map(ask, asked))
    now = time.monotonic()
    for peer, ahead in zip(asked, answers, strict=True):
        if ahead is not None:
            watch.note(peer, ahead, now)
    problem, gone = watch.due(now)
    if problem is not None:
        log.warning("%s", problem)
    elif gone:
        log.warning("this machine's clock is right again")
    return watch.ahead(now)


def refused_by_swarm(why: str) -> ConfigError:
    """The error for a node that hivemind does not let in; it does so where two clocks differ by more than 3 s."""
    told = _TIMES.search(why)
    refused = f"the swarm refuses this node: {why}"
    if told is None:
        return ConfigError(refused)
    ahead = float(told["peer"]) - float(told["local"])
    return WrongClock(f"{refused}; set this machine's clock (or theirs) right", ahead=ahead)


def spoken(seconds: float) -> str:
    """A difference for people: `3,600 s ahead of` (or `behind`)."""
    return f"{abs(seconds):,.0f} s {'ahead of' if seconds > 0 else 'behind'}"
