"""docs/seeds-table.md is true: its tests exist, its names are the contracts', and no call or event is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chain import abi

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "seeds-table.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| sentence")
]
NAMED = sorted({name for row in ROWS for name in re.findall(r"`([^`]+::[^`]+)`", row[2])})
SOURCES = {
    path.relative_to(ROOT).as_posix(): path
    for folder, pattern in (("tests", "*.py"), ("chain/tooling/test", "*.sol"))
    for path in (ROOT / folder).rglob(pattern)
}
CALLS = {
    "ProviderRegistry": "register registerAndStake claimRewardsCluster",
    "ProviderStaking": "stakeForProvider unstakeProvider claimRewards",
    "GatewayRegistry": "register registerAndStake",
    "GatewayStaking": "stakeForGateway windDownGateways unstakeForGateway claimRewards",
    "EpochController": "currentEpoch minEpochsLocked epochRewardDelay windDownDelay",
    "ModelRegistry": "modelStakeAmount",
}
EVENTS = {
    "ProviderRegistry": "ProviderRegistered ProviderRegisteredAndStaked RewardClaimedForCluster",
    "ProviderStaking": "ProviderStaked ProviderUnstaked ProviderClaimedRewards",
    "GatewayRegistry": "GatewayRegistered GatewayRegisteredAndStaked",
    "GatewayStaking": "GatewayStaked GatewayWoundDown GatewayUnstaked GatewayClaimedRewards",
}


def test_every_row_has_a_sentence_a_section_and_a_test() -> None:
    assert len(ROWS) > 80
    for row in ROWS:
        assert len(row) == 3 and all(row), row
        assert re.fullmatch(r"`[^`]+::[^`]+`(, `[^`]+::[^`]+`)*", row[2]), row


@pytest.mark.parametrize("name", NAMED)
def test_a_test_of_the_table_exists(name: str) -> None:
    file, test = name.split("::")
    found = [path for known, path in SOURCES.items() if f"/{known}".endswith(f"/{file}")]
    assert len(found) == 1, f"{file} names {len(found)} files"
    keyword = "function" if file.endswith(".sol") else "def"
    assert re.search(rf"^\s*(async )?{keyword} {test}\(", found[0].read_text(encoding="utf-8"), re.MULTILINE)


def test_the_staking_documents_calls_and_events_are_the_contracts_and_in_the_table() -> None:
    for contract, names in CALLS.items():
        for name in names.split():
            assert abi.load(contract).function(name)
            assert re.search(rf"\b{name}\b", TEXT), name
    for contract, names in EVENTS.items():
        for name in names.split():
            assert abi.load(contract).topic(name)
            assert f"vent `{name}`" in TEXT, name
