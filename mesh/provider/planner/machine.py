"""What a provider asks of the machine it runs on: does the device work, how fast is it, how much memory is free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

import psutil
import torch

from mesh.errors import Cancelled, ConfigError
from shards.checkpoint.opening import AnyCheckpoint
from shards.checkpoint.packed.config import is_mxfp4
from shards.engine.measure import best_threads, measure_block_rate
from shards.model.footprint import loaded_bytes
from shards.model.llama import kernels_for
from shards.model.span import Span
from shards.model.spec import ModelSpec
from shards.model.stage import StageModel
from shards.progress import Progress

T = TypeVar("T")

MXFP4_BITS, MXFP4_KEPT_BITS = 4.25, 6
"""Of a number of gpt-oss's experts, which are nearly all of its weights: in a file, and as the kernels keep it."""
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


async def stoppable(work: Callable[[Progress], T], progress: Progress) -> T:
    """Run `work` in a thread. When we are cancelled its next report of progress ends it, so that Ctrl-C need not wait
    until gigabytes are downloaded or checked."""
    stopping = threading.Event()

    def report(done_bytes: int, total_bytes: int, what: str) -> None:
        if stopping.is_set():
            raise Cancelled("loading was broken off")
        progress(done_bytes, total_bytes, what)

    try:
        return await asyncio.to_thread(work, report)
    except asyncio.CancelledError:
        stopping.set()
        raise


def measure(model: StageModel, threads: int | None) -> tuple[int, float]:
    """Threads to compute with (measured, unless the operator chose) and the block rate with them."""
    if threads is None:
        return best_threads(model)
    torch.set_num_threads(threads)
    return threads, measure_block_rate(model)


def growth(spec: ModelSpec, loaded: str, device: str) -> float:
    """How many times more bytes weights take when they are loaded on `device` in the dtype `loaded`."""
    after = DTYPE_BYTES.get(loaded, 4)
    if is_mxfp4(spec.raw, spec.model_type):
        kept = kernels_for(torch.device(device), getattr(torch, loaded)) is not None
        return (MXFP4_KEPT_BITS if kept else 8 * after) / MXFP4_BITS
    return max(1.0, after / DTYPE_BYTES.get(spec.dtype, 4))


def taken_bytes(checkpoint: AnyCheckpoint, span: Span, model: StageModel, device: str, *, quantized: bool) -> float:
    """Memory that the weights of `span` take now that `model` holds them on `device`."""
    if quantized:
        return checkpoint.nbytes(span)
    if is_mxfp4(checkpoint.spec.raw, checkpoint.spec.model_type):
        return checkpoint.nbytes(span) * growth(checkpoint.spec, str(model.dtype).removeprefix("torch."), device)
    return loaded_bytes(checkpoint, span, device=torch.device(device), dtype=model.dtype)


def free_bytes(device: str) -> int:
    """Memory that nobody uses yet, where the stage lives."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def check_device(name: str) -> None:
    """Try it, since torch also knows the names of devices that this machine or this build has not."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name!r} is not a torch device: {_first_line(error)}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda was asked, but torch sees no CUDA device: use --device cpu")
    try:
        works = torch.ones(1, device=device).add(1).item() == 2
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise ConfigError(f"--device {name} cannot be used here: {_first_line(error)}") from error
    if not works:
        raise ConfigError(f"--device {name} computes 1 + 1 wrongly")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
