"""`mesh earnings` after an epoch that was really settled."""

from __future__ import annotations

import csv
import io
import sqlite3
from pathlib import Path
from typing import Any

from chain.primitives import key_of
from tests.chain.shells.terminal import Terminal
from tests.settlement.town import GATEWAY, MODEL, OWNERS, Town


def copied(town: Town, name: str, role: str) -> Path:
    """The party's journal under the name that a node gives it."""
    folder = town.folder / "payments"
    folder.mkdir(exist_ok=True)
    source = sqlite3.connect(town.folder / f"{name}.payment.sqlite")
    target = sqlite3.connect(folder / f"{role}-{name}.sqlite")
    source.backup(target)
    source.close()
    target.close()
    return folder


async def test_earnings_show_what_was_claimed_what_may_be_and_what_is_on_its_way(town: Town, tmp_path: Path) -> None:
    epoch = await town.epoch()
    d = (await town.reader.epochs.status()).reward_delay
    for each in (epoch, epoch + 1):
        town.work("ann", each, 40_000)
        town.work("bob", each, 10_000)
        await town.enter(each + 1)
        await (await town.gateway(claims=False)).round()
    await town.enter(epoch + d)
    before = town.of("ann", await town.balances())
    assert await (await town.provider("ann")).round() == 2
    claimed = town.of("ann", await town.balances()) - before

    def earnings(name: str, role: str, *more: str) -> list[dict[str, Any]]:
        user = Terminal(town.net, tmp_path / name, OWNERS[name])
        folder = copied(town, name, role) if role != "creator" else tmp_path
        found: list[dict[str, Any]] = user.json("earnings", "--payment-folder", str(folder), *more)["earnings"]
        assert "nothing" not in user.run("earnings", "--payment-folder", str(folder))
        return found

    plot, table = tmp_path / "e.svg", tmp_path / "e.csv"
    first, second = earnings("ann", "provider", "--plot", str(plot), "--csv", str(table))
    assert (first["epoch"], first["units"], first["earned_wei"]) == (epoch, 40_000, claimed)
    assert (first["claimed_wei"], first["claimable_wei"], first["pending_wei"]) == (claimed, 0, 0)
    assert (second["epoch"], second["earned_wei"]) == (epoch + 1, 0)
    assert second["pending_wei"] == await town.fee(epoch + 1, 40_000)
    assert plot.read_text().startswith("<svg")
    assert [row["units"] for row in csv.DictReader(io.StringIO(table.read_text()))] == ["40000", "40000"]

    shares = earnings(GATEWAY, "gateway")
    assert [row["epoch"] for row in shares] == [epoch, epoch + 1]
    share = await town.reader.core.view("Settlement", "gatewayShare", key_of(GATEWAY), epoch)
    assert (shares[0]["claimable_wei"], shares[1]["pending_wei"] > 0) == (share, True)

    (royalty,) = earnings("creator", "creator")
    assert royalty["role"] == "creator" and royalty["model_id"] == MODEL
    assert royalty["claimable_wei"] == await town.reader.settlement.royalty_of(MODEL) > 0


async def test_earnings_show_what_a_gateway_owes_because_it_could_not_pay(town: Town, tmp_path: Path) -> None:
    epoch = await town.epoch()
    town.work("ann", epoch, 5_000_000)
    await town.enter(epoch + 2)
    assert await (await town.provider("ann")).round() == 2
    user = Terminal(town.net, tmp_path, OWNERS["ann"])
    found = user.json("earnings", "--payment-folder", str(copied(town, "ann", "provider")))["earnings"]
    (row,) = found
    debt = await town.reader.settlement.debt_units(GATEWAY, "ann", epoch)
    assert abs(row["owed_wei"] - await town.fee(epoch, debt)) <= 1 and row["pending_wei"] <= 1
    assert row["compensated_wei"] > 0 and row["owed_wei"] > 0


async def test_a_plot_is_svg_and_a_wallet_without_earnings_is_told_so(town: Town, tmp_path: Path) -> None:
    user = Terminal(town.net, tmp_path, 9)
    assert "give a file like x.svg" in user.run("earnings", "--plot", "x.png", fails=True)
    assert "nothing yet" in user.run("earnings")
