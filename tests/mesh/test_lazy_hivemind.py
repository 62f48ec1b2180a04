"""A node imports of hivemind only what it uses, and whoever wants the rest in the same process still gets it."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> list[str]:
    """What a new Python prints, by words."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split()


def test_a_node_imports_neither_hivemind_s_training_nor_scipy() -> None:
    code = (
        "import sys, mesh.discovery._hivemind_dht, mesh.provider.stage.server\n"
        "print(*({'scipy', 'hivemind.averaging', 'hivemind.optim', 'hivemind.moe'} & set(sys.modules)))"
    )
    assert run(code) == []


def test_the_rest_of_hivemind_is_there_for_who_asks_for_it() -> None:
    code = (
        "import mesh.discovery._hivemind_dht as ours, hivemind\n"
        "from hivemind import DHT, Optimizer\n"
        "print(hivemind.__version__ is not None, Optimizer.__name__, hivemind.dht.node.DHTNode is ours.DHTNode)"
    )
    assert run(code) == ["True", "Optimizer", "True"]


def test_a_hivemind_that_is_there_already_stays_as_it_is() -> None:
    code = (
        "import hivemind; before = hivemind.DHT\n"
        "import mesh.discovery._hivemind_dht, hivemind\nprint(hivemind.DHT is before)"
    )
    assert run(code) == ["True"]
