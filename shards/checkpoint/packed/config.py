"""Which quantised form a checkpoint says it has: found wherever it is said, honoured or refused by name (no torch).

Which layers are quantised, and how finely, is told by their tensors; the settings say which forms may occur and how
the tensors are to be read. So lists of layers that are kept whole (`modules_to_not_convert`, `ignore`, `targets`,
`dynamic`) are honoured without matching a stranger's regular expressions: a layer of which the tensors say something
that the settings do not allow is refused.

Ignored is how activations and cached keys and values are rounded to eight bits, statically or as they come: that
serves units that multiply such numbers, and here they stay as they are, as in transformers where it widens weights.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from shards.checkpoint.model_folder import find
from shards.checkpoint.packed.compressed import parse_compressed
from shards.checkpoint.packed.fields import MAX_NAMES, WAY_OUT, Fields, refused, same
from shards.checkpoint.packed.scheme import PackedConfig, Scheme
from shards.errors import CheckpointError, UnsupportedModel
from shards.model.spec import ModelSpec
from shards.shown import shown

PLACES: Final = ("quantization_config", "compression_config", "quantization")
"""What config.json calls it."""
BESIDE: Final = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""Files that say it where config.json does not: of AutoGPTQ, AutoAWQ and ModelOpt."""
MAX_BESIDE_BYTES: Final = 4 << 20

_TRAINING = frozenset({
    "_commit_hash", "act_group_aware", "amp", "autoround_version", "backend", "batch_size", "block_name_to_quantize",
    "cache_block_outputs", "cache_examples_on_gpu", "calibration_dataset", "calib_data", "damp_auto_increment",
    "damp_percent", "data_type", "dataset", "do_fuse", "enable_minmax_tuning", "enable_norm_bias_tuning",
    "enable_quanted_input", "exllama_config", "fuse_max_seq_len", "gradient_accumulate_steps", "iters",
    "low_gpu_mem_usage", "lr", "max_input_length", "max_calib_samples", "max_calib_seq_len", "meta", "minmax_lr",
    "model_file_base_name", "model_name_or_path", "model_seqlen", "module_name_preceding_first_block",
    "modules_in_block_to_quantize", "modules_to_fuse", "nsamples", "n_samples", "pad_token_id", "producer", "provider",
    "quantizer", "scale_dtype", "seqlen", "static_groups", "sym", "tokenizer", "true_sequential", "use_cuda_fp16",
    "use_exllama", "use_quant_input", "version", "disable_exllama", "model_free", "offload_to_disk",
    "offload_to_disk_path", "lm_head", "quant_block_list", "to_quant_block_names", "group_aware", "mse",
})  # fmt: skip
"""How the weights were found, and with which kernels others multiply them."""


def read_packed(folder: Path, spec: ModelSpec) -> PackedConfig | None:
    """The quantised form of a checkpoint folder; None for one that says of none anywhere.

    Raises `UnsupportedModel` with a way out for a form that is not read, `CheckpointError` for settings that make no
    sense.
    """
    try:
        named = _in_config(spec.raw)
        if is_mxfp4(spec.raw, spec.model_type):
            return None
        if named is not None:
            return _parse(named, "config.json")
        for name, data in beside(folder).items():
            return _parse(_beside(data, name), name)
    except RecursionError as error:
        raise CheckpointError(f"{folder}: how its weights are quantised is nested too deeply") from error
    return None


def beside(folder: Path) -> dict[str, bytes]:
    """The files beside config.json that say of a form, by name."""
    return {name: data for name in BESIDE if (data := find(folder / name, MAX_BESIDE_BYTES)) is not None}


def without(spec: ModelSpec) -> ModelSpec:
    """The model as it is once its weights are widened."""
    raw = {name: value for name, value in spec.raw.items() if name not in PLACES}
    if isinstance(raw.get("text_config"), dict):
        raw["text_config"] = {name: value for name, value in raw["text_config"].items() if name not in PLACES}
    return dataclasses.replace(spec, raw=raw)


def is_quantised(raw: Mapping[str, Any]) -> bool:
    """True where a config.json says anything of a quantised form."""
    return _in_config(raw) is not None


def is_mxfp4(raw: Mapping[str, Any], kind: str) -> bool:
    """True for gpt-oss's experts in blocks of 4 bits, which `shards.model.expert_tensors` reads as they are stored."""
    settings = raw.get("quantization_config")
    return kind == "gpt_oss" and isinstance(settings, dict) and settings.get("quant_method") == "mxfp4"


def _in_config(raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What config.json says, in whichever of its places."""
    inner = raw.get("text_config")
    found: list[Mapping[str, Any]] = []
    for source in (raw, inner) if isinstance(inner, dict) else (raw,):
        for name in PLACES:
            value = source.get(name)
            if value is None or value == {}:
                continue
            if not isinstance(value, dict):
                raise CheckpointError(f"config.json: {name} must be an object, got {shown(value)}")
            found.append(value)
    for name, value in raw.items():
        other = name.endswith(("text_config", "llm_config", "language_config")) and name != "text_config"
        if other and isinstance(value, dict) and any(value.get(place) for place in PLACES):
            raise UnsupportedModel(f"config.json says in its {name} how weights are quantised: {WAY_OUT}")
    if any(not same(found[0], each) for each in found[1:]):
        raise CheckpointError("config.json says in two places how weights are quantised, and not the same")
    return max(found, key=len) if found else None


def _beside(data: bytes, name: str) -> Mapping[str, Any]:
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{name} is not a JSON object")
    if name == "hf_quant_config.json":
        inner = raw.get("quantization")
        if not isinstance(inner, dict):
            raise CheckpointError(f"{name} has no quantization")
        return {"quant_method": "modelopt", **inner}
    return {"quant_method": "awq" if "w_bit" in raw else "gptq", **raw}


def _parse(raw: Mapping[str, Any], source: str) -> PackedConfig:
    method = raw.get("quant_method", "compressed-tensors" if "config_groups" in raw else None)
    where = f"{source}: the quantisation"
    if not isinstance(method, str):
        raise refused(source, f"quant_method = {shown(method)}")
    match method.lower():
        case "awq":
            return _awq(Fields(raw, where), source)
        case "gptq":
            return _gptq(Fields(raw, where), source)
        case "fp8" | "fbgemm_fp8":
            return _fp8(Fields(raw, where), method.lower(), source)
        case "modelopt":
            return _modelopt(Fields(raw, where), source)
        case "compressed-tensors":
            return parse_compressed(Fields(raw, where), source)
        case _:
            raise refused(source, f"quant_method = {shown(method)}")


def _awq(fields: Fields, source: str) -> PackedConfig:
    fields.take("quant_method")
    version = fields.text("version", "format", "checkpoint_format", default="gemm")
    if version != "gemm":
        raise refused(source, f"AWQ weights laid out for {shown(version)}")
    bits = fields.count("bits", "w_bit")
    if bits not in (None, 4):
        raise refused(source, f"AWQ weights of {shown(bits)} bits")
    group = fields.group("group_size", "q_group_size", default=128)
    fields.only("zero_point", True)
    fields.only("backend", "autoawq", "auto", "gptqmodel", "awq")
    fields.only("desc_act", False)
    whole = fields.names("modules_to_not_convert")
    fields.finish(_TRAINING)
    return PackedConfig("awq", "awq", (Scheme("int4", columns=group, zeros=True),), frozenset(whole), source)


def _gptq(fields: Fields, source: str) -> PackedConfig:
    fields.take("quant_method", "method")
    version = fields.text("checkpoint_format", "format", default="gptq")
    if version not in ("gptq", "gptq_v2"):
        raise refused(source, f"GPTQ weights laid out for {shown(version)}")
    fields.only("is_marlin_format", False)
    fields.only("pack_dtype", "int32", "torch.int32")
    fields.only("rotation")
    fields.only("adapter")
    fields.flag("desc_act")  # g_idx tells
    base = _gptq_scheme(fields, source, (4, 128))
    overrides = _dynamic(fields.take("dynamic"), source, base)
    whole = fields.names("modules_to_not_convert")
    fields.finish(_TRAINING)
    return PackedConfig("gptq", version, tuple(dict.fromkeys((base, *overrides))), frozenset(whole), source)


def _gptq_scheme(fields: Fields, source: str, default: tuple[int, int | None]) -> Scheme:
    bits = fields.count("bits") or default[0]
    if bits not in (4, 8):
        raise refused(source, f"GPTQ weights of {shown(bits)} bits")
    return Scheme(f"int{bits}", columns=fields.group("group_size", default=default[1]), zeros=True)


def _dynamic(raw: object, source: str, base: Scheme) -> Sequence[Scheme]:
    """What `dynamic` says of some layers: from patterns (`-:` not at all) to settings of their own."""
    if raw is None:
        return ()
    if not isinstance(raw, dict) or len(raw) > MAX_NAMES:
        raise CheckpointError(f"{source}: dynamic must be an object of up to {MAX_NAMES} patterns, got {shown(raw)}")
    schemes = []
    for pattern, settings in raw.items():
        if pattern.startswith("-:"):
            continue
        fields = Fields(settings, f"{source}: dynamic[{shown(pattern)}]")
        schemes.append(_gptq_scheme(fields, source, (4 if base.code == "int4" else 8, base.columns)))
        fields.flag("desc_act")
        fields.finish(_TRAINING)
    return schemes


def _fp8(fields: Fields, method: str, source: str) -> PackedConfig:
    fields.take("quant_method")
    fields.only("fmt", "e4m3", "float8_e4m3fn")
    fields.only("weight_fmt", "e4m3", "float8_e4m3fn")
    fields.only("activation_scheme", "dynamic", "static")
    fields.only("scale_fmt", "float", "ue8m0")
    fields.only("expert_dtype", "fp8")
    fields.only("kv_cache_scheme", "fp8", "dynamic", "static")
    fields.only("modules_to_convert", [])
    block = fields.take("weight_block_size")
    schemes = [Scheme("fp8", None, None), Scheme("fp8", 1, None)]
    if block is not None:
        if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and 0 < n < 1 << 16 for n in block):
            raise CheckpointError(f"{source}: weight_block_size must be two sizes, got {shown(block)}")
        schemes = [Scheme("fp8", *block)]
    whole = fields.names("modules_to_not_convert", "ignored_layers")
    fields.finish(_TRAINING | {"activation_scale_ub", "dequantize"})
    return PackedConfig(method, "fp8", tuple(schemes), frozenset(whole), source)


def _modelopt(fields: Fields, source: str) -> PackedConfig:
    fields.take("quant_method")
    algorithm = fields.text("quant_algo", default="")
    if algorithm not in ("fp8", "fp8_per_channel_per_token"):
        raise refused(source, f"ModelOpt's {shown(algorithm.upper())}")
    fields.only("kv_cache_quant_algo", "FP8")
    fields.take("kv_cache_scheme", "config_groups")
    whole = fields.names("exclude_modules", "ignore")
    fields.finish(_TRAINING | {"group_size"})
    return PackedConfig(
        "modelopt", "fp8", (Scheme("fp8", None, None), Scheme("fp8", 1, None)), frozenset(whole), source
    )
