"""The engine over a real stage: batched like alone, one's failure is nobody else's, and it ends when told."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from shards.checkpoint.folder import Checkpoint
from shards.engine.engine import Engine
from shards.engine.measure import measure_block_rate
from shards.engine.sampler import SamplerState
from shards.engine.sampling_params import SamplingParams
from shards.engine.scheduler import BatchLimits
from shards.engine.sequence import SequenceState
from shards.engine.step import StepInput, StepOutput
from shards.errors import BadActivation, CapacityExceeded, ShardError
from shards.model.loading import load_stage
from shards.model.span import Span
from shards.model.stage import Piece, StageModel
from tests.shards.models import make_checkpoint
from tests.shards.stages import random_tokens

torch.set_num_threads(1)

WIDTH = 48


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(make_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def first(checkpoint: Checkpoint) -> StageModel:
    return load_stage(checkpoint, Span(0, 2))


@pytest.fixture(scope="module")
def middle(checkpoint: Checkpoint) -> StageModel:
    return load_stage(checkpoint, Span(2, 4))


@pytest.fixture(scope="module")
def last(checkpoint: Checkpoint) -> StageModel:
    return load_stage(checkpoint, Span(4, 5))


class Bench:
    """An engine whose passes can be waited for."""

    def __init__(self, model: StageModel, limits: BatchLimits | None = None, *, whole: bool = False) -> None:
        self.passes: queue.Queue[Sequence[StepOutput]] = queue.Queue()
        self.crashes: queue.Queue[BaseException] = queue.Queue()
        self.engine = Engine(model, self.passes.put, self.crashes.put, pages=64, limits=limits, threads=1, whole=whole)

    def sequence(self, name: int, capacity: int = 64, sampler: SamplerState | None = None) -> SequenceState:
        return self.engine.add(session(name), self.engine.model.span, capacity, sampler=sampler)

    def carried(self, name: int, count: int, sampler: SamplerState | None = None, **changes: Any) -> StepInput:
        """A session's first `count` tokens as hidden states."""
        sequence = self.sequence(name, sampler=sampler)
        return StepInput(sequence, **({"start": 0, "count": count, "hidden": hidden(count, name)} | changes))

    def run(self, *works: StepInput) -> list[StepOutput]:
        """Submit everything before the engine looks, and collect an outcome for each, in the order given."""
        self.engine.submit(works)
        with self.engine:
            return self.collect(*works)

    def collect(self, *works: StepInput) -> list[StepOutput]:
        found: dict[int, StepOutput] = {}
        while len(found) < len(works):
            found |= {id(outcome.input): outcome for outcome in self.passes.get(timeout=20)}
        return [found[id(work)] for work in works]


def hidden(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def session(name: int) -> bytes:
    return bytes([name]) * 16


def alone(model: StageModel, name: int, count: int, **changes: Any) -> StepOutput:
    bench = Bench(model)
    return bench.run(bench.carried(name, count, **changes))[0]


def test_sessions_in_one_pass_get_what_they_get_alone(middle: StageModel) -> None:
    counts = (1, 7, 1, 16, 3)
    each = [alone(middle, name, count) for name, count in enumerate(counts)]

    bench = Bench(middle)
    works = [bench.carried(name, count) for name, count in enumerate(counts)]
    together = bench.run(*works)

    assert bench.passes.empty()
    for one, other in zip(each, together, strict=True):
        assert one.hidden is not None
        assert other.hidden is not None
        torch.testing.assert_close(one.hidden, other.hidden, atol=1e-5, rtol=1e-5)
    assert all(work.sequence.length == count for work, count in zip(works, counts, strict=True))


def test_a_prompt_in_chunks_and_then_token_by_token_is_the_whole(first: StageModel) -> None:
    tokens = torch.tensor(random_tokens(30))
    bench = Bench(first)
    (whole,) = bench.run(StepInput(bench.sequence(1), 0, 30, tokens=tokens))
    bench = Bench(first)
    sequence = bench.sequence(1)
    pieces = [(0, 16), (16, 27), (27, 28), (28, 29), (29, 30)]
    outcomes = bench.run(*(StepInput(sequence, a, b - a, tokens=tokens[a:b]) for a, b in pieces))
    found = torch.cat([outcome.hidden for outcome in outcomes if outcome.hidden is not None])
    assert whole.hidden is not None
    torch.testing.assert_close(found, whole.hidden, atol=1e-5, rtol=1e-5)


def test_an_earlier_position_replaces_what_was_there(first: StageModel) -> None:
    tokens = torch.tensor(random_tokens(12))
    bench = Bench(first)
    sequence = bench.sequence(1)
    wrong = torch.tensor(random_tokens(6, seed=9))
    whole, _, again = bench.run(
        StepInput(sequence, 0, 12, tokens=tokens),
        StepInput(sequence, 6, 6, tokens=wrong),
        StepInput(sequence, 6, 6, tokens=tokens[6:]),
    )
    assert whole.hidden is not None
    assert again.hidden is not None
    torch.testing.assert_close(again.hidden, whole.hidden[6:], atol=1e-5, rtol=1e-5)
    assert sequence.length == 12


def test_over_a_whole_model_a_pass_waits_for_what_follows_from_the_last_one(
    first: StageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.engine.engine.NEXT_SECONDS", 20.0)
    tokens = torch.tensor(random_tokens(4))
    bench = Bench(first, whole=True)
    one, other = bench.sequence(1), bench.sequence(2)
    with bench.engine:
        bench.engine.submit([StepInput(one, 0, 1, tokens=tokens[:1])])
        assert len(bench.passes.get(timeout=20)) == 1
        bench.engine.submit([StepInput(other, 0, 1, tokens=tokens[:1])])
        bench.engine.submit([StepInput(one, 1, 1, tokens=tokens[1:2])])
        bench.engine.next_fed()
        assert len(bench.passes.get(timeout=20)) == 2


def test_over_a_whole_model_a_pass_does_not_wait_for_ever(first: StageModel) -> None:
    tokens = torch.tensor(random_tokens(4))
    bench = Bench(first, whole=True)
    with bench.engine:
        for name in (1, 2):
            bench.engine.submit([StepInput(bench.sequence(name), 0, 1, tokens=tokens[:1])])
            assert len(bench.passes.get(timeout=20)) == 1


BAD: dict[str, dict[str, Any]] = {
    "not a number": {"hidden": torch.full((2, WIDTH), float("nan"))},
    "infinite": {"hidden": torch.full((2, WIDTH), float("-inf"))},
    "one bad value": {"hidden": hidden(2).index_fill(1, torch.tensor([WIDTH - 1]), float("nan"))},
    "too narrow": {"hidden": hidden(2)[:, :-1]},
    "three axes": {"hidden": hidden(2)[None]},
    "no rows": {"hidden": hidden(0)},
    "nothing at all": {"hidden": None},
    "a gap": {"start": 1},
    "fewer rows than announced": {"count": 3},
    "past the capacity": {"hidden": hidden(65), "count": 65},
    "more than fits into the wire's dtype": {"hidden": hidden(2) * 1e6},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_piece_fails_alone(middle: StageModel, name: str) -> None:
    bench = Bench(middle)
    good = [bench.carried(1, 1), bench.carried(3, 9)]
    bad = bench.carried(2, 2)
    if "wire" in name:
        bad.sequence.wire_dtype = torch.float16
    for field, value in BAD[name].items():
        setattr(bad, field, value)

    before, failed, after = bench.run(good[0], bad, good[1])

    assert isinstance(failed.error, CapacityExceeded if "capacity" in name else BadActivation)
    assert failed.hidden is None
    for outcome, expected in ((before, alone(middle, 1, 1)), (after, alone(middle, 3, 9))):
        assert outcome.hidden is not None
        assert expected.hidden is not None
        torch.testing.assert_close(outcome.hidden, expected.hidden, atol=1e-5, rtol=1e-5)
    assert [work.sequence.length for work in good] == [1, 9]


def test_a_token_outside_the_vocabulary_fails_alone(first: StageModel) -> None:
    bench = Bench(first)
    works = [
        StepInput(bench.sequence(name), 0, 2, tokens=torch.tensor([4, token]))
        for name, token in enumerate((5, 300, -1, 299))
    ]
    errors = [outcome.error for outcome in bench.run(*works)]
    assert [type(error) for error in errors] == [type(None), BadActivation, BadActivation, type(None)]


def test_cancelled_work_is_dropped_without_an_outcome(middle: StageModel) -> None:
    bench = Bench(middle)
    works = [bench.carried(name, 4) for name in range(3)]
    works[1].cancelled = True
    bench.engine.submit(works)
    with bench.engine:
        bench.collect(works[0], works[2])
        assert bench.engine.queued == 0
    assert works[1].sequence.length == 0
    assert bench.passes.empty()


class Faulty:
    """A stage that fails as told when a session of the engine takes part."""

    def __init__(self, model: StageModel, number: int, error: Exception) -> None:
        self.spec, self.span, self.device, self.dtype = model.spec, model.span, model.device, model.dtype
        self.longest, self.page_bytes, self.shares_pages = model.longest, model.page_bytes, model.shares_pages
        self.numerics = model.numerics
        self.allocate, self.cut, self.forget = model.allocate, model.cut, model.forget
        self._model, self._number, self._error = model, number, error

    def forward(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
        if any(piece.sequence == self._number for piece in pieces):
            raise self._error
        return self._model.forward(pieces)


def test_what_the_device_cannot_run_fails_only_the_session_that_needs_it(
    middle: StageModel, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(Faulty(middle, 2, torch.OutOfMemoryError("no memory for this")))
    good, failed, other = bench.run(*(bench.carried(name, 4) for name in range(3)))
    assert isinstance(failed.error, CapacityExceeded)
    assert "no memory for this" in str(failed.error)
    assert good.hidden is not None
    assert other.hidden is not None
    assert "a pass over 3 sessions failed" in caplog.text


def test_a_bug_ends_the_engine_and_is_told_once(middle: StageModel, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(Faulty(middle, 1, ZeroDivisionError("a bug")))
    bench.engine.submit([bench.carried(1, 4), bench.carried(2, 4)])
    with bench.engine:
        assert isinstance(bench.crashes.get(timeout=20), ZeroDivisionError)
    assert bench.crashes.empty()
    assert bench.passes.empty()
    assert "a bug of ours" in caplog.text


def test_the_work_is_accounted_by_tokens(middle: StageModel) -> None:
    bench = Bench(middle)
    small, large = bench.run(bench.carried(1, 1), bench.carried(2, 9))
    assert large.seconds == pytest.approx(9 * small.seconds)
    assert bench.engine.tokens_done == 10
    assert bench.engine.busy_seconds == pytest.approx(small.seconds + large.seconds)
    assert bench.engine.decode_rate == 0.0, "a pass with a prompt in it says nothing about decoding"

    decoding = Bench(middle)
    decoding.run(decoding.carried(1, 1))
    assert decoding.engine.decode_rate > 0


def test_leaving_ends_the_thread_and_drops_what_waits(middle: StageModel) -> None:
    bench = Bench(middle)
    with bench.engine:
        names = [thread.name for thread in threading.enumerate()]
        assert "stage-engine" in names
    assert not bench.engine._thread.is_alive()
    assert bench.engine.queued == 0


def greedy(fed: int, capacity: int = 64) -> SamplerState:
    return SamplerState(SamplingParams(), prompt=fed, fed=fed, capacity=capacity, eos=())


def test_the_last_stage_chooses_only_when_all_of_the_prompt_has_come(last: StageModel) -> None:
    bench = Bench(last)
    sequence = bench.sequence(1, sampler=greedy(10))
    states = hidden(11)
    works = [StepInput(sequence, a, b - a, hidden=states[a:b]) for a, b in ((0, 4), (4, 10), (10, 11))]
    outcomes = bench.run(*works)
    assert outcomes[0].choice is None
    assert outcomes[0].error is None
    positions = [outcome.choice.position for outcome in outcomes[1:] if outcome.choice is not None]
    assert positions == [10, 11]


def test_sessions_that_want_different_logits_share_a_pass(last: StageModel) -> None:
    known = random_tokens(6)
    scoring = SamplerState(SamplingParams(), prompt=6, fed=6, capacity=9, eos=(), prompt_scores=True, known=known)
    bench = Bench(last)
    works = [
        bench.carried(1, 6, scoring),
        bench.carried(2, 6, greedy(6)),
        bench.carried(3, 6, greedy(20)),
        bench.carried(4, 1, greedy(1)),
    ]
    outcomes = bench.run(*works)
    assert [len(outcome.scores) for outcome in outcomes] == [5, 0, 0, 0]
    assert [outcome.choice is None for outcome in outcomes] == [False, False, True, False]
    assert alone(last, 2, 6, sampler=greedy(6)).choice == outcomes[1].choice


class BrokenSampler(SamplerState):
    """Fails as a device without room does."""

    def draw(self, position: int, logits: torch.Tensor) -> Any:
        raise torch.OutOfMemoryError("no memory to sample")


@pytest.mark.parametrize("kind", ["no memory", "impossible penalties"])
def test_a_session_that_cannot_be_sampled_fails_alone(last: StageModel, kind: str) -> None:
    if kind == "no memory":
        sampler: SamplerState = BrokenSampler(SamplingParams(), prompt=2, fed=2, capacity=9, eos=())
    else:
        params = SamplingParams(repetition_penalty=5e-324)
        sampler = SamplerState(params, prompt=2, fed=2, capacity=9, eos=(), known=list(range(2)))
    bench = Bench(last)
    failed, good = bench.run(bench.carried(1, 2, sampler), bench.carried(2, 2, greedy(2)))
    assert isinstance(failed.error, ShardError)
    assert good.choice is not None


def test_a_stage_can_be_measured_wherever_it_lies(first: StageModel, middle: StageModel, last: StageModel) -> None:
    for stage in (first, middle, last):
        assert measure_block_rate(stage) > 0
