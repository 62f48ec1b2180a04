"""The same seed gives the same text, however many stages the model is cut into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.client.client import Answer
from mesh.client.sync import SyncClient
from tests.scenarios.processes import Swarm, start_stages, stop_all


@pytest.fixture(scope="module")
def models(swarm: Swarm, checkpoint: Path) -> Iterator[list[str]]:
    """The names of one checkpoint as it is served by one, two and three stages."""
    more = [
        start_stages(swarm.world, checkpoint, spans, "--name", name, peers=swarm.address)
        for name, spans in (("one-stage", ["0:5"]), ("two-stages", ["0:3", "3:5"]))
    ]
    yield [*(each.wait_serving().model for each in more), swarm.model]
    stop_all([provider for each in more for provider in each.providers])


def test_one_two_and_three_stages_say_the_same_for_the_same_seed(swarm: Swarm, models: list[str]):
    def ask(model: str, seed: int) -> Answer:
        return client.generate(
            model, "def add(left, right):", max_tokens=80, temperature=0.8, seed=seed, logprobs=0, ignore_eos=True
        )

    with SyncClient(peers=[swarm.address]) as client:
        said: dict[int, set[str]] = {}
        for seed in (1, 2, 2**63):
            answers = [ask(model, seed) for model in models]
            assert [len(answer.completion.route) for answer in answers] == [1, 2, 3]
            said[seed] = {answer.text for answer in answers}
            assert len(said[seed]) == 1
            assert len({answer.tokens for answer in answers}) == 1
            greedy = client.generate(models[0], "def add(left, right):", max_tokens=80, ignore_eos=True)
            assert greedy.tokens != answers[0].tokens
        assert len(set.union(*said.values())) == 3, "another seed says something else"


def test_the_command_line_repeats_itself_with_a_seed(swarm: Swarm):
    arguments = ["generate", "a session holds its cache", "--model", swarm.model, "--peers", swarm.address]
    arguments += ["-n", "30", "-t", "0.8"]
    first, second, other = (swarm.world.succeed(*arguments, "--seed", seed) for seed in ("5", "5", "6"))
    assert first == second != other
