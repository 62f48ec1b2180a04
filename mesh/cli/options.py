"""Options that several commands share, and how their text is read."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from shards.model.precision import Precision
from shards.model.span import Span


class TransportKind(StrEnum):
    """How a client reaches the swarm."""

    HIVEMIND = "hivemind"
    LIBP2P = "libp2p"


Peers = Annotated[
    list[str] | None,
    typer.Option(
        "--peers",
        "-p",
        envvar="MESH_PEERS",
        help="Address of a node of the swarm, as `mesh join` prints it; may be repeated, or separated by commas.",
    ),
]
Quantize = Annotated[
    Precision | None,
    typer.Option(
        "--quantize",
        help="Keep the weights of an unquantised checkpoint in 8 or 4 bits: less memory, faster on a CPU, a little "
        "less exact. Only providers with the same choice serve the model together.",
        show_default="as stored",
    ),
]
LogLevel = Annotated[str, typer.Option("--log-level", envvar="MESH_LOG", help="debug, info, warning or error.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")]
IdentityFile = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        envvar="MESH_IDENTITY",
        help="Key file that makes this node the same peer every time; made when missing.",
        show_default="in ~/.local/share/inference-mesh",
    ),
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-host",
        help="Name under which clients may address this endpoint, besides IP addresses and localhost; "
        "may be repeated, * allows all.",
    ),
]
AllowedOrigins = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-origin",
        "--cors",
        help="Web origin (https://app.example) whose pages may use this endpoint; may be repeated, * allows all.",
        show_default="none",
    ),
]
DirectPort = Annotated[
    int,
    typer.Option(
        "--direct-port",
        min=-1,
        max=65535,
        help="TCP port on which other nodes reach this one directly (TLS); 0: any free one, -1: none.",
    ),
]
Relays = Annotated[
    list[str] | None,
    typer.Option(
        "--relay",
        envvar="MESH_RELAYS",
        help="Behind a NAT: a node, as `mesh relay` prints it, through which others reach this one; may be repeated. "
        "auto: those of --peers, where this machine has no public address; none: never.",
        show_default="auto",
    ),
]
TransportOption = Annotated[
    TransportKind,
    typer.Option(
        "--transport",
        envvar="MESH_TRANSPORT",
        help="hivemind: through the Go daemon; libp2p: without it, by TCP and relays only.",
    ),
]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Model to use; may be left out where the swarm serves one.")
]

AuditShare = Annotated[
    float | None,
    typer.Option(
        "--audit",
        min=0,
        max=1,
        help="Share of our sessions of which a hop's work is run again: by another provider, or by --weights here.",
        show_default="0.02; paid 0.25",
    ),
]
DigestOption = Annotated[
    str | None,
    typer.Option(
        "--digest",
        help="Which model --model means, by the digest that `mesh status --json` shows; kept for the next time.",
        show_default="the one that was used first",
    ),
]


def read_digests(model: str | None, digest: str | None) -> dict[str, str]:
    """`--digest` as what `Client` takes. Raises `typer.BadParameter`."""
    if digest is None:
        return {}
    if model is None:
        raise typer.BadParameter("say which --model has this digest", param_hint="--digest")
    return {model: digest}


def split_peers(peers: list[str] | None) -> tuple[str, ...]:
    """`--peers a,b --peers c` and MESH_PEERS="a b" as one tuple."""
    return tuple(part for peer in peers or [] for part in peer.replace(",", " ").split())


def require_peers(peers: list[str] | None) -> tuple[str, ...]:
    """The same, where there must be one. Raises `typer.BadParameter`."""
    found = split_peers(peers)
    if not found:
        raise typer.BadParameter(
            "give the address of a node of the swarm (`mesh join` prints it), or set MESH_PEERS",
            param_hint="--peers",
        )
    return found


def listen_everywhere(port: int) -> tuple[str, ...]:
    """Where to listen if the operator does not say."""
    from mesh.transport.relay.local import everywhere, own_addresses

    return everywhere(own_addresses(), port)


def choose_relays(
    relays: list[str] | None, peers: tuple[str, ...], host_maddrs: tuple[str, ...], announce_maddrs: tuple[str, ...]
) -> tuple[str, ...]:
    """The relays to be reached through, from `--relay`. Raises `typer.BadParameter`."""
    chosen = split_peers(relays) or ("auto",)
    if chosen == ("none",):
        return ()
    if chosen == ("auto",):
        from mesh.transport.relay.local import own_addresses
        from mesh.transport.relay.nat import behind_nat

        return behind_nat(own_addresses(), host_maddrs, announce_maddrs, peers)
    for relay in chosen:
        if "/p2p/" not in relay:
            raise typer.BadParameter(
                f"auto, none, or the address of a relay (`mesh relay` prints it), got {relay}", param_hint="--relay"
            )
    return chosen


def read_blocks(text: str) -> Span | None:
    """`auto` (None) or `start:end`. Raises `typer.BadParameter`."""
    if text == "auto":
        return None
    try:
        return Span.parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}, or auto", param_hint="--blocks") from error


def read_size(text: str) -> int:
    """Bytes from `512MiB`, `2GiB` or a plain number. Raises `typer.BadParameter`."""
    units = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
    number = text.strip().rstrip("kKmMgGiIbB")
    unit = text.strip()[len(number) :].lower()
    try:
        size = int(float(number) * units[unit])
    except (ValueError, OverflowError, KeyError):
        raise typer.BadParameter(f"a size is written like 512MiB or 2GiB, got {text!r}") from None
    if size <= 0:
        raise typer.BadParameter(f"a size must be positive, got {text!r}")
    return size
