"""Sampling against transformers' processors, as a distribution, and as something that can be replayed."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.engine.sampling import UNLIKELY, Draw, Sampled, TokenHistory, filtered, sample, sample_all, score, top_rows
from shards.engine.sampling_params import SamplingParams
from shards.errors import BadActivation, CapacityExceeded, InvalidSampling, ShardError

torch.set_num_threads(1)
VOCAB = 301


def logits_of(seed: int, vocab: int = VOCAB) -> torch.Tensor:
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * 3


def probabilities(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """The distribution that `sample` draws from where no bias or penalty applies."""
    weights, ids = filtered(logits, float(logits.max()), params)
    full = torch.zeros(logits.shape[0], dtype=torch.float64)
    full[torch.arange(logits.shape[0]) if ids is None else ids] = weights
    return full / full.sum()


def pick(logits: torch.Tensor, params: SamplingParams, prompt=(), generated=()) -> int:
    history = TokenHistory(prompt)
    for token in generated:
        history.push(token)
    return sample(logits, params, 0, history).token


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.7),
        SamplingParams(temperature=1.9),
        SamplingParams(temperature=1.0, top_k=17),
        SamplingParams(temperature=1.0, top_k=5000),
        SamplingParams(temperature=1.0, top_p=0.83),
        SamplingParams(temperature=3.0, top_p=0.999),
        SamplingParams(temperature=1.0, top_p=1e-9),
        SamplingParams(temperature=1.0, min_p=0.04),
        SamplingParams(temperature=1.3, top_k=40, top_p=0.9, min_p=0.05),
        SamplingParams(temperature=0.2, top_k=3, top_p=0.5),
    ],
)
def test_filters_keep_what_transformers_keeps_with_the_same_probabilities(params, seed):
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    logits = logits_of(seed)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(params.temperature)])
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        warpers.append(MinPLogitsWarper(params.min_p))
    theirs = warpers(torch.zeros(1, 1, dtype=torch.int64), logits[None].clone())[0].double().softmax(-1)
    ours = probabilities(logits, params)
    assert torch.equal(ours > 0, theirs > 0)
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("penalty", [0.6, 1.3, 5.0])
def test_repetition_penalty_is_transformers_over_prompt_and_generated_tokens(penalty):
    from transformers import RepetitionPenaltyLogitsProcessor

    prompt, generated = [3, 9, 9, 200], [17, 3, 17]
    seen = torch.tensor([prompt + generated])
    for seed in range(40):
        logits = logits_of(seed) / 10
        logits[torch.tensor(prompt + generated)] = logits.max()  # so that the penalty decides
        logits[9] *= -1
        expected = RepetitionPenaltyLogitsProcessor(penalty)(seen, logits[None].clone())[0]
        params = SamplingParams(repetition_penalty=penalty, logprobs=0)
        assert pick(logits, params, prompt, generated) == int(expected.argmax())


def test_presence_and_frequency_penalties_count_generated_tokens_only():
    logits = torch.tensor([5.0, 4.9, 4.5, 4.0])
    assert pick(logits, SamplingParams(presence_penalty=0.3), prompt=[0]) == 0
    assert pick(logits, SamplingParams(presence_penalty=0.3), generated=[0, 0, 0]) == 1
    assert pick(logits, SamplingParams(frequency_penalty=0.3), generated=[0, 1, 1]) == 0
    assert pick(logits, SamplingParams(frequency_penalty=0.3), generated=[0, 0, 1, 1]) == 2
    assert pick(logits, SamplingParams(presence_penalty=-1.2), generated=[3]) == 3


def test_logit_bias_is_added_and_can_ban_a_token():
    logits = torch.tensor([1.0, 2.0, 3.0])
    assert pick(logits, SamplingParams(logit_bias={2: -100.0})) == 1
    assert pick(logits, SamplingParams(logit_bias={0: 2.5})) == 0
    banned = SamplingParams(temperature=1.0, logit_bias={2: -100.0})
    assert {sample(logits, banned, position, TokenHistory()).token for position in range(200)} == {0, 1}


def test_a_bias_on_a_token_outside_the_vocabulary_is_refused():
    with pytest.raises(InvalidSampling, match="token 3"):
        pick(torch.zeros(3), SamplingParams(logit_bias={3: 1.0}))


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0, seed=5),
        SamplingParams(temperature=1.0, top_k=4, seed=6),
        SamplingParams(temperature=1.4, top_p=0.8, seed=7),
        SamplingParams(temperature=0.8, min_p=0.1, seed=8),
        SamplingParams(temperature=1.0, top_k=6, top_p=0.9, min_p=0.02, seed=2**64 - 1),
    ],
)
def test_over_many_positions_tokens_come_as_often_as_their_probability_says(params):
    n, logits = 3000, logits_of(3, vocab=9) / 2
    expected = probabilities(logits, params) * n
    counts = torch.zeros(9)
    for position in range(n):
        counts[sample(logits, params, position, TokenHistory()).token] += 1
    assert not counts[expected == 0].any()
    live = expected > 0
    chi_square = float(((counts[live] - expected[live]) ** 2 / expected[live]).sum())
    assert chi_square < 26.2  # 0.999 quantile with 8 degrees of freedom


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.floats(0.05, 5), st.floats(0.05, 1))
@settings(deadline=None, max_examples=60)
def test_a_replay_chooses_the_same_token(seed, position, temperature, top_p):
    logits = logits_of(position % 97)
    params = SamplingParams(temperature=temperature, top_p=top_p, seed=seed)
    first = sample(logits, params, position, TokenHistory())
    assert sample(logits.clone(), params, position, TokenHistory([1, 2])) == first
    assert probabilities(logits, params)[first.token] > 0


def test_rounding_noise_almost_never_changes_a_drawn_token():
    generator = torch.Generator().manual_seed(0)
    changed = 0
    for position in range(500):
        logits = logits_of(position)
        noisy = logits + 1e-6 * torch.randn(VOCAB, generator=generator)
        params = SamplingParams(temperature=1.0, top_p=0.95, seed=1)
        same = sample(logits, params, position, TokenHistory()) == sample(noisy, params, position, TokenHistory())
        changed += not same
    assert changed <= 1


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(presence_penalty=0.5),
        SamplingParams(temperature=1.0, top_k=1),
        SamplingParams(temperature=1.0, top_p=1e-6),
    ],
)
def test_equal_logits_are_ranked_by_lower_id(params):
    logits = torch.full((5000,), -1.0)
    logits[[7, 4001, 4999]] = 2.0
    assert pick(logits, params) == 7


def test_the_likeliest_of_many_equal_logits_are_the_lowest_ids_in_order():
    rows = torch.tensor([[1.0, 3.0, 1.0, 1.0, 2.0, 1.0], [0.0] * 6, [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]])
    values, ids = top_rows(rows, 4)
    assert ids.tolist() == [[1, 4, 0, 2], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert torch.equal(values, rows.gather(1, ids))


def test_a_vanishing_temperature_is_greedy_and_a_huge_one_nearly_uniform():
    logits = logits_of(1)
    assert pick(logits, SamplingParams(temperature=5e-324)) == int(logits.argmax())
    hot = probabilities(logits, SamplingParams(temperature=100.0))
    assert hot.max() / hot.min() < 1.3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0, logprobs=2)])
def test_logits_that_are_not_numbers_are_refused(bad, params):
    logits = logits_of(0)
    logits[33] = bad
    with pytest.raises(BadActivation):
        pick(logits, params)
    with pytest.raises(BadActivation):
        score(logits[None], torch.tensor([1]), 1)


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0)])
def test_logits_that_rule_out_every_token_are_refused(params):
    with pytest.raises(BadActivation):
        pick(torch.full((5,), -math.inf), params)


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0, top_k=3, logprobs=3)])
def test_a_token_that_the_model_rules_out_is_never_chosen(params):
    logits = torch.tensor([-math.inf, 1.0, -math.inf, -math.inf])
    for position in range(50):
        assert sample(logits, params, position, TokenHistory()).token == 1
    (_, top), *_ = score(logits[None], torch.tensor([0]), 2)
    assert top == ((1, 0.0), (0, UNLIKELY))


def test_reported_logprobs_are_the_models_own_whatever_the_parameters():
    logits = logits_of(2)
    params = SamplingParams(temperature=0.3, top_k=5, logprobs=4, logit_bias={8: 50.0}, presence_penalty=1.0, seed=3)
    sampled = sample(logits, params, 11, TokenHistory([1]))
    raw = logits.double().log_softmax(-1)
    assert sampled.token == 8
    assert sampled.logprob == pytest.approx(float(raw[8]))
    values, ids = raw.topk(4)
    assert [token for token, _ in sampled.top] == ids.tolist()
    assert [logprob for _, logprob in sampled.top] == pytest.approx(values.tolist())
    none = sample(logits, SamplingParams(), 0, TokenHistory())
    assert none.logprob is None and none.top == ()


def test_prompt_scores_are_log_softmax_row_by_row():
    n = 37
    rows = torch.stack([logits_of(i) for i in range(n)])
    following = torch.arange(n) * 5
    raw = rows.double().log_softmax(-1)
    for i, (logprob, top) in enumerate(score(rows, following, 3)):
        assert logprob == pytest.approx(float(raw[i, following[i]]))
        assert [token for token, _ in top] == raw[i].topk(3).indices.tolist()
    assert [top for _, top in score(rows, following, 0)] == [()] * n
    assert score(rows[:0], following[:0], 3) == []


@pytest.mark.parametrize("tokens", [[VOCAB], [-1], [1, 2]])
def test_scoring_tokens_that_do_not_fit_the_logits_is_refused(tokens):
    with pytest.raises(BadActivation):
        score(logits_of(0)[None], torch.tensor(tokens), 1)


def test_a_history_forgets_rejected_tokens():
    history = TokenHistory([5])
    for token in (1, 2, 1, 3):
        history.push(token)
    history.truncate(2)
    assert history.length == 2 and dict(history.counts) == {1: 1, 2: 1}
    history.truncate(9)
    assert history.length == 2
    history.truncate(0)
    assert not history.counts and history.prompt_ids(torch.device("cpu")).tolist() == [5]


def test_a_history_is_bounded_and_takes_no_negative_ids():
    history = TokenHistory(limit=2)
    history.push(1)
    history.push(1)
    with pytest.raises(CapacityExceeded):
        history.push(1)
    with pytest.raises(BadActivation):
        history.push(-1)
    with pytest.raises(BadActivation):
        TokenHistory([3, -2])


def test_a_history_that_is_not_this_vocabularys_is_refused():
    with pytest.raises(BadActivation, match="400"):
        pick(logits_of(0), SamplingParams(repetition_penalty=1.1), prompt=[400])
    with pytest.raises(BadActivation, match="400"):
        pick(logits_of(0), SamplingParams(presence_penalty=0.1), generated=[400])


def test_sampling_changes_neither_the_logits_nor_the_history():
    logits = logits_of(0).double()
    before = logits.clone()
    history = TokenHistory([1])
    history.push(2)
    sample(logits, SamplingParams(temperature=1.0, logit_bias={1: 2.0}, frequency_penalty=1.0), 3, history)
    assert torch.equal(logits, before) and history.length == 1


ANY_PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from((0.0, 0.7, 1.5)),
    top_k=st.sampled_from((0, 1, 5, 400)),
    top_p=st.sampled_from((1.0, 0.9, 0.3)),
    min_p=st.sampled_from((0.0, 0.1)),
    repetition_penalty=st.sampled_from((1.0, 1.3)),
    presence_penalty=st.sampled_from((0.0, 0.5)),
    logit_bias=st.sampled_from(({}, {3: 2.0}, {500: 1.0})),
    logprobs=st.sampled_from((None, 0, 3)),
    seed=st.integers(0, 3),
)


@given(st.lists(ANY_PARAMS, min_size=1, max_size=9), st.booleans(), st.integers(0, 9))
def test_sessions_sampled_together_get_what_they_get_alone(
    batch: list[SamplingParams], apart: bool, broken: int
) -> None:
    vocab = 300
    rows = torch.randn(len(batch), vocab, generator=torch.Generator().manual_seed(len(batch))).mul(3).round(decimals=1)
    if broken < len(batch):
        rows[broken, 7] = float("nan")
    each = [row.clone() for row in rows.split(1)] if apart else list(rows.split(1))
    draws = [
        Draw(row, params, 9 + number, TokenHistory((1, 2, 3)))
        for number, (row, params) in enumerate(zip(each, batch, strict=True))
    ]
    for draw, found in zip(draws, sample_all(draws), strict=True):
        try:
            expected = sample(draw.logits[0], draw.params, draw.position, draw.history)
        except ShardError as error:
            assert type(found) is type(error)
        else:
            assert isinstance(found, Sampled)
            assert found.token == expected.token
            assert found.logprob == (expected.logprob if expected.logprob is None else pytest.approx(expected.logprob))
            assert [token for token, _ in found.top] == [token for token, _ in expected.top]
