"""`mesh status`: what a swarm serves, who serves it, and what is missing."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from mesh.cli.console import out, run, set_up_logging
from mesh.cli.identities import runtime_root
from mesh.cli.options import AsJson, LogLevel, Model, Peers, require_peers
from mesh.cli.tables import block_line, pairs_table, short, swarm_table
from mesh.discovery.clocks import WRONG_SECONDS, spoken

if TYPE_CHECKING:
    from mesh.client.client import Client

MAX_ASKED = 64
"""Providers that are asked how they are connected."""
PROFILE_SECONDS = 5.0


def status(peers: Peers = None, model: Model = None, as_json: AsJson = False, log_level: LogLevel = "warning") -> None:
    """Show models, blocks covered, providers with their speed, gaps, and which way providers reach each other."""
    set_up_logging(log_level)
    joined = require_peers(peers)
    report = run(_report(joined, model))
    if report is None:
        return
    if as_json:
        out.print_json(json.dumps(report))
        return
    if not report["models"]:
        out.print("nobody serves a model in this swarm yet: start with `mesh join --model …`")
    for entry in report["models"]:
        out.print(swarm_table(entry))
        out.print(block_line(entry))
        if not entry["complete"]:
            out.print(
                f"[yellow]blocks {', '.join(entry['gaps'])} are not served[/]: start "
                f"`mesh join --model {entry['name']} --peers …` on another machine"
            )
    if report["pairs"]:
        out.print(pairs_table(report["pairs"]))
    for peer, ahead in report["clocks"].items():
        out.print(
            f"[yellow]the clock of {short(peer)} is {spoken(ahead)} this machine's[/]: its records are refused until "
            "it is set right"
        )


async def _report(peers: tuple[str, ...], model: str | None) -> dict[str, Any]:
    from mesh.client.client import Client
    from mesh.swarm.view import replicas_per_block, throughput_per_block

    async with Client(peers, runtime_root=runtime_root()) as client:
        models = []
        for offer in await client.backend.offers(model):
            info = offer.info()
            views = {view.peer: view for view in offer.views()}
            serving = [view for view in views.values() if view.serving]
            rates = throughput_per_block(info.n_blocks, serving)
            replicas = replicas_per_block(info.n_blocks, serving)
            models.append(
                {
                    "name": info.name,
                    "digest": info.digest,
                    "n_blocks": info.n_blocks,
                    "context_length": info.context_length,
                    "complete": info.complete,
                    "gaps": [str(gap) for gap in info.gaps],
                    "tokens_per_second": round(min(rates), 1),
                    "blocks": [
                        {"replicas": count, "tokens_per_second": round(rate, 1)}
                        for count, rate in zip(replicas, rates, strict=True)
                    ],
                    "providers": [
                        {
                            "peer": record.peer,
                            "blocks": str(record.span),
                            "state": record.state,
                            "tokens_per_second": round(views[record.peer].tokens_per_second, 1),
                            "sessions": record.sessions,
                            "queue_depth": record.queue_depth,
                            "kv_free_tokens": record.kv_free_tokens,
                            "numerics": record.numerics,
                            "version": record.version,
                            "maddrs": list(record.maddrs),
                        }
                        for record in sorted(offer.records, key=lambda record: (record.span, record.peer))
                    ],
                }
            )
        await _add_profiles(client, models)
        return {"models": models, "pairs": await _pairs(client, models), "clocks": await _wrong_clocks(client)}


async def _add_profiles(client: Client, models: list[dict[str, Any]]) -> None:
    """How each provider says that it computes, and the root of its self-test; empty where it does not say."""
    from mesh.client.audit_hop import ask_profile
    from mesh.errors import PeerError

    rows = [provider for entry in models for provider in entry["providers"]]
    for row in rows:
        row["profile"] = row["golden"] = ""
    asked = [row for row in rows if row["state"] == "serving"][:MAX_ASKED]
    transport = client.node.transport
    said = await asyncio.gather(
        *(ask_profile(transport, row["peer"], timeout=PROFILE_SECONDS) for row in asked), return_exceptions=True
    )
    for row, answer in zip(asked, said, strict=True):
        if isinstance(answer, PeerError):
            continue
        if isinstance(answer, BaseException):
            raise answer
        row["profile"], row["golden"] = answer.profile.hex()[:16], answer.golden.hex()[:16]


async def _wrong_clocks(client: Client) -> dict[str, float]:
    """By peer id, how many seconds a node's clock is ahead of ours; those that are right are left out."""
    from mesh.discovery.dht import DhtDirectory

    directory = client.node.directory
    if not isinstance(directory, DhtDirectory):
        return {}
    clocks = await directory.compare_clocks(MAX_ASKED)
    return {peer: round(ahead, 1) for peer, ahead in clocks.items() if abs(ahead) > WRONG_SECONDS}


async def _pairs(client: Client, models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the providers say about their connections, asked all at once; who does not answer is left out."""
    from mesh.errors import PeerError
    from mesh.transport.pairs_service import ask_pairs

    transport = client.node.transport
    asked = list(dict.fromkeys(provider["peer"] for entry in models for provider in entry["providers"]))[:MAX_ASKED]
    answers = await asyncio.gather(*(ask_pairs(transport, peer) for peer in asked), return_exceptions=True)
    rows = []
    for peer, answer in zip(asked, answers, strict=True):
        if isinstance(answer, PeerError):
            continue
        if isinstance(answer, BaseException):
            raise answer
        rows += [{"from": peer, **asdict(pair)} for pair in answer if pair.peer != transport.peer_id]
    return rows
