"""What a gateway's audits of each provider have come to, on disk: who has shown its work, and who is barred.

Evidence is an e-value, as in `mesh.verification.evidence`: one audit that finds other work makes a provider a suspect,
who is not paid until later ones clear it; four in a row, and it is barred for good.
"""

from __future__ import annotations

import logging
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

from mesh.errors import StorageUnavailable
from mesh.payment.database import Database
from mesh.verification.evidence import CONVICTED, SUSPECT, grown

logger = logging.getLogger(__name__)

VERSION: Final = 1
YOUNG: Final = 16
"""Audits after which a provider's sessions are not all audited any more."""
FIRST_PAUSE: Final = 15.0
"""Seconds until a provider that has not passed is tried again; twice as long each time …"""
LONGEST_PAUSE: Final = 3600.0
"""… and at most so long."""
MOST_VAIN: Final = 8
"""So often in a row a provider may show nothing when a session in service is audited, before it counts as one that has
not passed. Half of that is forgotten when it passes its next trial: the rest only what it shows in service clears."""
MOST_WHY: Final = 400
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS histories (
    provider TEXT NOT NULL, digest TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    evidence REAL NOT NULL, audits INTEGER NOT NULL, differing INTEGER NOT NULL, vain INTEGER NOT NULL,
    withheld INTEGER NOT NULL, failed INTEGER NOT NULL, again_at REAL NOT NULL, why TEXT NOT NULL,
    PRIMARY KEY (provider, digest, first, last)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose work on which blocks: a provider's id on the chain, a model's digest, and its blocks `first` to `last`."""

    provider: str
    digest: str
    first: int
    last: int


@dataclass(slots=True)
class History:
    """What audits of a subject have come to."""

    evidence: float = 1.0
    audits: int = 0
    """That found something out."""
    differing: int = 0
    vain: int = 0
    """Audits in service, in a row, to which it showed nothing: no records, no rows."""
    withheld: int = 0
    """How often that came to `MOST_VAIN`."""
    failed: int = 0
    """Trials in a row that found nothing out."""
    again_at: float = 0.0
    """When it may be tried again (seconds since 1970), where it has not passed."""
    why: str = ""
    """What the last one said."""

    @property
    def has_passed(self) -> bool:
        """Whether its work was its model's when it was looked at last."""
        return self.audits > 0 and self.evidence <= SUSPECT and self.vain < MOST_VAIN

    @property
    def is_barred(self) -> bool:
        """Whether it is out for good."""
        return self.evidence >= CONVICTED

    @property
    def is_young(self) -> bool:
        """Whether all of its sessions are to be audited."""
        return self.audits < YOUNG or not self.has_passed

    def weigh(self, ratio: float, why: str, now: float, *, in_trial: bool) -> None:
        """An audit has found `ratio` (p1 ÷ p0; 0: the same bits): E ← e · max(E, 1)."""
        self.evidence = grown(self.evidence, ratio)
        self.audits, self.why = self.audits + 1, why[:MOST_WHY]
        if self.evidence > SUSPECT:
            self.differing += 1
            self.again_at = now + pause_after(self.differing)
        elif in_trial:
            self.failed, self.vain = 0, min(self.vain, MOST_VAIN // 2)
        else:
            self.vain = 0

    def note_vain(self, why: str, now: float, *, in_trial: bool) -> None:
        """A trial has found nothing out, or an audit was shown nothing."""
        self.why = why[:MOST_WHY]
        if in_trial:
            self.failed += 1
            self.again_at = now + pause_after(self.failed)
            return
        self.vain += 1
        if self.vain == MOST_VAIN:
            self.withheld += 1
            self.again_at = now + pause_after(self.withheld)


def pause_after(times: int) -> float:
    """Seconds before the next trial, after so many."""
    return float(min(FIRST_PAUSE * 2.0 ** min(max(times - 1, 0), 20), LONGEST_PAUSE))


class TrialBook(Database):
    """The histories of all providers that a gateway has tried. All of it is held in memory too."""

    def __init__(self, path: Path | None = None) -> None:
        """`path` None keeps it in memory. Raises as `Database`."""
        super().__init__(path, _SCHEMA, version=VERSION, what=f"the book of verified providers {path}")
        with self._reading() as db:
            rows = db.execute("SELECT * FROM histories").fetchall()
        self._known = {Subject(*row[:4]): History(*row[4:]) for row in rows}
        self.version = 0
        """Grows with every change."""

    def of(self, subject: Subject) -> History:
        """A subject's history; an empty one where there is none."""
        return self._known.get(subject) or History()

    def all(self) -> dict[Subject, History]:
        """Everybody's."""
        return dict(self._known)

    def all_of(self, provider: str) -> dict[Subject, History]:
        """A provider's, by what it served."""
        return {subject: each for subject, each in self._known.items() if subject.provider == provider}

    def bar(self, provider: str) -> str | None:
        """Why a provider is out for good; None where it is not."""
        return next((each.why for each in self.all_of(provider).values() if each.is_barred), None)

    def may_be_paid(self, provider: str) -> bool:
        """Whether it has shown its work, and nothing stands against it."""
        known = self.all_of(provider).values()
        return any(each.has_passed for each in known) and not any(each.audits and not each.has_passed for each in known)

    def weigh(self, subject: Subject, ratio: float, why: str, now: float, *, in_trial: bool = True) -> History:
        """As `History.weigh`, and on disk."""
        found = self._known.setdefault(subject, History())
        found.weigh(ratio, why, now, in_trial=in_trial)
        self._write(subject, found)
        return found

    def note_vain(self, subject: Subject, why: str, now: float, *, in_trial: bool) -> History:
        """As `History.note_vain`, and on disk."""
        found = self._known.setdefault(subject, History())
        found.note_vain(why, now, in_trial=in_trial)
        self._write(subject, found)
        return found

    def _write(self, subject: Subject, found: History) -> None:
        self.version += 1
        values = (*astuple(subject), *astuple(found))
        try:
            with self._transaction() as db:
                db.execute(f"INSERT OR REPLACE INTO histories VALUES ({', '.join('?' * len(values))})", values)
        except StorageUnavailable as error:
            logger.warning("an audit of provider %s is only remembered until we stop: %s", subject.provider, error)
