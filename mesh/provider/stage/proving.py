"""What a stage's passes mean for its records of work: rows of bytes out of what the engine got and gave (pure)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import torch

from mesh.provider.stage.admission import SessionTable
from mesh.provider.stage.ports import SessionOwner
from mesh.verification.commitments import Place, split_rows, token_rows
from mesh.verification.ledger import WorkLedger
from mesh.wire.work import Work
from shards.engine.step import StepOutput


class Proving:
    """Feeds a stage's ledger. Its sessions are those of `table`."""

    def __init__(self, ledger: WorkLedger, table: SessionTable) -> None:
        self.ledger = ledger
        self._table = table

    def ran(self, outputs: Sequence[StepOutput]) -> Iterator[tuple[SessionOwner, Work]]:
        """The records that follow from a pass, and whom they are for."""
        for output in outputs:
            session = self._table.get(output.sequence.session)
            if session is None or session.sequence is not output.sequence or output.input is None:
                continue
            if output.error is not None or not output.count:
                continue
            made = self.ledger.ran(
                session.id,
                session.client,
                Place(self._table.facts.digest, session.span),
                output.start,
                _came(output),
                _went(output),
                alone=len(outputs) == 1 and output.count == 1,
            )
            for work in made:
                yield session.owner, work

    def close(self, session: bytes, owner: SessionOwner, received: int) -> list[Work]:
        """Its client closes a session: the last record."""
        found = self._table.get(session)
        return self.ledger.close(session, received) if found is not None and found.owner is owner else []

    def tidy(self) -> None:
        """Forget the chains of sessions that ended otherwise."""
        for session in self.ledger.sessions():
            if self._table.get(session) is None:
                self.ledger.forget(session)


def _came(output: StepOutput) -> list[bytes]:
    given = output.input
    if given is None:
        return []
    rows = slice(output.start - given.start, output.start - given.start + output.count)
    if given.tokens is not None:
        return token_rows(given.tokens[rows].tolist())
    return [] if given.hidden is None else _bytes_of(given.hidden[rows])


def _went(output: StepOutput) -> list[bytes]:
    if output.hidden is not None:
        return _bytes_of(output.hidden)
    chosen = {choice.position: choice.sampled.token for choice in output.choices}
    following = range(output.start + 1, output.start + output.count + 1)
    return [struct.pack("<i", chosen[at]) if at in chosen else b"" for at in following]


def _bytes_of(rows: torch.Tensor) -> list[bytes]:
    data = rows.contiguous().flatten().view(torch.uint8).numpy().data
    return [bytes(row) for row in split_rows(data, len(rows))]
