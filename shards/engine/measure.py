"""How fast a stage decodes on this machine: what its provider's record announces."""

from __future__ import annotations

import statistics
import time

import torch

from shards.model.paging import pages_for
from shards.model.stage import LogitsMode, Piece, StageModel

MAX_SECONDS = 0.5
MAX_STEPS = 12
WARM_UP_STEPS = 2
CONTEXT = 16
MEASURED = 0
"""The number of the one session that there is."""


def best_threads(model: StageModel) -> tuple[int, float]:
    """The number of CPU threads with which this stage decodes fastest now, and its block rate with it.

    More threads are slower where the stage is small or where other work keeps the cores busy (a barrier waits for
    the slowest), so 1, half and all of them are tried. Leaves the calling thread with the best.
    """
    most = torch.get_num_threads()
    counts = sorted({1, max(1, most // 2), most}) if model.device.type == "cpu" else [most]
    rates: dict[int, float] = {}
    for count in counts:
        torch.set_num_threads(count)
        rates[count] = measure_block_rate(model)
    best = max(rates, key=lambda count: rates[count])
    torch.set_num_threads(best)
    return best, rates[best]


def measure_block_rate(model: StageModel) -> float:
    """Block-tokens per second at batch 1: blocks of the stage over the median decode step. Takes at most ~0.5 s.

    The stage has no pages afterwards.
    """
    span = model.span
    first, last = span.start == 0, span.end == model.spec.n_blocks
    room = min(model.longest, CONTEXT + MAX_STEPS + WARM_UP_STEPS)
    pages = range(pages_for(room))
    model.allocate(len(pages))
    generator = torch.Generator().manual_seed(0)

    def piece(start: int, count: int) -> Piece:
        want = LogitsMode.LAST if last else LogitsMode.NOTHING
        if first:
            tokens = torch.randint(model.spec.vocab_size, (count,), generator=generator)
            return Piece(MEASURED, span, pages, start, tokens=tokens.to(model.device), want=want)
        hidden = torch.randn(count, model.spec.hidden_size, generator=generator)
        return Piece(MEASURED, span, pages, start, hidden=hidden.to(device=model.device, dtype=model.dtype), want=want)

    steps: list[float] = []
    with torch.inference_mode():
        context = max(1, min(CONTEXT, room - MAX_STEPS - WARM_UP_STEPS))
        model.forward([piece(0, context)])
        deadline = time.perf_counter() + MAX_SECONDS
        for step in range(min(MAX_STEPS + WARM_UP_STEPS, room - context)):
            began = time.perf_counter()
            result = model.forward([piece(context + step, 1)])
            result[0].sum().item()  # wait for the device
            steps.append(time.perf_counter() - began)
            if time.perf_counter() > deadline and len(steps) > WARM_UP_STEPS:
                break
    model.forget(MEASURED)
    model.allocate(0)
    return len(span) / statistics.median(steps[WARM_UP_STEPS:] or steps)
