"""Opening checkpoint folders: what a span reads, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shards.checkpoint.folder import INDEX_NAME, SINGLE_NAME, Checkpoint
from shards.checkpoint.manifest import MANIFEST_NAME, write_manifest
from shards.errors import CheckpointError, UnsupportedModel
from shards.model.loading import load_stage
from shards.model.span import Span
from tests.shards.models import make_checkpoint
from tests.shards.stages import Memory

torch.set_num_threads(1)
SPANS = (Span(0, 2), Span(2, 4), Span(4, 5))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("single"), "llama")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("sharded"), "llama", max_shard_size="60KB")


@pytest.fixture
def copy(single: Path, tmp_path: Path) -> Path:
    return shutil.copytree(single, tmp_path / "copy")


@pytest.fixture
def sharded_copy(sharded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sharded, tmp_path / "copy")


class Recording(Checkpoint):
    """A checkpoint that notes which tensors are read."""

    def read(self, name: str) -> torch.Tensor:
        self.log.append(name)
        return super().read(name)

    @property
    def log(self) -> list[str]:
        return self.__dict__.setdefault("_log", [])


def test_tensors_are_read_as_the_library_reads_them(single: Path) -> None:
    checkpoint = Checkpoint.open(single)
    expected = load_file(single / SINGLE_NAME)
    assert sorted(expected) == list(checkpoint.names())
    for name, tensor in expected.items():
        assert checkpoint.shape(name) == tensor.shape and checkpoint.dtype(name) == tensor.dtype
        assert torch.equal(checkpoint.read(name), tensor)


def test_every_dtype_shape_and_emptiness_is_read_bit_for_bit(copy: Path) -> None:
    dtypes = (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16,
        torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2,
    )  # fmt: skip
    tensors = {f"x.{dtype}.{n}": torch.arange(n).to(dtype) for dtype in dtypes for n in (0, 1, 3)}
    tensors["scalar"] = torch.tensor(1.5)
    tensors["deep"] = torch.arange(24.0).view(2, 1, 3, 4)
    save_file(tensors, copy / SINGLE_NAME)
    checkpoint = Checkpoint.open(copy)
    for name, tensor in tensors.items():
        found = checkpoint.read(name)
        assert found.dtype == tensor.dtype and found.shape == tensor.shape
        assert torch.equal(found.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("span", SPANS, ids=str)
@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_loading_a_stage_reads_exactly_the_tensors_of_its_span(tmp_path: Path, family: str, span: Span) -> None:
    folder = make_checkpoint(tmp_path, family)
    checkpoint = Recording.open(folder)
    assert isinstance(checkpoint, Recording)
    load_stage(checkpoint, span)
    assert sorted(checkpoint.log) == checkpoint.tensors_of(span)
    ends = [name for name in checkpoint.log if ".layers." not in name]
    table, head = "model.embed_tokens.weight", "lm_head.weight" if family == "llama" else None
    assert sorted(ends) == sorted(
        ([table] if span.start == 0 else []) + (["model.norm.weight", head or table] if span.end == 5 else [])
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a process's reads in /proc")
@pytest.mark.parametrize("span", SPANS, ids=str)
def test_loading_a_stage_reads_no_more_bytes_than_its_span_has(tmp_path: Path, span: Span) -> None:
    folder = make_checkpoint(tmp_path, "llama", hidden_size=96, intermediate_size=200)
    checkpoint = Checkpoint.open(folder)
    load_stage(checkpoint, span)  # whatever is read once, such as code, is read now
    before = _bytes_read()
    load_stage(checkpoint, span)
    read = _bytes_read() - before
    assert checkpoint.nbytes(span) <= read < checkpoint.nbytes(span) + 4096
    assert (folder / SINGLE_NAME).stat().st_size > 1.5 * read


def test_a_whole_file_counts_and_not_an_old_index_beside_it(single: Path, copy: Path) -> None:
    names = Checkpoint.open(single).names()
    old = {"weight_map": dict.fromkeys([*names, "model.layers.9.left"], "model-00001-of-00009.safetensors")}
    (copy / INDEX_NAME).write_text(json.dumps(old))
    found = Checkpoint.open(copy, span=Span(0, 5))
    assert found.names() == names
    assert torch.equal(found.read(names[0]), Checkpoint.open(single).read(names[0]))


def _bytes_read() -> int:
    with open("/proc/self/io", "rb") as file:  # noqa: PTH123
        return int(file.read().split()[1])


def test_a_span_loads_from_a_folder_with_only_its_files(sharded_copy: Path) -> None:
    whole = Checkpoint.open(sharded_copy)
    index = json.loads((sharded_copy / INDEX_NAME).read_text())["weight_map"]
    for span in SPANS:
        needed = {index[name] for name in whole.tensors_of(span)}
        partial = sharded_copy.parent / f"partial-{span.start}"
        shutil.copytree(sharded_copy, partial)
        for path in partial.glob("*.safetensors"):
            if path.name not in needed:
                path.unlink()
        assert len(list(partial.glob("*.safetensors"))) < len(set(index.values()))
        stage = load_stage(Checkpoint.open(partial, span=span), span)
        assert stage.span == span
        other = next(each for each in SPANS if each != span)
        with pytest.raises(CheckpointError, match=r"model-\d+-of-\d+\.safetensors is missing"):
            Checkpoint.open(partial, span=other)


def test_progress_counts_up_to_the_spans_bytes(single: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    checkpoint = Checkpoint.open(single)
    span = Span(1, 3)
    load_stage(checkpoint, span, progress=lambda done, total, what: seen.append((done, total, what)))
    done = [entry[0] for entry in seen]
    assert done == sorted(done) and done[-1] == checkpoint.nbytes(span)
    assert {entry[1:] for entry in seen} == {(checkpoint.nbytes(span), "loading blocks 1:3")}


@pytest.mark.parametrize("name", ["model.layers.3.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_a_missing_tensor_is_named(copy: Path, name: str) -> None:
    tensors = load_file(copy / SINGLE_NAME)
    del tensors[name]
    save_file(tensors, copy / SINGLE_NAME)
    with pytest.raises(CheckpointError, match=name):
        load_stage(Checkpoint.open(copy), Span(2, 5))


@pytest.mark.parametrize(
    "wrong", [torch.zeros(80, 47), torch.zeros(80 * 48), torch.zeros(80, 48, dtype=torch.int8)], ids=str
)
def test_a_tensor_of_the_wrong_shape_or_kind_is_named(copy: Path, wrong: torch.Tensor) -> None:
    name = "model.layers.1.mlp.gate_proj.weight"
    tensors = load_file(copy / SINGLE_NAME)
    save_file({**tensors, name: wrong}, copy / SINGLE_NAME)
    with pytest.raises(CheckpointError, match=name):
        load_stage(Checkpoint.open(copy), Span(0, 2))
    load_stage(Checkpoint.open(copy), Span(2, 4))


def test_a_model_without_tensors_for_a_block_is_refused(copy: Path) -> None:
    tensors = load_file(copy / SINGLE_NAME)
    save_file({k: v for k, v in tensors.items() if ".layers.3." not in k}, copy / SINGLE_NAME)
    with pytest.raises(CheckpointError, match="no tensors for block 3"):
        Checkpoint.open(copy, span=Span(2, 4))


def test_weights_in_half_precision_are_computed_in_float32_on_a_cpu(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "llama", dtype=torch.bfloat16)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.spec.dtype == "bfloat16"
    stage = load_stage(checkpoint, Span(0, 2))
    (hidden,) = stage.forward([Memory(stage).session(4).piece(torch.tensor([1, 2]))])
    assert hidden.dtype == stage.dtype == torch.float32


@pytest.mark.parametrize("file_name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", 7, "x.bin",
                                       "C:x.safetensors", "..\\x.safetensors", ".x.safetensors"])  # fmt: skip
def test_an_index_that_points_out_of_the_folder_is_refused(sharded_copy: Path, file_name: object) -> None:
    index = sharded_copy / INDEX_NAME
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": file_name}}))
    with pytest.raises(CheckpointError, match=r"not the plain name of a \.safetensors file"):
        Checkpoint.open(sharded_copy)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": 3}', '{"weight_map": {}}', "[" * 9999, "\xff"])
def test_a_malformed_index_is_refused(sharded_copy: Path, text: str) -> None:
    (sharded_copy / INDEX_NAME).write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=INDEX_NAME):
        Checkpoint.open(sharded_copy)


def test_an_index_that_disagrees_with_a_files_header_is_refused(sharded_copy: Path) -> None:
    index = sharded_copy / INDEX_NAME
    raw = json.loads(index.read_text())
    other = next(file for file in raw["weight_map"].values() if file != raw["weight_map"]["lm_head.weight"])
    raw["weight_map"]["lm_head.weight"] = other
    index.write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is in .*, but it is not"):
        Checkpoint.open(sharded_copy, span=Span(4, 5))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "[" * 100_000, '{"model_type": "somebodys_own"}', "\xff\xfe"])
def test_a_malformed_config_is_refused(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises((CheckpointError, UnsupportedModel), match=r"config\.json"):
        Checkpoint.open(copy)


def test_a_config_over_the_limit_is_not_parsed(copy: Path) -> None:
    with (copy / "config.json").open("ab") as file:
        file.truncate(5 << 20)
    with pytest.raises(CheckpointError, match="over the limit"):
        Checkpoint.open(copy)


def test_a_folder_without_weights_says_so(copy: Path) -> None:
    (copy / SINGLE_NAME).unlink()
    with pytest.raises(CheckpointError, match="neither"):
        Checkpoint.open(copy)
    (copy / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        Checkpoint.open(copy)
    with pytest.raises(CheckpointError, match="not a folder"):
        Checkpoint.open(copy / "nowhere")


def test_a_file_that_changes_while_in_use_is_noticed(copy: Path) -> None:
    checkpoint = Checkpoint.open(copy)
    with (copy / SINGLE_NAME).open("r+b") as file:
        file.truncate((copy / SINGLE_NAME).stat().st_size - 4)
    with pytest.raises(CheckpointError, match="was changed"):
        checkpoint.read("model.norm.weight")


def test_a_manifest_accepts_the_files_it_was_written_for(single: Path, copy: Path) -> None:
    path = write_manifest(copy)
    listed = json.loads(path.read_text())["files"]
    assert {"config.json", "tokenizer.json", SINGLE_NAME} <= set(listed)
    assert listed[SINGLE_NAME]["size"] == (copy / SINGLE_NAME).stat().st_size
    seen: list[tuple[int, int, str]] = []
    Checkpoint.open(copy, progress=lambda done, total, what: seen.append((done, total, what)))
    assert seen[-1] == (listed[SINGLE_NAME]["size"], listed[SINGLE_NAME]["size"], f"checking {SINGLE_NAME}")


@pytest.mark.parametrize("name", ["config.json", SINGLE_NAME])
def test_a_file_that_is_not_the_manifests_is_refused_before_it_is_parsed(copy: Path, name: str) -> None:
    write_manifest(copy)
    (copy / name).write_bytes(b"\xff" * 64)
    with pytest.raises(CheckpointError, match=rf"{name} is not the file that {MANIFEST_NAME} lists"):
        Checkpoint.open(copy)


def test_one_flipped_bit_in_the_weights_is_refused_with_a_manifest(sharded_copy: Path) -> None:
    write_manifest(sharded_copy)
    checkpoint = Checkpoint.open(sharded_copy)
    index = json.loads((sharded_copy / INDEX_NAME).read_text())["weight_map"]
    path = sharded_copy / index["lm_head.weight"]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    checkpoint.check(Span(0, 1))
    with pytest.raises(CheckpointError, match=path.name):
        checkpoint.check(Span(4, 5))


def test_a_file_that_the_manifest_does_not_list_is_refused(copy: Path) -> None:
    manifest = write_manifest(copy)
    raw = json.loads(manifest.read_text())
    del raw["files"][SINGLE_NAME]
    manifest.write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=f"{SINGLE_NAME} is not listed"):
        Checkpoint.open(copy)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"files": []}', '{"files": {"config.json": {}}}', "[" * 100_000,
     '{"files": {"config.json": {"sha256": "zz", "size": 1}}}'],
)  # fmt: skip
def test_a_malformed_manifest_is_refused(copy: Path, text: str) -> None:
    (copy / MANIFEST_NAME).write_text(text)
    with pytest.raises(CheckpointError, match=MANIFEST_NAME):
        Checkpoint.open(copy)


def test_a_manifest_needs_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        write_manifest(tmp_path)
    assert not os.listdir(tmp_path)  # noqa: PTH208
