"""Where peers say, in records that they signed, that they can be dialled (pure).

The Go daemon learns addresses by libp2p's own DHT, which passes on none that are neither public nor private by its
tables: 198.18.0.0/15, 192.0.2.0/24 and others that overlay networks and laboratories use.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from mesh.discovery.records import ProviderRecord

MOST_PEERS: Final = 1024
MOST_DIALLED: Final = 8
"""Addresses of one peer that are dialled: nobody shall have others knock at as many doors as fit into a record."""


class AddressBook:
    """The addresses of the peers whose records were seen last."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def note(self, records: Iterable[ProviderRecord]) -> None:
        """Take in what checked records say."""
        for record in records:
            if record.maddrs:
                self._known.pop(record.peer, None)
                self._known[record.peer] = record.maddrs[:MOST_DIALLED]
        while len(self._known) > MOST_PEERS:
            self._known.popitem(last=False)

    def of(self, peer: str) -> tuple[str, ...]:
        """What is known of a peer; nothing where it is none of those."""
        return self._known.get(peer, ())
