"""One decoder under test, and the loop that gives it mutated inputs and judges what comes of them."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any

from tests.fuzz.mutate import mutate_bytes

SLOW_SECONDS = 0.2
"""Seconds of processor time that no input may take; one that does is given once more, since the machine may be busy."""
MOST_FINDINGS = 5

Mutate = Callable[[bytes, Random, Sequence[bytes]], bytes]


@dataclass(frozen=True)
class Decoder:
    """What reads remote or file input.

    `samples()` are valid inputs; `call` reads one; `refuses` are the only exceptions it may raise. `wrong` says what is
    wrong with having accepted an input, given the sample it was made from, the input and the result; None: nothing.
    """

    name: str
    samples: Callable[[], Sequence[bytes]]
    call: Callable[[bytes], Any]
    refuses: tuple[type[Exception], ...]
    wrong: Callable[[bytes, bytes, Any], str | None]
    covers: tuple[str, ...]
    """The functions of the project that it reaches, as `module:name`."""
    mutate: Mutate = mutate_bytes
    weight: float = 1.0
    """Its share of the inputs; less than one for a decoder whose calls are long."""

    @cached_property
    def valid(self) -> tuple[bytes, ...]:
        return tuple(self.samples())


@dataclass
class Tally:
    """What came of the inputs of one decoder."""

    name: str
    inputs: int = 0
    accepted: int = 0
    unchanged: int = 0
    """Mutations that gave a valid sample back."""
    refused: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    slow_once: int = 0
    """Inputs over the limit at the first call and not at the second."""
    findings: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.inputs += other.inputs
        self.accepted += other.accepted
        self.unchanged += other.unchanged
        self.refused += other.refused
        self.slowest = max(self.slowest, other.slowest)
        self.slow_once += other.slow_once
        self.findings = (self.findings + other.findings)[:MOST_FINDINGS]


def make_input(decoder: Decoder, seed: int, index: int) -> tuple[bytes, bytes]:
    """The sample and the mutated input of that number: the same in every process."""
    rng = Random(hashlib.sha256(f"{seed} {decoder.name} {index}".encode()).digest())
    sample = rng.choice(decoder.valid)
    return sample, decoder.mutate(sample, rng, decoder.valid)


def check_samples(decoder: Decoder) -> None:
    """Every sample is accepted and not wrong: otherwise the rest would prove nothing."""
    assert decoder.valid, decoder.name
    for sample in decoder.valid:
        problem = decoder.wrong(sample, sample, decoder.call(sample))
        assert problem is None, f"{decoder.name}: {problem}: {sample[:200]!r}"


def run(decoder: Decoder, indices: Iterable[int], *, seed: int = 0) -> Tally:
    """Give the decoder the inputs of these numbers."""
    tally = Tally(decoder.name)
    for index in indices:
        sample, data = make_input(decoder, seed, index)
        _one(decoder, tally, index, sample, data)
        if len(tally.findings) >= MOST_FINDINGS:
            break
    return tally


def _one(decoder: Decoder, tally: Tally, index: int, sample: bytes, data: bytes) -> None:
    tally.inputs += 1
    tally.unchanged += data == sample
    seconds, problem = _judge(decoder, tally, sample, data)
    if seconds > SLOW_SECONDS:
        again, _ = _judge(decoder, Tally(decoder.name), sample, data)
        if again > SLOW_SECONDS:
            problem = problem or f"took {seconds:.2f} s, then {again:.2f} s"
        else:
            tally.slow_once += 1
            seconds = again
    tally.slowest = max(tally.slowest, seconds)
    if problem is not None:
        tally.findings.append(f"{decoder.name} #{index}: {problem}; {len(data)} bytes: {data[:120]!r}")


def _judge(decoder: Decoder, tally: Tally, sample: bytes, data: bytes) -> tuple[float, str | None]:
    began = time.thread_time()
    try:
        result = decoder.call(data)
    except decoder.refuses as error:
        seconds = time.thread_time() - began
        tally.refused[type(error).__name__] += 1
        return seconds, None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return time.thread_time() - began, f"it raised {type(error).__name__}: {str(error)[:200]}"
    seconds = time.thread_time() - began
    tally.accepted += 1
    try:
        problem = decoder.wrong(sample, data, result)
    except Exception as error:  # noqa: BLE001 - what cannot be judged must be looked at
        problem = f"what it accepted cannot be judged: {type(error).__name__}: {error}"
    return seconds, None if problem is None else f"wrongly accepted: {problem}"
