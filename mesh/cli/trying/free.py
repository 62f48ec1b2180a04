"""The README's swarm by hand: three providers, what they serve, and an answer."""

from __future__ import annotations

from typing import Final

from mesh.cli.demo import LOOPBACK
from mesh.cli.demo_chain import START_SECONDS
from mesh.cli.trying.steps import Walk

MODEL: Final = "tiny-python"
JOIN_SECONDS: Final = 120.0


async def walk(steps: Walk) -> None:
    """All steps. Raises `MeshError` where one fails, with what its command said."""
    steps.step("Three providers", "The first starts a swarm; each takes blocks of the model that nobody serves yet.")
    local = ("--host-maddrs", LOOPBACK, "--threads", "1", "--drain-seconds", "0")
    nodes, joined, shown = [], list[str](), list[str]()
    for number in (1, 2, 3):
        typed = ("join", "--model", MODEL)
        nodes.append(await steps.start(f"provider {number}", *typed, *local, *joined, shown=(*typed, *shown)))
        address = (await nodes[0].wait_for("joined", START_SECONDS))["maddrs"][0]
        joined, shown = ["--peers", address], ["--peers", "ADDRESS"]
    for node in nodes:
        serving = await node.wait_for("serving", JOIN_SECONDS)
        steps.say(f"{node.name} serves blocks {serving['span']} of {serving['n_blocks']}")
    steps.step("Look", "What the swarm serves, who serves it, and what is missing.")
    await steps.run("status", *joined, shown=("status", *shown))
    steps.step("Ask", "An answer, and which way it went: each provider ran its blocks and passed the rest on.")
    asked = ("generate", "def main():", "--max-tokens", "40", "--temperature", "0.6", "--seed", "7", "--route")
    await steps.run(*asked, *joined, shown=(*asked, *shown))
