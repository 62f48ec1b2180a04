"""The settings of compressed-tensors: groups of layers, each with a form of its own (no torch).

They are those of https://github.com/vllm-project/compressed-tensors (quantization/quant_config.py).
"""

from __future__ import annotations

from typing import Any, Final

from shards.checkpoint.packed.fields import MAX_NAMES, Fields, refused
from shards.checkpoint.packed.scheme import PackedConfig, Scheme
from shards.errors import CheckpointError
from shards.shown import shown

PACKED: Final = "pack-quantized"
PLAIN: Final = ("int-quantized", "float-quantized", "naive-quantized")
_HARMLESS: Final = frozenset({"global_compression_ratio", "version", "moe_sparsity_config"})
_OF_WEIGHTS: Final = frozenset({"observer", "observer_kwargs", "scale_dtype", "zp_dtype"})


def parse_compressed(fields: Fields, source: str) -> PackedConfig:
    """The form of a checkpoint. Raises `UnsupportedModel` and `CheckpointError` as `read_packed` does."""
    fields.take("quant_method")
    status = fields.text("quantization_status", default="compressed")
    if status not in ("compressed", "frozen"):  # the older word; weights that are still floats are refused as such
        raise refused(source, f"quantization_status = {shown(status)}")
    common = fields.text("format", default="")
    for name in ("sparsity_config", "kv_cache_scheme"):
        _check_aside(fields.take(name), name, source)
    transform = fields.take("transform_config")
    if transform not in (None, {}) and transform != {"config_groups": {}}:
        raise refused(source, "a transform_config (rotated weights and activations)")
    whole = fields.names("ignore")
    groups = fields.take("config_groups")
    if not isinstance(groups, dict) or not 0 < len(groups) <= MAX_NAMES:
        raise CheckpointError(f"{source}: config_groups must be an object of groups, got {shown(groups)}")
    fields.finish(_HARMLESS)
    schemes = [_scheme(Fields(raw, f"{source}: {shown(name)}"), common, source) for name, raw in groups.items()]
    names = frozenset(name for name in whole if not name.startswith("re:"))
    return PackedConfig("compressed-tensors", "compressed", tuple(dict.fromkeys(schemes)), names, source)


def _check_aside(raw: Any, name: str, source: str) -> None:
    """Sparse weights are not read; a cache of eight bits is kept whole here."""
    if raw is None or raw == {}:
        return
    if not isinstance(raw, dict):
        raise CheckpointError(f"{source}: {name} must be an object, got {shown(raw)}")
    if name == "sparsity_config" and raw.get("format") != "dense":
        raise refused(source, f"sparse weights ({shown(raw.get('format'))})")
    if name == "kv_cache_scheme" and raw.get("num_bits") != 8:
        raise refused(source, f"keys and values of {shown(raw.get('num_bits'))} bits")


def _scheme(fields: Fields, common: str, source: str) -> Scheme:
    fields.names("targets")
    kind = fields.text("format", default=common)
    if kind != PACKED and kind not in PLAIN:
        raise refused(source, f"format = {shown(kind)}")
    inputs, weights = fields.take("input_activations"), fields.take("weights")
    if isinstance(inputs, dict) and inputs.get("num_bits") != 8:
        raise refused(source, f"activations of {shown(inputs.get('num_bits'))} bits")
    fields.only("output_activations")
    fields.finish(())
    return _of_weights(Fields(weights, f"{fields.where}: weights"), kind, source)


def _of_weights(fields: Fields, kind: str, source: str) -> Scheme:
    bits = fields.count("num_bits") or 8
    number = fields.text("type", default="int")
    symmetric = fields.flag("symmetric", default=True)
    code = {("int", 4): "int4", ("int", 8): "int8", ("float", 8): "fp8"}.get((number, bits))
    if code is None or (code == "fp8" and (kind == PACKED or not symmetric)):
        raise refused(source, f"{kind} weights of {bits} bits and type {shown(number)}")
    if code == "int4" and kind != PACKED:
        code = "int8"  # a byte each
    fields.only("dynamic", False)
    fields.only("actorder", False, "weight", "static", "group", "dynamic")  # weight_g_idx tells
    block = fields.take("block_structure")
    group = fields.group("group_size", default=0)  # 0: it is not said
    strategy = fields.text("strategy", default={None: "channel", 0: "tensor"}.get(group, "group"))
    fields.finish(_OF_WEIGHTS)
    match strategy:
        case "tensor":
            return Scheme(code, None, None, not symmetric)
        case "channel":
            return Scheme(code, 1, None, not symmetric)
        case "group" if group:
            return Scheme(code, 1, group, not symmetric)
        case "block":
            return Scheme(code, *_block(block, source), not symmetric)
        case _:
            raise refused(source, f"strategy = {shown(strategy)} with group_size = {shown(group or None)}")


def _block(raw: object, source: str) -> tuple[int, int]:
    sizes: Any = raw
    if isinstance(raw, str) and len(raw) < 16:
        sizes = [int(part) if part.isdecimal() and part.isascii() else 0 for part in raw.split("x")]
    if isinstance(sizes, list) and len(sizes) == 2 and all(type(size) is int and 0 < size < 1 << 16 for size in sizes):
        return sizes[0], sizes[1]
    raise CheckpointError(f"{source}: block_structure must be two sizes, got {shown(raw)}")
