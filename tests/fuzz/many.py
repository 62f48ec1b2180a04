"""Many inputs in several processes, whose memory is bounded."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tests.fuzz.decoder import Decoder, Tally, check_samples, run
from tests.fuzz.registry import all_decoders

CHUNK = 2000
MEMORY = 512 << 20
"""Bytes of address space that decoding may take, most of which the threads' stacks of libraries do."""


def shares(decoders: tuple[Decoder, ...], inputs: int) -> dict[str, int]:
    """How many inputs each decoder gets: by weight, and together at least `inputs`."""
    whole = sum(decoder.weight for decoder in decoders)
    return {decoder.name: -int(-inputs * decoder.weight // whole) for decoder in decoders}


def _chunks(inputs: int) -> Iterator[tuple[str, int, int]]:
    counts = shares(all_decoders(), inputs)
    for start in range(0, max(counts.values()), CHUNK):
        for name, count in counts.items():
            if start < count:
                yield name, start, min(start + CHUNK, count)


def _begin(folder: str) -> None:
    tempfile.tempdir = folder
    for decoder in all_decoders():
        check_samples(decoder)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    if pages is not None:
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _work(name: str, start: int, end: int, seed: int) -> Tally:
    (decoder,) = (each for each in all_decoders() if each.name == name)
    return run(decoder, range(start, end), seed=seed)


def fuzz(inputs: int, *, seed: int = 0, processes: int = 2) -> list[Tally]:
    """Run at least `inputs` inputs in worker processes; one tally a decoder."""
    tallies = {decoder.name: Tally(decoder.name) for decoder in all_decoders()}
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="mesh-fuzz-") as folder,
        ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(folder,)) as pool,
    ):
        running = {pool.submit(_work, *chunk, seed): chunk for chunk in _chunks(inputs)}
        for future in as_completed(running):
            name, start, end = running[future]
            try:
                tallies[name].add(future.result())
            except BrokenProcessPool as error:
                tallies[name].findings.append(f"{name}: the process died between {start} and {end}: {error}")
                break
    return list(tallies.values())
