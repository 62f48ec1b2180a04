"""Run simulations, or one of them again.

python -m tests.simulation --seeds 0:1000 [--jobs 2]     what happened, and which seeds failed
python -m tests.simulation --seed 123 [--trace]          one seed again, to the byte; with all that happened
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.simulation.world import Result, simulate

SHOWN = 10


def main() -> None:
    """Parse options and run; the exit status is 1 when something did not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0:100", help="FIRST:LAST, half open")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: print all that happened")
    parser.add_argument("--verbose", action="store_true", help="with --seed: let the code log as in life")
    parser.add_argument("--hostile", action="store_true", help="every seed has lines that double, swap, lose frames")
    parser.add_argument("--digests", action="store_true", help="print the hash of each seed's trace")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    hostile = True if options.hostile else None
    if options.seed is not None:
        result = simulate(options.seed, hostile=hostile, trace=options.trace, verbose=options.verbose)
        for line in result.trace.lines() if result.trace is not None else ():
            _say(line)
        _say(f"seed {result.seed}: {result.events} events, trace {result.digest}")
        for text in result.broken:
            _say(f"BROKEN {text}")
        sys.exit(bool(result.broken))
    first, _, last = options.seeds.partition(":")
    began = time.monotonic()
    results = list(_results(range(int(first), int(last)), options.jobs, hostile))
    for result in results if options.digests else ():
        _say(f"seed {result.seed}: trace {result.digest}")
    sys.exit(_summary(results, time.monotonic() - began))


def _results(seeds: range, jobs: int, hostile: bool | None) -> Iterator[Result]:
    run = partial(_one, hostile=hostile)
    if jobs == 1:
        yield from map(run, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run, seeds, chunksize=8)


def _one(seed: int, *, hostile: bool | None) -> Result:
    result = simulate(seed, hostile=hostile)
    if seed % 64 == 0:
        gc.freeze()
    for text in result.broken[:1]:
        sys.stderr.write(f"seed {seed}: {text}\n")
    return result


def _summary(results: list[Result], seconds: float) -> int:
    faults: Counter[str] = sum((result.faults for result in results), Counter())
    checks: Counter[str] = sum((result.checks for result in results), Counter())
    failed = [result for result in results if result.broken]
    hostile = sum(1 for result in results if result.hostile)
    _say(f"{len(results)} seeds ({hostile} with hostile lines) in {seconds:.0f} s")
    _say(
        f"{sum(r.jobs for r in results)} answers wanted, {sum(r.attempts for r in results)} attempts, "
        f"{sum(r.tokens for r in results)} tokens, {sum(r.events for r in results)} events, "
        f"{sum(r.virtual_seconds for r in results) / 3600:.1f} hours of virtual time"
    )
    _say(f"{faults.total()} faults:")
    _table(faults.most_common())
    _say("invariants, and how often each was checked:")
    _table(checks.most_common())
    _say(f"{len(failed)} seeds failed" + (": " + " ".join(str(r.seed) for r in failed) if failed else ""))
    for result in failed[:SHOWN]:
        _say(f"  {result.seed}: {result.broken[0]}")
        _say(f"      again: python -m tests.simulation --seed {result.seed} --trace")
    return 1 if failed else 0


def _table(rows: Iterable[tuple[str, int]]) -> None:
    for name, count in rows:
        _say(f"  {count:9,d}  {name}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
