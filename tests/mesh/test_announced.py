"""What is said where a model cannot be served: nobody knows it, its providers are away, or they do not fit together."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from mesh.client.announced import ANNOUNCED_SECONDS, AnnouncedNames
from mesh.client.backend import BackendConfig, SwarmBackend
from mesh.client.catalog import offers, what_is_apart
from mesh.client.outlook import LookConfig
from mesh.discovery.directory import MemoryBoard, MemoryDirectory
from mesh.discovery.records import ProviderRecord
from mesh.errors import NoRoute, UnknownModel
from mesh.identity import Identity
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from shards.model.span import Span
from tests.mesh.sample_record import sample_record

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def board() -> MemoryBoard:
    return MemoryBoard(clock=time.time)


@pytest.fixture
async def backend(board: MemoryBoard) -> AsyncIterator[SwarmBackend]:
    own = Identity.generate()
    config = BackendConfig(looks=LookConfig(renewed_after=0.0, stale_after=0.0, worthless_after=0.0))
    async with (
        MemoryTransport(own.peer_id, MemoryNetwork()) as transport,
        SwarmBackend(transport, MemoryDirectory(own, board), config) as backend,
    ):
        yield backend


def record(peer: str, span: Span, **changes: object) -> ProviderRecord:
    return replace(sample_record(peer), span=span, **changes)  # type: ignore[arg-type]


async def test_a_model_whose_providers_left_is_one_to_come_back_for(board: MemoryBoard, backend: SwarmBackend) -> None:
    provider = Identity.generate()
    directory = MemoryDirectory(provider, board)
    await directory.announce(record(provider.peer_id, Span(0, 12)))
    assert (await backend.offer("tiny/llama")).records
    await directory.withdraw()
    with pytest.raises(NoRoute, match="no provider of tiny/llama is there now; it was announced 0 s ago") as away:
        await backend.offer("tiny/llama")
    assert away.value.retry_after
    with pytest.raises(UnknownModel):
        await backend.offer("tiny/other")


def test_a_name_that_nobody_announced_for_an_hour_is_unknown() -> None:
    now = 0.0
    names = AnnouncedNames(lambda: now)
    names.note("m")
    now = ANNOUNCED_SECONDS
    with pytest.raises(NoRoute):
        names.check("m")
    now += 1
    names.check("m")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"wire_dtype": "bfloat16"},
            "blocks 8:12 are served in bfloat16, which cannot go on from float32: use one --dtype",
        ),
        (
            {"digest": "cd" * 32},
            "blocks 8:12 are served of other weights or files under this name (digest cdcdcdcdcdcd, not abababababab)",
        ),
        ({"context_length": 7}, "blocks 8:12 are served by providers that say other things of the model's shape"),
    ],
)
def test_providers_that_do_not_fit_are_named_with_the_reason(changes: dict[str, object], said: str) -> None:
    fitting = [record(peer, span) for peer, span in (("a", Span(0, 4)), ("b", Span(4, 8)))]
    apart = record("c", Span(8, 12), **changes)
    found = offers("tiny/llama", [*fitting, apart])
    assert found[0].records == tuple(fitting)
    assert what_is_apart(found[0], found) == said
    assert what_is_apart(found[1], found[1:]) == ""
