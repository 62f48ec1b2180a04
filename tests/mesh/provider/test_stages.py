"""Which model of a node goes to which of its devices, with what share; and when a stage that failed starts again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.provider.planner.stages import (
    LONGEST_PAUSE,
    MAX_STAGES,
    Place,
    Room,
    Stage,
    assign,
    capacity,
    failures_in_a_row,
    key_file,
    own_port,
    pause_before_restart,
    port_of,
    read_places,
)

GIB = 1 << 30


def shown(stages: list[Stage]) -> str:
    return " ".join(f"{stage.model}@{stage.place.device}" for stage in stages)


def places(*devices: str) -> list[Place]:
    return read_places(devices, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("models", "devices", "stages"),
    [
        ({"a": 9}, ["cuda:0", "cuda:1"], "a@cuda:0 a@cuda:1"),
        ({"a": 9, "b": 5}, ["cuda:0"], "a@cuda:0 b@cuda:0"),
        ({"a": 9, "b": 5}, ["cuda:0", "cuda:1"], "b@cuda:0 a@cuda:1"),
        ({"a": 9, "b": 5}, ["cuda:0", "a=cuda:1"], "b@cuda:0 a@cuda:1"),
        ({"a": 9, "b": 5}, ["a=cuda:0", "cuda:1"], "a@cuda:0 b@cuda:1"),
        ({"a": 90, "b": 5}, ["cuda:0", "cuda:1", "cuda:2"], "a@cuda:0 a@cuda:1 b@cuda:2"),
        ({"a": 9, "b": 5, "c": 4}, ["cuda:0", "cuda:1"], "b@cuda:0 a@cuda:1 c@cuda:1"),
        ({"a": 9, "b": 5}, ["a=cuda:0"], "a@cuda:0 b@cuda:0"),
        ({"a": 9}, ["cpu", "cpu"], "a@cpu a@cpu"),
    ],
)
def test_models_go_where_there_is_memory_for_them(models: dict[str, int], devices: list[str], stages: str) -> None:
    sizes = {name: size * GIB for name, size in models.items()}
    free = {"cuda:0": 16 * GIB, "cuda:1": 24 * GIB, "cuda:2": 8 * GIB, "cpu": 32 * GIB}
    assert shown(assign(sizes, places(*devices), free)) == stages


@example({"a": 1, "b": 1}, [("cpu", "a"), ("cpu", "a")], {}, 1)
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 100), min_size=1),
    st.lists(
        st.tuples(st.sampled_from(("cpu", "cuda", "cuda:0", "cuda:1")), st.none() | st.sampled_from("abcdef")),
        min_size=1,
        max_size=6,
    ),
    st.dictionaries(st.sampled_from(("cpu", "cuda:0", "cuda:1")), st.integers(0, 100)),
    st.integers(1, 64),
)
def test_every_model_and_every_device_gets_a_stage_and_shares_add_up(
    models: dict[str, int], wanted: list[tuple[str, str | None]], free: dict[str, int], cores: int
) -> None:
    asked = [Place(device, model if model in models else None) for device, model in wanted]
    stages = assign(models, asked, free, cores=cores)
    assert {stage.model for stage in stages} == set(models)
    assert not Counter(asked) - Counter(stage.place for stage in stages)
    if any(place.model is None for place in asked):  # else a model that nobody named has nowhere else to go
        assert all(stage.model == stage.place.model for stage in stages if stage.place.model)
    shares: Counter[str] = Counter()
    threads: Counter[str] = Counter()
    for stage in stages:
        shares[stage.place.physical] += stage.share  # type: ignore[assignment]
        threads[stage.place.physical] += stage.threads or 0
    assert all(share == pytest.approx(1) for share in shares.values())
    assert threads["cpu"] <= max(cores, len(stages))
    assert len({stage.label for stage in stages}) == len(stages)
    assert len(asked) <= len(stages) <= len(asked) + len(models) - 1


def test_labels_are_short_safe_and_stay_the_same() -> None:
    stages = assign({"/models/My Llama 3.1!": 1, "org/Qwen3-8B": 1}, [Place("cpu"), Place("cpu")], {"cpu": 2})
    assert sorted(stage.label for stage in stages) == ["my-llama-3-1-1", "qwen3-8b-1"]
    assert key_file(Path("/keys/identity.key"), "qwen3-8b-1") == Path("/keys/identity-qwen3-8b-1.key")


def test_a_device_for_a_model_that_is_not_served_is_refused() -> None:
    with pytest.raises(ConfigError, match="no --model asks for"):
        read_places(["z=cuda:0"], ["a"])
    with pytest.raises(ConfigError, match="at most"):
        assign({"a": 1}, [Place("cpu")] * (MAX_STAGES + 1), {})
    assert read_places([], ["a"]) == [Place("auto")]


def test_stages_listen_on_ports_that_follow_each_other_unless_any_will_do() -> None:
    assert own_port("/ip4/0.0.0.0/tcp/31330", 2) == "/ip4/0.0.0.0/tcp/31332"
    assert own_port("/ip4/0.0.0.0/tcp/0", 2) == "/ip4/0.0.0.0/tcp/0"
    assert [port_of(-1, 3), port_of(0, 3), port_of(9000, 0), port_of(9000, 3)] == [-1, 0, 9000, 9003]
    with pytest.raises(ConfigError, match="port 65536"):
        own_port("/ip4/0.0.0.0/tcp/65535", 1)


def test_capacity_leaves_room_for_the_embedding_and_the_head() -> None:
    assert capacity(10, usable=100.0, model_bytes=110, edge_bytes=10) == 9
    assert capacity(10, usable=1000.0, model_bytes=110, edge_bytes=10) == 10
    assert capacity(10, usable=5.0, model_bytes=110, edge_bytes=10) == 0


def test_a_stage_knows_how_many_like_it_hold_the_model() -> None:
    assert Room.of(32, 10 * GIB, 96 * GIB, 0).stages == 11
    assert Room.of(32, 100 * GIB, 96 * GIB, 0).stages == 1
    room = Room.of(32, 2 * GIB, 98 * GIB, 2 * GIB)
    said = room.what_is_missing(Stage("big-1", "big", Place("cpu")), "big")
    for part in ("2.0 GiB of cpu", "not one block of big", "takes 3.0 GiB", "at least 5.0 GiB", "of which 32 hold"):
        assert part in said


def test_pauses_between_failures_grow_and_one_after_a_long_run_is_short() -> None:
    failures, pauses = 0, []
    for ran in (5.0, 5.0, 5.0, 5.0):
        failures = failures_in_a_row(failures, ran)
        pauses.append(pause_before_restart(failures))
    assert pauses == [1.0, 2.0, 4.0, 8.0]
    assert pause_before_restart(10_000) == LONGEST_PAUSE
    assert pause_before_restart(failures_in_a_row(50, 3600.0)) == 1.0
