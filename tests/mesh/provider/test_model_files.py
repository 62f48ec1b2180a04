"""What a provider tells of its model: the same digest wherever the model is the same, and no wrong tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mesh.provider.model_files import read_model_files
from shards.checkpoint.manifest import write_manifest
from shards.errors import CheckpointError, TokenizerError
from tests.shards.models import make_checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "m", "llama", max_shard_size="60KB")


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def digest(folder: Path, name: str = "m") -> str:
    return read_model_files(name, folder).digest


def test_a_partial_download_has_the_digest_of_the_whole(whole: Path, copy: Path) -> None:
    for path in sorted(copy.glob("*.safetensors"))[1:]:
        path.unlink()
    assert digest(copy) == digest(whole)


def test_name_config_and_manifest_each_change_the_digest(whole: Path, copy: Path) -> None:
    seen = {digest(whole), digest(whole, "other")}
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    seen.add(digest(copy))
    write_manifest(copy)
    seen.add(digest(copy))
    assert len(seen) == 4


def test_a_manifest_ties_the_digest_to_the_weights(copy: Path, tmp_path: Path) -> None:
    write_manifest(copy)
    other = make_checkpoint(tmp_path / "other", "llama", max_shard_size="60KB", seed=1)
    write_manifest(other)
    assert digest(copy) != digest(other)


def test_the_hashes_are_those_of_the_served_files(whole: Path) -> None:
    files = read_model_files("m", whole)
    assert files.hashes["tokenizer.json"][1] == (whole / "tokenizer.json").stat().st_size
    assert set(files.hashes) == set(files.contents)


def test_a_folder_without_a_tokenizer_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        read_model_files("m", copy)


def test_an_older_tokenizer_is_served_as_the_new_one(copy: Path) -> None:
    state = json.loads((copy / "tokenizer.json").read_text())["model"]
    (copy / "tokenizer.json").unlink()
    (copy / "vocab.json").write_text(json.dumps(state["vocab"]))
    (copy / "merges.txt").write_text("\n".join(" ".join(pair) for pair in state["merges"]))
    (copy / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    made = json.loads(read_model_files("m", copy).contents["tokenizer.json"])["model"]
    assert made["vocab"] == state["vocab"]


def test_a_small_file_that_is_not_the_manifests_is_refused(copy: Path) -> None:
    write_manifest(copy)
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + " ")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not the file"):
        read_model_files("m", copy)
