"""Writes small checkpoints in quantised forms as their makers lay them out, and beside each the weights it stands for.

The layouts are written down here from the formats' own sources, packing where the product unpacks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.shards.models import make_checkpoint, write_tokenizer

NARROW = {"hidden_size": 64, "intermediate_size": 96, "n_heads": 4, "n_kv_heads": 2}
WIDE = {"hidden_size": 256, "intermediate_size": 384, "n_heads": 8, "n_kv_heads": 4}
"""A shape in which 128 weights share a scale."""

Tensors = dict[str, torch.Tensor]
Written = tuple[Tensors, torch.Tensor]
"""A layer's tensors by what their names end in, and the float32 numbers that they stand for."""
Writer = Callable[[torch.Size, torch.Generator], Written]


@dataclass(frozen=True, slots=True)
class Form:
    """A form to write: the settings in config.json, a writer of layers, and a shape of model."""

    settings: Mapping[str, Any]
    write: Writer
    shape: Mapping[str, int]
    dtype: torch.dtype = torch.float16


def make_packed(
    folder: Path, form: Form, family: str = "llama", *, tables: bool = False, **overrides: Any
) -> tuple[Path, Path]:
    """A random model in a form, its embedding and head too with `tables`, and a folder with what it stands for."""
    source = make_checkpoint(folder / "source", family, dtype=form.dtype, **{**form.shape, **overrides})
    generator = torch.Generator().manual_seed(5)
    packed: Tensors = {}
    widened: Tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if tensor.ndim != 2 or (".layers." not in name and not tables):
            packed[name], widened[name] = tensor, tensor.float()
            continue
        module = name.removesuffix(".weight")
        tensors, widened[name] = form.write(tensor.shape, generator)
        packed |= {f"{module}.{end}": each.contiguous() for end, each in tensors.items()}
    config = json.loads((source / "config.json").read_text())
    for target, tensors, more in (
        (folder / "packed", packed, {"quantization_config": form.settings}),
        (folder / "widened", widened, {"dtype": "float32"}),
    ):
        target.mkdir()
        save_file(tensors, target / "model.safetensors", {"format": "pt"})
        (target / "config.json").write_text(json.dumps({**config, **more}))
        write_tokenizer(target)
    return folder / "packed", folder / "widened"


def rewrite(folder: Path, change: Callable[[Tensors], object], **settings: Any) -> Path:
    """Change a written form's tensors, and some of its settings."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = {**config["quantization_config"], **settings}
    path.write_text(json.dumps(config))
    return folder


def words(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [rows, n * bits / 32 rounded up]: the first number of each word lowest."""
    each = 32 // bits
    padded = torch.nn.functional.pad(codes.long(), (0, -codes.shape[1] % each)).view(codes.shape[0], -1, each)
    total = (padded << (bits * torch.arange(each))).sum(-1)
    return torch.where(total >= 1 << 31, total - (1 << 32), total).to(torch.int32)


def integers(shape: torch.Size, bits: int, group: int | None, g: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Codes [outputs, inputs] from 0, zero points [outputs, groups] and float16 scales that suit the weights."""
    outputs, inputs = shape
    groups = 1 if group is None else -(-inputs // group)
    codes = torch.randint(0, 1 << bits, (outputs, inputs), generator=g)
    zeros = torch.randint(0, 1 << bits, (outputs, groups), generator=g)
    near = (zeros + 3 * (1 << (bits - 1))) // 4  # about the middle, and not always: the ends are there too
    zeros = torch.where(torch.rand(zeros.shape, generator=g) < 0.05, zeros, near)
    scales = (0.5 + torch.rand(outputs, groups, generator=g)) * 5 / (1 << bits) / inputs**0.5
    return codes, zeros, scales.half()


def stands_for(
    codes: torch.Tensor, zeros: torch.Tensor | int, scales: torch.Tensor, groups: torch.Tensor
) -> torch.Tensor:
    """(code - zero) * scale in float32, `groups` [inputs] being each input's."""
    zero = zeros if isinstance(zeros, int) else zeros[:, groups]
    return (codes - zero).float() * scales.float()[:, groups]


def in_turn(inputs: int, group: int | None) -> torch.Tensor:
    return torch.arange(inputs) // (group or inputs)


def awq(group: int | None) -> Form:
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def layout(columns: torch.Tensor) -> torch.Tensor:
        return words(columns.view(columns.shape[0], -1, 8)[:, :, order].flatten(1), 4)

    def write(shape: torch.Size, g: torch.Generator) -> Written:
        codes, zeros, scales = integers(shape, 4, group, g)
        tensors = {"qweight": layout(codes.t()), "qzeros": layout(zeros.t()), "scales": scales.t()}
        return tensors, stands_for(codes, zeros, scales, in_turn(shape[1], group))

    settings = {"quant_method": "awq", "bits": 4, "group_size": group or -1, "zero_point": True, "version": "gemm"}
    return Form({**settings, "modules_to_not_convert": None}, write, WIDE if group == 128 else NARROW)


def by_activation(inputs: int, group: int | None) -> torch.Tensor:
    """Each input's group, as where the ones that weigh most are quantised first: layers over the same inputs agree."""
    return in_turn(inputs, group)[torch.randperm(inputs, generator=torch.Generator().manual_seed(inputs))]


def gptq(
    bits: int,
    group: int | None,
    *,
    version: int = 1,
    g_idx: bool = True,
    order: Callable[[int, int | None, torch.Generator], torch.Tensor] | None = None,
) -> Form:
    def write(shape: torch.Size, g: torch.Generator) -> Written:
        codes, zeros, scales = integers(shape, bits, group, g)
        groups = in_turn(shape[1], group) if order is None else order(shape[1], group, g)
        stored = words(zeros.t(), bits).long()
        if version == 1:
            stored -= sum(1 << at for at in range(0, 32, bits))
            stored = (stored + (1 << 31)) % (1 << 32) - (1 << 31)
        tensors = {"qweight": words(codes, bits).t(), "qzeros": stored.int(), "scales": scales.t()}
        tensors |= {"g_idx": groups.int()} if g_idx else {}
        return tensors, stands_for(codes, zeros, scales, groups)

    settings = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group or -1,
        "desc_act": order is not None,
        "sym": False,
    }
    settings |= {"checkpoint_format": "gptq"} if version == 1 else {"format": "gptq_v2"}
    return Form({**settings, "damp_percent": 0.1}, write, WIDE if group == 128 else NARROW)


def eight_bit_floats(shape: torch.Size, g: torch.Generator) -> torch.Tensor:
    """Numbers of all sizes, also below the smallest normal one."""
    values = torch.randn(shape, generator=g) * 60
    small = torch.rand(shape, generator=g) < 0.1
    return torch.where(small, values / 4096, values).clamp(-448, 448).to(torch.float8_e4m3fn)


def fp8(block: tuple[int, int] | None, *, channel: bool = False, scale: str = "weight_scale_inv") -> Form:
    def write(shape: torch.Size, g: torch.Generator) -> Written:
        codes = eight_bit_floats(shape, g)
        outputs, inputs = shape
        rows, columns = block or ((1, inputs) if channel else shape)
        grid = torch.rand(-(-outputs // rows), -(-inputs // columns), generator=g) / 60 / inputs**0.5 + 1e-4
        wide = grid.repeat_interleave(rows, 0)[:outputs].repeat_interleave(columns, 1)[:, :inputs]
        stored = grid if block or channel else grid.view(())
        return {"weight": codes, scale: stored}, codes.float() * wide

    settings: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
    settings |= {"weight_block_size": list(block)} if block else {}
    return Form(settings, write, WIDE if block == (128, 128) else NARROW, torch.bfloat16)


def compressed(
    kind: str, bits: int, strategy: str, group: int | None = None, *, symmetric: bool = True, actorder: bool = False
) -> Form:
    """compressed-tensors' `pack-quantized`, `int-quantized` and `float-quantized`."""

    def write(shape: torch.Size, g: torch.Generator) -> Written:
        tensors, wide = (packed if kind == "pack-quantized" else plain)(shape, g)
        return {**tensors, "weight_scale": tensors["weight_scale"].bfloat16()}, wide

    def packed(shape: torch.Size, g: torch.Generator) -> Written:
        codes, zeros, scales = integers(shape, bits, group, g)
        scales, groups = scales.bfloat16(), (by_activation if actorder else in_turn)(shape[1], group)
        tensors = {"weight_packed": words(codes, bits), "weight_shape": torch.tensor(shape), "weight_scale": scales}
        tensors |= {} if symmetric else {"weight_zero_point": words(zeros.t(), bits).t()}
        tensors |= {"weight_g_idx": groups.int()} if actorder else {}
        return tensors, stands_for(codes, 1 << (bits - 1) if symmetric else zeros, scales, groups)

    def plain(shape: torch.Size, g: torch.Generator) -> Written:
        if kind == "float-quantized":
            block = (32, 32) if strategy == "block" else None
            tensors, _ = fp8(block, channel=strategy == "channel", scale="weight_scale").write(shape, g)
            scales = tensors["weight_scale"].bfloat16()
            rows, columns = block or (1 if strategy == "channel" else shape[0], shape[1])
            wide = scales.float().reshape(-(-shape[0] // rows), -1).repeat_interleave(rows, 0)[: shape[0]]
            wide = wide.repeat_interleave(columns, 1)[:, : shape[1]]
            return tensors, tensors["weight"].float() * wide
        codes, zeros, scales = integers(shape, bits, group, g)
        half = 1 << (bits - 1)
        scales, groups = scales.bfloat16(), in_turn(shape[1], group)
        tensors = {"weight": (codes - half).to(torch.int8), "weight_scale": scales}
        tensors |= {} if symmetric else {"weight_zero_point": (zeros - half).to(torch.int8)}
        return tensors, stands_for(codes, half if symmetric else zeros, scales, groups)

    weights = {"num_bits": bits, "type": "float" if kind == "float-quantized" else "int", "symmetric": symmetric}
    weights |= {"strategy": strategy, "group_size": group, "dynamic": False, "actorder": "group" if actorder else None}
    weights |= {"block_structure": [32, 32]} if strategy == "block" else {}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}
    settings = {"quant_method": "compressed-tensors", "format": kind, "quantization_status": "compressed"}
    return Form(
        {**settings, "config_groups": groups, "ignore": ["lm_head"], "kv_cache_scheme": None},
        write,
        WIDE if group == 128 else NARROW,
        torch.bfloat16,
    )


FORMS: Mapping[str, Form] = {
    "awq": awq(32),
    "awq 128": awq(128),
    "awq channels": awq(None),
    "gptq": gptq(4, 32),
    "gptq 128": gptq(4, 128),
    "gptq without g_idx": gptq(4, 32, g_idx=False),
    "gptq v2": gptq(4, 32, version=2),
    "gptq 8 bits": gptq(8, 32),
    "gptq 8 bits v2 channels": gptq(8, None, version=2),
    "gptq desc_act": gptq(4, 32, order=lambda inputs, group, _: by_activation(inputs, group)),
    "gptq 8 bits desc_act 128": gptq(8, 128, order=lambda inputs, group, _: by_activation(inputs, group)),
    "gptq layers that disagree": gptq(
        4, 32, order=lambda inputs, group, g: in_turn(inputs, group)[torch.randperm(inputs, generator=g)]
    ),
    "gptq uneven groups": gptq(
        4, 32, order=lambda inputs, _, g: (torch.arange(inputs) + 1).clamp(max=inputs - 1) // 32
    ),
    "gptq odd groups": gptq(4, 24),
    "fp8": fp8((128, 128)),
    "fp8 cut blocks": fp8((48, 32)),
    "fp8 blocks no kernel fits": fp8((48, 40)),
    "fp8 tensor": fp8(None),
    "fp8 tensor scale": fp8(None, scale="weight_scale"),
    "fp8 channels": fp8(None, channel=True, scale="weight_scale"),
    "compressed int4": compressed("pack-quantized", 4, "group", 32),
    "compressed int4 asymmetric": compressed("pack-quantized", 4, "group", 128, symmetric=False),
    "compressed int4 channels": compressed("pack-quantized", 4, "channel", symmetric=False),
    "compressed int4 actorder": compressed("pack-quantized", 4, "group", 32, actorder=True),
    "compressed int8": compressed("pack-quantized", 8, "group", 32),
    "compressed int8 asymmetric": compressed("pack-quantized", 8, "channel", symmetric=False),
    "compressed plain int8": compressed("int-quantized", 8, "channel"),
    "compressed plain int8 asymmetric": compressed("int-quantized", 8, "group", 32, symmetric=False),
    "compressed fp8 channels": compressed("float-quantized", 8, "channel"),
    "compressed fp8 tensor": compressed("float-quantized", 8, "tensor"),
    "compressed fp8 blocks": compressed("float-quantized", 8, "block"),
}
