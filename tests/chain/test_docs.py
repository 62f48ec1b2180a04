"""What docs/contracts.md says of callers, setters, gas and attacks is so in artifacts, snapshot and tests."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "contracts.md").read_text()
SOLIDITY = ROOT / "chain" / "tooling" / "test"
ARTIFACTS = ROOT / "chain" / "artifacts"
COMMON = {"wire", "transferOwnership", "acceptOwnership", "renounceOwnership", "pause", "unpause"}
"""What all contracts have."""


def section(title: str) -> str:
    """Between a heading and the next one."""
    return TEXT.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith(("| ", "|-"))]
    rule = next(i for i, line in enumerate(lines) if line.startswith("|-"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[rule + 1 :]]


def changing(contract: str) -> set[str]:
    """The functions of a contract that change something."""
    entries = json.loads((ARTIFACTS / f"{contract}.json").read_text())["abi"]
    return {
        entry["name"]
        for entry in entries
        if entry.get("stateMutability") in ("nonpayable", "payable") and "name" in entry
    }


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_table_of_callers_has_every_function_that_changes_something_and_no_other() -> None:
    listed: dict[str, set[str]] = {}
    contract = ""
    for cells in rows(section("Who may call what")):
        contract = cells[0] or contract
        listed.setdefault(contract, set()).update(named(cells[2]))
    # The second half of Settlement has the same functions as the first, which answers for both.
    contracts = {path.stem for path in ARTIFACTS.glob("*.json")} - {"SettlementChallenges"}
    assert listed == {name: kept for name in contracts if (kept := changing(name) - COMMON)}


def test_the_table_of_setters_has_every_function_of_the_owner() -> None:
    guarded = re.compile(r"function (\w+)\([^)]*\)[^{;]*\bonlyOwner\b")
    sources = (ROOT / "chain" / "contracts").rglob("*.sol")
    owners = {name for path in sources for name in guarded.findall(path.read_text())}
    listed = {name for cells in rows(section("What the owner can set")) for name in named(cells[1])}
    assert len(owners) > 10 and listed == owners


def test_the_gas_table_is_the_snapshot() -> None:
    snapshot = json.loads((SOLIDITY.parent / "snapshots" / "gas.json").read_text())
    wanted = [[name, f"{int(gas):,}"] for name, gas in snapshot.items()]
    assert rows(section("Gas of whole transactions")) == wanted


def test_every_test_that_is_named_against_an_attack_exists() -> None:
    table = rows(section("Attacks and the tests that hold them off"))
    listed = [name for _, _, tests in table for name in re.findall(r"`([^`]+)`", tests)]
    assert len(table) >= 12 and all("::" in name for name in listed), listed
    for name in listed:
        file, test = name.split("::")
        path = SOLIDITY / file if file.endswith(".sol") else ROOT / file
        keyword = "function" if file.endswith(".sol") else "def"
        assert re.search(rf"\b{keyword} {test}\(", path.read_text()), name


def test_no_attack_of_the_table_is_without_a_test() -> None:
    assert all("::" in tests for _, _, tests in rows(section("Attacks and the tests that hold them off")))
