"""The last stage's part of a session: which logits, which token, and when it ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shards.engine.sampler import Choice, Passed, SamplerState, Score, conclude
from shards.engine.sampling import TokenHistory, sample
from shards.engine.sampling_params import SamplingParams
from shards.errors import BadActivation, ShardError
from shards.model.stage import LogitsMode

torch.set_num_threads(1)

VOCAB = 32


def tail(prompt: int = 4, fed: int | None = None, capacity: int = 10, **changes: Any) -> SamplerState:
    params = changes.pop("params", SamplingParams())
    return SamplerState(
        params, prompt=prompt, fed=fed or prompt, capacity=capacity, eos=changes.pop("eos", ()), **changes
    )


def logits(rows: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed))


def choose(one: SamplerState, position: int, rows: torch.Tensor) -> Choice:
    choice, _ = run(one, position - 1, 1, rows)
    assert choice is not None
    return choice


def run(one: SamplerState, start: int, count: int, rows: torch.Tensor) -> tuple[Choice | None, tuple[Score, ...]]:
    (result,) = conclude([Passed(one, start, count, rows)])
    if isinstance(result, ShardError):
        raise result
    choices, scores = result
    return choices[-1] if choices else None, scores


def test_no_logits_are_wanted_before_the_last_fed_token() -> None:
    one = tail(prompt=10)
    assert one.want(0, 4) is LogitsMode.NOTHING
    assert one.want(4, 5) is LogitsMode.NOTHING
    assert one.want(4, 6) is LogitsMode.LAST
    assert one.want(0, 10) is LogitsMode.LAST
    assert one.want(10, 1) is LogitsMode.LAST


def test_scores_want_all_logits_of_the_prompt_and_no_more() -> None:
    one = tail(prompt=10, prompt_scores=True, known=list(range(10)))
    assert [one.want(0, 4), one.want(4, 6), one.want(10, 1)] == [LogitsMode.ALL, LogitsMode.ALL, LogitsMode.LAST]


def test_the_session_ends_when_it_is_full_or_at_an_end_of_text() -> None:
    one = tail(prompt=4, capacity=6)
    first, second = choose(one, 4, logits(1)), choose(one, 5, logits(1))
    assert (first.position, first.finish) == (4, None)
    assert (second.position, second.finish) == (5, "length")

    best = int(logits(1)[0].argmax())
    assert choose(tail(eos=(best,)), 4, logits(1)).finish == "stop"
    assert choose(tail(eos=(best,), capacity=5), 4, logits(1)).finish == "stop", "an end of text at the last place"
    assert choose(tail(eos=((best + 1) % VOCAB,)), 4, logits(1)).finish is None


@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(0, 3))
def test_scores_do_not_depend_on_how_the_prompt_is_cut(counts: list[int], top: int) -> None:
    fed = sum(counts)
    known = [(7 * place) % VOCAB for place in range(fed)]
    rows = logits(fed, seed=fed)
    one = tail(prompt=fed, capacity=fed + 2, prompt_scores=True, known=known, params=SamplingParams(logprobs=top))
    found = []
    start = 0
    for count in counts:
        choice, scores = run(one, start, count, rows[start : start + count])
        found += scores
        start += count
        assert (choice is not None) == (start == fed)
    assert len(found) == fed - 1
    reference = rows.double().log_softmax(dim=-1)
    for place, (logprob, alternatives) in enumerate(found):
        assert logprob == pytest.approx(float(reference[place, known[place + 1]]))
        assert [token for token, _ in alternatives] == reference[place].topk(top).indices.tolist()


def test_one_token_of_prompt_has_no_score() -> None:
    choice, scores = run(tail(prompt=1, prompt_scores=True, known=[3]), 0, 1, logits(1))
    assert choice is not None
    assert scores == ()


PENALTIES = SamplingParams(
    temperature=0.9, seed=3, repetition_penalty=1.4, presence_penalty=0.5, frequency_penalty=0.5, logprobs=2
)


def whole_session(prompt: list[int], count: int) -> list[int]:
    """The tokens of a session that nothing disturbs, sampled step by step."""
    history = TokenHistory(prompt)
    tokens = []
    for position in range(len(prompt), len(prompt) + count):
        tokens.append(sample(logits(1, seed=position)[0], PENALTIES, position, history).token)
        history.push(tokens[-1])
    return tokens


def test_penalties_see_the_prompt_and_what_was_generated() -> None:
    prompt = [1, 2, 3, 3]
    one = tail(prompt=4, capacity=40, params=PENALTIES, known=prompt)
    found = [choose(one, position, logits(1, seed=position)).sampled.token for position in range(4, 24)]
    assert found == whole_session(prompt, 20)


@given(st.integers(0, 15))
def test_a_session_that_resumes_elsewhere_goes_on_as_if_it_had_stayed(done: int) -> None:
    prompt = [1, 2, 3, 3]
    tokens = whole_session(prompt, 20)
    resumed = tail(prompt=4, fed=4 + done, capacity=40, params=PENALTIES, known=[*prompt, *tokens[:done]])
    found = [choose(resumed, position, logits(1, seed=position)).sampled.token for position in range(4 + done, 24)]
    assert found == tokens[done:]


@given(st.integers(4, 12), st.integers(0, 6))
def test_positions_that_come_again_are_sampled_as_the_first_time(last: int, back: int) -> None:
    prompt = [1, 2, 3, 3]
    one = tail(prompt=4, capacity=40, params=PENALTIES, known=prompt)
    first = [choose(one, position, logits(1, seed=position)).sampled for position in range(4, last + 1)]
    again = max(4, last - back)
    second = [choose(one, position, logits(1, seed=position)).sampled for position in range(again, last + 1)]
    assert second == first[again - 4 :]


@pytest.mark.parametrize("changes", [{"params": PENALTIES}, {"prompt_scores": True}])
@pytest.mark.parametrize("known", [None, [1, 2, 3], [1, 2, 3, 4, 5]])
def test_what_needs_the_prompt_is_refused_without_it(changes: dict[str, Any], known: list[int] | None) -> None:
    with pytest.raises(BadActivation, match="needs the fed token ids"):
        tail(known=known, **changes)


def test_logits_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(BadActivation):
        run(tail(), 3, 1, torch.full((1, VOCAB), float("nan")))
    scoring = tail(prompt_scores=True, known=[1, 2, 3, 4])
    with pytest.raises(BadActivation):
        run(scoring, 0, 4, torch.full((4, VOCAB), float("inf")))
