"""What p2pd is asked to be, and the command line that says so."""

from __future__ import annotations

import errno
import socket
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from mesh.errors import ConfigError
from mesh.identity import Identity

GuardKind = Literal["deathsig", "pipe"]


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """How the node appears on the network. Addresses are multiaddrs, as in `/ip4/0.0.0.0/tcp/31330`."""

    identity: Identity
    host_maddrs: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    """Where to listen; port 0 takes a free one. Give `/ip4/0.0.0.0/tcp/PORT` to be reached from elsewhere."""
    announce_maddrs: tuple[str, ...] = ()
    """The addresses to tell others, where they are not those we listen on (a forwarded port)."""
    initial_peers: tuple[str, ...] = ()
    """Peers to join the swarm through, each ending in `/p2p/PEER_ID`. None starts a new swarm."""
    client_mode: bool = False
    """Listen nowhere: open connections, accept none."""
    relays: tuple[str, ...] = ()
    """We are behind a NAT: relays through which we shall be reached, each ending in `/p2p/PEER_ID`. With them,
    `announce_maddrs` are the addresses on our own network, and the ports of `host_maddrs` are fixed."""
    startup_timeout: float = 20.0
    runtime_root: Path | None = None
    """Where sockets go: a short path that only this user can use (default `/tmp/mesh-UID`)."""
    guard: GuardKind = "deathsig" if sys.platform == "linux" else "pipe"


def arguments(config: DaemonConfig, directory: Path) -> list[str]:
    """The command line of p2pd; its sockets and key are in `directory`. Raises `ConfigError`."""
    for maddr in config.announce_maddrs:
        if maddr.endswith(("/tcp/0", "/udp/0")):
            raise ConfigError(f"an address to announce needs a port: {maddr}")
    for what, maddrs in (("an initial peer", config.initial_peers), ("a relay", config.relays)):
        for maddr in maddrs:
            if "/p2p/" not in maddr:
                raise ConfigError(f"{what}'s address ends in /p2p/PEER_ID, got {maddr}")
    local = all(maddr.startswith(("/ip4/127.", "/ip6/::1/")) for maddr in config.host_maddrs)
    flags: dict[str, object] = {
        "listen": f"/unix{control_socket(directory)}",
        "id": directory / "identity.key",
        "idleTimeout": f"{config.startup_timeout + 10:g}s",
        "dhtClient" if config.client_mode else "dhtServer": 1,
        "connManager": 1,
        "tls": 1,
        "relay": 1,
        "autonat": int(not local),
        "natPortMap": int(not local and not config.client_mode),
    }
    if config.client_mode:
        flags["noListenAddrs"] = 1
    else:
        flags["hostAddrs"] = ",".join(config.host_maddrs)
    announced = (*config.announce_maddrs, *(f"{relay}/p2p-circuit" for relay in config.relays))
    if announced:
        flags["announceAddrs"] = ",".join(announced)
    if config.initial_peers:
        flags["b"] = 1
        flags["bootstrapPeers"] = ",".join(config.initial_peers)
    if config.relays:
        # The daemon's own way to find relays is left alone: it waits three minutes before it takes one, and for an hour
        # before it takes one again that was away for a second. `relay.reservations` does that.
        flags["forceReachabilityPrivate"] = 1
    return [str(_binary()), *(f"-{name}={value}" for name, value in flags.items())]


def check_ports(config: DaemonConfig) -> None:
    """Raise `ConfigError` when a port to listen on is taken.

    p2pd would not notice: it shares a port with another p2pd (SO_REUSEPORT), and each gets half of the calls.
    """
    if config.client_mode:
        return
    for maddr in config.host_maddrs:
        match maddr.split("/"):
            case ["", "ip4" | "ip6" as family, host, "tcp" | "udp" as kind, port, *_] if port.isdecimal():
                with socket.socket(
                    socket.AF_INET if family == "ip4" else socket.AF_INET6,
                    socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM,
                ) as probe:
                    if kind == "tcp":  # connections of an earlier run that are still closing do not count
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        probe.bind((host, int(port)))
                    except (OSError, OverflowError) as error:
                        if getattr(error, "errno", None) == errno.EADDRINUSE:
                            problem = f"port {port} is already in use ({maddr}): stop what uses it or take another"
                        else:
                            problem = f"cannot listen on {maddr}: {error}"
                        raise ConfigError(problem) from error
            case _:
                pass  # p2pd judges it


def with_ports_of(config: DaemonConfig, visible: tuple[str, ...]) -> DaemonConfig:
    """`config` with the ports that were taken where any free one would do: `visible` are the addresses it had."""
    return replace(config, host_maddrs=tuple(_with_port_of(maddr, visible) for maddr in config.host_maddrs))


def _with_port_of(maddr: str, visible: tuple[str, ...]) -> str:
    match maddr.split("/"):
        case ["", "ip4" | "ip6" as family, host, "tcp" | "udp" as kind, "0", *rest]:
            everywhere = host in ("0.0.0.0", "::")
            for seen in visible:
                match seen.split("/"):
                    case ["", seen_family, seen_host, seen_kind, port, *tail] if (
                        (seen_family, seen_kind) == (family, kind)
                        and (everywhere or seen_host == host)
                        and tail[:-2] == rest  # what follows is /p2p/PEER_ID
                    ):
                        return "/".join(["", family, host, kind, port, *rest])
    return maddr


def control_socket(directory: Path) -> Path:
    return directory / "p2pd.sock"


def _binary() -> Path:
    spec = find_spec("hivemind")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "hivemind_cli" / "p2pd"
        if path.is_file():
            return path
    raise ConfigError("hivemind's p2pd is not installed: run `pip install --force-reinstall hivemind`")
