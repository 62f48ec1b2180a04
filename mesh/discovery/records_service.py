"""Hands out the signed records that this node can find, on `/mesh/records/1`: discovery for peers without a DHT."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mesh.discovery.index import INDEX_KEYS, may_name
from mesh.discovery.records import ModelKey, peer_key, provider_key
from mesh.errors import PeerError, ProtocolViolation
from mesh.transport.port import Channel
from mesh.transport.quotas import Rates
from mesh.wire.records import AskRecords, Busy, Records, SignedRecord, decode, encode, pack_records

log = logging.getLogger(__name__)

Keys = tuple[bytes, ...]
"""The DHT keys that a question is about."""


class SignedSource(Protocol):
    """A directory that can hand on what providers signed."""

    async def signed(self, *keys: bytes) -> Sequence[SignedRecord]:
        """The records under keys, each checked, withdrawals among them. Raises `PeerError`s."""


@dataclass(frozen=True, slots=True)
class RecordsSettings:
    """What may be asked of us."""

    rate: float = 5.0
    """Questions a second of one peer in the long run …"""
    burst: float = 40.0
    """… and at once."""
    fresh_seconds: float = 1.0
    """How old an answer may be that is given again."""
    lookups: int = 8
    """Searches of ours at a time; who asks for more is told to wait."""
    kept: int = 16
    """Answers kept."""
    patience: float = 120.0
    """Seconds between two questions on one channel."""


class RecordsService:
    """A handler for `/mesh/records/1`. Its work is bounded per peer, and in all, whatever peer ids cost."""

    def __init__(
        self,
        source: SignedSource,
        settings: RecordsSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._settings = settings or RecordsSettings()
        self._clock = clock
        self._rates = Rates(self._settings.rate, self._settings.burst)
        self._kept: OrderedDict[Keys, tuple[float, Sequence[SignedRecord]]] = OrderedDict()
        self._searching: dict[Keys, asyncio.Task[Sequence[SignedRecord]]] = {}

    async def __call__(self, channel: Channel) -> None:
        while True:
            try:
                async with asyncio.timeout(self._settings.patience):
                    frame = await channel.receive()
            except TimeoutError:
                return
            if frame is None:
                return
            question = decode(frame)
            if not isinstance(question, AskRecords):
                raise ProtocolViolation("an answer to nothing", peer=channel.peer)
            wait = self._rates.of(channel.peer).refusal(self._clock())
            records = None if wait else await self._find(question)
            if records is None:
                await channel.send(encode(Busy(min(wait or 1.0, 3600.0))))
                continue
            count, payload = pack_records(random.sample(records, len(records)))
            await channel.send(encode(Records(count), payload))

    async def _find(self, question: AskRecords) -> Sequence[SignedRecord] | None:
        """What is known; None when too much is being looked for already."""
        match question.what:
            case "models":
                found = await self._known(INDEX_KEYS)
                if found is None or not question.name:
                    return found
                return [each for each in found if may_name(each.data, question.name)]
            case "providers":
                return await self._known((provider_key(ModelKey(question.name, question.digest)),))
            case "peers":
                return await self._known(tuple(peer_key(peer) for peer in dict.fromkeys(question.peers)))

    async def _known(self, key: Keys) -> Sequence[SignedRecord] | None:
        if not key:
            return ()
        kept = self._kept.get(key)
        if kept is not None and self._clock() - kept[0] < self._settings.fresh_seconds:
            return kept[1]
        search = self._searching.get(key)
        if search is None:
            if len(self._searching) >= self._settings.lookups:
                return None
            search = self._searching[key] = asyncio.create_task(self._search(key), name="looking for records")
            search.add_done_callback(lambda _: self._searching.pop(key, None))
        try:
            return await asyncio.shield(search)
        except PeerError as error:
            log.info("could not look for records: %s", error)
            return None

    async def _search(self, key: Keys) -> Sequence[SignedRecord]:
        found = await self._source.signed(*key)
        while len(self._kept) >= self._settings.kept:
            self._kept.popitem(last=False)
        self._kept.pop(key, None)
        self._kept[key] = self._clock(), found
        return found

    async def aclose(self) -> None:
        """End the searches that nobody waits for any more."""
        searches = list(self._searching.values())
        for search in searches:
            search.cancel()
        if searches:
            await asyncio.wait(searches)
