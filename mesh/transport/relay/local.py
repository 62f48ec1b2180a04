"""The addresses of this machine, and a port to keep."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

import psutil

from mesh.errors import ConfigError


def own_addresses() -> tuple[str, ...]:
    """The IP addresses of this machine's interfaces."""
    return tuple(
        address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in (socket.AF_INET, socket.AF_INET6)
    )


def everywhere(own: Iterable[str], port: int = 0) -> tuple[str, ...]:
    """What to listen on where the operator does not say, on a machine with the addresses `own`.

    IPv4, and IPv6 only where the machine has nothing else that others could dial.
    """
    addresses = [ipaddress.ip_address(address) for address in own]
    usable = {ip.version for ip in addresses if not (ip.is_loopback or ip.is_link_local)}
    return (f"/ip6/::/tcp/{port}",) if usable == {6} else (f"/ip4/0.0.0.0/tcp/{port}",)


def fixed(host_maddrs: Iterable[str]) -> tuple[str, ...]:
    """`/…/tcp/0` with a port that is free now in place of the zero. Raises `ConfigError`."""
    return tuple(_fix(maddr) for maddr in host_maddrs)


def _fix(maddr: str) -> str:
    match maddr.split("/"):
        case ["", "ip4" | "ip6" as family, host, "tcp", "0"]:
            with socket.socket(socket.AF_INET if family == "ip4" else socket.AF_INET6) as probe:
                try:
                    probe.bind((host, 0))
                except OSError as error:
                    raise ConfigError(f"cannot listen on {maddr}: {error}") from error
                return f"/{family}/{host}/tcp/{probe.getsockname()[1]}"
    return maddr


def reachable_at(host_maddrs: Iterable[str], own: Iterable[str]) -> tuple[str, ...]:
    """Where others on our own network dial what listens on `host_maddrs`, on a machine with the addresses `own`."""
    found: dict[str, None] = {}
    for maddr in host_maddrs:
        match maddr.split("/"):
            case ["", "ip4", "0.0.0.0", "tcp", port]:
                found |= {f"/ip4/{ip}/tcp/{port}": None for ip in own if ":" not in ip}
            case ["", "ip6", "::", "tcp", port]:
                found |= {f"/ip6/{ip}/tcp/{port}": None for ip in own if ":" in ip and not ip.startswith("fe80")}
            case _:
                found[maddr] = None
    return tuple(found)
