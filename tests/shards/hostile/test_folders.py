"""Whatever a model's folder holds, no file outside of it is read, served or written."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.provider.model_files import read_model_files
from mesh.provider.planner.capacity import model_bytes
from shards.checkpoint.folder import Checkpoint
from shards.checkpoint.manifest import write_manifest
from shards.checkpoint.model_folder import opened, read, write
from shards.checkpoint.source import SHIPPED
from shards.errors import CheckpointError, ShardError, TokenizerError
from shards.model.span import Span
from shards.text.convert import ensure_fast_tokenizer
from shards.text.fast import load_tokenizer
from tests.shards.hostile.folders import LOADED, SECRET, SERVED, Pack

MAX_SECONDS = 5.0


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "home" / ".ssh" / "id_ed25519"
    path.parent.mkdir(parents=True)
    path.write_bytes(SECRET)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped model, without its manifest: an archive need not have one."""
    path = tmp_path / "model"
    shutil.copytree(SHIPPED / "tiny-python", path)
    (path / "mesh.manifest.json").unlink()
    return path


def _refused(call: Callable[[], object]) -> None:
    started = time.monotonic()
    with pytest.raises(ShardError) as caught:
        call()
    assert SECRET.decode().strip() not in str(caught.value)
    assert time.monotonic() - started < MAX_SECONDS


def test_there_are_enough_of_them() -> None:
    assert len(SERVED) + len(LOADED) >= 20


@pytest.mark.parametrize("pack", SERVED.values(), ids=SERVED)
def test_a_provider_serves_nothing_of_such_a_folder(pack: Pack, folder: Path, secret: Path) -> None:
    assert read_model_files("m", folder).contents
    pack(folder, secret)
    _refused(lambda: read_model_files("m", folder))


@pytest.mark.parametrize("pack", SERVED.values(), ids=SERVED)
def test_such_a_folder_is_no_tokenizer_or_one_without_the_file(pack: Pack, folder: Path, secret: Path) -> None:
    pack(folder, secret)
    try:
        made = load_tokenizer(folder)
    except TokenizerError as error:
        assert SECRET.decode().strip() not in str(error)
        return
    assert made.encode("a") and "manifest" in "".join(name for name, each in SERVED.items() if each is pack)


@pytest.mark.parametrize("pack", LOADED.values(), ids=LOADED)
def test_such_weights_are_not_loaded(pack: Pack, folder: Path, secret: Path) -> None:
    Checkpoint.open(folder, span=Span(0, 1))
    files = read_model_files("m", folder)
    pack(folder, secret)
    _refused(lambda: Checkpoint.open(folder, span=Span(0, 1)))
    assert model_bytes(folder, files) > 0


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_of_another_size_than_the_manifests_is_not_read_to_its_end(name: str, folder: Path) -> None:
    write_manifest(folder)
    with (folder / name).open("ab") as file:
        file.truncate(1 << 40)
    _refused(lambda: (read_model_files("m", folder), Checkpoint.open(folder, span=Span(0, 1))))


def test_a_hubs_own_links_are_followed(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "models--org--good"
    commit, blobs = model / "snapshots" / "abc", model / "blobs"
    commit.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / f"{number:064x}")
        (commit / path.name).symlink_to(f"../../blobs/{number:064x}")
    assert read_model_files("m", commit).contents
    assert Checkpoint.open(commit, span=Span(0, 1)).nbytes(Span(0, 1)) > 0
    elsewhere = tmp_path / "by-another-name"
    elsewhere.symlink_to(commit, target_is_directory=True)
    assert read_model_files("m", elsewhere).contents == read_model_files("m", commit).contents


@pytest.mark.parametrize("name", ["..", ".", "", "a\0b"])
def test_what_is_no_name_of_a_file_is_refused(name: str, folder: Path) -> None:
    with pytest.raises((CheckpointError, ValueError)), opened(folder / name):
        pass


def test_a_device_is_not_read() -> None:
    with pytest.raises(CheckpointError, match="regular"):
        read(Path("/dev/zero"), 10)


@pytest.mark.parametrize("name", ["mesh.manifest.json", "tokenizer.json"])
def test_what_is_written_does_not_go_through_a_link(name: str, folder: Path, secret: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    write(folder / name, b"{}")
    assert secret.read_bytes() == SECRET
    assert (folder / name).read_bytes() == b"{}" and not (folder / name).is_symlink()


def test_a_manifest_is_not_written_over_a_file_elsewhere(folder: Path, secret: Path) -> None:
    (folder / "mesh.manifest.json").symlink_to(secret)
    write_manifest(folder)
    assert secret.read_bytes() == SECRET


def test_an_older_tokenizer_is_not_made_of_files_elsewhere(tmp_path: Path, secret: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "vocab.txt").symlink_to(secret)
    with pytest.raises(TokenizerError, match="symbolic link"):
        ensure_fast_tokenizer(folder)
    assert not (folder / "tokenizer.json").exists()
