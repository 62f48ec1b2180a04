"""Which route still holds what was said before, and whether a chat's next turn had best go back there (pure)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from mesh.swarm.route import Hop
from mesh.wire.messages import MAX_KEYS
from mesh.wire.tokens import token_payload
from shards.engine.blocks import chain_keys
from shards.model.paging import PAGE

MAX_MARKS = 8192
"""Places in conversations that are remembered: some ten of each."""
PROMPT_PART = 0.1
"""What a token of a prompt takes, as a part of what one of the answer takes; on most machines it is less."""
USUAL_ANSWER = 256
"""Tokens that an answer is expected to have at most, whatever it may have."""


class Return(NamedTuple):
    """A route that a conversation went before, and how many of its tokens the hops should still hold."""

    hops: tuple[Hop, ...]
    held: int


def worth_returning(there: float, best: float, held: int, max_tokens: int) -> bool:
    """Whether an answer over a route that holds `held` tokens of the prompt takes no longer than over the best one.

    `there` and `best` are seconds per token. Running the `held` tokens on the best route would take `PROMPT_PART` of
    that for each; a return may make the answer longer by this time, and no more.
    """
    answer = min(max_tokens, USUAL_ANSWER)
    return answer * there <= answer * best + held * PROMPT_PART * best


def page_keys(root: bytes, tokens: Sequence[int]) -> list[bytes]:
    """A key for each full page of `tokens`, which names all before it too."""
    full = min(len(tokens) // PAGE, MAX_KEYS)
    return chain_keys(root, (token_payload(tokens[PAGE * page : PAGE * (page + 1)]) for page in range(full)))


class RouteMemory:
    """The routes of the conversations that were had last, by what was said.

    Of each the end of the prompt is remembered, up to where hops keep pages and a next turn repeats it, and the places
    after 1, 2, 4, … pages: so of what any two prompts share, at least half is found. `root` is of model and caller.
    """

    def __init__(self, limit: int = MAX_MARKS) -> None:
        self._limit = limit
        self._routes: OrderedDict[bytes, tuple[Hop, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._routes)

    def remember(self, root: bytes, prompt: Sequence[int], hops: Sequence[Hop]) -> None:
        """The prompt was run by these hops."""
        keys = page_keys(root, prompt)
        for place in sorted({*(1 << power for power in range(len(keys).bit_length())), len(keys)} - {0}):
            key = keys[place - 1]
            self._routes.pop(key, None)
            self._routes[key] = tuple(hops)
        while len(self._routes) > self._limit:
            self._routes.popitem(last=False)

    def find(self, root: bytes, prompt: Sequence[int]) -> Return | None:
        """Where most of a prompt was run before."""
        keys = page_keys(root, prompt[:-1])  # at least one token is always run
        for place in range(len(keys), 0, -1):
            hops = self._routes.get(keys[place - 1])
            if hops is not None:
                self._routes.move_to_end(keys[place - 1])
                return Return(hops, place * PAGE)
        return None
