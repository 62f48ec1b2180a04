"""A whole node while it runs: its processes under a supervisor, and what they say, with their names before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape

from mesh.cli.console import emit, err, out
from mesh.cli.environment import PASSWORD_VARIABLE, environment
from mesh.cli.identities import data_folder
from mesh.cli.join_events import lines, read_event
from mesh.cli.join_stages import several_stages
from mesh.cli.paying import show_settlement
from mesh.cli.processes import children
from mesh.cli.stages import Supervisor
from mesh.cli.up.schema import IDENTITY_VARIABLE, NODE, ROLES, keys_of
from mesh.cli.up.settings import NodeSettings
from mesh.provider.events import Settlement

COMMANDS = {"relay": "relay", "provider": "join", "gateway": "gateway"}
KEY_FILE = "node-{}.key"
"""In the data folder, by label."""


class RunningNode:
    """The processes from the first one's start to the last one's end."""

    def __init__(self, nodes: Sequence[NodeSettings], *, yes: bool, as_json: bool) -> None:
        """Asks for the passwords of wallets. Raises `WalletError` for one that cannot be read."""
        self._nodes = {node.label: node for node in nodes}
        self._yes = yes
        self._as_json = as_json
        self._passwords = _passwords(nodes)
        self._supervisor: Supervisor | None = None

    def ask(self) -> bool:
        """See `Supervisor.ask`."""
        return self._supervisor is not None and self._supervisor.ask()

    async def run(self) -> None:
        """Until all have left. Raises `MeshError` when one cannot even start."""
        async with children() as family:
            for node in self._nodes.values():
                family.prepare(COMMANDS[node.role], *(("--wallet",) if node.get("wallet") else ()))
            self._supervisor = Supervisor(
                family,
                list(self._nodes),
                lambda label, peers, span: self.arguments(self._nodes[label], peers, span),
                self._tell,
                lambda label, line: err.print(f"[dim]{label}:[/] {escape(line)}"),
                one_by_one=True,
                environment=self._environment,
                noun="",
                may_leave=True,
            )
            await self._supervisor.run()

    def arguments(self, node: NodeSettings, peers: Sequence[str], span: str | None) -> list[str]:
        """The command of one process. `peers` are the others of this node that run."""
        known = [*(node.get("peers") or ()), *peers]
        ours = [COMMANDS[node.role], "--json", *node.arguments()]
        if not node.get("identity"):
            ours += ["--identity", str(data_folder() / KEY_FILE.format(node.label))]
        if node.get("wallet") and self._yes and not node.get("yes"):
            ours.append("--yes")
        chosen = node.get("blocks") not in (None, "auto")
        if node.role == "provider" and span and not chosen and not _several(node):
            ours += ["--start-at", span]
        return [*ours, *(part for peer in known for part in ("--peers", peer))]

    def _environment(self, label: str) -> Mapping[str, str]:
        """All that was said is in the arguments: what is in the environment is not to be said twice."""
        keys = [key for section in (NODE, *ROLES) for key in keys_of(section).values()]
        read = {key.variable: "" for key in keys if key.variable} | {IDENTITY_VARIABLE: ""}
        return {**read, **self._passwords.get(label, {})}

    def _tell(self, label: str, event: dict[str, Any]) -> None:
        if self._as_json:
            emit(**{**event, "node": label})
            return
        match event:
            case {"event": "settlement"}:
                known = read_event(event)
                if isinstance(known, Settlement):
                    show_settlement(known.event, as_json=False)
            case {"event": "stage_ended", "reason": reason, "restart_in": None}:
                err.print(f"[yellow]{label}:[/] {escape(reason)}")
            case {"event": "stage_ended", "reason": reason, "restart_in": pause}:
                err.print(f"[yellow]{label}:[/] {escape(reason)}; starts again in {pause:g} s")
            case {"event": "stage_started"}:
                out.print(f"[dim]{label}: starting …[/]")
            case _:
                for line in _lines(event):
                    out.print(f"[dim]{label}:[/] {line}")


def _lines(event: dict[str, Any]) -> list[str]:
    match event:
        case {"event": "relaying", "maddrs": [first, *_]}:
            return [f"others join with: [bold]--peers {first}[/]"]
        case {"event": "ready", "url": str(url)}:
            page = url.removesuffix("/v1")
            return [f"OpenAI-compatible API at [bold]{url}[/]; the swarm, to look at: [bold]{page}/[/]"]
        case {"event": "metrics", "url": str(url)}:
            return [f"figures for Prometheus at [bold]{url}[/]"]
    known = read_event(event)
    return [] if known is None else lines(known)


def _several(node: NodeSettings) -> bool:
    return several_stages(node.get("model") or (), node.get("device") or ())


def _passwords(nodes: Sequence[NodeSettings]) -> dict[str, dict[str, str]]:
    """By label, what a process needs in its environment to open its wallet: for each wallet you are asked once."""
    from pathlib import Path

    from chain.wallet import find_password, keystore_address

    asked: dict[str, str] = {}
    found: dict[str, dict[str, str]] = {}
    for node in nodes:
        wallet = node.get("wallet")
        if wallet is None or node.get("password_file"):
            continue
        if wallet not in asked:
            what = f"wallet {keystore_address(Path(wallet))}"
            asked[wallet] = find_password(environment=environment(), what=what)
        found[node.label] = {PASSWORD_VARIABLE: asked[wallet]}
    return found
