"""`/v1/completions` through the official client."""

from __future__ import annotations

import asyncio
import math

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.mesh.gateway.conftest import Live
from tests.mesh.gateway.echo_backend import ByteModel
from tests.mesh.gateway.echo_tokenizer import BOS, ByteTokenizer


def greedy(client: OpenAI, prompt: object, **options: object):
    options = {"model": "echo", "temperature": 0, "max_tokens": 12, **options}
    return client.completions.create(prompt=prompt, **options)


def test_a_string_prompt_is_completed_and_its_cost_reported(client: OpenAI) -> None:
    answer = greedy(client, "the swa")
    assert answer.id.startswith("cmpl-")
    assert answer.object == "text_completion"
    assert answer.model == "echo"
    assert answer.system_fingerprint == "fp_" + "00" * 6
    assert answer.created > 1_600_000_000
    assert answer.choices[0].text == "rm stage the"
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs is None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        8,
        12,
        20,
    )


def test_token_ids_and_text_of_one_prompt_give_the_same_answer(client: OpenAI) -> None:
    ids = ByteTokenizer().encode("the swa")
    assert greedy(client, ids).choices[0].text == greedy(client, "the swa").choices[0].text


def test_a_list_of_prompts_gives_each_its_own_choices_in_order(client: OpenAI) -> None:
    alone = [greedy(client, prompt).choices[0].text for prompt in ("the swa", "a caf")]
    together = greedy(client, ["the swa", "a caf"])
    assert [choice.text for choice in together.choices] == alone
    assert [choice.index for choice in together.choices] == [0, 1]
    ids = [ByteTokenizer().encode(prompt) for prompt in ("the swa", "a caf")]
    assert [choice.text for choice in greedy(client, ids).choices] == alone
    assert together.usage.prompt_tokens == len(ids[0]) + len(ids[1])


def test_n_choices_use_consecutive_seeds(client: OpenAI, live: Live) -> None:
    several = client.completions.create(model="echo", prompt="the ", n=3, seed=7, max_tokens=20)
    alone = [client.completions.create(model="echo", prompt="the ", seed=7 + i, max_tokens=20) for i in range(3)]
    assert [c.text for c in several.choices] == [a.choices[0].text for a in alone]
    assert len({c.text for c in several.choices}) == 3
    assert several.usage.prompt_tokens == 5
    assert several.usage.completion_tokens == sum(a.usage.completion_tokens for a in alone)


@pytest.mark.parametrize(("seed", "unsigned"), [(-1, 2**64 - 1), (2**64 + 5, 5), (0, 0), (-(2**63), 2**63)])
def test_any_integer_is_a_seed(client: OpenAI, live: Live, seed: int, unsigned: int) -> None:
    greedy(client, "a", seed=seed, max_tokens=1)
    assert live.backend.requests[-1].sampling.seed == unsigned


def test_without_a_seed_two_requests_differ(client: OpenAI, live: Live) -> None:
    for _ in range(2):
        greedy(client, ["a", "a"], max_tokens=1)
    assert len({request.sampling.seed for request in live.backend.requests[-4:]}) == 4


def test_stop_strings_end_the_text_and_are_not_part_of_it(client: OpenAI) -> None:
    whole = greedy(client, "the swa", max_tokens=40).choices[0].text
    for stop in (" the", ["zzz", " the"]):
        choice = greedy(client, "the swa", max_tokens=40, stop=stop).choices[0]
        assert choice.text == whole[: whole.index(" the")]
        assert choice.finish_reason == "stop"


def test_the_end_of_the_text_is_the_models_own_decision(client: OpenAI) -> None:
    choice = greedy(client, "has served", max_tokens=60).choices[0]
    assert (choice.text, choice.finish_reason) == (".", "stop")
    longer = greedy(client, "has served", max_tokens=60, extra_body={"ignore_eos": True}).choices[0]
    assert longer.finish_reason == "length"


def test_sampling_fields_reach_the_session(client: OpenAI, live: Live) -> None:
    client.completions.create(
        model="echo",
        prompt="a",
        max_tokens=3,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.25,
        frequency_penalty=-1,
        logit_bias={"65": 5, "66": -100},
        user="somebody",
        extra_body={"top_k": 7, "min_p": 0.125, "repetition_penalty": 1.5},
    )
    sampling = live.backend.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 7, 0.125)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.25, -1.0)
    assert sampling.repetition_penalty == 1.5
    assert sampling.logit_bias == {65: 5.0, 66: -100.0}
    assert sampling.logprobs is None


def test_defaults_are_openais(client: OpenAI, live: Live) -> None:
    answer = client.completions.create(model="echo", prompt="a", extra_body={"ignore_eos": True, "top_k": -1})
    request = live.backend.requests[-1]
    assert request.max_tokens == 16
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.top_k) == (1.0, 1.0, 0)
    assert answer.usage.completion_tokens == 16


def test_a_bias_decides_greedy_output(client: OpenAI) -> None:
    assert greedy(client, "the swa", logit_bias={"66": 100}, max_tokens=4).choices[0].text == "BBBB"


def test_log_probabilities_are_the_models_own(client: OpenAI) -> None:
    choice = greedy(client, "the swa", logprobs=2, max_tokens=3).choices[0]
    table = choice.logprobs
    assert table.tokens == list(choice.text)
    assert table.text_offset == [0, 1, 2]
    expected = ByteModel().logprobs([BOS, *b"the swa"])[ord("r")]
    assert math.isclose(table.token_logprobs[0], expected, abs_tol=1e-9)
    for token, logprob, top in zip(table.tokens, table.token_logprobs, table.top_logprobs, strict=True):
        assert len(top) == 2
        assert max(top.values()) == top[token] == logprob


def test_an_unlikely_choice_is_listed_beside_the_likely_ones(client: OpenAI) -> None:
    choice = greedy(client, "the swa", logprobs=1, max_tokens=1, logit_bias={"66": 100}).choices[0]
    assert set(choice.logprobs.top_logprobs[0]) == {"r", "B"}
    only = greedy(client, "the swa", logprobs=0, max_tokens=1).choices[0].logprobs
    assert only.top_logprobs == [{"r": only.token_logprobs[0]}]


def test_parts_of_a_character_are_told_apart_in_tables(client: OpenAI) -> None:
    choice = greedy(client, "a caf", logprobs=1, max_tokens=3).choices[0]
    assert choice.text == "é "
    assert choice.logprobs.tokens == ["bytes:\\xc3", "bytes:\\xa9", " "]
    assert choice.logprobs.text_offset == [0, 0, 1]


def test_echo_gives_the_prompt_back_with_its_log_probabilities(client: OpenAI) -> None:
    plain = greedy(client, "the swa", logprobs=1, max_tokens=4).choices[0]
    choice = greedy(client, "the swa", logprobs=1, max_tokens=4, echo=True).choices[0]
    assert choice.text == "the swa" + plain.text
    table = choice.logprobs
    assert table.tokens == ["<s>", *"the swa", *plain.text]
    assert table.token_logprobs[0] is None
    assert table.top_logprobs[0] is None
    assert table.token_logprobs[8:] == plain.logprobs.token_logprobs
    assert table.text_offset == [0, *range(11)]
    expected = ByteModel().logprobs([BOS, *b"th"])[ord("e")]
    assert math.isclose(table.token_logprobs[3], expected, abs_tol=1e-9)


def test_echo_without_log_probabilities_asks_for_none(client: OpenAI, live: Live) -> None:
    assert greedy(client, "the swa", echo=True, max_tokens=2).choices[0].text == "the swarm"
    assert not live.backend.requests[-1].prompt_logprobs
    assert greedy(client, [116, 104], echo=True, max_tokens=1).choices[0].text == "the"


def test_scoring_generates_nothing(client: OpenAI) -> None:
    answer = greedy(client, "the swa", echo=True, max_tokens=0, logprobs=1)
    assert answer.choices[0].text == "the swa"
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs.tokens == ["<s>", *"the swa"]
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (0, 8)
    for options in ({"logprobs": 1}, {}):
        chunks = list(greedy(client, "the swa", echo=True, max_tokens=0, stream=True, **options))
        assert "".join(chunk.choices[0].text for chunk in chunks) == "the swa"
        assert chunks[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("model", ["echo", "pairs"])
def test_a_stream_says_what_a_whole_answer_says(client: OpenAI, model: str) -> None:
    options = {"model": model, "n": 2, "seed": 3, "temperature": 0.8, "max_tokens": 30, "logprobs": 1}
    whole = client.completions.create(prompt="the ", **options)
    texts, tokens, offsets, reasons = ["", ""], [[], []], [[], []], {}
    stream = client.completions.create(prompt="the ", stream=True, stream_options={"include_usage": True}, **options)
    chunks = list(stream)
    for chunk in chunks[:-1]:
        [choice] = chunk.choices
        assert choice.index not in reasons
        texts[choice.index] += choice.text
        if choice.logprobs:
            tokens[choice.index] += choice.logprobs.tokens
            offsets[choice.index] += choice.logprobs.text_offset
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [choice.logprobs.tokens for choice in whole.choices]
    assert offsets == [choice.logprobs.text_offset for choice in whole.choices]
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_include_usage_has_no_usage(client: OpenAI) -> None:
    chunks = list(greedy(client, "the swa", stream=True))
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in chunks)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "rm stage the"


@pytest.mark.parametrize("logprobs", [None, 1])
def test_a_streamed_echo_begins_with_the_prompt(client: OpenAI, logprobs: int | None) -> None:
    options = {"echo": True, "logprobs": logprobs}
    whole = greedy(client, "the swa", **options).choices[0]
    chunks = [chunk.choices[0] for chunk in greedy(client, "the swa", stream=True, **options)]
    assert "".join(chunk.text for chunk in chunks) == whole.text == "the swarm stage the"
    tokens = [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.tokens]
    assert tokens == (whole.logprobs.tokens if whole.logprobs else [])


def test_a_long_prompt_leaves_less_room_for_the_default_length(client: OpenAI, live: Live) -> None:
    client.completions.create(model="echo", prompt="x" * 505)
    assert live.backend.requests[-1].max_tokens == 512 - 506


def test_more_choices_than_sessions_at_once_take_turns(client: OpenAI, live: Live) -> None:
    live.backend.peak = 0
    answer = greedy(client, ["the swa"] * 40, max_tokens=4)
    assert [choice.text for choice in answer.choices] == ["rm s"] * 40
    assert 1 < live.backend.peak <= 16


def test_what_other_servers_take_is_taken(client: OpenAI, live: Live) -> None:
    said = greedy(client, "the swa", max_tokens=6).choices[0].text
    ask = {"model": "echo", "prompt": "the swa"}
    assert client.completions.create(**ask, top_p=0, seed=7, max_tokens=6).choices[0].text == said
    assert greedy(client, "the swa", max_tokens=6, stop=["", *"qxzjk"]).choices[0].text == said
    assert greedy(client, "the swa", max_tokens=6, stop="").choices[0].text == said
    newer = {"max_completion_tokens": 6}
    assert client.completions.create(**ask, temperature=0, extra_body=newer).choices[0].text == said
    client.completions.create(**ask, max_tokens=-1)
    assert live.backend.requests[-1].max_tokens == 512 - len("<the swa")
    assert live.backend.requests[-1].shrinks
    bare = client.completions.create(**ask, max_tokens=1, extra_body={"add_special_tokens": False})
    assert bare.usage.prompt_tokens == len("the swa")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -3}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"stop": "x" * 2000}, "stop"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"logit_bias": {"258": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"one": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": [258]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": "", "model": "no-bos"}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": ["a"] * 129}, "n"),
    ],
)
def test_an_impossible_option_is_a_400_that_names_it(client: OpenAI, options: dict, param: str) -> None:
    arguments = {"model": "echo", "prompt": "a", **options}
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**arguments)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "options", [{"prompt": "x" * 600}, {"prompt": [65] * 512}, {"prompt": "x" * 500, "max_tokens": 50}]
)
def test_what_does_not_fit_the_context_says_so(client: OpenAI, options: dict) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="echo", **options)
    assert caught.value.code == "context_length_exceeded"
    assert "512" in caught.value.message


async def test_the_async_client_streams_many_answers_at_once(live: Live) -> None:
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as client:

        async def one(seed: int) -> str:
            stream = await client.completions.create(model="echo", prompt="the ", seed=seed, max_tokens=30, stream=True)
            return "".join([chunk.choices[0].text async for chunk in stream])

        streamed = await asyncio.gather(*(one(seed) for seed in range(12)))
        for seed, text in enumerate(streamed):
            whole = await client.completions.create(model="echo", prompt="the ", seed=seed, max_tokens=30)
            assert whole.choices[0].text == text
