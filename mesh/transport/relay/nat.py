"""Whether this machine is behind a NAT, as far as its addresses tell (pure)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from mesh.wire.multiaddr import ip_of, is_relayed


def behind_nat(
    own: Iterable[str], listening: Iterable[str], announced: Iterable[str], peers: Iterable[str]
) -> tuple[str, ...]:
    """The `peers` to try as relays: none unless we look as if nobody could dial us.

    That is so when we join through public addresses, and have none ourselves (`own`: IP addresses of this machine),
    and the operator announces none. A machine that is only reached by its own kind, on loopback or a private network,
    needs no relay.
    """
    if any(True for _ in announced):
        return ()
    ours = [ip for ip in map(ipaddress.ip_address, own) if not (ip.is_loopback or ip.is_link_local)]
    if any(ip.is_global for ip in ours):
        return ()
    if all(ip is not None and ip.is_loopback for ip in map(ip_of, listening)):
        return ()
    return tuple(peer for peer in peers if _public(peer))


def _public(maddr: str) -> bool:
    ip = ip_of(maddr)
    if ip is None:
        return maddr.startswith("/dns") and not is_relayed(maddr)
    return ip.is_global and not is_relayed(maddr)
