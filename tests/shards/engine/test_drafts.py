"""Whatever is guessed of an answer, right or wrong: its tokens, and what is said of them, are those without guesses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shards.checkpoint.folder import Checkpoint
from shards.checkpoint.opening import AnyCheckpoint
from shards.checkpoint.quantising import QuantisedCheckpoint
from shards.engine.core import EngineCore
from shards.engine.lookup import PromptLookup
from shards.engine.sampler import SamplerState
from shards.engine.sampling_params import SamplingParams
from shards.engine.scheduler import BatchLimits
from shards.engine.step import StepInput
from shards.model.loading import load_stage
from shards.model.precision import Precision
from shards.model.span import Span
from shards.model.spec import ModelSpec
from shards.model.stage import StageModel
from shards.native.library import native_library
from tests.shards.hash_model import CONTEXT, EOS, HIDDEN, VOCAB, HashModel
from tests.shards.models import make_checkpoint
from tests.shards.stages import random_tokens

torch.set_num_threads(1)

Said = tuple[int, float | None, object]
Guesser = Callable[[Sequence[int]], Sequence[int]]
"""Guesses at what follows an answer."""


def hash_model() -> HashModel:
    return HashModel(ModelSpec("llama", 3, HIDDEN, VOCAB, CONTEXT, (EOS,), "float32", {}), Span(0, 3))


def talk(
    model: StageModel,
    prompt: list[int],
    new: int,
    params: SamplingParams,
    guess: Guesser = lambda answer: (),
    eos: tuple[int, ...] = (),
) -> tuple[list[Said], str | None, int]:
    """What is said in a session of at most so many new tokens, why it ended, and in how many passes."""
    core = EngineCore(model, 32, BatchLimits(prefill_tokens=7))
    capacity = len(prompt) + new
    sampler = SamplerState(params, prompt=len(prompt), fed=len(prompt), capacity=capacity, eos=eos, known=prompt)
    sequence = core.add(b"s" * 16, model.span, capacity, reserve=len(prompt), sampler=sampler)
    core.feed([StepInput(sequence, 0, len(prompt), tokens=torch.tensor(prompt))])
    said: list[Said] = []
    passes = 0
    while True:
        passes += 1
        with torch.inference_mode():
            (output,) = core.step()
        assert output.error is None, output.error
        for choice in output.choices:
            assert choice.position == len(prompt) + len(said)
            said.append((choice.sampled.token, choice.sampled.logprob, choice.sampled.top))
        if output.choice is None:
            continue
        if output.choice.finish is not None:
            return said, output.choice.finish, passes
        answer = [token for token, _, _ in said]
        drafts = tuple(guess(answer))[: capacity - 2 - output.choice.position]
        tokens = torch.tensor([answer[-1], *drafts])
        core.feed(
            [
                StepInput(
                    sequence,
                    output.choice.position,
                    len(tokens),
                    tokens=tokens,
                    verifies=bool(drafts),
                    drafts=drafts,
                )
            ]
        )


sampling = st.builds(
    SamplingParams,
    temperature=st.sampled_from((0.0, 0.7, 1.5)),
    top_k=st.sampled_from((0, 5)),
    top_p=st.sampled_from((1.0, 0.8)),
    min_p=st.sampled_from((0.0, 0.05)),
    repetition_penalty=st.sampled_from((1.0, 1.3)),
    presence_penalty=st.sampled_from((0.0, 0.5)),
    frequency_penalty=st.sampled_from((0.0, -0.5)),
    logit_bias=st.sampled_from(({}, {3: 2.0, 7: -100.0})),
    logprobs=st.sampled_from((None, 0, 3)),
    seed=st.integers(0, (1 << 64) - 1),
)


@example(SamplingParams(), Random(1), 40, 1.0)
@example(SamplingParams(temperature=0.9, seed=5), Random(2), 40, 0.8)
@settings(max_examples=60, deadline=None)
@given(sampling, st.randoms(use_true_random=False), st.integers(1, 50), st.sampled_from((0.0, 0.5, 0.9, 1.0)))
def test_any_guesses_whatever_leave_the_answer_as_it_is(
    params: SamplingParams, chance: Any, new: int, right: float
) -> None:
    model, prompt = hash_model(), [chance.randrange(2, VOCAB) for _ in range(chance.randint(1, 20))]
    plain, ending, alone = talk(model, prompt, new, params, eos=(EOS,))
    truth = [token for token, _, _ in plain]

    def guess(answer: Sequence[int]) -> list[int]:
        known = truth[len(answer) :][: chance.randint(0, 15)]
        made_up = [chance.randrange(VOCAB) for _ in range(chance.randint(0, 15 - len(known)))]
        return [token if chance.random() < right else chance.randrange(VOCAB) for token in known] + made_up

    said, finish, passes = talk(model, prompt, new, params, guess, eos=(EOS,))
    assert (said, finish) == (plain, ending)
    assert passes <= alone


def test_right_guesses_save_passes_and_wrong_ones_none() -> None:
    model, prompt = hash_model(), list(range(2, 9))
    plain, _, alone = talk(model, prompt, 33, SamplingParams())
    truth = [token for token, _, _ in plain]
    _, _, helped = talk(model, prompt, 33, SamplingParams(), lambda answer: truth[len(answer) :][:7])
    _, _, misled = talk(model, prompt, 33, SamplingParams(), lambda answer: [(truth[len(answer)] + 1) % VOCAB] * 7)
    assert (alone, helped, misled) == (33, 5, 33)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def made(family: str) -> Path:
        sizes = {"hidden_size": 96, "intermediate_size": 128} if family == "llama" else {}
        return make_checkpoint(tmp_path_factory.mktemp("model"), family, n_blocks=3, context_length=512, **sizes)

    return made


@pytest.mark.parametrize(
    ("family", "dtype", "precision"),
    [
        ("llama", "float32", None),
        ("llama", "bfloat16", None),
        ("llama", "float32", "int4"),
        ("gemma2", "float32", None),
        ("gpt-oss", "bfloat16", None),
    ],
)
def test_rows_of_guesses_have_the_bits_of_single_rows(
    folders: Callable[[str], Path], family: str, dtype: str, precision: str | None
) -> None:
    """On the native kernels, so that no token can change: log-probabilities are compared to the last bit."""
    if native_library() is None:
        pytest.skip("there are no native kernels here")
    checkpoint: AnyCheckpoint = Checkpoint.open(folders(family))
    if precision is not None:
        checkpoint = QuantisedCheckpoint(checkpoint, Precision(precision))
    model = load_stage(checkpoint, Span(0, 3), dtype=getattr(torch, dtype))
    params, prompt, chance = SamplingParams(logprobs=3), random_tokens(21), Random(3)
    plain, _, alone = talk(model, prompt, 150, params)
    truth = [token for token, _, _ in plain]

    def guess(answer: Sequence[int]) -> list[int]:
        known = truth[len(answer) :][: chance.randint(0, 12)]
        return [token if chance.random() < 0.9 else (token + 1) % 300 for token in known]

    said, _, passes = talk(model, prompt, 150, params, guess)
    assert said == plain
    assert passes < alone / 2


# Prompt lookup.


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 15))
def test_a_guess_is_what_followed_the_longest_and_latest_match(text: list[int], most: int) -> None:
    found = PromptLookup(text).guess(most)
    expected: tuple[int, ...] = ()
    for size in (4, 3, 2):
        places = [at for at in range(size, len(text)) if text[at - size : at] == text[-size:]]
        if places and most:
            tokens = list(text)
            while len(tokens) < len(text) + most:
                tokens.append(tokens[places[-1] + len(tokens) - len(text)])
            expected = tuple(tokens[len(text) :])
            break
    assert found.tokens == expected


@given(st.lists(st.integers(0, (1 << 31) - 1), max_size=30), st.integers(0, 30), st.integers(1, 5))
def test_numbers_are_not_found_across_others(text: list[int], at: int, size: int) -> None:
    """Bytes of one token and the next may look like a third."""
    tokens = [*text, 0x01010101, 0x01010101, 0x00010101, 1 << 24, 1 << 16, 256, 1, 0, 0]
    found = PromptLookup(tokens).guess(size)
    ending = [at for at in range(2, len(tokens)) if tokens[at - 2 : at] == [0, 0]]
    assert bool(found.tokens) == bool(ending)


def test_what_is_written_over_is_forgotten() -> None:
    lookup = PromptLookup([5, 6, 7, 8, 9])
    lookup.write(5, [5, 6])
    assert lookup.guess(2).tokens == (7, 8)
    lookup.write(6, [9])
    assert lookup.guess(2).tokens == ()
    assert len(lookup) == 7
