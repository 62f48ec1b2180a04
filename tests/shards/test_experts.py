"""Mixtures of experts: how they are stored, what is refused, and what a stage needs room for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from shards.checkpoint.folder import Checkpoint
from shards.errors import CheckpointError
from shards.model.experts import ExpertWeights, choose
from shards.model.experts_config import ExpertsConfig
from shards.model.llama import load_native_stage
from shards.model.loading import is_native, load_stage
from shards.model.mxfp4 import widen
from shards.model.native_config import parse_native
from shards.model.span import Span
from shards.model.stage import LogitsMode
from shards.model.weights import load_packed_span
from shards.progress import silent
from tests.shards.models import MIXTURES, make_checkpoint
from tests.shards.stages import Memory, Pipeline, random_tokens

torch.set_num_threads(1)
WHOLE = (Span(0, 5),)
MXFP4_SHAPE = {"hidden_size": 64, "intermediate_size": 32, "n_heads": 4, "n_kv_heads": 2}


def change(folder: Path, how: Callable[[dict[str, torch.Tensor]], None], **config: object) -> None:
    """Rewrite a checkpoint's tensors, and fields of its config."""
    tensors = load_file(folder / "model.safetensors")
    how(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


def in_mxfp4(tensors: dict[str, torch.Tensor]) -> None:
    """Experts in blocks of four bits, of any bytes, in the place of floats."""
    chosen = torch.Generator().manual_seed(4)
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        shape = (experts, outputs, inputs // 32)
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), generator=chosen, dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(121, 126, shape, generator=chosen, dtype=torch.uint8)


def widened(tensors: dict[str, torch.Tensor]) -> None:
    """The same as transformers reads them."""
    for name in [name.removesuffix("_blocks") for name in tensors if name.endswith("_blocks")]:
        blocks, scales = tensors.pop(f"{name}_blocks"), tensors.pop(f"{name}_scales")
        tensors[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)


def tiny(tensors: dict[str, torch.Tensor]) -> None:
    """One block whose exponent is beyond float16."""
    tensors["model.layers.2.mlp.experts.down_proj_scales"][1, 2, 0] = 90


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("how", [lambda tensors: None, tiny], ids=["narrow", "one widened"])
def test_experts_in_four_bits_are_what_transformers_widens_them_to(
    how: Callable[[dict[str, torch.Tensor]], None], kernels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels == "torch":
        monkeypatch.setattr("shards.model.llama.native_library", lambda: None)
    packed = make_checkpoint(tmp_path / "packed", "gpt-oss", **MXFP4_SHAPE)
    change(packed, in_mxfp4, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": []})
    change(packed, how)
    wide = make_checkpoint(tmp_path / "wide", "gpt-oss", **MXFP4_SHAPE)
    for step in (in_mxfp4, how, widened):
        change(wide, step)
    assert is_native(Checkpoint.open(packed).spec)
    prompt = random_tokens(40)
    found, expected = Pipeline(packed, WHOLE), Pipeline(wide, WHOLE)
    ours = found.logits(found.session(), prompt)
    theirs = expected.logits(expected.session(), prompt)
    if kernels == "native":
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert len(set(ours.argmax(-1).tolist())) > 5


def test_every_block_of_four_bits_means_what_transformers_says() -> None:
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 256, 16, 16)
    scales = torch.arange(256, dtype=torch.uint8).view(1, 256, 1).expand(1, 256, 16)
    theirs = convert_moe_packed_tensors(blocks.contiguous(), scales.contiguous(), dtype=torch.bfloat16)[0].T
    torch.testing.assert_close(widen(blocks[0], scales[0]), theirs, atol=0, rtol=0, equal_nan=True)


def test_experts_in_four_bits_stay_smaller_than_in_eight(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "gpt-oss", n_blocks=1, **{**MXFP4_SHAPE, "intermediate_size": 64})
    change(folder, in_mxfp4, quantization_config={"quant_method": "mxfp4"})
    checkpoint = Checkpoint.open(folder)
    config = parse_native(checkpoint.spec)
    weights = load_packed_span(checkpoint, config, Span(0, 1), panel=16, dtype=torch.float32, progress=silent)
    mlp = weights.blocks[0].mlp
    assert isinstance(mlp, ExpertWeights)
    assert sum(each.panels.nbytes for each in (*mlp.gate_up, *mlp.down)) == 6 * 3 * 64 * 64 * 6 // 8


@pytest.mark.parametrize("family", MIXTURES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32_where_the_same_experts_are_chosen(
    family: str, dtype: str, tmp_path: Path
) -> None:
    checkpoint, tokens = Checkpoint.open(make_checkpoint(tmp_path, family)), torch.tensor(random_tokens(24, seed=9))
    outputs = []
    for chosen in ("float32", dtype):
        stage = load_stage(checkpoint, Span(0, 5), dtype=chosen)
        outputs += stage.forward([Memory(stage).session(24).piece(tokens, want=LogitsMode.ALL)])
    assert torch.nn.functional.cosine_similarity(*outputs).median() > 0.999


@pytest.mark.parametrize("family", MIXTURES)
def test_both_ways_of_storing_experts_give_the_same_bits(family: str, tmp_path: Path) -> None:
    single = make_checkpoint(tmp_path / "single", family)
    fused = make_checkpoint(tmp_path / "fused", family, fused=True)
    if family != "gpt-oss":  # which has but one
        assert Checkpoint.open(single).names() != Checkpoint.open(fused).names()
    prompt = random_tokens(20)
    outputs = [
        pipeline.logits(pipeline.session(), prompt) for pipeline in (Pipeline(single, WHOLE), Pipeline(fused, WHOLE))
    ]
    assert torch.equal(*outputs)


def drop(ending: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def how(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[next(name for name in tensors if name.endswith(ending))]

    return how


def cut(ending: str, dim: int) -> Callable[[dict[str, torch.Tensor]], None]:
    def how(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if name.endswith(ending))
        tensors[name] = tensors[name].narrow(dim, 0, tensors[name].shape[dim] - 1)

    return how


@pytest.mark.parametrize(
    ("family", "fused", "how"),
    [
        ("mixtral", False, drop("experts.3.w2.weight")),
        ("mixtral", False, cut("experts.3.w1.weight", 0)),
        ("mixtral", True, cut("experts.gate_up_proj", 0)),
        ("mixtral", True, cut("experts.gate_up_proj", 1)),
        ("mixtral", True, cut("experts.down_proj", 2)),
        ("qwen3-moe", False, drop("mlp.gate.weight")),
        ("qwen3-moe", False, cut("mlp.gate.weight", 0)),
        ("gpt-oss", False, drop("self_attn.sinks")),
        ("gpt-oss", False, drop("experts.down_proj_bias")),
        ("gpt-oss", False, cut("experts.gate_up_proj", 2)),
        ("gpt-oss", False, cut("mlp.router.bias", 0)),
    ],
    ids=range(11),
)
def test_a_checkpoint_without_all_of_its_experts_is_refused(
    family: str, fused: bool, how: Callable[[dict[str, torch.Tensor]], None], tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path, family, fused=fused)
    change(folder, how)
    with pytest.raises(CheckpointError):
        load_stage(Checkpoint.open(folder), Span(0, 5))


@pytest.mark.parametrize(
    ("ending", "value"),
    [
        ("_scales", torch.zeros(6, 64, 1, dtype=torch.uint8)),
        ("_scales", torch.zeros(6, 64, 2)),
        ("_blocks", torch.zeros(6, 64, 2, 15, dtype=torch.uint8)),
        ("_blocks", torch.zeros(6, 64, 32, dtype=torch.uint8)),
        ("_blocks", torch.zeros(6, 64, 2, 16, dtype=torch.int8)),
    ],
)
def test_four_bits_that_make_no_sense_are_refused(ending: str, value: torch.Tensor, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "gpt-oss", n_blocks=1, **MXFP4_SHAPE)
    change(folder, in_mxfp4, quantization_config={"quant_method": "mxfp4"})
    change(folder, lambda tensors: tensors.update({f"model.layers.0.mlp.experts.gate_up_proj{ending}": value}))
    with pytest.raises(CheckpointError, match=r"MXFP4|bytes are needed"):
        load_native_stage(Checkpoint.open(folder), Span(0, 1), device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_a_router_that_says_no_numbers_chooses_some_experts(
    kernels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels == "torch":
        monkeypatch.setattr("shards.model.llama.native_library", lambda: None)
    folder = make_checkpoint(tmp_path, "mixtral", n_blocks=1)
    change(folder, lambda tensors: tensors["model.layers.0.block_sparse_moe.gate.weight"][1:4].fill_(torch.nan))
    pipeline = Pipeline(folder, (Span(0, 1),))
    assert not pipeline.logits(pipeline.session(), random_tokens(9)).isfinite().any()


def test_of_equally_likely_experts_some_are_chosen_once_each() -> None:
    config = ExpertsConfig(6, 4, 8, normalised=True, bias=False, gate=None, blocks=(True,))
    chosen, shares = choose(torch.zeros(3, 6), config)
    assert all(len(set(row)) == 4 for row in chosen.tolist())
    torch.testing.assert_close(shares, torch.full((3, 4), 0.25))
