"""The table of docs/operations.md, «When something fails», covers every role and names tests that exist.

`python -m tests.test_failure_table` lists the cells without a test.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROLES = ("provider", "gateway", "relay", "client", "payer")
COLUMNS = ["what fails", "who", "what happens", "how it comes back, within", "shown by"]
NOT_SHOWN = "not shown"


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


def test_every_failure_says_what_each_role_does_and_names_a_test_that_exists_or_says_that_none_shows_it() -> None:
    rows = read((ROOT / "docs" / "operations.md").read_text())
    assert rows
    known = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    wrong: list[str] = []
    covered: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        where = f"{row.section}, {row.failure} ({', '.join(row.roles)})"
        covered.setdefault((row.section, row.failure), []).extend(row.roles)
        wrong += [f"{where}: no role {role!r}" for role in row.roles if role not in ROLES]
        wrong += [f"{where}: an empty cell" for cell in (row.happens, row.returns, row.shown) if not cell]
        wrong += [f"{where}: there is no {name}" for name in row.tests if name not in known]
        if not row.tests and row.shown != NOT_SHOWN:
            wrong.append(f"{where}: names no test in backticks, nor says {NOT_SHOWN!r}")
    for (section, failure), roles in covered.items():
        if sorted(roles) != sorted(ROLES):
            wrong.append(f"{section}, {failure}: every role once, not {roles}")
    assert not wrong, "\n".join(wrong)


def test_a_row_that_is_missing_a_cell_is_no_row() -> None:
    text = "\n## When something fails\n\n### Disk\n| full | payer | stops | `test_x` |\n"
    with pytest.raises(ValueError, match="needs 5 cells"):
        read(text)


if __name__ == "__main__":
    for row in read((ROOT / "docs" / "operations.md").read_text()):
        if not row.tests:
            sys.stdout.write(f"{row.section}: {row.failure}: {', '.join(row.roles)}\n")
