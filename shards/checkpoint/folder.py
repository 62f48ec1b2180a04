"""A checkpoint folder: config, tokenizer files, and tensors read one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from shards.checkpoint import names as tensor_names
from shards.checkpoint.forms import check_form
from shards.checkpoint.gguf_header import TensorType
from shards.checkpoint.index import INDEX_NAME, SINGLE_NAME, read_spec, read_weight_map
from shards.checkpoint.manifest import Manifest, read_manifest
from shards.checkpoint.model_folder import Identity, exists, identity, names_in, opened, read_into
from shards.checkpoint.safetensors_header import TensorEntry, read_header
from shards.errors import CheckpointError
from shards.model.span import Span
from shards.model.spec import ModelSpec
from shards.progress import Progress, silent

__all__ = ["INDEX_NAME", "SINGLE_NAME", "Checkpoint"]


_TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _WeightFile:
    """A safetensors file whose header was read; `identity` notices that it was replaced afterwards."""

    path: Path
    identity: Identity
    entries: Mapping[str, TensorEntry]


class Checkpoint:
    """An opened local checkpoint folder in safetensors; make one with `Checkpoint.open`.

    With an index, a weight file is opened (checked against the manifest, if there is one, then its header
    read) when a tensor of it is first asked for, so that a folder may hold only the files of one span;
    `check` opens all files of a span at once. Every method that touches a file raises `CheckpointError`
    when the file is missing, truncated, malformed or not the manifest's. Not safe for several threads.
    """

    def __init__(
        self,
        folder: Path,
        spec: ModelSpec,
        weight_map: Mapping[str, str],
        files: dict[str, _WeightFile],
        manifest: Manifest | None,
        progress: Progress,
    ) -> None:
        self.form = ""
        self.folder = folder
        self.spec = spec
        self._weight_map = weight_map
        self._files = files
        self._manifest = manifest
        self._progress = progress

    @classmethod
    def open(cls, folder: Path, *, span: Span | None = None, progress: Progress = silent) -> Checkpoint:
        """Open `folder`; with a `span`, also check every file that the span needs.

        Raises `CheckpointError`, or `UnsupportedModel` when config.json lacks a shape.
        """
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not a folder")
        check_form(str(folder), names_in(folder))
        manifest = read_manifest(folder)
        spec = read_spec(folder, manifest)
        files: dict[str, _WeightFile] = {}
        if exists(folder / SINGLE_NAME):  # an index beside it is left from before, and transformers ignores it too
            files[SINGLE_NAME] = _open_weights(folder, SINGLE_NAME, manifest, progress)
            weight_map = dict.fromkeys(files[SINGLE_NAME].entries, SINGLE_NAME)
        else:
            weight_map = read_weight_map(folder, manifest)
        checkpoint = cls(folder, spec, weight_map, files, manifest, progress)
        if span is not None:
            checkpoint.check(span)
        return checkpoint

    def names(self) -> Sequence[str]:
        """The names of all tensors, sorted; some may lie in files that this folder does not hold."""
        return sorted(self._weight_map)

    def __contains__(self, name: object) -> bool:
        return name in self._weight_map

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, from its file's header."""
        return self._locate(name)[1].shape

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's dtype, from its file's header."""
        return _TORCH_DTYPES[self._locate(name)[1].dtype]

    def where(self, name: str) -> str:
        """File and name of a tensor, for messages."""
        return f"{self.folder / self._weight_map.get(name, '')}: tensor {name}"

    def stored_bytes(self, name: str) -> int:
        """Bytes of a tensor in its file."""
        return self._locate(name)[1].nbytes

    def blocks(self, name: str) -> TensorType | None:
        """How a quantised tensor's numbers are stored: there are none in these folders."""
        return None

    def order(self, name: str) -> torch.Tensor | None:
        """Which input each column of a quantised tensor's blocks is multiplied with: each with its own, always."""
        return None

    def read_blocks(self, name: str, index: int | None = None) -> torch.Tensor:
        """The bytes of a quantised tensor's rows: there are none in these folders."""
        raise CheckpointError(f"{self.folder}: {name} is not quantised")

    def read(self, name: str, index: int | None = None) -> torch.Tensor:
        """A tensor on the CPU, in its own dtype and shape, or `[index]` of it; reads those bytes and no others."""
        file, entry = self._locate(name)
        begin, shape, nbytes = entry.begin, entry.shape, entry.nbytes
        if index is not None:
            nbytes //= shape[0]
            begin, shape = begin + index * nbytes, shape[1:]
        data = torch.empty(nbytes, dtype=torch.uint8)
        read_into(data.numpy().data, file.path, file.identity, begin, name)
        return data.view(_TORCH_DTYPES[entry.dtype]).view(shape)

    def tensors_of(self, span: Span) -> list[str]:
        """The names of the tensors that a stage over `span` reads (see `tensor_names.tensors_of`)."""
        return tensor_names.tensors_of(self.names(), span, self.spec.n_blocks)

    def nbytes(self, span: Span) -> int:
        """Bytes of the tensors that a stage over `span` reads, as stored."""
        return sum(self._locate(name)[1].nbytes for name in self.tensors_of(span))

    def check(self, span: Span) -> None:
        """Check every file that `span` needs: it is there, the manifest's, well-formed, and has the tensors.

        Also that each block of the span has any tensors at all.
        """
        needed = self.tensors_of(span)
        for name in needed:
            self._locate(name)
        missing = set(span) - {tensor_names.block_of(name) for name in needed}
        if missing:
            raise CheckpointError(f"{self.folder} has no tensors for block {min(missing)}")

    def _locate(self, name: str) -> tuple[_WeightFile, TensorEntry]:
        file_name = self._weight_map.get(name)
        if file_name is None:
            raise CheckpointError(f"{self.folder} has no tensor {name}")
        file = self._files.get(file_name)
        if file is None:
            file = _open_weights(self.folder, file_name, self._manifest, self._progress)
            self._files[file_name] = file
        entry = file.entries.get(name)
        if entry is None:
            raise CheckpointError(f"{INDEX_NAME} says that {name} is in {file_name}, but it is not")
        return file, entry


def tensor_files(folder: Path) -> Mapping[str, str]:
    """The file of each tensor, by the whole file's header or the index; the weights need not be there, nor are read.

    Empty where there is neither: then a hub's model has one file, which is fetched later. Raises `CheckpointError`.
    """
    if exists(folder / SINGLE_NAME):
        with opened(folder / SINGLE_NAME) as file:
            return dict.fromkeys(read_header(file, identity(file)[1], str(folder / SINGLE_NAME)), SINGLE_NAME)
    return read_weight_map(folder) if exists(folder / INDEX_NAME) else {}


def _open_weights(folder: Path, name: str, manifest: Manifest | None, progress: Progress) -> _WeightFile:
    path = folder / name
    with opened(path) as file:
        if manifest is not None:
            manifest.check_open(file, name, progress=progress)
            file.seek(0)
        known = identity(file)
        return _WeightFile(path, known, read_header(file, known[1], str(path)))
