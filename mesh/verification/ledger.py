"""What a hop notes of its sessions' work: rows, records every 32 positions, and what it keeps for audits (pure).

All that is kept has one bound in bytes; what is oldest goes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from mesh.identity import Identity
from mesh.verification.commitments import EVERY, NOTHING, Place, begin_chain, extend_chain
from mesh.wire.work import Work

KEPT_BYTES: Final = 256 << 20
"""Of rows of recent sessions, of those that still run too."""
ROW_BYTES: Final = 48
"""What a row takes beside its bytes."""
MOST_KEPT: Final = 1024
"""Sessions."""


@dataclass(slots=True)
class Kept:
    """The rows of a session's committed positions, from its first on."""

    client: str
    begin: int
    ins: list[bytes] = field(default_factory=list)
    outs: list[bytes] = field(default_factory=list)
    size: int = 0


class Retention:
    """Rows of recent sessions, of at most `limit` bytes; those go first that nothing was added to for longest: an
    audit comes soon."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit = limit
        self._kept: dict[bytes, Kept] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, session: bytes, client: str, begin: int, ins: Sequence[bytes], outs: Sequence[bytes]) -> None:
        """More rows of a session. One whose beginning is not there any more is not kept: nobody could run it again."""
        found = self._kept.pop(session, None) or Kept(client, begin)
        self._kept[session] = found
        if begin != found.begin + len(found.ins):
            self._drop(session)
            return
        size = sum(map(len, ins)) + sum(map(len, outs)) + 2 * ROW_BYTES * len(ins)
        found.ins += ins
        found.outs += outs
        found.size += size
        self.size += size
        while self.size > self._limit or len(self._kept) > MOST_KEPT:
            self._drop(next(iter(self._kept)))

    def rows(self, session: bytes, client: str, side: str, end: int, most: int) -> list[bytes] | str:
        """The rows from the first position that ran here to `end`, for the client whose session it was; or why there
        are none."""
        found = self._kept.get(session)
        if found is None or found.client != client:
            return "no rows of such a session of yours are kept here"
        if not found.begin < end <= found.begin + len(found.ins):
            return f"rows {found.begin} to {found.begin + len(found.ins)} are kept, not those below {end}"
        rows = (found.ins if side == "in" else found.outs)[: end - found.begin]
        return rows if sum(map(len, rows)) <= most else "these are more bytes than one answer has"

    def _drop(self, session: bytes) -> None:
        found = self._kept.pop(session, None)
        self.size -= found.size if found is not None else 0


@dataclass(slots=True)
class _Chain:
    """One session's: rows from `committed` on that may still be replaced, and the parts in which they ran."""

    place: Place
    client: str
    committed: int
    in_root: bytes
    out_root: bytes
    seq: int = 0
    previous: bytes = NOTHING
    ins: list[bytes] = field(default_factory=list)
    outs: list[bytes] = field(default_factory=list)
    parts: list[list[int]] = field(default_factory=list)
    """Of `ins`: how many rows each part has, and whether it was a row alone in its pass."""
    spoilt: bool = False
    """Committed positions came again: nothing more can be said of the session."""


class WorkLedger:
    """The chains of a stage's sessions, signed by its provider."""

    def __init__(self, identity: Identity, profile: bytes, kept_bytes: int = KEPT_BYTES) -> None:
        self._identity = identity
        self._profile = profile
        self._chains: dict[bytes, _Chain] = {}
        self.kept = Retention(kept_bytes)

    def __len__(self) -> int:
        return len(self._chains)

    def ran(
        self,
        session: bytes,
        client: str,
        place: Place,
        start: int,
        ins: Sequence[bytes],
        outs: Sequence[bytes],
        *,
        alone: bool,
    ) -> list[Work]:
        """A pass has run a session's positions from `start` on; the records that follow from it.

        That something begins at `start` says that what is before it stands.
        """
        chain = self._chains.get(session)
        if chain is None:
            root = begin_chain(session, start)
            chain = self._chains[session] = _Chain(place, client, start, root, root)
        if start < chain.committed or start > chain.committed + len(chain.ins):
            chain.spoilt = True
        if chain.spoilt:
            return []
        self._cut(chain, start)
        records = []
        if start - chain.committed >= EVERY:
            records.append(self._commit(session, chain, start // EVERY * EVERY))
        chain.ins += ins
        chain.outs += outs
        chain.parts.append([len(ins), alone])
        return records

    def close(self, session: bytes, received: int) -> list[Work]:
        """The session ends, of which its client knows the positions below `received`: the last record."""
        chain = self._chains.pop(session, None)
        if chain is None or chain.spoilt:
            return []
        end = min(received, chain.committed + len(chain.ins))
        return [self._commit(session, chain, end)] if end > chain.committed else []

    def forget(self, session: bytes) -> None:
        """The session is gone, and its client heard nothing more of it."""
        self._chains.pop(session, None)

    def sessions(self) -> list[bytes]:
        """Those that are under way."""
        return list(self._chains)

    @staticmethod
    def _cut(chain: _Chain, start: int) -> None:
        left = start - chain.committed
        del chain.ins[left:], chain.outs[left:]
        while left < (there := sum(count for count, _ in chain.parts)):
            chain.parts[-1][0] -= min(there - left, chain.parts[-1][0])
            if not chain.parts[-1][0]:
                chain.parts.pop()

    def _commit(self, session: bytes, chain: _Chain, end: int) -> Work:
        count = end - chain.committed
        ins, chain.ins = chain.ins[:count], chain.ins[count:]
        outs, chain.outs = chain.outs[:count], chain.outs[count:]
        schedule: list[int] = []
        while count:
            taken = min(count, chain.parts[0][0])
            schedule.append(2 * taken + bool(chain.parts[0][1] and taken == 1))
            chain.parts[0][0] -= taken
            count -= taken
            if not chain.parts[0][0]:
                chain.parts.pop(0)
        chain.in_root = extend_chain(chain.in_root, ins)
        chain.out_root = extend_chain(chain.out_root, outs)
        self.kept.keep(session, chain.client, chain.committed, ins, outs)
        unsigned = Work(
            session,
            chain.seq,
            chain.committed,
            end,
            chain.in_root,
            chain.out_root,
            tuple(schedule),
            self._profile,
            chain.previous,
            bytes(64),
        )
        work = chain.place.sign(unsigned, self._identity)
        chain.seq, chain.committed, chain.previous = chain.seq + 1, end, chain.place.hash_of(work)
        return work
