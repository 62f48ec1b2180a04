"""What a provider announces of itself, again and again, and what the others of its model announce."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable

from mesh.discovery.directory import Directory
from mesh.discovery.records import ProviderRecord
from mesh.errors import MeshError
from mesh.swarm.placement import Claim
from mesh.swarm.view import ProviderView

logger = logging.getLogger(__name__)

ANNOUNCE_SECONDS = 8.0


class Announcer:
    """Our record in the directory."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def announce(self, record: ProviderRecord) -> None:
        """Raises `MeshError` when the directory cannot be reached."""
        await self._directory.announce(record)

    async def try_announce(self, record: ProviderRecord) -> None:
        """The same, but a directory that does not answer ends nobody: the next round may reach it again."""
        try:
            await self.announce(record)
        except MeshError as error:
            logger.warning("could not announce that we are %s: %s", record.state, error)

    async def keep(self, record: Callable[[], ProviderRecord]) -> None:
        """Renew it until cancelled; a round that fails may reach the directory at the next."""
        while True:
            await asyncio.sleep(ANNOUNCE_SECONDS)
            await self.try_announce(record())

    async def withdraw(self) -> None:
        """Take our record back, as far as the directory can be reached."""
        try:
            await self._directory.withdraw()
        except MeshError as error:
            logger.warning("could not withdraw our record (it expires by itself): %s", error)


def committed_and_claims(
    records: Iterable[ProviderRecord], *, without: Collection[str] = ()
) -> tuple[list[ProviderView], list[Claim]]:
    """Those who serve or load, and those who are still choosing; `without` these peers."""
    committed: list[ProviderView] = []
    claims: list[Claim] = []
    for record in records:
        if record.peer in without:
            continue
        if record.state == "joining":
            claims.append(Claim(record.peer, record.span))
        elif record.state in ("loading", "serving"):
            committed.append(record.view())
    return committed, claims
