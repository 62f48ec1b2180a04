"""A quantised layer's tensors in each form: which there are, what shapes they must have, how codes lie in them.

AWQ: https://github.com/casper-hansen/AutoAWQ (awq/utils/packing_utils.py). GPTQ: https://github.com/ModelCloud/GPTQModel
(nn_modules/qlinear). FP8: transformers' integrations/finegrained_fp8.py. compressed-tensors:
https://github.com/vllm-project/compressed-tensors (compressors/pack_quantized, naive_quantized).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch

from shards.checkpoint.folder import Checkpoint
from shards.checkpoint.packed.numbers import Numbers
from shards.checkpoint.packed.scheme import PackedConfig, Scheme
from shards.errors import CheckpointError

_AWQ_ORDER: Final = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word the nibble of each of eight outputs lies."""
_ONE_EACH: Final = {"int4": 0x11111111, "int8": 0x01010101}
"""GPTQ's first version stores zero points less one, subtracted from whole words."""
_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32)
_SIGN: Final = 128
_LARGEST_CODE: Final = 512
"""A bound: 448 is the largest eight bit float, 255 the largest difference of a code and a zero point."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The names that a quantised layer's tensors end in; a layer is one where any of `marks` is there."""

    marks: frozenset[str]
    parts: frozenset[str]


_ZEROED = Layout(frozenset({"qweight"}), frozenset({"qweight", "qzeros", "scales", "g_idx"}))
LAYOUTS: Final[Mapping[str, Layout]] = {
    "awq": _ZEROED,
    "gptq": _ZEROED,
    "gptq_v2": _ZEROED,
    "fp8": Layout(
        frozenset({"weight_scale", "weight_scale_inv"}), frozenset({"weight", "weight_scale", "weight_scale_inv"})
    ),
    "compressed": Layout(
        frozenset({"weight_packed", "weight_scale"}),
        frozenset({"weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"}),
    ),
}
ASIDE: Final = frozenset({
    "input_scale", "input_scale_inv", "input_zero_point", "activation_scale", "output_scale", "output_zero_point",
    "q_scale", "k_scale", "v_scale", "kv_scale", "k_zero_point", "v_zero_point",
})  # fmt: skip
"""Of activations, keys and values, which are not rounded here."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer whose tensors have the shapes and dtypes that one of the settings' schemes calls for."""

    outputs: int
    inputs: int
    scheme: Scheme
    order: torch.Tensor | None
    """The group of each input, where they do not follow one another."""
    sorted: torch.Tensor | None
    """The inputs by their groups, where all of these are whole: then columns in this order make blocks."""
    read: Callable[[], Numbers]

    @property
    def columns(self) -> int:
        """Inputs that share a scale."""
        return self.scheme.columns or self.inputs


def layer_of(checkpoint: Checkpoint, config: PackedConfig, parts: Mapping[str, str]) -> Layer:
    """A layer from its tensors' names by what they end in. Raises `CheckpointError` naming one that is wrong."""
    return _Tensors(checkpoint, config, parts).layer()


class _Tensors:
    """The tensors of one layer."""

    def __init__(self, checkpoint: Checkpoint, config: PackedConfig, parts: Mapping[str, str]) -> None:
        self._checkpoint, self._config, self._parts = checkpoint, config, parts

    def layer(self) -> Layer:
        match self._config.layout:
            case "awq":
                return self._awq()
            case "gptq" | "gptq_v2":
                return self._gptq()
            case _ if "weight_packed" in self._parts:
                return self._packed()
            case _:
                return self._plain()

    def _awq(self) -> Layer:
        inputs, words = self._shape("qweight", torch.int32, rank=2)
        outputs = 8 * words
        (scheme,) = self._config.schemes
        groups = self._groups(inputs, scheme)
        self._expect("qzeros", (groups, words), torch.int32)
        self._expect("scales", (groups, outputs), *_FLOATS)
        self._absent("g_idx")

        def read() -> Numbers:
            places = (torch.arange(outputs).view(-1, 8)[:, _AWQ_ORDER]).flatten()
            codes = _nibbles(self._tensor("qweight"))[:, places].t().contiguous()
            zeros = _nibbles(self._tensor("qzeros"))[:, places].t().to(torch.int16)
            return Numbers("int4", codes, self._scales("scales").t(), zeros, scheme.columns or inputs)

        return Layer(outputs, inputs, scheme, None, None, read)

    def _gptq(self) -> Layer:
        words, outputs = self._shape("qweight", torch.int32, rank=2)
        scheme, inputs = self._gptq_scheme(words)
        groups = self._groups(inputs, scheme)
        each = 8 if scheme.code == "int4" else 4
        if outputs % each:
            raise self._wrong("qweight", f"has {outputs} outputs, which make no whole words of zero points")
        self._expect("qzeros", (groups, outputs // each), torch.int32)
        self._expect("scales", (groups, outputs), *_FLOATS)
        order = self._order("g_idx", inputs, scheme)

        def read() -> Numbers:
            words = self._tensor("qzeros")
            if self._config.layout == "gptq":
                more = words.long() + _ONE_EACH[scheme.code]
                words = (((more + (1 << 31)) & ((1 << 32) - 1)) - (1 << 31)).to(torch.int32)
            codes, zeros = _codes(self._tensor("qweight").t().contiguous(), scheme.code), _codes(words, scheme.code)
            return Numbers(
                scheme.code,
                codes,
                self._scales("scales").t(),
                zeros.t().to(torch.int16),
                scheme.columns or inputs,
                order,
            )

        return Layer(outputs, inputs, scheme, order, _by_group(order, scheme), read)

    def _gptq_scheme(self, words: int) -> tuple[Scheme, int]:
        """The scheme that fits the shapes, and the inputs that it makes of so many words."""
        known = self._checkpoint.shape(self._parts["g_idx"]) if "g_idx" in self._parts else None
        (groups, _) = self._shape("scales", *_FLOATS, rank=2)
        found = set()
        for scheme in self._config.schemes:
            inputs = words * (8 if scheme.code == "int4" else 4)
            if known in (None, (inputs,)) and groups == self._groups(inputs, scheme):
                found.add((scheme, inputs))
        if len(found) != 1:
            raise self._wrong("qweight", f"has {words} rows of words and {groups} groups: {self._unlike()}")
        return found.pop()

    def _packed(self) -> Layer:
        outputs, words = self._shape("weight_packed", torch.int32, rank=2)
        rows, inputs = self._stored_shape()
        bits = next((bits for bits in (4, 8) if words == -(-inputs * bits // 32)), 0)
        if rows != outputs or not bits:
            what = f"has shape {[outputs, words]}, which holds no {[rows, inputs]} weights of 4 or 8 bits"
            raise self._wrong("weight_packed", what)
        scheme = self._scheme("weight_scale", (rows, inputs), f"int{bits}")
        groups = self._groups(inputs, scheme)
        self._absent("weight")
        if not scheme.zeros:
            self._absent("weight_zero_point")
        elif scheme.rows is None:
            self._expect("weight_zero_point", (1,), torch.int8)
        else:
            self._expect("weight_zero_point", (-(-outputs * bits // 32), groups), torch.int32)
        order = self._order("weight_g_idx", inputs, scheme)

        def read() -> Numbers:
            codes = _codes(self._tensor("weight_packed"), scheme.code)[:, :inputs].contiguous()
            if not scheme.zeros:
                zeros = torch.full((outputs, groups), 8 if bits == 4 else 0, dtype=torch.int16)
            elif scheme.rows is None:
                stored = self._tensor("weight_zero_point").to(torch.int16)
                zeros = (stored + (8 if bits == 4 else 0)).expand(outputs, groups)
            else:
                columns = self._tensor("weight_zero_point").t().contiguous()
                zeros = _codes(columns, scheme.code)[:, :outputs].t().to(torch.int16)
            return Numbers(scheme.code, codes, self._expanded(scheme, outputs), zeros, scheme.columns or inputs, order)

        return Layer(outputs, inputs, scheme, order, _by_group(order, scheme), read)

    def _plain(self) -> Layer:
        outputs, inputs = self._shape("weight", torch.float8_e4m3fn, torch.int8, rank=2)
        code = "fp8" if self._dtype("weight") == torch.float8_e4m3fn else "int8"
        scale = "weight_scale_inv" if "weight_scale_inv" in self._parts else "weight_scale"
        if scale == "weight_scale_inv":
            self._absent("weight_scale")
        scheme = self._scheme(scale, (outputs, inputs), code)
        shape = self._checkpoint.shape(self._parts[scale])
        if scheme.zeros:
            self._expect("weight_zero_point", shape, torch.int8)
        else:
            self._absent("weight_zero_point")
        order = self._order("weight_g_idx", inputs, scheme)

        def read() -> Numbers:
            codes = self._tensor("weight")
            if code == "fp8":
                codes = codes.view(torch.uint8)
                if bool(((codes & 127) == 127).any()):
                    raise self._wrong("weight", "has weights that are no numbers")
            zeros = None
            if scheme.zeros:
                zeros = _grid(self._tensor("weight_zero_point").to(torch.int16), scheme, outputs)
            return Numbers(code, codes, self._expanded(scheme, outputs, scale), zeros, scheme.columns or inputs, order)

        return Layer(outputs, inputs, scheme, order, _by_group(order, scheme), read)

    def _scheme(self, scale: str, shape: tuple[int, int], code: str) -> Scheme:
        """The scheme of the settings that a layer's scales and zero points are of."""
        found = self._shape(scale, *_FLOATS)
        for scheme in self._config.schemes:
            fits = scheme.code == code and scheme.zeros == ("weight_zero_point" in self._parts)
            if fits and found in _scale_shapes(scheme, *shape):
                return scheme
        raise self._wrong(scale, f"has shape {list(found)} for weights {list(shape)} of {code}: {self._unlike()}")

    def _unlike(self) -> str:
        return f"that is nothing that {self._config.source} says of {self._config.method} weights"

    def _stored_shape(self) -> tuple[int, int]:
        if self._shape("weight_shape", torch.int64, torch.int32) not in ((2,), (2, 1)):
            raise self._wrong("weight_shape", "must be two sizes")
        outputs, inputs = (int(size) for size in self._tensor("weight_shape").flatten())
        if not (0 < outputs < 1 << 31 and 0 < inputs < 1 << 31):
            raise self._wrong("weight_shape", f"says {[outputs, inputs]}")
        return outputs, inputs

    def _groups(self, inputs: int, scheme: Scheme) -> int:
        return 1 if scheme.columns is None else -(-inputs // scheme.columns)

    def _order(self, part: str, inputs: int, scheme: Scheme) -> torch.Tensor | None:
        """The group of each input; None where they follow one another."""
        if part not in self._parts:
            return None
        self._expect(part, (inputs,), torch.int32, torch.int64)
        order = self._tensor(part).long()
        groups = self._groups(inputs, scheme)
        if inputs and not 0 <= int(order.min()) <= int(order.max()) < groups:
            raise self._wrong(part, f"names a group that is none of {groups}")
        return None if torch.equal(order, torch.arange(inputs) // (scheme.columns or inputs)) else order

    def _expanded(self, scheme: Scheme, outputs: int, part: str = "weight_scale") -> torch.Tensor:
        return _grid(self._scales(part), scheme, outputs)

    def _scales(self, part: str) -> torch.Tensor:
        scales = self._tensor(part).float()
        if not bool(torch.isfinite(scales * _LARGEST_CODE).all()):
            raise self._wrong(part, "has a scale that makes no numbers")
        return scales

    def _tensor(self, part: str) -> torch.Tensor:
        return self._checkpoint.read(self._parts[part])

    def _dtype(self, part: str) -> torch.dtype:
        return self._checkpoint.dtype(self._parts[part])

    def _shape(self, part: str, *dtypes: torch.dtype, rank: int | None = None) -> tuple[int, ...]:
        if part not in self._parts:
            some = next(iter(self._parts.values()))
            raise CheckpointError(f"{self._checkpoint.where(some)}: there is no {part} beside it")
        shape = self._checkpoint.shape(self._parts[part])
        if self._dtype(part) not in dtypes:
            raise self._wrong(part, f"has dtype {self._dtype(part)}, which is none of {', '.join(map(str, dtypes))}")
        if rank is not None and (len(shape) != rank or not all(shape)):
            raise self._wrong(part, f"has shape {list(shape)}, {rank} sizes are needed")
        return shape

    def _expect(self, part: str, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
        found = self._shape(part, *dtypes)
        if found != shape:
            raise self._wrong(part, f"has shape {list(found)}, not {list(shape)}")

    def _absent(self, part: str) -> None:
        if part in self._parts:
            raise self._wrong(part, f"is not to be there: {self._unlike()}")

    def _wrong(self, part: str, what: str) -> CheckpointError:
        return CheckpointError(f"{self._checkpoint.where(self._parts[part])} {what}")


def _scale_shapes(scheme: Scheme, outputs: int, inputs: int) -> tuple[tuple[int, ...], ...]:
    """The shapes that a scheme's scales may have."""
    if scheme.rows is None:
        return (), (1,), (1, 1)
    groups = 1 if scheme.columns is None else -(-inputs // scheme.columns)
    rows = -(-outputs // scheme.rows)
    return ((rows, groups), (rows,)) if scheme.columns is None else ((rows, groups),)


def _grid(stored: torch.Tensor, scheme: Scheme, outputs: int) -> torch.Tensor:
    """One row for each output, [outputs, groups], of what each `scheme.rows` of them share."""
    if scheme.rows is None:
        return stored.reshape(1, 1).expand(outputs, 1)
    rows = stored.reshape(stored.shape[0], -1)
    return rows if scheme.rows == 1 else rows.repeat_interleave(scheme.rows, dim=0)[:outputs]


def _by_group(order: torch.Tensor | None, scheme: Scheme) -> torch.Tensor | None:
    """The inputs group by group; None where some group is not whole, or they are in order already."""
    if order is None or scheme.columns is None or bool((order.bincount() != scheme.columns).any()):
        return None
    return order.argsort(stable=True)


def _nibbles(words: torch.Tensor) -> torch.Tensor:
    """Of int32 [rows, n] the eight nibbles of each word, lowest first: uint8 [rows, 8 n]."""
    packed = words.contiguous().view(torch.uint8)
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)


def _codes(words: torch.Tensor, code: str) -> torch.Tensor:
    """Nibbles, or bytes less 128 as int8."""
    if code == "int4":
        return _nibbles(words)
    return (words.contiguous().view(torch.uint8) ^ _SIGN).view(torch.int8)
