"""The stage core by itself: three of them and their engines, no network, no threads, events in any order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace as change

from mesh.errors import BadTensor, ProtocolViolation
from mesh.provider.stage import events
from mesh.wire.messages import (
    Activations,
    NextTokens,
    OpenSession,
    SessionRefused,
)
from shards.model.stage import StageModel
from tests.mesh.provider.cores import PEERS, Swarm, greedy, load_models

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def models(folder: Path) -> list[StageModel]:
    return load_models(folder)


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[tuple[int, ...], list[int]]:
    return {}


@pytest.mark.parametrize("drafts", [0, 5])
@pytest.mark.parametrize("seed", range(12))
def test_whatever_comes_in_whatever_order_the_tokens_are_the_same_and_nothing_is_left(
    models: list[StageModel], folder: Path, expected: dict[tuple[int, ...], list[int]], seed: int, drafts: int
) -> None:
    tight = seed % 2 == 1
    swarm = Swarm(models, seed, pages=10 if tight else 64, clients=5, drafts=drafts)
    swarm.texts = {tuple(client.prompt): greedy(folder, client.prompt, expected) for client in swarm.clients}
    swarm.run(faults=0 if seed < 4 else 6)
    for client in swarm.clients:
        assert client.generated == greedy(folder, client.prompt, expected)
        assert seed >= 4 or tight or client.attempts == 1
    assert 0 < swarm.right < swarm.guessed if drafts else not swarm.guessed
    for peer, engine in swarm.engines.items():
        assert len(swarm.cores[peer].table) == 0
        assert engine.free_pages == engine.blocks.pages
        assert not swarm.cores[peer].congested


def test_a_frame_that_is_not_sound_changes_nothing(models: list[StageModel]) -> None:
    swarm = Swarm(models, 1, pages=64, clients=2)
    for client in swarm.clients:
        swarm.begin(client)
    for _ in range(40):
        swarm.step()
    core = swarm.cores["middle"]
    sessions = [(session.id, session.expected, session.running_tokens) for session in core.table]
    assert sessions
    session = sessions[0][0]
    for event in (
        events.Arrived("first", Activations(((session, 0, 3),)), b"\0" * 11),
        events.Arrived("first", Activations(((session, 0, 0),)), b""),
        events.Arrived("first", NextTokens(((session, 0, 1 << 20),))),
    ):
        with pytest.raises((BadTensor, ProtocolViolation)):
            core.handle(event, 1.0)
    assert [(each.id, each.expected, each.running_tokens) for each in core.table] == sessions


def test_what_comes_from_a_stranger_is_a_stray_and_reaches_no_session(models: list[StageModel]) -> None:
    swarm = Swarm(models, 2, pages=64, clients=1)
    (client,) = swarm.clients
    swarm.begin(client)
    for hop in PEERS:
        swarm.handle(hop, swarm.lines[client.peer, hop].popleft())
    row = torch.zeros(1, 48).numpy().tobytes()
    actions = swarm.cores["middle"].handle(events.Arrived("last", Activations(((client.session, 0, 1),)), row), 1.0)
    assert actions == [events.Stray("last")]
    (session,) = swarm.cores["middle"].table
    assert session.expected == 0 and not session.running


def test_a_stage_that_is_not_the_whole_route_does_not_hand_over_to_itself(models: list[StageModel]) -> None:
    swarm = Swarm(models, 3, pages=64, clients=1)
    (client,) = swarm.clients
    swarm.begin(client)
    asked = swarm.lines[client.peer, "middle"][0]
    assert isinstance(asked, events.Asked) and isinstance(asked.message, OpenSession)
    looped = events.Asked(asked.owner, change(asked.message, following="middle"))
    (told,) = swarm.cores["middle"].handle(looped, 1.0)
    assert isinstance(told, events.Tell) and isinstance(told.message, SessionRefused)
    assert told.message.code == "bad_request"
    assert len(swarm.cores["middle"].table) == 0


@pytest.mark.parametrize("seed", range(3))
def test_guesses_save_trips_and_the_client_pays_for_none_that_was_wrong(
    models: list[StageModel], folder: Path, expected: dict[tuple[int, ...], list[int]], seed: int
) -> None:
    swarm = Swarm(models, seed, pages=64, clients=1, drafts=8)
    (client,) = swarm.clients
    swarm.texts = {tuple(client.prompt): greedy(folder, client.prompt, expected)}
    swarm.run(faults=0)
    assert client.generated == greedy(folder, client.prompt, expected)
    assert swarm.right > 2
