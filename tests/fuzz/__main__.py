"""Gives mutated inputs to every decoder and prints what came of them.

    python -m tests.fuzz [--inputs 1000000] [--seed 0] [--processes 2] [--decoder NAME] [--only INDEX]

An input is made from seed, decoder and number, so that what is found can be made again: `--decoder NAME --only INDEX`
shows it. Each worker process may use `MEMORY` more than it has after its imports. The exit code is 1 when anything was
found.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.decoder import Tally, make_input, run
from tests.fuzz.many import fuzz
from tests.fuzz.registry import workshop


def print_table(tallies: list[Tally], seconds: float) -> None:
    """One line a decoder, and what was found."""
    out = sys.stdout.write
    out(f"{'decoder':34}{'inputs':>9}{'accepted':>10}{'same':>7}{'slowest ms':>12}{'slow once':>11}  refused\n")
    whole = Tally("together")
    for tally in [*tallies, whole]:
        refused = ", ".join(f"{name} {count}" for name, count in tally.refused.most_common())
        out(f"{tally.name:34}{tally.inputs:>9}{tally.accepted:>10}{tally.unchanged:>7}")
        out(f"{tally.slowest * 1000:>12.1f}{tally.slow_once:>11}  {refused if tally is not whole else ''}\n")
        if tally is not whole:
            whole.add(tally)
    out(f"{whole.inputs} inputs in {seconds:.0f} s, {len(whole.findings)} findings\n")
    for tally in tallies:
        for finding in tally.findings:
            out(f"FOUND {finding}\n")


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--decoder", help="only this one")
    parser.add_argument("--only", type=int, help="show the input of this number, and what the decoder makes of it")
    options = parser.parse_args()
    if options.decoder is not None:
        with workshop() as decoders:
            (decoder,) = (each for each in decoders if each.name == options.decoder)
            if options.only is not None:
                sys.stdout.write(f"{make_input(decoder, options.seed, options.only)[1]!r}\n")
            numbers = range(options.inputs) if options.only is None else (options.only,)
            began = time.monotonic()
            tallies = [run(decoder, numbers, seed=options.seed)]
    else:
        began = time.monotonic()
        tallies = fuzz(options.inputs, seed=options.seed, processes=options.processes)
    print_table(tallies, time.monotonic() - began)
    sys.exit(any(tally.findings for tally in tallies))


if __name__ == "__main__":
    main()
