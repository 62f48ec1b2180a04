"""What a client makes of the records of a session: does what one gave agree with what the next got (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from mesh.swarm.route import Hop
from mesh.verification.commitments import EVERY, Place, begin_chain, extend_chain, token_rows
from mesh.wire.work import Work


@dataclass(frozen=True, slots=True)
class BrokenLink:
    """Where a session's records do not agree: one of `peers` says what is not so, and nothing says which."""

    peers: tuple[str, ...]
    why: str


@dataclass(slots=True)
class SessionProof:
    """The records of one session, hop by hop. `capacity` bounds how many there may be."""

    session: bytes
    digest: str
    hops: Sequence[Hop]
    capacity: int
    records: dict[str, list[Work]] = field(default_factory=dict)

    def hear(self, peer: str, work: Work) -> None:
        """A hop has sent a record; more than the session can have are dropped."""
        known = self.records.setdefault(peer, [])
        if len(known) <= self.capacity // EVERY + 2:
            known.append(work)

    @property
    def whole(self) -> bool:
        """Whether every hop has committed itself to all that it ran, from the first position on."""
        ends = {records[-1].end if records and not records[0].begin else 0 for records in self._all()}
        return len(ends) == 1 and ends != {0}

    def place(self, hop: Hop) -> Place:
        """What a hop's records are about."""
        return Place(self.digest, hop.span)

    def broken(self, fed: Sequence[int], answer: Sequence[int]) -> list[BrokenLink]:
        """The links that do not hold. `fed` and `answer` are the tokens that went in and came out.

        A hop that says nothing is not named: it may be an older one. Records of positions beyond the answer are not
        believed, nor looked at.
        """
        found: list[BrokenLink] = []
        for hop, records in zip(self.hops, self._all(), strict=True):
            why = self.place(hop).check(records, hop.peer)
            if why is not None:
                found.append(BrokenLink((hop.peer,), why))
        if found:
            return found
        for one, other in pairwise(self.hops):
            gave = {work.end: work.out_root for work in self.records.get(one.peer, ())}
            got = {work.end: work.in_root for work in self.records.get(other.peer, ())}
            wrong = [end for end in sorted(gave.keys() & got.keys()) if gave[end] != got[end]]
            if wrong:
                why = f"what one gave below position {wrong[0]} is not what the other got"
                found.append(BrokenLink((one.peer, other.peer), why))
        return found + self._ends(fed, answer)

    def _ends(self, fed: Sequence[int], answer: Sequence[int]) -> list[BrokenLink]:
        """The first hop must have got our tokens, and the last one given those that reached us."""
        tokens = [*fed, *answer]
        first, last = self.hops[0].peer, self.hops[-1].peer
        given = [b""] * (len(fed) - 1) + token_rows(tokens[len(fed) :])
        found = []
        if _differs(self.records.get(first, ()), self.session, token_rows(tokens), "in_root"):
            found.append(BrokenLink((first,), "it did not run the tokens that it was given"))
        if _differs(self.records.get(last, ()), self.session, given, "out_root"):
            found.append(BrokenLink((last,), "it did not choose the tokens that it sent"))
        return found

    def _all(self) -> list[Sequence[Work]]:
        return [self.records.get(hop.peer, ()) for hop in self.hops]


def _differs(records: Sequence[Work], session: bytes, rows: Sequence[bytes], side: str) -> bool:
    if not records or records[-1].end > len(rows):
        return False
    at, root = records[0].begin, begin_chain(session, records[0].begin)
    for work in records:
        root = extend_chain(root, rows[at : work.end])
        at = work.end
        if root != getattr(work, side):
            return True
    return False


def agree_on(records: Mapping[str, Sequence[Work]], peer: str, most: int) -> Work | None:
    """A hop's last record of at most `most` positions: what an audit can look at."""
    fitting = [work for work in records.get(peer, ()) if work.end <= most]
    return fitting[-1] if fitting else None
