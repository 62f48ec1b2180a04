"""Two models of one name: the operator is told which files and keys differ, whatever the other says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mesh.cli.join_events import lines
from mesh.discovery.directory import MemoryDirectory
from mesh.errors import PeerError
from mesh.identity import Identity
from mesh.provider.events import Differs
from mesh.provider.model_files import read_model_files
from mesh.provider.namesakes import describe, differing_keys, namesakes
from shards.checkpoint.manifest import Manifest, digest_of
from shards.model.span import Span
from tests.mesh.swarm_in_memory import MODEL, memory_swarm
from tests.shards.models import make_checkpoint

pytestmark = pytest.mark.timeout(60)


async def test_a_provider_hears_in_what_another_model_of_the_name_differs(tmp_path: Path) -> None:
    theirs = make_checkpoint(tmp_path / "theirs", "llama")
    ours = Path(shutil.copytree(theirs, tmp_path / "ours"))
    other = make_checkpoint(tmp_path / "other", "llama", seed=1)
    shutil.copyfile(other / "model.safetensors", ours / "model.safetensors")
    config = json.loads((ours / "config.json").read_text())
    (ours / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5, "extra": [1]}))
    (ours / "chat_template.jinja").write_text("hello")
    async with memory_swarm(theirs, [Span(0, 5)]) as swarm:
        identity = Identity.generate()
        transport = await swarm.transport(identity.peer_id)
        directory = MemoryDirectory(identity, swarm.board)
        (found,) = await namesakes(read_model_files(MODEL, ours), directory, transport)
        assert await namesakes(read_model_files(MODEL, theirs), directory, transport) == []
    assert found.files == (
        "'chat_template.jinja' (only here)",
        "'config.json' ('extra', 'rms_norm_eps')",
        "'model.safetensors'",
    )
    (line,) = lines(found)
    assert "rms_norm_eps" in line and "--name" in line


@pytest.mark.parametrize("given", [b"[", b"[]", b"1", b"[" * 100_000, b"\xff"])
def test_what_is_no_object_has_no_keys(given: bytes) -> None:
    assert differing_keys(given, b"{}") == differing_keys(b"{}", given) == []


def test_names_of_strangers_are_shown_short_and_without_what_commands_a_terminal() -> None:
    hostile = Manifest({f"\x1b[2J{number}" + "x" * 500: digest_of(b"") for number in range(50)})
    said = describe(Manifest({}), hostile, {}, {})
    assert len(said) == 7 and said[-1] == "44 more"
    assert all(line.isprintable() and len(line) < 200 for line in said)


async def test_who_tells_nothing_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = make_checkpoint(tmp_path / "theirs", "llama"), make_checkpoint(tmp_path / "ours", "llama", seed=1)
    async with memory_swarm(theirs, [Span(0, 5)]) as swarm:
        identity = Identity.generate()
        transport = await swarm.transport(identity.peer_id)

        async def refuse(*_: object, **__: object) -> None:
            raise PeerError("no", peer="x")

        monkeypatch.setattr(transport, "open", refuse)
        directory = MemoryDirectory(identity, swarm.board)
        assert await namesakes(read_model_files(MODEL, ours), directory, transport) == []


def test_markup_in_a_models_name_is_text() -> None:
    (line,) = lines(Differs("[red]x", "Qm" + "a" * 40, ("'[bold]'",)))
    assert "\\[red]" in line and "\\[bold]" in line
