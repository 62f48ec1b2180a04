"""One long prompt beside short chats: nobody waits for more of it than a pass of bounded seconds has."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from shards.engine.core import EngineCore
from shards.engine.pace import COMPANY_SECONDS, PrefillPace
from shards.engine.scheduler import BatchLimits
from shards.engine.step import StepInput, StepOutput
from shards.model.stage import Piece
from tests.shards.engine.test_core import SPEC, WHOLE, Chat, prompt
from tests.shards.hash_model import HashModel

CHUNK = 256
LONG = 8000
OVERHEAD, PER_TOKEN, PER_PAIR = 0.01, 0.001, 2e-7
"""Seconds of a made-up machine: of a pass, of a token, and of a token for each that it attends to."""


class SlowModel(HashModel):
    """Counts what its passes would take; `now` is the time by that count."""

    now = 0.0
    longest = 2 * LONG

    def forward(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
        results = super().forward(pieces)
        for _, start, count in self.passes[-1]:
            self.now += count * (PER_TOKEN + PER_PAIR * start)
        self.now += OVERHEAD
        return results


def simulate(count: int, *, long: bool = True, client: str = "a") -> tuple[float, float, float]:
    """Seconds from when a short chat comes, in the middle of a long prompt, to its first token and to its last; and all
    seconds until the long prompt is run.
    """
    model = SlowModel(SPEC, WHOLE)
    core = EngineCore(model, 2000, clock=lambda: model.now)
    large = Chat([2] * LONG, 1)
    short = Chat(prompt(40, 1), count, client=client)
    chats = [large, short] if long else [short]
    fed = [0]

    def feed() -> None:
        """As a stage does: the next part of a prompt when the last one is run."""
        part = large.prompt[fed[0] : fed[0] + CHUNK]
        core.feed([StepInput(large.sequence, fed[0], len(part), tokens=torch.tensor(part))])  # type: ignore[arg-type]
        fed[0] += len(part)

    if long:
        large.open(core)
        core.drop_queue()
        feed()
    came = first = last = 0.0
    for _ in range(20_000):
        if short.sequence is None and not short.done and (not long or fed[0] > LONG // 2):
            chosen = core.plan()
            came = model.now  # while a pass runs
            short.open(core)
            outputs: list[StepOutput] = core.book(chosen, core.compute(chosen))
        else:
            outputs = core.step()
        for output in outputs:
            next(chat for chat in chats if chat.sequence is output.sequence).hear(core, output)
            if output.sequence is large.sequence and output.complete and fed[0] < LONG:
                feed()
        if short.tokens and not first:
            first = model.now - came
        if short.done and not last:
            last = model.now - came
        if all(chat.done for chat in chats):
            return first, last, model.now
    raise AssertionError("they never ended")


@pytest.mark.parametrize("client", ["a", "another"])
def test_a_short_chat_beside_a_long_prompt_waits_a_bounded_time(client: str) -> None:
    quiet_first, quiet_last, _ = simulate(8, long=False)
    first, last, all_ = simulate(8, client=client)
    limits = BatchLimits()
    # The pass that runs when it comes, then passes of its own with a little of the long prompt in each.
    assert first <= 2 * quiet_first + limits.pass_seconds + 2 * limits.shared_seconds
    assert last <= 3 * quiet_last + limits.pass_seconds + 10 * limits.shared_seconds
    alone = LONG / CHUNK * OVERHEAD + LONG * PER_TOKEN + PER_PAIR * LONG * LONG / 2
    assert all_ <= 1.3 * alone, "and the long prompt is hardly slower for it"


def test_without_a_measure_or_any_company_the_budget_is_in_tokens() -> None:
    pace = PrefillPace(BatchLimits(prefill_tokens=512))
    assert pace.budget(0.0, company=True) == 512
    pace.ran(512, 0.1, prompts=True)
    assert pace.budget(0.0, company=False) == 512
    pace.ran(64, 10.0, prompts=False)  # what decoding takes says nothing
    assert pace.budget(0.0, company=False) == 512


def test_others_shrink_the_budget_as_long_as_they_go_on() -> None:
    pace = PrefillPace(BatchLimits(prefill_tokens=512, pass_seconds=0.5, shared_seconds=0.05, least_prefill=16))
    pace.ran(500, 1.0, prompts=True)
    assert pace.budget(0.0, company=False) == 250
    assert pace.budget(0.0, company=True) == 25
    pace.decoded(0.0)
    assert pace.budget(COMPANY_SECONDS / 2, company=False) == 25
    assert pace.budget(COMPANY_SECONDS, company=False) == 250
    pace.ran(500, 1000.0, prompts=True)
    assert pace.budget(0.5, company=True) == 16, "it goes on all the same"
