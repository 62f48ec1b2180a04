"""The other commands: wallets, funding, models, escrow, curves; and `python -m mesh` as a whole."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from chain.client.calls.models import ModelInfo, ranked
from chain.mining import node_mined, task_mined
from chain.units import WEI_PER_FUNC
from tests.chain.shells.steps import work
from tests.chain.shells.terminal import Terminal
from tests.chain.shells.test_workflows_provider import URL, Terminals, publish, terminal
from tests.chain.shells.world import Net, environment

FUNC = WEI_PER_FUNC
__all__ = ["terminal"]


async def test_a_new_wallet_is_funded_and_used(net: Net, tmp_path: Path) -> None:
    user = Terminal(net, tmp_path, 3)
    fresh = tmp_path / "fresh.json"
    made = user.json("wallet", "new", "--wallet", str(fresh))
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o600
    assert "never overwritten" in user.run("wallet", "new", "--wallet", str(fresh), fails=True)
    user.run("chain", "fund", made["address"], "--func", "50", "--gas", "1")
    shown = user.json("wallet", "show", "--wallet", str(fresh), "--balances")
    assert shown["address"] == made["address"]
    assert (shown["func_wei"], shown["native_wei"]) == (50 * FUNC, 10**18)
    user.run("escrow", "deposit", "50", "--wallet", str(fresh))
    assert user.json("escrow", "show", "--address", made["address"])["free"] == 50 * FUNC


async def test_a_wrong_password_and_a_missing_wallet_are_said_in_one_line(net: Net, tmp_path: Path) -> None:
    user = Terminal(net, tmp_path, 3)
    user.environment["MESH_WALLET_PASSWORD"] = "wrong"
    told = user.run("escrow", "deposit", "5", fails=True)
    assert told.startswith("error: the password does not open") and "Traceback" not in told
    del user.environment["MESH_WALLET_PASSWORD"]
    assert "MESH_WALLET_PASSWORD" in user.run("escrow", "deposit", "5", fails=True)
    file = tmp_path / "password"
    file.write_text("correct horse\n")
    user.run("escrow", "deposit", "5", "--password-file", str(file))
    told = user.run("escrow", "deposit", "5", "--wallet", str(tmp_path / "none.json"), fails=True)
    assert "mesh wallet new" in told


async def test_a_key_is_imported_from_a_file(net: Net, tmp_path: Path) -> None:
    user = Terminal(net, tmp_path, 3)
    key = tmp_path / "key"
    key.write_text("0x" + "11" * 32 + "\n")
    answer = user.json("wallet", "import", "--key-file", str(key), "--wallet", str(tmp_path / "w.json"))
    assert answer["address"] == "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
    key.write_text("not a key")
    assert "64 hex digits" in user.run(
        "wallet", "import", "--key-file", str(key), "--wallet", str(tmp_path / "x.json"), fails=True
    )


async def test_a_deposit_is_reserved_thawed_and_withdrawn(any_net: Net, terminal: Terminals) -> None:
    user, gateway = terminal(3), terminal(2)
    gateway.run("gateway-stake", "register", "g", "--stake", "100")
    assert user.events("escrow", "deposit", "5")["Deposited"]["amount"] == 5 * FUNC
    assert user.events("escrow", "reserve", "g", "4")["Reserved"]["total"] == 4 * FUNC
    assert user.events("escrow", "deposit", "1", "--reserve", "g")["Reserved"]["total"] == 5 * FUNC
    assert "wei wanted" in user.run("escrow", "reserve", "g", "2", fails=True)
    assert "no gateway is registered" in user.run("escrow", "reserve", "nobody", "1", fails=True)
    thawing = user.events("escrow", "thaw", "g", "3")["Thawing"]
    shown = user.run("escrow", "show")
    assert "reserved for g" in shown and f"from epoch {thawing['thaw_end']} on" in shown
    assert f"until epoch {thawing['thaw_end']}" in user.run("escrow", "withdraw", "--from", "g", fails=True)
    user.run("escrow", "cancel-thaw", "g")
    thawing = user.events("escrow", "thaw", "g", "5")["Thawing"]
    clock = user.json("epoch", "status")
    # Longer than the challenge window.
    assert thawing["thaw_end"] >= clock["epoch"] + clock["reward_delay"]
    async with any_net.client(None) as reader:
        await any_net.to_epoch(reader, thawing["thaw_end"])
    assert user.events("escrow", "withdraw", "--from", "g")["ReservationWithdrawn"]["amount"] == 5 * FUNC
    assert "leave out" in user.run("escrow", "withdraw", "1", "--from", "g", fails=True)
    assert user.events("escrow", "withdraw")["Withdrawn"]["amount"] == FUNC  # all that is free
    assert user.json("escrow", "show") == {"payer": user.address, "free": 0, "reservations": []}


async def test_models_are_published_shown_ranked_and_rated(any_net: Net, terminal: Terminals, tmp_path: Path) -> None:
    user, gateway = terminal(1), terminal(2)
    plain, better = publish(user, "plain"), publish(user, "better")
    user.run("provider", "register", "p", "--model", str(better), *URL, "--stake")
    gateway.run("gateway-stake", "register", "g", "--stake", "1000")
    # Who has not paid for a model has no voice about it.
    assert "burned nothing" in gateway.run("model", "rate", str(better), "5", "--gateway", "g", fails=True)
    async with any_net.client(2) as client:
        await work(any_net, client, "g", better, {"p": 80_000})
        spent = await client.models.spent_by(better, "g")
    rated = gateway.events("model", "rate", str(better), "5", "--gateway", "g")["ModelRated"]
    assert (rated["score"], rated["weight"]) == (5, spent)
    listed = user.json("model", "list")["models"]
    assert [model["model_id"] for model in listed] == [better, plain]
    shown = user.json("model", "show", str(better))
    assert (shown["name"], shown["rating"], shown["royalty_bps"]) == ("better", 500, 500)
    assert "5.00 of 5" in user.run("model", "list") and "better" in user.run("model", "show", str(better))
    user.run("model", "price", str(plain), "0.002")
    user.run("chain", "mine", "--epochs", "1")
    assert user.json("model", "show", str(plain))["price_per_token"] == 10**15
    user.run("chain", "mine", "--epochs", "1")
    assert user.json("model", "show", str(plain))["price_per_token"] == 2 * 10**15
    assert "nothing to claim" in user.run("model", "royalty", str(plain), fails=True)


def test_a_rating_with_little_behind_it_moves_little() -> None:
    def model(number: int, rating: int | None, weight: int, burned: int = 0) -> ModelInfo:
        return ModelInfo(
            number, f"m{number}", "", True, 1, 0, 0, 1, b"", "", 0, 0, burned, 0, rating, weight, ""
        )  # fmt: skip

    loved = model(1, 450, 10**20, 10**21)
    bought = model(2, 500, 1, 1)
    used = model(3, None, 0, 10**19)
    unused = model(4, None, 0)
    disliked = model(5, 150, 10**20, 10**20)
    assert [each.model_id for each in ranked([disliked, unused, used, bought, loved])] == [1, 3, 2, 4, 5]
    assert ranked([]) == []


async def test_the_manifest_of_a_model_may_be_a_file(net: Net, terminal: Terminals, tmp_path: Path) -> None:
    import hashlib

    user = Terminal(net, tmp_path / "home", 1)
    file = tmp_path / "manifest.json"
    file.write_bytes(b'{"weights": []}')
    user.run("model", "publish", "m", "--manifest", str(file), "--blocks", "2", "--price", "0", "--stake", "1")
    digest = user.json("model", "show", "1")["manifest_hash"]
    assert digest == "0x" + hashlib.sha256(file.read_bytes()).hexdigest()


async def test_the_epoch_is_shown_and_time_can_pass(any_net: Net, terminal: Terminals) -> None:
    user = terminal(1)
    before = user.json("epoch", "status")
    mined = user.json("chain", "mine", "--epochs", "2")
    after = user.json("epoch", "status")
    assert after["epoch"] == before["epoch"] + 2 == mined["epoch"]
    assert after["block"] == after["start_block"] == before["block"] + mined["mined"]
    assert f"epoch {after['epoch']}" in user.run("epoch", "status")


def test_both_mining_curves_are_plotted(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from mesh.cli.main import app

    svg = tmp_path / "curves.svg"
    drawn = CliRunner().invoke(app, ["chain", "curves", "--months", "60", "--svg", str(svg)])
    assert drawn.exit_code == 0 and "n node mining, t task mining" in drawn.stdout
    root = ElementTree.fromstring(svg.read_text())
    assert root.tag.endswith("svg") and "node mining" in svg.read_text() and "task mining" in svg.read_text()
    rows = json.loads(CliRunner().invoke(app, ["chain", "curves", "--months", "60", "--json"]).stdout)["months"]
    assert rows[60] == {"month": 60, "node_wei": node_mined(60), "task_wei": task_mined(60)}


async def test_commands_without_a_chain_say_how_to_get_one(net: Net, tmp_path: Path) -> None:
    user = Terminal(net, tmp_path, 3)
    user.environment["MESH_RPC"] = "http://127.0.0.1:1"
    del user.environment["MESH_DEPLOYMENT"]
    assert "`mesh chain up` writes one" in user.run("epoch", "status", fails=True)


def test_the_whole_program_runs_as_its_own_process(embedded_chain: object, tmp_path: Path) -> None:
    from tests.chain.shells.world import ChainProcess

    assert isinstance(embedded_chain, ChainProcess)
    done = subprocess.run(
        [sys.executable, "-m", "mesh", "epoch", "status", "--json"],
        env=environment(
            XDG_DATA_HOME=str(tmp_path),
            MESH_RPC=embedded_chain.url,
            MESH_DEPLOYMENT=str(embedded_chain.deployment_file),
        ),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["min_epochs_locked"] == 3
