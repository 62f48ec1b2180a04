"""The message in which a hop commits itself to what it has computed of a session (pure)."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from mesh.wire.codec import WireMessage

HASH_BYTES: Final = 32
MAX_SCHEDULE: Final = 128
MOST_POSITIONS: Final = 1 << 24

Hash = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
Position = Annotated[int, Meta(ge=0, le=MOST_POSITIONS)]


class Work(WireMessage, frozen=True, tag="work"):
    """From every hop to its client: positions `[begin, end)` have run here, and will not be taken back.

    `in_root` and `out_root` are the ends of two chains of hashes over all positions from the session's first on (see
    `mesh.verification.commitments`): what one hop gave is what the next one got. `schedule` says in which parts they
    ran: twice the number of positions, and one more where the part was a single row alone in its pass. `previous` is
    the hash of the record before, 32 zeros for the first, and `signature` is by the hop's identity.
    """

    session: Annotated[bytes, Meta(min_length=16, max_length=16)]
    seq: Position
    begin: Position
    end: Position
    in_root: Hash
    out_root: Hash
    schedule: Annotated[
        tuple[Annotated[int, Meta(ge=2, le=2 * MOST_POSITIONS + 1)], ...], Meta(max_length=MAX_SCHEDULE)
    ]
    profile: Hash
    previous: Hash
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]

    def __post_init__(self) -> None:
        if not self.begin < self.end:
            raise ValueError("a record of work is about at least one position")
