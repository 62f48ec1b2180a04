"""The table of docs/operations.md, «When something fails», has all of `failures.py` for every role, and tests.

`python -m tests.test_failure_table` lists the cells without a test.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.failures import FAILURES, ROLES

ROOT = Path(__file__).parents[1]
NOT_SHOWN: set[tuple[str, str, tuple[str, ...]]] = {
    ("Network", "small packets only (MTU)", ("payer",)),
}
"""Cells that are known to have no test yet. Nothing may be added here."""
COLUMNS = ["what fails", "who", "what happens", "how it comes back, within", "shown by"]


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a failure, the roles that it is about, and the tests that show it."""

    section: str
    failure: str
    roles: tuple[str, ...]
    happens: str
    returns: str
    shown: str

    @property
    def tests(self) -> list[str]:
        """Names of test functions."""
        return re.findall(r"`(test_\w+)`", self.shown)


def read(text: str) -> list[Row]:
    """The rows of all tables under `## When something fails`. An empty first cell repeats the one above it."""
    found: list[Row] = []
    heading, failure = "", ""
    body = text.partition("\n## When something fails\n")[2].partition("\n## ")[0]
    for line in body.splitlines():
        if line.startswith("### "):
            heading, failure = line[4:].strip(), ""
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if set("".join(cells)) <= {"-", ":"}:
            continue
        if [cell.lower() for cell in cells] == COLUMNS:
            continue
        if len(cells) != len(COLUMNS):
            raise ValueError(f"{heading}: a row needs {len(COLUMNS)} cells: {line}")
        failure = cells[0] or failure
        roles = tuple(each.strip() for each in cells[1].split(","))
        found.append(Row(heading, failure, roles, *cells[2:]))
    return found


def problems(text: str, known: set[str]) -> list[str]:
    """What is missing in the table, and what stands in it that is not so."""
    rows = read(text)
    wanted = {(section, failure) for section, failures in FAILURES.items() for failure in failures}
    wrong: list[str] = []
    covered: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        where = f"{row.section}, {row.failure} ({', '.join(row.roles)})"
        covered.setdefault((row.section, row.failure), []).extend(row.roles)
        wrong += [f"{where}: no role {role!r}" for role in row.roles if role not in ROLES]
        wrong += [f"{where}: an empty cell" for cell in (row.happens, row.returns, row.shown) if not cell]
        wrong += [f"{where}: there is no {name}" for name in row.tests if name not in known]
        if not row.tests and not (row.shown == "not shown" and (row.section, row.failure, row.roles) in NOT_SHOWN):
            wrong.append(f"{where}: no test")
    for each in sorted(wanted | covered.keys()):
        section, failure = each
        if each not in wanted:
            wrong.append(f"{section}, {failure}: is not in tests/failures.py")
        for role in ROLES:
            if (count := covered.get(each, []).count(role)) != 1:
                wrong.append(f"{section}, {failure}: {role} stands there {count} times")
    return wrong


def known_tests() -> set[str]:
    return {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }


def test_every_failure_has_an_answer_of_every_role_and_a_test_that_exists() -> None:
    wrong = problems((ROOT / "docs" / "operations.md").read_text(), known_tests())
    assert not wrong, "\n".join(wrong)


def test_a_cell_that_is_missing_or_has_no_test_is_found() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    known = known_tests()
    row = next(line for line in text.splitlines() if line.startswith("| full or read-only at the start |"))
    for changed in (
        text.replace(row + "\n", ""),
        text.replace(row, row.replace("provider, ", "", 1)),
        text.replace(row, row.rpartition(" | ")[0] + " | not shown |"),
        text.replace(row, row.replace("`test_", "`test_no_", 1)),
    ):
        assert changed != text
        assert problems(changed, known)


def test_a_row_that_is_missing_a_cell_is_no_row() -> None:
    text = "\n## When something fails\n\n### Disk\n| full | payer | stops | `test_x` |\n"
    with pytest.raises(ValueError, match="needs 5 cells"):
        read(text)


if __name__ == "__main__":
    found = problems((ROOT / "docs" / "operations.md").read_text(), known_tests())
    found += [
        f"{section}, {failure} ({', '.join(roles)}): no test yet" for section, failure, roles in sorted(NOT_SHOWN)
    ]
    sys.stdout.write("".join(f"{line}\n" for line in found) or "every cell has a test\n")
