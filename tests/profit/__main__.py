"""`python -m tests.profit`: search for a coalition's profit under the new rules, or under an old one.

python -m tests.profit --rules new --runs 20000 --processes 2
python -m tests.profit --rules all            # every old rule, each within its budget
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.profit.game import Game
from tests.profit.old_rules import OLD_RULES
from tests.profit.search import STEPS, Finding, Search, shrink, told

PIECE = 3_000
"""Runs of one search: each has its own seed, so that they can be spread over processes."""


def search_for(name: str, seed: int, steps: int = STEPS) -> Search:
    """The search under the new rules, or under an old one."""
    if name == "new":
        return Search(Game, seed, steps)
    rule = OLD_RULES[name]
    return Search(rule.game, seed, steps, rule.without if rule.mixed else None)


def search(name: str, seed: int, runs: int, steps: int) -> tuple[int, Finding | None]:
    """Runs that were made, and what was found, cut down."""
    found = search_for(name, seed, steps)
    finding = found.run(runs)
    return found.runs, None if finding is None else shrink(found.judge, finding)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.profit", description=__doc__.splitlines()[0])
    parser.add_argument("--rules", default="new", choices=["new", "all", *OLD_RULES], help="the rules to play by")
    parser.add_argument("--runs", type=int, default=20_000, help="sequences of moves at the most")
    parser.add_argument("--steps", type=int, default=STEPS, help="moves of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    missed = 0
    for name in OLD_RULES if given.rules == "all" else [given.rules]:
        began = time.monotonic()
        made, finding = spread(name, given)
        took = time.monotonic() - began
        what = "nothing found" if finding is None else f"found in {len(finding.moves)} moves"
        say(f"{name}: {what}; seed {given.seed}, {made:,} runs of {given.steps} steps, {took:.0f} s")
        if finding is not None:
            say(told(finding))
        missed += (finding is None) != (name == "new")
    return int(missed > 0)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def spread(name: str, given: argparse.Namespace) -> tuple[int, Finding | None]:
    """The search in pieces, over processes; the first finding ends it."""
    pieces = [(given.seed * 1_000_000 + at, min(PIECE, given.runs - at)) for at in range(0, given.runs, PIECE)]
    made = 0
    with ProcessPoolExecutor(given.processes) as pool:
        futures = [pool.submit(search, name, seed, runs, given.steps) for seed, runs in pieces]
        for future in futures:
            runs, finding = future.result()
            made += runs
            sys.stderr.write(f"{name}: {made:,} runs\n")
            if finding is not None:
                for each in futures:
                    each.cancel()
                return made, finding
    return made, None


if __name__ == "__main__":
    sys.exit(main())
