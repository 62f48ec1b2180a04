"""Looks at what a node with several stages has and at the swarm, and plans which stage serves what (shell)."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mesh.discovery.records import ModelKey
from mesh.errors import ConfigError
from mesh.identity import Identity
from mesh.node import Node, NodeConfig
from mesh.provider.announcer import committed_and_claims
from mesh.provider.model_files import ModelFiles, model_name, read_model_files
from mesh.provider.planner.machine import DTYPE_BYTES, check_device, free_bytes, growth, stoppable
from mesh.provider.planner.stages import Place, Room, Stage, assign, key_file
from mesh.swarm.joint import Device, choose_spans
from mesh.swarm.view import ProviderView
from shards.checkpoint.gguf_header import is_gguf
from shards.checkpoint.index import INDEX_NAME, MAX_INDEX_BYTES
from shards.checkpoint.model_folder import read
from shards.checkpoint.opening import open_checkpoint
from shards.checkpoint.source import resolve
from shards.errors import CheckpointError
from shards.model.devices import choose_device
from shards.model.experts_config import expert_numbers, read_share
from shards.model.footprint import loaded_bytes
from shards.model.llama import kernels_for
from shards.model.loading import check_quantisable, check_servable, choose_dtype
from shards.model.native_config import parse_native
from shards.model.precision import Precision
from shards.model.span import Span
from shards.model.spec import ModelSpec
from shards.progress import Progress, silent

FRACTION = {"cpu": 0.5, "mps": 0.5}
"""Of the free memory, what weights and caches may take; on a device of its own:"""
DEVICE_FRACTION = 0.85
SPEED_BYTES = {"cpu": 1 << 26}
DEVICE_SPEED_BYTES = 1 << 28
WIDTH = 4096
RUNS = 5
SMALL = 64
OPERATIONS = 7
"""Rounds of three small operations: about as many as a decoder block has."""
KERNEL_GROWTH = 1.15
"""Of quantised weights, for scales and zero points as the kernels read them."""
CACHE_BYTES = 1 << 30
CACHE_FRACTION = 0.25
"""Of what a stage may take, for caches: at most so much where the operator did not say."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `mesh join` was asked, as far as it decides what is served where."""

    models: tuple[str, ...]
    places: tuple[Place, ...]
    peers: tuple[str, ...] = ()
    name: str | None = None
    dtype: str = "auto"
    quantize: Precision | None = None
    max_blocks: int | None = None
    kv_bytes: int | None = None
    cache: Path | None = None
    key: Path | None = None
    """The node's key, beside which those of its stages are: what they announced in an earlier run does not count."""
    runtime_root: Path | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage and where it starts; `span` None: a model's only stage chooses by itself, as any node."""

    stage: Stage
    span: Span | None
    kv_bytes: int
    room: Room


async def survey(wanted: Wanted, progress: Progress = silent) -> list[Planned]:
    """The stages of a node.

    Raises `MeshError` and `ShardError`: a device that does not work, a model that is not there, no block fits.
    """
    places = _expanded(wanted.places)
    for device in dict.fromkeys(place.device for place in places):
        await asyncio.to_thread(check_device, device)
    free = {place.physical: free_bytes(place.device) for place in places}
    found = {model: await _read(wanted, model, progress) for model in dict.fromkeys(wanted.models)}
    sizes = {model: size for model, (_, _, size) in found.items()}
    if wanted.quantize is not None:
        for model, (files, folder, size) in found.items():
            for place in places:
                await _check_quantisable(wanted, place, files, folder)
            sizes[model] = quantised_bytes(size, files.spec, wanted.quantize)[0]
    stages = assign(sizes, places, free, cores=torch.get_num_threads())
    together = [model for model in found if sum(stage.model == model for stage in stages) > 1]
    own = own_peers(wanted.key, [stage.label for stage in stages]) if wanted.key is not None else set()
    others = await _look(wanted, [found[model][0] for model in together], own)
    usable = {stage.label: _usable(stage, free[stage.place.physical]) for stage in stages}
    caches = {
        label: wanted.kv_bytes or max(1, min(CACHE_BYTES, int(CACHE_FRACTION * usable[label]))) for label in usable
    }
    rooms: dict[str, Room] = {}
    for stage in stages:
        files, folder, size = found[stage.model]
        free_for_it = usable[stage.label] - caches[stage.label]
        rooms[stage.label] = await asyncio.to_thread(_room, wanted, stage, files, folder, size, free_for_it)
    spans: dict[str, Span] = {}
    speeds: dict[tuple[str, str], Speed] = {}
    for model, views in zip(together, others, strict=True):
        files = found[model][0]
        mine = [stage for stage in stages if stage.model == model]
        devices = [await _device(wanted, stage, files, rooms[stage.label], speeds) for stage in mine]
        chosen = choose_spans(files.spec.n_blocks, views, devices)
        spans |= {stage.label: span for stage, span in zip(mine, chosen, strict=True)}
    return [Planned(stage, spans.get(stage.label), caches[stage.label], rooms[stage.label]) for stage in stages]


def _expanded(places: Sequence[Place]) -> list[Place]:
    """`all` is every CUDA device, and `auto` the one that a single node would take."""
    expanded: list[Place] = []
    for place in places:
        if place.device == "all" and torch.cuda.is_available():
            expanded += [Place(f"cuda:{number}", place.model) for number in range(torch.cuda.device_count())]
        else:
            expanded.append(Place(choose_device("auto" if place.device == "all" else place.device), place.model))
    return expanded


async def _read(wanted: Wanted, model: str, progress: Progress) -> tuple[ModelFiles, Path, int]:
    folder = await stoppable(lambda report: resolve(model, cache=wanted.cache, progress=report), progress)
    name = wanted.name or model_name(model, folder, wanted.quantize)
    files = await stoppable(lambda report: read_model_files(name, folder, wanted.quantize, progress=report), progress)
    await asyncio.to_thread(check_servable, folder, files.spec)
    return files, folder, model_bytes(folder, files)


async def _check_quantisable(wanted: Wanted, place: Place, files: ModelFiles, folder: Path) -> None:
    device = torch.device(place.device)
    dtype = choose_dtype(wanted.dtype, device, files.spec.dtype)
    await asyncio.to_thread(check_quantisable, files.spec, device, dtype, folder)


def model_bytes(folder: Path, files: ModelFiles) -> int:
    """The weights' bytes as stored: what the index says, else the files' sizes, else worked out from the shape."""
    if is_gguf(folder):
        return folder.stat().st_size
    try:
        total = json.loads(read(folder / INDEX_NAME, MAX_INDEX_BYTES))["metadata"]["total_size"]
        if type(total) is int and 0 < total < 1 << 62:
            return total
    except (CheckpointError, ValueError, KeyError, TypeError, RecursionError):
        pass
    spec = files.spec
    stored = sum(path.lstat().st_size for path in folder.glob("*.safetensors"))
    experts = expert_numbers(spec.raw, spec.hidden_size)
    block = 4 * spec.hidden_size**2 + (experts[0] or 8 * spec.hidden_size**2)
    parameters = spec.n_blocks * block + 2 * spec.vocab_size * spec.hidden_size
    return stored or parameters * DTYPE_BYTES.get(spec.dtype, 4)


async def _look(wanted: Wanted, models: Sequence[ModelFiles], own: Collection[str]) -> list[list[ProviderView]]:
    """What others serve, load or claim of these models."""
    if not wanted.peers or not models:
        return [[] for _ in models]
    config = NodeConfig(
        Identity.generate(),
        initial_peers=wanted.peers,
        client_mode=True,
        runtime_root=wanted.runtime_root,
        direct_port=None,
    )
    found = []
    async with Node(config) as node:
        for files in models:
            records = await node.directory.providers(ModelKey(files.name, files.digest))
            committed, claims = committed_and_claims(records, without=own)
            found.append([*committed, *(ProviderView(each.peer, each.span, 1.0, serving=False) for each in claims)])
    return found


def _usable(stage: Stage, free: int) -> float:
    return free * FRACTION.get(torch.device(stage.place.device).type, DEVICE_FRACTION) * stage.share


def _room(wanted: Wanted, stage: Stage, files: ModelFiles, folder: Path, size: int, usable: float) -> Room:
    """What a stage's part of its device has room for. Raises `ConfigError` when not one block fits."""
    spec, device = files.spec, torch.device(stage.place.device)
    dtype = choose_dtype(wanted.dtype, device, spec.dtype)
    if wanted.quantize is not None:
        grown, edge = quantised_bytes(size, spec, wanted.quantize)
    else:
        grown = int(loaded_size(folder, files, size, device, dtype))
        edge = min(2 * spec.vocab_size * spec.hidden_size * dtype.itemsize, grown // 2)
    room = Room.of(spec.n_blocks, usable, grown, edge)
    if room.fits < 1:
        raise ConfigError(room.what_is_missing(stage, files.name))
    return room


def loaded_size(folder: Path, files: ModelFiles, size: int, device: torch.device, dtype: torch.dtype) -> float:
    """Bytes of the weights once they are loaded, of `size` as stored: of a GGUF file counted, of a folder, whose
    weights need not be here yet, estimated."""
    spec = files.spec
    if is_gguf(folder):
        return loaded_bytes(open_checkpoint(folder), Span(0, spec.n_blocks), device=device, dtype=dtype)
    floats = growth(spec, str(dtype).removeprefix("torch."), str(device))
    if not files.bits:
        return size * floats
    tables = 1 if spec.raw.get("tie_word_embeddings") is True else 2  # which are mostly not quantised
    edge = min(size, tables * spec.vocab_size * spec.hidden_size * DTYPE_BYTES.get(spec.dtype, 4))
    if kernels_for(device, dtype) is not None:
        return edge * (1.0 if spec.dtype == "bfloat16" else floats) + (size - edge) * KERNEL_GROWTH
    return edge * floats + (size - edge) * 8 * dtype.itemsize / files.bits


async def _device(
    wanted: Wanted, stage: Stage, files: ModelFiles, room: Room, speeds: dict[tuple[str, str], Speed]
) -> Device:
    """What a stage's part of its device can do for the model.

    `speeds` are the devices measured so far: each once, so that stages that share one are equal.
    """
    dtype = choose_dtype(wanted.dtype, torch.device(stage.place.device), files.spec.dtype)
    measured = stage.place.physical, str(dtype)
    if measured not in speeds:
        speeds[measured] = await asyncio.to_thread(measure_speed, stage.place.device, dtype)
    read = room.block_bytes * read_share(files.spec)
    return Device(min(room.fits, wanted.max_blocks or room.fits), stage.share / speeds[measured].seconds(read))


def quantised_bytes(stored: int, spec: ModelSpec, precision: Precision) -> tuple[int, int]:
    """What a model of `stored` bytes takes once it is quantised, and how much of that are embedding and head."""
    vocabulary = 2 * spec.vocab_size * spec.hidden_size
    parameters = stored / DTYPE_BYTES.get(spec.dtype, 4)
    edge = min(vocabulary, parameters / 2) * precision.vocabulary_bytes
    blocks = (parameters - edge / precision.vocabulary_bytes) * precision.block_bytes(parse_native(spec))
    return int(blocks + edge), int(edge)


@dataclass(frozen=True, slots=True)
class Speed:
    """What bounds decoding on a device: how fast it reads weights, and what a block takes however small it is."""

    bytes_per_second: float
    block_seconds: float

    def seconds(self, nbytes: float) -> float:
        """For one token through a block of so many bytes."""
        return nbytes / self.bytes_per_second + self.block_seconds


def measure_speed(device: str, dtype: torch.dtype) -> Speed:
    """A few large matrix-vector products, and as many small operations as a block has. Takes well under a second."""
    kind = torch.device(device).type
    rows = SPEED_BYTES.get(kind, DEVICE_SPEED_BYTES) // (WIDTH * dtype.itemsize)
    weights = torch.zeros(rows, WIDTH, dtype=dtype, device=device)
    vector = torch.zeros(WIDTH, 1, dtype=dtype, device=device)
    small = torch.zeros(SMALL, SMALL, dtype=dtype, device=device)

    def block() -> torch.Tensor:
        hidden = small[:1]
        for _ in range(OPERATIONS):
            hidden = torch.softmax(hidden @ small, dim=-1) + hidden
        return hidden

    reading = _median(lambda: (weights @ vector).sum().item())
    return Speed(weights.nbytes / reading, _median(lambda: block().sum().item()))


def _median(run: Callable[[], object]) -> float:
    """Seconds that `run` takes; it waits for the device itself."""
    seconds = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return max(1e-9, statistics.median(seconds[1:]))


def own_peers(base: Path, labels: Collection[str]) -> set[str]:
    """The peers that the node's stages are, as far as they have keys already."""
    files = (key_file(base, label) for label in labels)
    return {Identity.load_or_create(file).peer_id for file in files if os.access(file, os.R_OK)}
