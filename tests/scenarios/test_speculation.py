"""Guessing at the next tokens, over three processes: the same answers in fewer trips."""

from __future__ import annotations

from mesh.client.client import Client, Options
from tests.scenarios.processes import Swarm

PROMPT = [7, 8, 9, 10, 11, 12, 13, 14] * 6
NEW = 100


async def test_a_text_that_repeats_itself_takes_fewer_trips_and_says_the_same(swarm: Swarm) -> None:
    monotonous: Options = {"logit_bias": {23: 100.0}}  # whatever the model thinks of it, it says 23 for ever
    sampled: Options = {"temperature": 0.3, "seed": 5, "logprobs": 2}
    async with Client(peers=[swarm.address]) as client:
        for options in (Options(), sampled, monotonous):
            common: Options = {**options, "max_tokens": NEW, "ignore_eos": True}
            plain = await client.generate("llama", PROMPT, **{**common, "speculate": "off"})
            quick = await client.generate("llama", PROMPT, **common)
            assert (quick.tokens, quick.logprobs, quick.text) == (plain.tokens, plain.logprobs, plain.text)
            assert (plain.completion.trips, plain.completion.drafted_tokens) == (NEW, 0)
            done = quick.completion
            assert done.trips + done.accepted_tokens == done.completion_tokens == NEW
            assert done.accepted_tokens <= done.drafted_tokens
    assert done.trips < NEW / 3
