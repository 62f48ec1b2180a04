"""A model's name becomes a folder: local, shipped, or from a hub with only the span's files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.provider.model_files import read_model_files
from shards.checkpoint import source
from shards.checkpoint.folder import INDEX_NAME, SINGLE_NAME, Checkpoint
from shards.checkpoint.manifest import MANIFEST_NAME, write_manifest
from shards.checkpoint.source import resolve
from shards.errors import CheckpointError
from shards.model.span import Span
from tests.shards.hub_server import Hub, commit_of, serve
from tests.shards.models import make_checkpoint

ROOT = Path(__file__).parents[2]
ALWAYS = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
# huggingface_hub reads HF_ENDPOINT when it is imported, so the client is a process of its own.
CLIENT = """
import json, sys
from pathlib import Path
from shards.errors import ShardError
from shards.checkpoint.source import resolve
from shards.model.span import Span
name, span, cache = sys.argv[1:]
seen = []
try:
    folder = resolve(
        name,
        span=Span.parse(span) if span else None,
        cache=Path(cache),
        progress=lambda done, total, what: seen.append((done, total, what)),
    )
    print(json.dumps({"folder": str(folder), "progress": seen}))
except ShardError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folders = {
        "someone/sharded": make_checkpoint(tmp_path_factory.mktemp("a"), "llama", max_shard_size="60KB"),
        "someone/tied": make_checkpoint(tmp_path_factory.mktemp("b"), "llama-tied", max_shard_size="60KB"),
        "someone/single": make_checkpoint(tmp_path_factory.mktemp("c"), "qwen3"),
        "someone/pickled": make_checkpoint(tmp_path_factory.mktemp("d"), "llama"),
        "someone/stale": make_checkpoint(tmp_path_factory.mktemp("g"), "llama"),
        "someone/manifest": make_checkpoint(tmp_path_factory.mktemp("e"), "llama"),
        "someone/empty": tmp_path_factory.mktemp("f"),
        "someone/adapter": tmp_path_factory.mktemp("h"),
        "someone/both": make_checkpoint(tmp_path_factory.mktemp("i"), "llama"),
        "someone/gguf": tmp_path_factory.mktemp("j"),
    }
    (folders["someone/stale"] / INDEX_NAME).write_text(
        json.dumps({"weight_map": {"model.layers.0.left": "model-00001-of-00009.safetensors"}})
    )
    write_manifest(folders["someone/manifest"])
    (folders["someone/pickled"] / SINGLE_NAME).rename(folders["someone/pickled"] / "pytorch_model.bin")
    for name in ("someone/adapter", "someone/both"):
        (folders[name] / "adapter_config.json").write_text("{}")
    for name in ("m-Q4_K_M.gguf", "m-Q8_0.gguf"):
        (folders["someone/gguf"] / name).touch()
    with serve(folders) as running:
        yield running


@pytest.fixture(autouse=True)
def _forget(hub: Hub) -> None:
    hub.requests.clear()


def fetch(hub: Hub, cache: Path, name: str, span: str = "", **environment: str) -> dict[str, Any]:
    """Resolve `name` in a process whose hub is `hub`."""
    inherited = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CLIENT, name, span, str(cache)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={**inherited, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(cache / "home"), **environment},
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("name", ["someone/sharded", "someone/tied"])
@pytest.mark.parametrize("span", [Span(0, 2), Span(2, 4), Span(4, 5)], ids=str)
def test_only_the_files_of_the_span_are_fetched(hub: Hub, tmp_path: Path, name: str, span: Span) -> None:
    answer = fetch(hub, tmp_path, name, str(span))
    folder = Path(answer["folder"])
    index = json.loads((hub.models[name] / INDEX_NAME).read_text())["weight_map"]
    wanted = {index[tensor] for tensor in Checkpoint.open(hub.models[name]).tensors_of(span)}
    assert wanted < set(index.values())
    assert hub.fetched() == {*ALWAYS, INDEX_NAME, *wanted}
    assert {path.name for path in folder.glob("*.safetensors")} == wanted
    assert all(commit_of(name) in path for _, path in hub.requests if path.endswith(".safetensors"))
    Checkpoint.open(folder, span=span)


def test_without_a_span_no_weights_are_fetched(hub: Hub, tmp_path: Path) -> None:
    for name, files in (("someone/sharded", {*ALWAYS, INDEX_NAME}), ("someone/single", ALWAYS)):
        hub.requests.clear()
        folder = Path(fetch(hub, tmp_path, name)["folder"])
        assert hub.fetched() == files
        assert {path.name for path in folder.iterdir()} == {*files, MANIFEST_NAME}


@pytest.mark.parametrize("name", ["someone/sharded", "someone/single", "someone/stale", "someone/manifest"])
def test_who_has_no_weights_yet_knows_the_same_model_as_who_has_them_all(hub: Hub, tmp_path: Path, name: str) -> None:
    folder = Path(fetch(hub, tmp_path, name)["folder"])
    assert not list(folder.glob("*.safetensors"))
    whole = tmp_path / "whole"
    shutil.copytree(hub.models[name], whole)
    (whole / MANIFEST_NAME).unlink(missing_ok=True)
    assert read_model_files("m", folder).digest == read_model_files("m", whole).digest


def test_weights_that_are_not_those_that_the_hub_named_are_refused(hub: Hub, tmp_path: Path) -> None:
    folder = Path(fetch(hub, tmp_path, "someone/single", "0:5")["folder"])
    blob = (folder / SINGLE_NAME).resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{SINGLE_NAME} is not the file that {MANIFEST_NAME} lists"):
        Checkpoint.open(folder, span=Span(0, 5))


def test_a_model_in_one_file_is_fetched_whole_and_reported(hub: Hub, tmp_path: Path) -> None:
    answer = fetch(hub, tmp_path, "someone/single", "1:2")
    assert hub.fetched() == {*ALWAYS, SINGLE_NAME}
    size = (hub.models["someone/single"] / SINGLE_NAME).stat().st_size
    assert answer["progress"][-1] == [size, size, f"downloading {SINGLE_NAME}"]
    Checkpoint.open(Path(answer["folder"]), span=Span(1, 2))


def test_an_index_whose_files_are_gone_is_no_obstacle_where_there_is_a_whole_file(hub: Hub, tmp_path: Path) -> None:
    answer = fetch(hub, tmp_path, "someone/stale", "0:2")
    Checkpoint.open(Path(answer["folder"]), span=Span(0, 5))


def test_a_second_time_nothing_is_fetched_again_even_offline(hub: Hub, tmp_path: Path) -> None:
    first = fetch(hub, tmp_path, "someone/single", "0:5")
    hub.requests.clear()
    assert fetch(hub, tmp_path, "someone/single", "0:5")["folder"] == first["folder"]
    assert hub.fetched() == set()
    assert hub.asked("HEAD") == ["config.json"]
    hub.requests.clear()
    offline = fetch(hub, tmp_path, "someone/single", "0:5", HF_HUB_OFFLINE="1")
    assert offline["folder"] == first["folder"]
    assert hub.requests == []


def test_a_broken_download_is_taken_up_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = 5000
    answer = fetch(hub, tmp_path, "someone/single", "0:5")
    assert hub.cut_after is None
    assert hub.asked("GET").count(SINGLE_NAME) == 2
    found = (Path(answer["folder"]) / SINGLE_NAME).read_bytes()
    assert found == (hub.models["someone/single"] / SINGLE_NAME).read_bytes()


def test_a_manifest_on_the_hub_is_fetched_and_checked(hub: Hub, tmp_path: Path) -> None:
    folder = Path(fetch(hub, tmp_path, "someone/manifest", "0:5")["folder"])
    assert MANIFEST_NAME in hub.fetched()
    Checkpoint.open(folder)
    path = (folder / SINGLE_NAME).resolve()
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match=f"{SINGLE_NAME} is not the file"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("name", "span", "message"),
    [
        ("someone/nothing", "0:1", "the hub has no model someone/nothing: check the spelling"),
        ("someone/gated", "0:1", "someone/gated is gated: accept its terms"),
        ("someone/pickled", "0:1", "(pytorch_model.bin): only safetensors are read. Convert"),
        ("someone/pickled", "", "(pytorch_model.bin): only safetensors are read. Convert"),
        ("someone/adapter", "", "from_pretrained('someone/adapter').merge_and_unload()"),
        ("someone/both", "", "merge_and_unload()"),
        ("someone/gguf", "", "one of them instead (m-Q4_K_M.gguf, m-Q8_0.gguf)"),
        ("someone/empty", "0:1", "has no config.json"),
        ("someone/sharded", "4:6", "not all in a model of 5 blocks"),
        ("some one/sharded", "0:1", "neither a folder"),
    ],
)
def test_an_error_says_what_to_do(hub: Hub, tmp_path: Path, name: str, span: str, message: str) -> None:
    hub.gated.add("someone/gated")
    assert message in fetch(hub, tmp_path, name, span)["error"]
    assert not any(name.endswith((".safetensors", ".bin")) for name in hub.fetched())


def test_offline_an_uncached_model_says_so(hub: Hub, tmp_path: Path) -> None:
    answer = fetch(hub, tmp_path, "someone/single", "0:5", HF_HUB_OFFLINE="1")
    assert "config.json of someone/single is not in the local cache" in answer["error"]
    assert hub.requests == []


def test_a_local_folder_is_itself(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        resolve(str(tmp_path))
    for name in ("config.json", SINGLE_NAME):
        (tmp_path / name).touch()
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["", "nowhere", "./nowhere", "/no/where", "~/no-such-folder", "a/b/c", "../x"])
def test_a_name_that_can_be_nothing_is_refused_without_a_hub(name: str) -> None:
    with pytest.raises(CheckpointError, match="hub name"):
        resolve(name)


def test_models_that_ship_with_the_package_resolve_to_their_folder() -> None:
    for name in source.shipped_models():
        assert resolve(name) == source.SHIPPED / name
        assert (resolve(name) / "config.json").is_file()
