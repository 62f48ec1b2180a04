"""Which sessions take part in the next pass, and which one loses its pages when there are none left (pure choices).

Continuous batching in the manner of Orca (Yu et al., OSDI '22) with chunked prefill (Sarathi, Agrawal et al. 2023):
decode steps first, then prompt tokens up to a budget, and at most one turn of a session in a pass. Clients share passes
by the tokens that they have had (the virtual token counter of Sheng et al., OSDI '24).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shards.engine.sequence import SequenceState

MOST_CLIENTS = 4096
"""Clients whose share is remembered."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Most sessions in one pass, most prompt tokens in it, and passes after which work that waits goes first.

    Of prompts so much at most as takes about `pass_seconds`, and `shared_seconds` where others wait for the pass, but
    `least_prefill` tokens at least. A client that holds more than `client_share` of the pages is the first to lose some
    when others need them.
    """

    sessions: int = 64
    prefill_tokens: int = 512
    patience: int = 16
    client_share: float = 0.75
    pass_seconds: float = 0.5
    shared_seconds: float = 0.06
    least_prefill: int = 16


@dataclass(frozen=True, slots=True)
class Turn:
    """So many tokens of a session's first queued input are part of the pass."""

    sequence: SequenceState
    count: int


class Shares:
    """How many tokens each client has had. Who comes new, or after a pause, has had as many as the least served."""

    def __init__(self) -> None:
        self._tokens: OrderedDict[str, int] = OrderedDict()

    def of(self, client: str) -> int:
        return self._tokens.get(client, 0)

    def enter(self, client: str, active: Iterable[str]) -> None:
        """A client that had no work has some now; `active` are those that have had some."""
        least = min((self.of(other) for other in active if other != client), default=0)
        self._tokens[client] = max(self.of(client), least)
        self._tokens.move_to_end(client)
        if len(self._tokens) > MOST_CLIENTS:
            self._tokens.popitem(last=False)

    def count(self, client: str, tokens: int) -> None:
        self._tokens[client] = self.of(client) + tokens


def choose_turns(
    ready: Sequence[SequenceState], limits: BatchLimits, shares: Shares, prefill: int | None = None
) -> list[Turn]:
    """The turns of the next pass, all over the same span. Empty only if nothing is `ready`.

    `ready` are sessions with queued work, the longest waiting first; `prefill` is the budget of prompt tokens (None:
    what `limits` says). Of one client's prompts the shortest comes first. An input that is larger than what is left of
    the prefill budget is run in parts. An input that was passed over `patience` times comes before everything else and
    decides on the span, so that nothing starves.
    """
    if not ready:
        return []
    overdue = next((each for each in ready if each.queue[0].passed_over >= limits.patience), None)
    decodes = [each for each in ready if each.queue[0].is_decode and each is not overdue]
    prefills = [each for each in ready if not each.queue[0].is_decode and each is not overdue]
    first = overdue or (decodes or prefills)[0]
    same = [each for each in decodes if each.span == first.span]
    if len(same) > limits.sessions - 1:
        same.sort(key=lambda each: shares.of(each.client))  # stable: in order of waiting among equals
    turns: list[Turn] = []
    budget = limits.prefill_tokens if prefill is None else prefill
    if overdue is not None:
        head = overdue.queue[0]
        count = head.left if head.is_decode else min(head.left, budget)
        turns.append(Turn(overdue, count))
        budget -= 0 if head.is_decode else count
    turns += [Turn(each, each.queue[0].left) for each in same[: limits.sessions - len(turns)]]
    prefills = [each for each in prefills if each.span == first.span]
    had: dict[str, int] = {}
    while prefills and budget > 0 and len(turns) < limits.sessions:
        chosen = min(prefills, key=lambda each: (shares.of(each.client) + had.get(each.client, 0), each.queue[0].left))
        prefills.remove(chosen)
        count = min(chosen.queue[0].left, budget)
        turns.append(Turn(chosen, count))
        had[chosen.client] = had.get(chosen.client, 0) + count
        budget -= count
    return turns


def choose_victim(
    sessions: Iterable[SequenceState], asking: SequenceState, pages: int, limits: BatchLimits
) -> SequenceState:
    """Who gives way when the session that is `asking` needs more and none of `pages` is left.

    The youngest that has pages or asks for some: so the oldest always goes on to its end, and the hops of a route,
    where sessions came in the same order, choose alike. Sessions that hold pages and never used them come before all
    others. Where a client holds more than its share, the youngest of its, but for the oldest of all: two that are
    larger than a share would take each other's pages for ever.
    """
    having = [each for each in sessions if each.pages or each is asking]
    unused = [each for each in having if not each.length and each is not asking]
    having = unused or having
    held: dict[str, int] = {}
    for each in having:
        held[each.client] = held.get(each.client, 0) + len(each.pages)
    greedy = max(held, key=lambda client: held[client])
    if len(held) > 1 and held[greedy] > limits.client_share * pages:
        oldest = min(having, key=lambda each: each.number)
        having = [each for each in having if each.client == greedy and each is not oldest] or having
    return max(having, key=lambda each: each.number)
