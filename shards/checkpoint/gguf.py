"""A GGUF file as a checkpoint: transformers' names over its tensors, read one at a time, in blocks or widened."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from shards.checkpoint import names as tensor_names
from shards.checkpoint.gguf_config import CENTRED, INTERLEAVED, config_of
from shards.checkpoint.gguf_header import GgufHead, GgufTensor, TensorType, read_head
from shards.checkpoint.gguf_names import ROPE_TENSORS, tensor_name
from shards.checkpoint.gguf_tokenizer import ends_of, settings_of, tokenizer_of
from shards.checkpoint.model_folder import Identity, identity, opened, read_into
from shards.errors import CheckpointError
from shards.model.span import Span
from shards.model.spec import ModelSpec, parse_config

_FLOATS: Mapping[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_TURNED = ("self_attn.q_proj.", "self_attn.k_proj.")


class GgufCheckpoint:
    """An opened GGUF file; make one with `GgufCheckpoint.open`. What it offers is that of `folder.Checkpoint`.

    Every method that touches the file raises `CheckpointError` when it is truncated or was changed meanwhile.
    """

    def __init__(self, path: Path, head: GgufHead, config: Mapping[str, Any], known: Identity) -> None:
        self.form = ""
        self.folder = path.parent
        self.config = config
        self.spec: ModelSpec = parse_config(json.dumps(config))
        self._path, self._head, self._identity = path, head, known
        kind = head.metadata["general.architecture"]
        weights = {name: each for name, each in head.tensors.items() if name not in ROPE_TENSORS}
        self._tensors = {tensor_name(name, kind): each for name, each in weights.items()}
        self._turned = config["model_type"] in INTERLEAVED
        self._centred = config["model_type"] in CENTRED

    @classmethod
    def open(cls, path: Path, *, span: Span | None = None) -> GgufCheckpoint:
        """Open a file; with a `span`, also check that its tensors are there.

        Raises `CheckpointError`, and `UnsupportedModel` for what we do not read.
        """
        with opened(path, buffering=1 << 20) as file:
            known = identity(file)
            head = read_head(file, known[1], str(path))
        tensors = {name: head.tensors[name] for name in ROPE_TENSORS if name in head.tensors}
        factors = {name: _rope_factors(path, known, name, tensor) for name, tensor in tensors.items()}
        checkpoint = cls(path, head, config_of(head, factors), known)
        if span is not None:
            checkpoint.check(span)
        return checkpoint

    def small_files(self) -> dict[str, bytes]:
        """The files that a checkpoint folder would have beside its weights, made from the metadata."""
        metadata = self._head.metadata
        begins = self.config.get("bos_token_id")
        generation = {"eos_token_id": ends_of(metadata)} | ({} if begins is None else {"bos_token_id": begins})
        made: dict[str, bytes] = {
            name: json.dumps(content, ensure_ascii=False, sort_keys=name == "config.json").encode()
            for name, content in (
                ("config.json", self.config),
                ("generation_config.json", generation),
                ("tokenizer.json", tokenizer_of(metadata)),
                ("tokenizer_config.json", settings_of(metadata)),
            )
        }
        template = metadata.get("tokenizer.chat_template")
        if isinstance(template, str):
            made["chat_template.jinja"] = template.encode()
        return made

    def names(self) -> Sequence[str]:
        """The names of all tensors, sorted."""
        return sorted(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return self._locate(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that `read` gives."""
        return _FLOATS.get(self._locate(name).type.name, torch.float32)

    def blocks(self, name: str) -> TensorType | None:
        """How a quantised tensor's numbers are stored; None for one of floats."""
        kind = self._locate(name).type
        return None if kind.name in _FLOATS else kind

    def stored_bytes(self, name: str) -> int:
        """Bytes of a tensor in the file."""
        return self._locate(name).nbytes

    def read(self, name: str, index: int | None = None) -> torch.Tensor:
        """A tensor, or `[index]` of it, on the CPU; quantised ones in float32, exactly what their blocks stand for.

        Norms are as transformers has them, Gemma's without the one that is added to them.
        """
        tensor = self._locate(name)
        shape = tensor.shape if index is None else tensor.shape[1:]
        rows = self.read_blocks(name, index)
        if tensor.type.name in _FLOATS:
            values = rows.view(_FLOATS[tensor.type.name]).view(shape)
            return values - 1 if self._centred and name.endswith("norm.weight") else values
        return widened(rows, tensor.type).view(shape)

    def order(self, name: str) -> torch.Tensor | None:
        """Which input each column of a quantised tensor's blocks is multiplied with: each with its own, always."""
        return None

    def read_blocks(self, name: str, index: int | None = None) -> torch.Tensor:
        """The bytes of the rows of a tensor, or of `[index]` of it, as they are stored: uint8 [rows, bytes of each]."""
        tensor = self._locate(name)
        nbytes = tensor.nbytes if index is None else tensor.nbytes // tensor.shape[0]
        data = torch.empty(nbytes, dtype=torch.uint8)
        read_into(data.numpy().data, self._path, self._identity, tensor.begin + (index or 0) * nbytes, name)
        rows = data.view(-1, tensor.shape[-1] // tensor.type.items * tensor.type.nbytes)
        if self._turned and any(part in name for part in _TURNED):
            rows = self._halves(name, tensor, rows)
        return rows

    def tensors_of(self, span: Span) -> list[str]:
        """The names of the tensors that a stage over `span` reads (see `tensor_names.tensors_of`)."""
        return tensor_names.tensors_of(self.names(), span, self.spec.n_blocks)

    def nbytes(self, span: Span) -> int:
        """Bytes of the tensors that a stage over `span` reads, as stored."""
        return sum(self._tensors[name].nbytes for name in self.tensors_of(span))

    def check(self, span: Span) -> None:
        """Check that each block of the span has any tensors at all."""
        missing = set(span) - {tensor_names.block_of(name) for name in self.tensors_of(span)}
        if missing:
            raise CheckpointError(f"{self._path} has no tensors for block {min(missing)}")

    def _locate(self, name: str) -> GgufTensor:
        found = self._tensors.get(name)
        if found is None:
            raise CheckpointError(f"{self._path} has no tensor for {name}")
        return found

    def _halves(self, name: str, tensor: GgufTensor, rows: torch.Tensor) -> torch.Tensor:
        """Rows of each head in the order in which halves are rotated, from that in which neighbours are."""
        heads = self.config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        if tensor.shape[0] % (2 * heads):
            raise CheckpointError(f"{self._path}: {tensor.shape[0]} rows of {name} are no {heads} heads")
        if len(tensor.shape) == 1:  # a bias
            return rows.view(heads, -1, 2, tensor.type.nbytes).transpose(1, 2).reshape(rows.shape)
        return rows.view(heads, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def _rope_factors(path: Path, known: Identity, name: str, tensor: GgufTensor) -> list[float]:
    if tensor.type.name != "F32" or tensor.nbytes > 1 << 16:
        raise CheckpointError(f"{name} must be a few float32 numbers")
    values = torch.empty(tensor.shape)
    read_into(values.view(torch.uint8).numpy().data, path, known, tensor.begin, name)
    factors: list[float] = values.flatten().tolist()
    return factors


def widened(rows: torch.Tensor, kind: TensorType) -> torch.Tensor:
    """The numbers of blocks, by the format's own library, which defines them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a block's scale may be infinite: what follows says so
        from gguf import GGMLQuantizationType, quants

        return torch.from_numpy(quants.dequantize(rows.numpy(), GGMLQuantizationType[kind.name]))
