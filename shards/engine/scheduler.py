"""Which waiting work the next pass takes (no torch arithmetic, no threads: a pure choice over a list).

Continuous batching in the manner of Orca (Yu et al., OSDI '22) with chunked prefill (Sarathi, Agrawal et al. 2023):
decode steps first, then prompt tokens up to a budget, and at most one turn of a session in a pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shards.engine.work import Work


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Most sessions in one pass, most prompt tokens in it, and passes after which work that waits goes first."""

    sessions: int = 64
    prefill_tokens: int = 512
    patience: int = 16


def choose_batch(waiting: Iterable[Work], limits: BatchLimits) -> list[Work]:
    """The work for the next pass, in waiting order; all of it over the same span. Empty only if nothing waits.

    A single piece larger than the prefill budget still goes, alone among prompts. Work that was passed over
    `patience` times comes before everything else and decides on the span, so that nothing starves.
    """
    eligible: list[Work] = []
    seen: set[bytes] = set()
    for work in waiting:
        if work.session not in seen:
            seen.add(work.session)
            eligible.append(work)
    if not eligible:
        return []
    overdue = [work for work in eligible if work.passed_over >= limits.patience]
    urgent = overdue[:1]
    decodes = [work for work in eligible if work.is_decode and work not in urgent]
    prefills = [work for work in eligible if not work.is_decode and work not in urgent]
    span = (urgent or decodes or prefills)[0].cache.span
    batch = [*urgent, *(work for work in decodes if work.cache.span == span)][: limits.sessions]
    tokens = sum(work.count for work in urgent if not work.is_decode)
    for work in prefills:
        if work.cache.span != span or len(batch) >= limits.sessions:
            continue
        if tokens and tokens + work.count > limits.prefill_tokens:
            break
        batch.append(work)
        tokens += work.count
        if tokens >= limits.prefill_tokens:
            break
    return batch
