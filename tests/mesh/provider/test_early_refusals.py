"""A model that cannot be served is refused before a swarm is joined, with a way out, also by `mesh join --plan`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mesh.identity import Identity
from mesh.node import NodeConfig
from mesh.provider.config import JoinConfig
from mesh.provider.join import join
from mesh.provider.planner.capacity import Wanted, survey
from mesh.provider.planner.stages import Place
from shards.checkpoint.index import INDEX_NAME
from shards.checkpoint.manifest import write_manifest
from shards.errors import ShardError
from shards.model.span import Span
from tests.shards.models import FAMILIES, make_checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "m", "llama", max_shard_size="60KB")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def pickled(folder: Path) -> None:
    for path in [*folder.glob("*.safetensors"), folder / INDEX_NAME]:
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


def gguf(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "m-Q4_K_M.gguf").write_bytes(b"GGUF")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def unknown(folder: Path) -> None:
    change_config(folder, model_type="somebodys_own")


def looks_ahead(folder: Path) -> None:
    change_config(folder, is_causal=False)


def other_class(folder: Path) -> None:
    change_config(folder, architectures=["LlamaForSequenceClassification"])


def running_state(folder: Path) -> None:
    change_config(folder, model_type="mamba", architectures=["MambaForCausalLM"])


def no_head(folder: Path) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    del index["weight_map"]["lm_head.weight"]
    (folder / INDEX_NAME).write_text(json.dumps(index))


def block_missing(folder: Path) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    kept = {name: file for name, file in index["weight_map"].items() if ".3." not in name}
    (folder / INDEX_NAME).write_text(json.dumps({**index, "weight_map": kept}))


UNSERVED = {
    adapter: "merge_and_unload",
    pickled: "save_pretrained",
    gguf: r"one of them instead \(m-Q4_K_M.gguf\)",
    no_tokenizer: "put the tokenizer's files there",
    unknown: "never run",
    looks_ahead: "is_causal = False",
    other_class: "architectures = 'LlamaForSequenceClassification'",
    running_state: "running state",
    no_head: "tie_word_embeddings",
    block_missing: "no tensors for block 3",
}


def asked(folder: Path, blocks: Span | None = None) -> JoinConfig:
    # An address that no node could listen on: none is started.
    return JoinConfig(str(folder), NodeConfig(Identity.generate(), host_maddrs=("/nowhere",)), blocks=blocks)


@pytest.mark.parametrize("change", UNSERVED, ids=lambda change: change.__name__)
async def test_it_is_said_before_the_swarm_is_joined_and_by_plan(folder: Path, change) -> None:
    change(folder)
    with pytest.raises(ShardError, match=UNSERVED[change]) as joining:
        await join(asked(folder), lambda event: pytest.fail(f"told {event}"))
    assert "\n" not in str(joining.value)
    with pytest.raises(ShardError, match=UNSERVED[change]):
        await survey(Wanted((str(folder),), (Place("cpu"),)))


async def test_a_folder_may_hold_only_the_files_of_the_blocks_that_it_is_to_serve(folder: Path) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())["weight_map"]
    gone = index["lm_head.weight"]
    write_manifest(folder)
    (folder / gone).unlink()
    for blocks in (None, Span(4, 5)):
        with pytest.raises(ShardError, match=rf"{gone} is missing.*download"):
            await join(asked(folder, blocks), lambda event: pytest.fail(f"told {event}"))


@pytest.mark.parametrize("family", FAMILIES)
async def test_what_is_served_natively_is_not_refused_early(family: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / family, family)
    (planned,) = await survey(Wanted((str(folder),), (Place("cpu"),)))
    assert planned.room.fits == 5
