"""`mesh try`: what it goes through is real, and nothing of it is left."""

from __future__ import annotations

import re
import signal

import pytest

from tests.scenarios.processes import World


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_the_paid_walk_ends_with_a_claimed_reward_and_leaves_nothing(world: World) -> None:
    done = world.run("try", "--paid", seconds=380)
    assert done.code == 0, done.stderr
    titles = re.findall(r"^(\d+)\. ", done.stdout, re.MULTILINE)
    assert titles == [str(number) for number in range(1, 12)]
    for typed in ("chain up", "wallet import", "model publish", "join", "gateway", "escrow deposit", "key new", "pay"):
        assert f"$ mesh {typed}" in done.stdout
    claimed = re.search(r"^claimed: (0\.\d+) FUNC by the provider, in transaction 0x[0-9a-f]{64}", done.stdout, re.M)
    assert claimed is not None
    assert f" {claimed[1]} " in done.stdout.partition("$ mesh earnings")[2]
    assert not (world.folder / "data").exists(), "nothing of the user's is touched"
    world.assert_nothing_left()


@pytest.mark.slow
def test_the_free_walk_ends_with_an_answer_and_its_route(world: World) -> None:
    done = world.run("try", seconds=150)
    assert done.code == 0, done.stderr
    assert "hop" in done.stdout and "complete" in done.stdout
    world.assert_nothing_left()


def test_a_walk_that_is_interrupted_leaves_nothing(world: World) -> None:
    walk = world.start("try", "--paid")
    walk.says("$ mesh chain up")
    assert walk.stop(signal.SIGINT) == 130
    world.assert_nothing_left()
