"""Weights that are quantised as they are loaded: the same on every provider, better than rounding, refused by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from shards.checkpoint.folder import Checkpoint
from shards.checkpoint.opening import open_checkpoint
from shards.checkpoint.quantising import QuantisedCheckpoint
from shards.errors import CheckpointError, UnsupportedModel
from shards.model.loading import check_quantisable, load_stage
from shards.model.native_config import parse_native
from shards.model.precision import VERSION, Precision
from shards.model.quantise import quantise
from shards.model.span import Span
from shards.model.weights import load_packed_span
from shards.progress import silent
from tests.shards.adapter_models import make_adapter_checkpoint
from tests.shards.gguf_files import NARROW, make_gguf
from tests.shards.models import make_checkpoint
from tests.shards.stages import THREE_STAGES, Pipeline, random_tokens
from tests.shards.widened import write_widened

torch.set_num_threads(1)

CPU = torch.device("cpu")
WHOLE = (Span(0, 5),)
KINDS = ("Q8_0", "Q4_1")


def weights(spread: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    normal = torch.randn(96, 128, generator=generator)
    match spread:
        case "normal":
            return normal * 0.05
        case "outliers":
            return normal * 0.02 * (1 + 9 * (torch.rand(96, 128, generator=generator) < 0.01))
        case _:
            return normal.sign() * normal.abs() ** 1.5 * 3 - 1


def widened(blocks: torch.Tensor, kind: str) -> torch.Tensor:
    """By the format's own library."""
    return torch.from_numpy(quants.dequantize(blocks.numpy(), GGMLQuantizationType[kind]))


@pytest.mark.parametrize("spread", ["normal", "outliers", "to one side"])
@pytest.mark.parametrize("kind", KINDS)
def test_less_is_lost_than_by_rounding_to_nearest(kind: str, spread: str) -> None:
    weight = weights(spread)
    nearest = torch.from_numpy(quants.quantize(weight.numpy(), GGMLQuantizationType[kind]))
    ours, theirs = (float(((widened(each, kind) - weight) ** 2).mean()) for each in (quantise(weight, kind), nearest))
    assert ours <= theirs * (1.0 if kind == "Q8_0" else 0.9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_becomes_the_same_whatever_is_beside_it_and_on_any_number_of_threads(
    kind: str, dtype: torch.dtype
) -> None:
    weight = torch.cat([weights("normal")] * 12).repeat(1, 3).to(dtype)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        whole = quantise(weight, kind)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(whole[7:9], quantise(weight[7:9], kind))
    assert torch.equal(whole, torch.cat([quantise(part, kind) for part in weight.split(97)]))
    assert torch.equal(whole, quantise(weight.float(), kind))


PINNED = {
    "Q8_0": "9b4d9a557ffabdb9db2e4efd8644477334bd09c152ca9789b397970b38831c3d",
    "Q4_1": "18a35153fec9b1906fd21632ee46862e90f0e22a8462296ba99e64040c079854",
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_blocks_are_those_of_this_version_on_every_machine(kind: str) -> None:
    """Other numbers call for another `VERSION`, or providers of different ones would form a ring."""
    words = np.frombuffer(hashlib.shake_256(b"weights").digest(8 * 512 * 64), dtype="<u4").reshape(2, 512, 64)
    uniform = words.astype(np.float64) / 2**32 - 0.5
    weight = torch.from_numpy((uniform[0] * np.abs(uniform[1]) * 0.3).astype(np.float32))
    assert (VERSION, hashlib.sha256(quantise(weight, kind).numpy().tobytes()).hexdigest()) == (1, PINNED[kind])


def test_blocks_of_equal_weights_are_exact_and_zeros_stay_zeros() -> None:
    weight = torch.cat([torch.zeros(1, 64), torch.full((1, 64), -0.375), torch.full((1, 64), 3.0)])
    assert torch.equal(widened(quantise(weight, "Q4_1"), "Q4_1"), weight)
    assert torch.equal(widened(quantise(weight[:1], "Q8_0"), "Q8_0"), weight[:1])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e9])
@pytest.mark.parametrize("kind", KINDS)
def test_what_no_block_can_hold_is_refused(kind: str, wrong: float) -> None:
    weight = weights("normal")
    weight[50, 77] = wrong
    with pytest.raises(CheckpointError, match="not finite, or too large"):
        quantise(weight, kind)


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("family", ["llama", "llama-tied", "llama-biased", "mistral", "qwen2", "qwen3"])
def test_three_stages_give_the_bits_of_one_over_the_widened_weights(
    family: str, precision: Precision, tmp_path: Path
) -> None:
    more = {"head_dim": 32} if family == "qwen3" else {}
    source = make_checkpoint(tmp_path / "source", family, max_shard_size="60KB", **NARROW, **more)
    cut = Pipeline(source, THREE_STAGES, precision=precision)
    whole = Pipeline(write_widened(source, precision, tmp_path / "widened"), WHOLE)
    pairs = [(cut.session(), whole.session()) for _ in range(9)]
    for count in (1, 2, 5, 8, 33):
        tokens = random_tokens(count, seed=count)
        assert torch.equal(cut.logits(pairs[0][0], tokens), whole.logits(pairs[0][1], tokens))
    for together in (2, 6, 9):
        parts = [[(pair[side], [10 + index]) for index, pair in enumerate(pairs[:together])] for side in (0, 1)]
        for found, expected in zip(cut.step(parts[0]), whole.step(parts[1]), strict=True):
            assert torch.equal(found, expected)
    prompt = random_tokens(20)
    assert cut.greedy(cut.session(), prompt, 40) == whole.greedy(whole.session(), prompt, 40)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("precision", "bits"), [(Precision.INT8, 8.5), (Precision.INT4, 6.376)])
def test_weights_take_the_bytes_that_are_planned(
    precision: Precision, bits: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path / "m", "llama", dtype=dtype, **{**NARROW, "hidden_size": 256, "n_heads": 8})
    checkpoint = QuantisedCheckpoint(Checkpoint.open(folder), precision)
    span = Span(0, 5)
    weights = load_packed_span(
        checkpoint, parse_native(checkpoint.spec), span, panel=16, dtype=torch.float32, progress=silent
    )
    layers = [each for block in weights.blocks for each in block.linears()]
    count = sum(layer.inputs * layer.outputs for layer in layers)
    config = parse_native(checkpoint.spec)
    assert precision.block_bytes(config) == pytest.approx(bits / 8, rel=0.01)
    assert sum(layer.panels.nbytes for layer in layers) == pytest.approx(count * precision.block_bytes(config))
    names = [name for name in checkpoint.tensors_of(span) if "_proj" in name]
    assert sum(map(checkpoint.stored_bytes, names)) == pytest.approx(count * precision.block_bytes(config))


def test_progress_ends_at_the_bytes_of_the_blocks(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", "llama", **NARROW)
    seen: list[tuple[int, int]] = []
    checkpoint = open_checkpoint(folder, precision=Precision.INT4)
    stage = load_stage(checkpoint, Span(0, 5), progress=lambda done, total, what: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
    assert seen[-1][1] == checkpoint.nbytes(Span(0, 5))
    assert stage.numerics == "float32/cpu/native/int4"
    assert load_stage(Checkpoint.open(folder), Span(0, 5)).numerics == "float32/cpu/native"


def refused(folder: Path, *words: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
    with pytest.raises(UnsupportedModel) as error:
        check_quantisable(Checkpoint.open(folder).spec, torch.device(device), dtype, folder)
    assert all(word in str(error.value) for word in ("--quantize", *words))


def test_what_cannot_be_quantised_is_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make_checkpoint(tmp_path / "plain", "llama", **NARROW)
    check_quantisable(Checkpoint.open(plain).spec, CPU, torch.bfloat16, plain)
    refused(plain, "CPUs", "leave it out or use --device cpu", device="cuda:0")
    refused(plain, "float16", "--dtype", dtype=torch.float16)
    refused(make_checkpoint(tmp_path / "odd", "llama"), "multiples of 32", "hidden_size is 48", "leave it out")
    refused(make_adapter_checkpoint(tmp_path / "gpt2", "gpt2"), "native path", "gpt2", "leave it out")
    config = json.loads((plain / "config.json").read_text())
    packed = make_checkpoint(tmp_path / "packed", "llama", **NARROW)
    (packed / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    refused(packed, "quantised already", "leave it out")
    monkeypatch.setattr("shards.model.loading.native_library", lambda: None)
    refused(plain, "C++ compiler", "MESH_NATIVE")


def test_a_gguf_file_is_not_quantised_again(tmp_path: Path) -> None:
    path, widened_folder = make_gguf(tmp_path, "llama", "Q8_0", **NARROW)
    with pytest.raises(UnsupportedModel, match="is a GGUF file, which has its own precision: leave it out"):
        check_quantisable(Checkpoint.open(widened_folder).spec, CPU, torch.float32, path)
    with pytest.raises(UnsupportedModel, match="is a GGUF file"):
        open_checkpoint(path, precision=Precision.INT8)


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", "llama", **NARROW)
    source = write_widened(folder, Precision.INT8, tmp_path / "w")
    from safetensors.torch import load_file, save_file

    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight has weights that are not finite"):
        load_stage(open_checkpoint(source, precision=Precision.INT4), Span(0, 2))
