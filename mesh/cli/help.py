"""`mesh --help`: the commands by what one wants to do, on one screen."""

from __future__ import annotations

from typing import Any, Final

from typer.core import TyperGroup

GROUPS: Final = {
    "Try it": {
        "demo": "a chain, providers and a gateway here: answers, settled",
        "try": "the README's steps, typed and explained (--paid: for money)",
    },
    "Run a node": {
        "up": "all that mesh.toml says: relay, providers, gateway",
        "config": "write mesh.toml, and see what comes out of it",
        "join": "serve blocks of a model",
        "leave": "let a provider on this machine end its sessions and go",
        "gateway": "an OpenAI-compatible API over a swarm",
        "relay": "be a way into the swarm, for nodes behind a NAT",
        "backup": "keys, wallets and books in one checked file, while nodes run",
        "restore": "what a backup holds, back in its place",
        "doctor": "what is wrong with this machine, and what to do",
    },
    "Use a swarm": {
        "status": "models, who serves them, how fast, and what is missing",
        "dashboard": "the same as a web page",
        "audit": "have what providers computed run again, and compared",
        "generate": "continue a text",
        "chat": "talk with a model",
    },
    "Pay and earn": {
        "wallet": "make, show and import keys",
        "escrow": "deposit FUNC, and reserve it for gateways",
        "key": "API keys that spend from a deposit",
        "pay": "sign vouchers for what a key uses, beside any client",
        "earnings": "what was earned and claimed, by epoch and model",
        "model": "publish, find and rate models",
    },
    "On the chain": {
        "chain": "a development chain, and the schedules of emission",
        "provider": "register, stake, claim and unstake as a provider",
        "gateway-stake": "the same as a gateway; lines to providers",
        "epoch": "the network's clock",
        "checkpoint": "post an epoch's checkpoint, prove a contribution",
        "owner": "what the contracts' owner does, and when",
    },
}
"""Every command, in a line that fits 80 columns."""


class GroupedCommands(TyperGroup):
    """The root command, whose help lists commands by `GROUPS`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Instead of one long list."""
        width = max(len(name) for group in GROUPS.values() for name in group)
        for title, group in GROUPS.items():
            with formatter.section(title):
                for name, line in group.items():
                    formatter.write(f"{'':{formatter.current_indent}}{name:{width}}  {line}\n")
