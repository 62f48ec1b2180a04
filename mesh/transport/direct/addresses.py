"""Which addresses the direct port has, from those that the daemon listens on and is seen at (pure)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


def hosts_of(maddrs: Iterable[str]) -> tuple[str, ...]:
    """The IP addresses at the start of multiaddrs, each once, in order; relayed ones and names are left out."""
    found: dict[str, None] = {}
    for maddr in maddrs:
        match maddr.split("/"):
            case ["", "ip4" | "ip6", host, *rest] if "p2p-circuit" not in rest:
                try:
                    found[str(ipaddress.ip_address(host))] = None
                except ValueError:
                    continue
            case _:
                pass
    return tuple(found)


def dialable(announced: Iterable[str], seen: Iterable[str]) -> tuple[str, ...]:
    """Where to tell others to dial: addresses the operator announced, else those the daemon sees; loopback last."""
    hosts = hosts_of(announced) or hosts_of(seen)
    addresses = [ipaddress.ip_address(host) for host in hosts]
    usable = [a for a in addresses if not (a.is_unspecified or a.is_multicast or a.is_link_local)]
    return tuple(str(address) for address in sorted(usable, key=lambda address: address.is_loopback))
