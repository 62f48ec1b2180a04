"""What a provider tells of its model: the same digest wherever the model is the same, and no wrong tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mesh.provider.model_files import read_model_files
from shards.checkpoint.manifest import MANIFEST_NAME, model_digest, parse_manifest, write_manifest
from shards.errors import CheckpointError, TokenizerError
from shards.model.precision import Precision
from tests.shards.models import make_checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "m", "llama", max_shard_size="60KB")


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def digest(folder: Path, name: str = "m") -> str:
    return read_model_files(name, folder).digest


def test_a_part_of_the_weights_has_the_digest_of_the_whole_if_a_manifest_says_what_the_others_are(
    whole: Path, copy: Path
) -> None:
    write_manifest(copy)
    for path in sorted(copy.glob("*.safetensors"))[1:]:
        path.unlink()
    assert digest(copy) == digest(whole)
    (copy / MANIFEST_NAME).unlink()
    with pytest.raises(CheckpointError, match=f"only some of the weights .* no {MANIFEST_NAME} says"):
        digest(copy)


def test_name_config_and_tokenizer_each_change_the_digest_and_a_manifest_does_not(whole: Path, copy: Path) -> None:
    write_manifest(copy)
    assert digest(copy) == digest(whole)
    (copy / MANIFEST_NAME).unlink()
    seen = {digest(whole), digest(whole, "other")}
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps({**content, "unknown_to_us": 1}))
        seen.add(digest(copy))
    assert len(seen) == 4


def test_what_weights_are_quantised_to_changes_the_digest(whole: Path) -> None:
    digests = {read_model_files("m", whole, precision).digest for precision in (None, *Precision)}
    assert len(digests) == 3 and digest(whole) in digests


def test_two_trainings_of_one_config_are_two_models(whole: Path, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other", "llama", max_shard_size="60KB", seed=1)
    assert (other / "config.json").read_bytes() == (whole / "config.json").read_bytes()
    assert digest(whole) != digest(other)


def test_files_that_the_model_is_not_made_of_change_nothing(whole: Path, copy: Path) -> None:
    shutil.copyfile(next(copy.glob("*.safetensors")), copy / "consolidated.safetensors")
    (copy / "README.md").write_text("hello")
    assert digest(copy) == digest(whole)
    write_manifest(copy)
    assert digest(copy) == digest(whole)


def test_the_digest_is_that_of_name_and_manifest_and_the_manifest_lists_every_file_that_is_served(whole: Path) -> None:
    files = read_model_files("m", whole)
    assert model_digest("m", files.manifest.sha256) == files.digest
    listed = parse_manifest(files.contents[MANIFEST_NAME])
    for name, data in files.contents.items():
        if name != MANIFEST_NAME:
            listed.check_bytes(name, data)
    assert {path.name for path in whole.glob("*.safetensors")} < set(listed.files)


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
