"""Mutated inputs for every decoder: none crashes, none is wrongly accepted, none takes long."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from random import Random
from typing import Any

import msgpack
import pytest

from tests.fuzz import mutate
from tests.fuzz.__main__ import print_table
from tests.fuzz.decoder import SLOW_SECONDS, Decoder, check_samples, run
from tests.fuzz.many import MEMORY, fuzz, shares
from tests.fuzz.registry import EXEMPT, all_decoders, found_decoders, workshop

QUICK = 20_000
LONG = 200_000
SEED = 0


@pytest.fixture(scope="module", autouse=True)
def running() -> Iterator[None]:
    with workshop():
        yield


@pytest.mark.parametrize("decoder", all_decoders(), ids=lambda decoder: decoder.name)
def test_mutated_inputs_are_refused_or_rightly_accepted(decoder: Decoder) -> None:
    check_samples(decoder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    tally = run(decoder, range(shares(all_decoders(), QUICK)[decoder.name]), seed=SEED)

    assert not tally.findings, "\n".join(tally.findings)
    assert tally.inputs > tally.accepted or not decoder.refuses
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_hundred_thousand_mutated_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    """In processes of their own, whose memory is bounded: a crash of the interpreter would be a finding too. A million
    is for `python -m tests.fuzz`."""
    tallies = fuzz(LONG, seed=SEED + 1)

    with capsys.disabled():
        print_table(tallies, 0.0)
    assert not [finding for tally in tallies for finding in tally.findings]
    assert sum(tally.inputs for tally in tallies) >= LONG


def test_every_decoder_of_the_project_is_in_the_table() -> None:
    covered = {name for decoder in all_decoders() for name in decoder.covers}
    found = found_decoders()
    exempt = tuple(EXEMPT)

    missing = {name: why for name, why in found.items() if name not in covered and not name.startswith(exempt)}
    assert not missing, "these read what strangers send and are not fuzzed: add them to a table of tests/fuzz"


def test_what_the_table_says_it_covers_is_there() -> None:
    import importlib

    for name in {name for decoder in all_decoders() for name in decoder.covers}:
        module, _, path = name.partition(":")
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        assert callable(found), name


# The fuzzer itself finds what is wrong.


def _broken(call: Any, wrong: Any = lambda sample, data, result: None) -> Decoder:
    return Decoder("broken", lambda: [msgpack.packb({"a": 1})], call, (ValueError,), wrong, (), mutate.mutate_msgpack)


def test_a_crash_is_found() -> None:
    def call(data: bytes) -> Any:
        return {"a": 1}[msgpack.unpackb(data)["a"]] if len(data) > 3 else 0

    assert any("it raised" in finding for finding in run(_broken(call), range(300)).findings)


def test_a_recursion_as_deep_as_a_stranger_likes_is_found() -> None:
    def call(data: bytes) -> Any:
        try:
            return repr(msgpack.unpackb(data, strict_map_key=False))
        except ValueError:
            raise
        except (msgpack.UnpackException, TypeError) as error:
            raise ValueError from error

    assert any("RecursionError" in finding for finding in run(_broken(call), range(20_000)).findings)


def test_what_is_wrongly_accepted_is_found() -> None:
    decoder = _broken(lambda data: data, lambda sample, data, result: None if data == sample else "not the sample")

    assert any("wrongly accepted: not the sample" in finding for finding in run(decoder, range(10)).findings)


def test_what_takes_long_is_found_and_tried_twice() -> None:
    import time

    calls: list[bytes] = []

    def call(data: bytes) -> None:
        calls.append(data)
        if len(calls) in (1, 3, 4):
            end = time.thread_time() + SLOW_SECONDS + 0.02
            while time.thread_time() < end:
                pass

    tally = run(_broken(call), range(2))

    assert tally.slow_once == 1
    assert len(tally.findings) == 1 and "took 0.2" in tally.findings[0]


def test_mutations_are_the_same_every_time_and_mostly_change_something() -> None:
    sample = msgpack.packb({"t": "ping", "nonce": 5, "list": [1, 2, {"x": b"y"}]})
    for change in (mutate.mutate_bytes, mutate.mutate_msgpack):
        first = [change(sample, Random(seed)) for seed in range(300)]
        assert first == [change(sample, Random(seed)) for seed in range(300)]
        assert sum(data != sample for data in first) > 280
        assert max(map(len, first)) <= mutate.MOST_BYTES
