"""The swarm as one node sees it: who serves which blocks of a model, how fast, and what is missing (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from shards.model.span import Span

UNMEASURED_BLOCK_RATE: Final = 100.0


@dataclass(frozen=True, slots=True)
class ProviderView:
    """One provider of one model.

    `block_rate` is its decode speed in block-tokens per second: a stage of `k` blocks makes `block_rate / k`
    tokens per second, unless its link takes less (`link_rate`, tokens per second). `serving` is False for one that has
    announced its span but is still loading it. `load` is the number of sessions it works on. `max_blocks` is how many
    blocks it has memory for, 0 for one that stays where it is.
    """

    peer: str
    span: Span
    block_rate: float
    serving: bool = True
    load: int = 0
    max_blocks: int = 0
    link_rate: float = math.inf

    @property
    def block_seconds(self) -> float:
        """Seconds per token and block when it works on nothing else, those of its link spread over its blocks."""
        rate = self.block_rate if self.block_rate > 0 else UNMEASURED_BLOCK_RATE
        return 1 / rate + 1 / (self.link_rate * len(self.span))

    @property
    def tokens_per_second(self) -> float:
        return min(self.block_rate / len(self.span), self.link_rate)


def throughput_per_block(n_blocks: int, providers: Iterable[ProviderView]) -> list[float]:
    """Tokens per second that the providers together can push through each block (0.0 where nobody is)."""
    rates = [0.0] * n_blocks
    for provider in providers:
        for block in range(provider.span.start, min(provider.span.end, n_blocks)):
            rates[block] += provider.tokens_per_second
    return rates


def replicas_per_block(n_blocks: int, providers: Iterable[ProviderView]) -> list[int]:
    """How many providers hold each block."""
    steps = [0] * (n_blocks + 1)
    for provider in providers:
        span = provider.span
        if span.start < n_blocks:
            steps[span.start] += 1
            steps[min(span.end, n_blocks)] -= 1
    return list(accumulate(steps[:-1]))


def gaps(n_blocks: int, providers: Iterable[ProviderView]) -> tuple[Span, ...]:
    """Maximal runs of blocks that nobody holds, in order."""
    return runs([count == 0 for count in replicas_per_block(n_blocks, providers)])


def runs(flags: Sequence[bool]) -> tuple[Span, ...]:
    """Maximal runs of true positions as spans."""
    found: list[Span] = []
    start: int | None = None
    for position, flag in enumerate([*flags, False]):
        if flag and start is None:
            start = position
        elif not flag and start is not None:
            found.append(Span(start, position))
            start = None
    return tuple(found)
