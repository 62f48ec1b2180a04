"""`mesh audit`: has every hop of a session of ours run again, by other providers or by weights that are here."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.console import EXIT_ERROR, err, out, run, set_up_logging
from mesh.cli.identities import runtime_root
from mesh.cli.options import AsJson, DigestOption, LogLevel, Model, Peers, read_digests, require_peers
from mesh.errors import NoRoute

if TYPE_CHECKING:
    from mesh.client.audit_hop import Replayer


def audit(
    peers: Peers = None,
    model: Model = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="Folder of the model: its blocks are run again here, those of one hop at a time.",
            show_default="other providers run them",
        ),
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", "-n", min=1, max=1024, help="Tokens of the answer.")] = 32,
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", min=1, max=1024, help="Tokens of the prompt, which is drawn.")
    ] = 64,
    digest: DigestOption = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> None:
    """Make one session over the swarm and look at the work of each of its hops. Exit code 1 where work differs."""
    set_up_logging(log_level)
    joined = require_peers(peers)
    rows = run(_audit(joined, model, weights, tokens, prompt_tokens, read_digests(model, digest))) or []
    if as_json:
        out.print_json(json.dumps(rows))
    else:
        for row in rows:
            out.print(row["text"])
    if any(row["outcome"].startswith("differs") for row in rows):
        err.print("[bold red]the work of a provider is not what its blocks give[/]")
        raise typer.Exit(EXIT_ERROR)


async def _audit(
    peers: tuple[str, ...],
    model: str | None,
    weights: Path | None,
    tokens: int,
    prompt_tokens: int,
    digests: dict[str, str],
) -> list[dict[str, Any]]:
    from mesh.client.client import Client

    async with Client(peers, runtime_root=runtime_root(), digests=digests, audit=0.0) as client:
        name = await client.resolve_model(model)
        sample = (await client.backend.offer(name)).sample
        drawn = random.SystemRandom()
        prompt = [drawn.randrange(sample.vocab_size) for _ in range(prompt_tokens)]
        await client.generate(name, prompt, max_tokens=tokens, ignore_eos=True)
        session = client.backend.audits.last
        if session is None:
            raise NoRoute("no session of ours came to its end")
        rows = []
        broken = session.proof.broken(session.plan.fed, session.answer)
        for link in broken:
            text = f"links of {' and '.join(link.peers)}: {link.why}"
            rows.append({"peers": list(link.peers), "outcome": "differs: a link does not hold", "text": text})
        replayer: Replayer | None = None
        if weights is not None:
            from mesh.verification.local_blocks import LocalBlocks

            replayer = LocalBlocks(weights)
        for hop in session.hops:
            verdict = await client.backend.audits.examine(session, hop, session.answer, replayer)
            row: dict[str, Any] = {"peers": [hop.peer], "blocks": str(hop.span)}
            if verdict is None:
                text = f"blocks {hop.span} of {hop.peer}: nobody could run them again"
                rows.append({**row, "outcome": "not audited", "text": text})
                continue
            row |= {"outcome": verdict.outcome, "text": verdict.text, "positions": verdict.positions}
            if verdict.found is not None:
                row |= {"median": verdict.found.median, "largest": verdict.found.largest}
            rows.append({**row, "auditor": verdict.auditor})
    return rows
