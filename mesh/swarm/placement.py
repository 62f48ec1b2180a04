"""Which span a joining node should serve (pure).

First fill gaps, in pieces as even as the node's capacity allows, so that three equal nodes cut a model in three
equal parts; where every block is covered, add a replica to the part with the lowest throughput, because a pipeline
is as fast as its slowest stage.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mesh.swarm.view import ProviderView, gaps, throughput_per_block
from shards.span import Span

DEFAULT_STAGES = 3


@dataclass(frozen=True, slots=True)
class Claim:
    """A joining node's provisional choice, before it has begun to load."""

    peer: str
    span: Span


def default_max_blocks(n_blocks: int) -> int:
    """How many blocks a node takes when its operator did not say: an even share of `DEFAULT_STAGES` stages."""
    return -(-n_blocks // DEFAULT_STAGES)


def choose_span(n_blocks: int, providers: Sequence[ProviderView], max_blocks: int) -> Span:
    """The span that a node with room for `max_blocks` blocks is most needed for."""
    capacity = max(1, min(max_blocks, n_blocks))
    missing = gaps(n_blocks, providers)
    if missing:
        largest = max(missing, key=lambda gap: (len(gap), -gap.start))
        pieces = -(-len(largest) // capacity)
        return Span(largest.start, largest.start + -(-len(largest) // pieces))
    return _weakest_window(n_blocks, _expected(providers), capacity)


def settle(n_blocks: int, committed: Sequence[ProviderView], claims: Sequence[Claim], me: str, max_blocks: int) -> Span:
    """The span to claim while others claim at the same time.

    Nodes that load or serve are fixed; of the nodes that are still choosing, those with a smaller peer id go
    first. Everybody applies the same rule to the same claims, so two nodes that start together end up apart, once
    each has seen what those before it claim.
    """
    ahead = [ProviderView(claim.peer, claim.span, block_rate=1.0, serving=False) for claim in claims if claim.peer < me]
    return choose_span(n_blocks, [*committed, *ahead], max_blocks)


def _expected(providers: Sequence[ProviderView]) -> list[ProviderView]:
    """The providers once all of them serve: one that has not measured itself yet will be as fast as the median.

    Otherwise all who join a complete swarm at the same time would see no use in each other, and replicate the same
    part.
    """
    typical = statistics.median([p.block_rate for p in providers if p.serving] or [1.0])
    return [p if p.serving else replace(p, block_rate=typical) for p in providers]


def _weakest_window(n_blocks: int, providers: Sequence[ProviderView], capacity: int) -> Span:
    rates = throughput_per_block(n_blocks, providers)
    windows = [span for span in _windows(n_blocks, providers, capacity) if len(span) <= capacity]
    # Lowest bottleneck first, then the window that holds most of the weak blocks, then the leftmost.
    bottleneck = min(rates)
    return min(
        windows,
        key=lambda span: (
            min(rates[block] for block in span),
            -sum(1 for block in span if rates[block] <= bottleneck),
            sum(rates[block] for block in span) / len(span),
            span.start,
        ),
    )


def _windows(n_blocks: int, providers: Sequence[ProviderView], capacity: int) -> set[Span]:
    """Spans to consider: those that others serve (a replica of a whole stage) and every window of full capacity."""
    served = {provider.span for provider in providers if provider.span.end <= n_blocks}
    return served | {Span(start, start + capacity) for start in range(n_blocks - capacity + 1)}
