"""Quantised folders that are not read are refused by name with a way out, broken ones by file and tensor."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mesh.identity import Identity
from mesh.node import NodeConfig
from mesh.provider.config import JoinConfig
from mesh.provider.events import JoinEvent
from mesh.provider.join import join
from mesh.provider.model_files import read_model_files
from mesh.provider.planner.capacity import Wanted, loaded_size, model_bytes, survey
from mesh.provider.planner.stages import Place
from shards.checkpoint.folder import Checkpoint
from shards.checkpoint.manifest import write_manifest
from shards.checkpoint.opening import open_checkpoint
from shards.errors import CheckpointError, UnsupportedModel
from shards.model.footprint import loaded_bytes
from shards.model.loading import load_stage
from shards.model.span import Span
from tests.shards.adapter_models import make_adapter_checkpoint
from tests.shards.models import make_checkpoint
from tests.shards.packed_files import FORMS, WIDE, Tensors, awq, compressed, fp8, gptq, make_packed, rewrite

torch.set_num_threads(1)

WAY_OUT = "take a copy of the model that is not quantised"
CPU = torch.device("cpu")


def group(**changes: Any) -> dict[str, Any]:
    """compressed-tensors' groups, with changes to how weights are stored."""
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    return {"group_0": {"targets": ["Linear"], "weights": {**weights, **changes}}}


COMPRESSED = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": group()}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    "quanto": ({"quant_method": "quanto"}, "quanto"),
    "torchao": ({"quant_method": "torchao"}, "torchao"),
    "hqq": ({"quant_method": "hqq"}, "hqq"),
    "mxfp4": ({"quant_method": "mxfp4"}, "mxfp4"),
    "auto-round": ({"quant_method": "auto-round", "bits": 4}, "auto-round"),
    "MLX": ({"bits": 4, "group_size": 64}, "quant_method = None"),
    "3 bits": ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "GPTQ weights of 3 bits"),
    "2 bits of some": (
        {"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*down.*": {"bits": 2}}},
        "GPTQ weights of 2 bits",
    ),
    "marlin": ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "'marlin'"),
    "old marlin": ({"quant_method": "gptq", "bits": 4, "is_marlin_format": True}, "is_marlin_format"),
    "exllama": ({"quant_method": "awq", "bits": 4, "version": "exllama"}, "'exllama'"),
    "gemv": ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "'gemv'"),
    "no zero points": ({"quant_method": "awq", "bits": 4, "zero_point": False}, "zero_point = False"),
    "words of bytes": ({"quant_method": "gptq", "bits": 4, "pack_dtype": "int8"}, "pack_dtype"),
    "rotated": ({"quant_method": "gptq", "bits": 4, "rotation": "hadamard"}, "rotation"),
    "e5m2": ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt = 'e5m2'"),
    "fp4 experts": ({"quant_method": "fp8", "expert_dtype": "fp4"}, "expert_dtype"),
    "NVFP4": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "NVFP4"),
    "nothing known": ({"quant_method": "gptq", "bits": 4, "twisted": 1}, "twisted"),
    "sparse": ({**COMPRESSED, "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bitmask"),
    "not compressed": ({**COMPRESSED, "quantization_status": "calibration"}, "calibration"),
    "nvfp4": ({**COMPRESSED, "format": "nvfp4-pack-quantized"}, "nvfp4-pack-quantized"),
    "hadamard": ({**COMPRESSED, "transform_config": {"config_groups": {"a": {}}}}, "transform_config"),
    "5 bits": ({**COMPRESSED, "config_groups": group(num_bits=5)}, "5 bits"),
    "4 bit activations": (
        {**COMPRESSED, "config_groups": {"a": {**group()["group_0"], "input_activations": {"num_bits": 4}}}},
        "activations of 4 bits",
    ),
    "4 bit cache": ({**COMPRESSED, "kv_cache_scheme": {"num_bits": 4}}, "keys and values of 4 bits"),
    "outputs": (
        {**COMPRESSED, "config_groups": {"a": {**group()["group_0"], "output_activations": {"num_bits": 8}}}},
        "output_activations",
    ),
    "dynamic weights": ({**COMPRESSED, "config_groups": group(dynamic=True)}, "dynamic = True"),
    "another strategy": ({**COMPRESSED, "config_groups": group(strategy="tensor_group")}, "tensor_group"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("plain"), "llama")


def with_config(folder: Path, target: Path, **changes: Any) -> Path:
    """The small files of a model, without any weights."""
    target.mkdir()
    for file in folder.glob("*.json"):
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


@pytest.mark.parametrize("name", REFUSED)
def test_forms_that_are_not_read_are_refused_before_weights_are_there(name: str, plain: Path, tmp_path: Path) -> None:
    settings, words = REFUSED[name]
    folder = with_config(plain, tmp_path / "model", quantization_config=settings)
    with pytest.raises(UnsupportedModel, match=words) as refused:
        read_model_files("m", folder)
    assert WAY_OUT in str(refused.value)


def test_a_plan_and_a_provider_that_has_not_joined_yet_refuse_them_too(plain: Path, tmp_path: Path) -> None:
    folder = with_config(plain, tmp_path / "model", quantization_config={"quant_method": "hqq"})
    shutil.copyfile(plain / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(UnsupportedModel, match="hqq"):
        asyncio.run(survey(Wanted(models=(str(folder),), places=(Place("cpu"), Place("cpu")))))
    told: list[JoinEvent] = []
    with pytest.raises(UnsupportedModel, match="hqq"):
        asyncio.run(join(JoinConfig(str(folder), NodeConfig(Identity.generate())), told.append))
    assert told == []  # of a node, or of anything


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization_config": {"quant_method": "hqq"}},
        {"compression_config": {"quant_method": "hqq"}},
        {"quantization": {"group_size": 64, "bits": 4}},
        {
            "model_type": "llava",
            "architectures": None,
            "text_config": {
                "model_type": "llama",
                "num_hidden_layers": 5,
                "hidden_size": 48,
                "vocab_size": 300,
                "quantization_config": {"x": 1},
            },
        },
        {"thinker_text_config": {"quantization_config": {"quant_method": "awq"}}},
    ],
    ids=str,
)
def test_it_is_found_wherever_a_config_says_it(changes: dict[str, Any], plain: Path, tmp_path: Path) -> None:
    folder = with_config(plain, tmp_path / "model", **changes)
    with pytest.raises(UnsupportedModel, match=WAY_OUT):
        read_model_files("m", folder)


def test_settings_in_a_file_beside_are_read_and_count_for_the_digest(tmp_path: Path) -> None:
    files = {
        "quantize_config.json": (gptq(4, 32), {"bits": 4, "group_size": 32, "desc_act": False, "sym": False}),
        "quant_config.json": (awq(32), {"w_bit": 4, "q_group_size": 32, "zero_point": True, "version": "GEMM"}),
        "hf_quant_config.json": (
            fp8(None, scale="weight_scale"),
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}},
        ),
    }
    for name, (form, settings) in files.items():
        path, widened = make_packed(tmp_path / name, form)
        config = json.loads((path / "config.json").read_text())
        del config["quantization_config"]
        (path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError):  # as a plain model
            load_stage(open_checkpoint(path), Span(0, 1))
        before = read_model_files("m", path).digest
        (path / name).write_text(json.dumps(settings))
        assert read_model_files("m", path).digest != before
        write_manifest(path)
        read_model_files("m", path)
        expected = load_file(widened / "model.safetensors")
        checkpoint = open_checkpoint(path)
        assert all(torch.equal(checkpoint.read(key).float(), numbers) for key, numbers in expected.items())


@pytest.mark.parametrize("family", ["gpt2", "falcon-new"])
def test_models_that_only_the_adapter_serves_are_refused_with_a_way_out(family: str, tmp_path: Path) -> None:
    folder = make_adapter_checkpoint(tmp_path, family)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = dict(awq(32).settings)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).exists()
    with pytest.raises(UnsupportedModel, match=f"awq.int4 weights is not served .*{WAY_OUT}"):
        read_model_files("m", folder)
    with pytest.raises(UnsupportedModel, match=WAY_OUT):
        load_stage(Checkpoint.open(folder), Span(0, 1))


def test_eight_bit_weights_that_nothing_explains_are_never_taken_for_numbers(tmp_path: Path) -> None:
    folder = make_adapter_checkpoint(tmp_path, "gpt2")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("h.1.attn.c_attn.weight"))
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"h\.1\.attn\.c_attn\.weight is quantised"):
        load_stage(open_checkpoint(folder), Span(0, 2))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([1], "must be an object"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "group_size must be -1 or"),
        ({"quant_method": "gptq", "bits": 4, "group_size": "32"}, "group_size must be -1 or"),
        ({"quant_method": "gptq", "bits": 4, "desc_act": 1}, "desc_act must be true or false"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": [1]}, "dynamic must be an object"),
        ({"quant_method": "awq", "bits": 4, "group_size": 32, "q_group_size": 64}, "contradict each other"),
        ({"quant_method": "awq", "modules_to_not_convert": "lm_head"}, "must be a list"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size must be two sizes"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "weight_block_size must be two sizes"),
        ({**COMPRESSED, "config_groups": {}}, "config_groups must be an object"),
        ({**COMPRESSED, "config_groups": {"W4A16": ["Linear"]}}, "must be an object"),
        ({**COMPRESSED, "config_groups": group(num_bits="4")}, "num_bits must be a whole number"),
        ({**COMPRESSED, "config_groups": group(strategy="block")}, "block_structure must be two sizes"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings: Any, words: str, plain: Path, tmp_path: Path) -> None:
    folder = with_config(plain, tmp_path / "model", quantization_config=settings)
    with pytest.raises(CheckpointError, match=words):
        read_model_files("m", folder)


Q = "model.layers.1.self_attn.q_proj"


def cut(end: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[f"{Q}.{end}"] = tensors[f"{Q}.{end}"][:-1].clone()

    return change


def put(end: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({f"{Q}.{end}": value(tensors[f"{Q}.{end}"]).clone()})


def drop(end: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(f"{Q}.{end}")


def fill(place: int, number: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def filled(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        changed.view(-1)[place] = number
        return changed

    return filled


NAN = torch.tensor([0x7F], dtype=torch.uint8).view(torch.float8_e4m3fn)[0]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("awq", cut("qzeros"), r"qzeros has shape \[1, 8\], not \[2, 8\]"),
        ("awq", cut("scales"), "scales has shape"),
        ("awq", drop("scales"), "there is no scales beside it"),
        ("awq", put("scales", lambda t: t.to(torch.int16)), "scales has dtype torch.int16"),
        ("awq", put("qweight", lambda t: t.long()), "qweight has dtype torch.int64"),
        ("awq", put("qweight", lambda t: t.flatten()), "qweight has shape"),
        ("awq", put("scales", fill(0, float("inf"))), "scales has a scale that makes no numbers"),
        ("gptq", put("g_idx", fill(3, 2)), "g_idx names a group that is none of 2"),
        ("gptq", put("g_idx", fill(3, -1)), "g_idx names a group that is none of 2"),
        ("gptq", cut("g_idx"), "qweight has 8 rows of words and 2 groups"),
        ("gptq", cut("qweight"), "qweight has 7 rows of words and 2 groups"),
        ("gptq", put("qweight", lambda t: t.repeat(1, 2)), "qzeros has shape"),
        ("fp8 tensor", put("weight", fill(5, NAN)), "weights that are no numbers"),
        ("fp8 channels", cut("weight_scale"), "weight_scale has shape"),
        ("fp8 cut blocks", cut("weight_scale_inv"), "weight_scale_inv has shape"),
        ("fp8 tensor", put("weight", lambda t: t.float()), "weight has dtype torch.float32"),
        ("compressed int4", put("weight_shape", fill(0, 1 << 40)), "weight_shape says"),
        ("compressed int4", put("weight_shape", fill(1, 65)), r"weight_packed has shape \[64, 8\]"),
        ("compressed int4", put("weight_shape", fill(0, 63)), "weight_packed has shape"),
        ("compressed int4 asymmetric", drop("weight_zero_point"), "weight_scale has shape"),
        ("compressed int4 asymmetric", cut("weight_zero_point"), "weight_zero_point has shape"),
        ("compressed plain int8", put("weight_scale", lambda t: t.repeat(1, 2)), "weight_scale has shape"),
    ],
)
def test_a_broken_tensor_is_refused_by_file_and_name(
    name: str, change: Callable[[Tensors], object], words: str, tmp_path: Path
) -> None:
    path, _ = make_packed(tmp_path, FORMS[name], n_blocks=2)
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=words) as refused:
        load_stage(open_checkpoint(path), Span(1, 2))
    assert "model.safetensors" in str(refused.value) and Q in str(refused.value)
    load_stage(open_checkpoint(path), Span(0, 1))


def test_tensors_that_the_settings_do_not_call_for_are_refused(tmp_path: Path) -> None:
    path, _ = make_packed(tmp_path, awq(32), n_blocks=2)
    rewrite(path, lambda tensors: tensors.update({f"{Q}.weight_global_scale": torch.ones(1)}))
    with pytest.raises(UnsupportedModel, match="weight_global_scale"):
        open_checkpoint(path)
    rewrite(path, drop("weight_global_scale"), modules_to_not_convert=[Q])
    with pytest.raises(CheckpointError, match="q_proj is quantised, and config"):
        open_checkpoint(path)
    rewrite(path, lambda tensors: None, modules_to_not_convert=None, group_size=64)
    with pytest.raises(CheckpointError, match="qzeros has shape"):
        load_stage(open_checkpoint(path), Span(0, 2))
    plain = with_config(path, tmp_path / "not")
    save_file({"model.norm.weight": torch.ones(64)}, plain / "model.safetensors")
    with pytest.raises(CheckpointError, match="no layer is quantised"):
        open_checkpoint(plain)


def test_what_is_said_of_activations_and_caches_of_eight_bits_changes_nothing(tmp_path: Path) -> None:
    path, widened = make_packed(tmp_path, compressed("float-quantized", 8, "channel"), n_blocks=2)

    def change(tensors: Tensors) -> None:
        tensors[f"{Q}.input_scale"] = torch.ones(1)
        tensors["model.layers.1.self_attn.k_scale"] = torch.ones(1)

    groups = json.loads((path / "config.json").read_text())["quantization_config"]["config_groups"]
    groups["group_0"]["input_activations"] = {"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"}
    rewrite(path, change, config_groups=groups, kv_cache_scheme={"num_bits": 8, "type": "float"})
    checkpoint, expected = open_checkpoint(path), load_file(widened / "model.safetensors")
    assert set(checkpoint.names()) == set(expected)
    assert torch.equal(checkpoint.read(f"{Q}.weight"), expected[f"{Q}.weight"])
    load_stage(checkpoint, Span(0, 2))


def test_layers_of_several_forms_and_whole_ones_lie_side_by_side(tmp_path: Path) -> None:
    four, eight = gptq(4, 32), gptq(8, 32)

    def write(shape: torch.Size, g: torch.Generator) -> Any:
        if shape[0] == 96:  # gate and up
            return eight.write(shape, g)
        if shape[0] == 32:  # keys and values
            whole = torch.randn(shape, generator=g).half()
            return {"weight": whole}, whole.float()
        return four.write(shape, g)

    settings = {**four.settings, "dynamic": {"+:.*(gate|up)_proj": {"bits": 8}, "-:.*[kv]_proj": {}}}
    path, widened = make_packed(tmp_path, type(four)(settings, write, four.shape))
    checkpoint, expected = open_checkpoint(path), load_file(widened / "model.safetensors")
    assert all(torch.equal(checkpoint.read(key).float(), numbers) for key, numbers in expected.items())
    load_stage(checkpoint, Span(0, 5))


@pytest.mark.parametrize(
    "form", [awq(128), gptq(8, 128), fp8((128, 128)), compressed("pack-quantized", 4, "group", 128)]
)
def test_a_plan_estimates_what_weights_take_once_they_are_loaded(form: Any, tmp_path: Path) -> None:
    path, _ = make_packed(tmp_path, form, **{**WIDE, "hidden_size": 512, "n_blocks": 3})
    files, checkpoint = read_model_files("m", path), open_checkpoint(path)
    for dtype in (torch.float32, torch.float16):
        counted = loaded_bytes(checkpoint, Span(0, 3), device=CPU, dtype=dtype)
        estimated = loaded_size(path, files, model_bytes(path, files), CPU, dtype)
        assert 0.9 * counted <= estimated <= 1.25 * counted
