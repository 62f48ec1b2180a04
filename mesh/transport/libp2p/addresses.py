"""Multiaddrs that can be dialled over TCP, and the bounded book of which peer has which (pure)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, NamedTuple

from mesh.identity import public_key_of

MAX_PEERS: Final = 8192
MAX_ADDRESSES: Final = 16
_MAX_HOST: Final = 253


class Address(NamedTuple):
    """Where to dial: an IP address or a DNS name, and a TCP port."""

    host: str
    port: int
    relay: str | None = None
    """The peer that is there, where it is a relay that leads to the one we want."""


def tcp_address(maddr: str) -> tuple[Address, str | None] | None:
    """`/ip4/HOST/tcp/PORT[/p2p/RELAY/p2p-circuit][/p2p/PEER]` (or ip6, dns, dns4, dns6), and the peer that it names.

    None for whatever is not dialled by TCP: QUIC, websockets, a relay behind a relay, rubbish.
    """
    match maddr.split("/"):
        case ["", "ip4" | "ip6" | "dns" | "dns4" | "dns6" as kind, host, "tcp", port, *rest]:
            pass
        case _:
            return None
    relay: str | None = None
    if len(rest) >= 3 and rest[0] == "p2p" and rest[2] == "p2p-circuit":
        relay, rest = rest[1], rest[3:]
        if not _is_peer(relay):
            return None
    if rest and (len(rest) != 2 or rest[0] != "p2p"):
        return None
    peer = rest[1] if rest else None
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        return None
    if kind in ("ip4", "ip6"):
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return None
        if address.version != int(kind[2:]):
            return None
        host = str(address)
    elif not 0 < len(host) <= _MAX_HOST or not host.isascii():
        return None
    return Address(host, int(port), relay), peer


def _is_peer(text: str) -> bool:
    try:
        public_key_of(text)
    except ValueError:
        return False
    return True


def peer_of(maddr: str) -> str | None:
    """The peer id at the end of a multiaddr, where it has a well-formed one."""
    head, mark, peer = maddr.rpartition("/p2p/")
    return peer if head and mark and _is_peer(peer) else None


class AddressBook:
    """Where peers may be dialled. Bounded: the peer learned of longest ago is forgotten first."""

    def __init__(self, *, max_peers: int = MAX_PEERS) -> None:
        self._max_peers = max_peers
        self._known: dict[str, tuple[Address, ...]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, peer: str, maddrs: Iterable[str]) -> None:
        """Take `maddrs` as the addresses of `peer`, in place of earlier ones; none that can be dialled changes nothing.

        Relays come last; an address that worked last (see `worked`) stays the first to be tried.
        """
        found: dict[Address, None] = {}
        for maddr in maddrs:
            read = tcp_address(maddr)
            if read is not None and read[0].port and read[0].relay != peer and read[1] in (None, peer):
                found[read[0]] = None
        if not found:
            return
        found = dict.fromkeys(sorted(found, key=lambda address: address.relay is not None))
        before = self._known.pop(peer, ())
        if before and before[0] in found:
            found = {before[0]: None, **found}
        while len(self._known) >= self._max_peers:
            del self._known[next(iter(self._known))]
        self._known[peer] = tuple(found)[:MAX_ADDRESSES]

    def worked(self, peer: str, address: Address) -> None:
        """`peer` was reached there: try that first next time."""
        known = self._known.get(peer)
        if known and known[0] != address and address in known:
            self._known[peer] = (address, *(other for other in known if other != address))

    def addresses(self, peer: str) -> tuple[Address, ...]:
        """Where to dial `peer`, the most promising first."""
        return self._known.get(peer, ())
