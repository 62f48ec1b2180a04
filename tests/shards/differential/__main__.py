"""The whole comparison, or that of some families: `python -m tests.shards.differential [FAMILY…] [--every N]`."""

from __future__ import annotations

import argparse
import collections
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.shards.differential.families import FAMILIES
from tests.shards.differential.fields import Subject, named


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--every", type=int, default=1, help="Only every so many of the edits.")
    parser.add_argument("--begin", type=int, default=0)
    parser.add_argument("--log", type=Path, help="One line of JSON for each edit.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    total: collections.Counter[str] = collections.Counter()
    wrong = 0
    for family in arguments.families:
        began, counts = time.monotonic(), collections.Counter[str]()
        with tempfile.TemporaryDirectory() as folder:
            subject = Subject(Path(folder), family)
            for edit in [None, *subject.edits[arguments.begin :: arguments.every]]:
                result = subject.check(edit)
                counts[result.outcome] += 1
                bad = not result.outcome.allowed or (edit is None and result.outcome != "equal")
                unnamed = result.outcome == "refused" and not named(edit, result.said)
                wrong += bad
                if bad or unnamed:
                    sys.stdout.write(
                        f"  {family}: {edit}: {'unnamed ' if unnamed else ''}{result.outcome}: {result.said[:200]}\n"
                    )
                if arguments.log:
                    with arguments.log.open("a") as log:
                        log.write(json.dumps([family, str(edit), result.outcome, result.said[:400]]) + "\n")
        total += counts
        sys.stdout.write(f"{family}: {dict(counts)} in {time.monotonic() - began:.0f} s\n")
        sys.stdout.flush()
    sys.stdout.write(f"{len(arguments.families)} families: {dict(total)}\n")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
