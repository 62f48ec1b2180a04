"""What a hop signs of its work: chains of hashes over the rows that came and went, and records of them (pure).

    leaf(row)  = sha256(row)                                        the bytes of one position on the wire
    root(b)    = sha256("mesh rows v1\n" | session | b u64)         before the first position, b, that was run
    root(p+1)  = sha256(root(p) | leaf(row of p))

Positions that two neighbours have in common so have the same roots at both, in whatever parts they ran. A hop's first
row is a token id (int32) and so is the last hop's, of the token that it chose for the next position; of a position
after which nothing is chosen (inside a prompt) the last hop's row is empty.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mesh.identity import Identity, verify
from mesh.wire.work import Work
from shards.model.span import Span

EVERY: Final = 32
"""Positions after which a hop commits itself."""
NOTHING: Final = bytes(32)
_ROWS: Final = b"mesh rows v1\n"
_WORK: Final = b"mesh work v1\n"
_FIXED: Final = struct.Struct(">16s32sIIIQQ32s32s32s32sH")


def begin_chain(session: bytes, position: int) -> bytes:
    """The root before a session's first position, on either side of a hop."""
    return hashlib.sha256(_ROWS + session + position.to_bytes(8, "big")).digest()


def extend_chain(root: bytes, rows: Iterable[bytes | memoryview]) -> bytes:
    """The root after so many rows more."""
    for row in rows:
        root = hashlib.sha256(root + hashlib.sha256(row).digest()).digest()
    return root


def token_rows(tokens: Iterable[int]) -> list[bytes]:
    """Token ids as the rows of positions."""
    return [struct.pack("<i", token) for token in tokens]


def split_rows(data: bytes | memoryview, count: int) -> list[memoryview]:
    """`count` rows of equal size. Raises `ValueError` where the bytes are not those of so many."""
    if count < 1 or len(data) % count:
        raise ValueError(f"{len(data)} bytes are not {count} rows")
    view, size = memoryview(data), len(data) // count
    return [view[at : at + size] for at in range(0, len(view), size)] if size else [view] * count


@dataclass(frozen=True, slots=True)
class Place:
    """What records are about that a client knows already: the model and the blocks."""

    digest: str
    span: Span

    def statement(self, work: Work) -> bytes:
        """What is signed."""
        return b"".join(
            (
                _WORK,
                _FIXED.pack(
                    work.session,
                    bytes.fromhex(self.digest),
                    self.span.start,
                    self.span.end,
                    work.seq,
                    work.begin,
                    work.end,
                    work.in_root,
                    work.out_root,
                    work.profile,
                    work.previous,
                    len(work.schedule),
                ),
                struct.pack(f">{len(work.schedule)}I", *work.schedule),
            )
        )

    def hash_of(self, work: Work) -> bytes:
        """By which the next record names this one."""
        return hashlib.sha256(self.statement(work) + work.signature).digest()

    def sign(self, unsigned: Work, identity: Identity) -> Work:
        """The record with its signature."""
        names = [name for name in unsigned.__struct_fields__ if name != "signature"]
        fields = {name: getattr(unsigned, name) for name in names}
        return Work(**fields, signature=identity.sign(self.statement(unsigned)))

    def check(self, records: Sequence[Work], peer: str) -> str | None:
        """What is wrong with all that a peer has committed itself to in a session, None where nothing is."""
        previous, end = NOTHING, records[0].begin if records else 0
        for number, work in enumerate(records):
            if (work.seq, work.previous, work.begin) != (number, previous, end):
                return f"its record {number} does not go on from the one before"
            if sum(part >> 1 for part in work.schedule) != work.end - work.begin:
                return f"the schedule of its record {number} is of other positions"
            previous, end = self.hash_of(work), work.end
        if records and not verify(peer, self.statement(records[-1]), records[-1].signature):
            return "it did not sign what it says"
        return None
