"""What docs/contracts.md says about gas and attacks is so: the snapshot's numbers, and tests that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "contracts.md").read_text()
SOLIDITY = ROOT / "chain" / "tooling" / "test"


def section(title: str) -> str:
    """Between a heading and the next one."""
    return TEXT.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith(("| ", "|-"))]
    rule = next(i for i, line in enumerate(lines) if line.startswith("|-"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[rule + 1 :]]


def test_the_gas_table_is_the_snapshot() -> None:
    snapshot = json.loads((SOLIDITY.parent / "snapshots" / "gas.json").read_text())
    wanted = [[name, f"{int(gas):,}"] for name, gas in snapshot.items()]
    assert rows(section("Gas of whole transactions")) == wanted


def test_every_test_that_is_named_against_an_attack_exists() -> None:
    table = rows(section("Attacks and the tests that hold them off"))
    named = [name for _, tests in table for name in re.findall(r"`([^`]+)`", tests)]
    assert len(table) >= 12 and all("::" in name for name in named), named
    for name in named:
        file, test = name.split("::")
        path = SOLIDITY / file if file.endswith(".sol") else ROOT / file
        keyword = "function" if file.endswith(".sol") else "def"
        assert re.search(rf"\b{keyword} {test}\(", path.read_text()), name


def test_no_attack_of_the_table_is_without_a_test() -> None:
    assert all("::" in tests for _, tests in rows(section("Attacks and the tests that hold them off")))
