"""The `Directory` of a client without a DHT: it asks several peers for the records that they know, and checks each.

Whoever answers can leave records out, but not make them up, alter them or bring old ones back: every record is signed
by its provider, expires, and is merged by its sequence number. So what one peer hides another one tells.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Final, Self

from mesh.discovery.books import RecordBooks
from mesh.discovery.directory import MAX_PROVIDERS, Clock, to_ask
from mesh.discovery.index import INDEX_KEYS, IndexEntry, decode_entry, index_key, listed_models, may_name
from mesh.discovery.peer_book import PeerBook
from mesh.discovery.places import Draw
from mesh.discovery.records import MAX_SKEW, ModelKey, ProviderRecord, decode_record, provider_key
from mesh.errors import InternalError, PeerError, PeerFailed, PeerTimeout, PeerUnreachable, ProtocolViolation
from mesh.transport import question
from mesh.transport.port import PeerId, Transport
from mesh.wire.records import (
    MAX_PEERS,
    RECORDS_PROTOCOL,
    AskRecords,
    Busy,
    Records,
    SignedRecord,
    decode,
    encode,
    unpack_records,
)

log = logging.getLogger(__name__)

ASKED: Final = 3
"""Peers asked at a time."""
THEMSELVES_SECONDS: Final = 5.0
"""For all the peers that are asked for their own records."""
_THEMSELVES_AT_ONCE: Final = 16
_ANSWER_SECONDS: Final = 4.0  # for a peer to be reached and to answer
_GRACE_SECONDS: Final = 0.3  # that the others have once one has answered
_CALL_SECONDS: Final = 10.0  # for a whole search
_DISTRUST_SECONDS: Final = 60.0  # that a peer which failed us is asked last
_MAX_HELPERS: Final = 64
_MAX_BOOKS: Final = 256

Learn = Callable[[PeerId, Iterable[str]], None]


class AskingDirectory:
    """Who provides what, from what peers tell. It announces nothing. Use as `async with`."""

    def __init__(
        self,
        transport: Transport,
        seeds: Sequence[PeerId],
        *,
        learn: Learn = lambda _peer, _maddrs: None,
        clock: Clock = time.time,
    ) -> None:
        """`seeds` are asked first; `learn` is told where providers say they can be dialled."""
        self._transport = transport
        self._seeds = tuple(dict.fromkeys(seeds))
        self._learn = learn
        self._clock = clock
        self._helpers: dict[PeerId, None] = {}
        self._distrusted: dict[PeerId, float] = {}
        self._draw = Draw()
        self._books = RecordBooks(decode_record, _MAX_BOOKS, longest=MAX_SKEW)
        self._index = RecordBooks(decode_entry, len(INDEX_KEYS), longest=MAX_SKEW)
        self._peers = PeerBook()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def announce(self, record: ProviderRecord) -> ProviderRecord:
        """A client provides nothing. Raises `InternalError`."""
        raise InternalError("a node without a DHT cannot announce anything")

    async def withdraw(self) -> None:
        """Nothing was announced."""

    async def providers(self, model: ModelKey) -> tuple[ProviderRecord, ...]:
        key = provider_key(model)
        answers = await self._ask_all(AskRecords("providers", model.name, model.digest))
        now = self._clock()
        _, book = self._books.hear(key, answers, now=now)
        records = book.some(MAX_PROVIDERS, self._draw, now=now)
        self._note(records)
        return records

    async def models(self, name: str | None = None) -> tuple[ModelKey, ...]:
        answers = await self._ask_all(AskRecords("models", name or "", ""))
        shards: dict[bytes, list[SignedRecord]] = {key: [] for key in INDEX_KEYS}
        for each in answers:
            if name is None or may_name(each.data, name):
                shards[index_key(each.peer)].append(each)
        now, listed = self._clock(), list[IndexEntry]()
        for key, entries in shards.items():
            _, book = self._index.hear(key, entries, now=now)
            listed += book.records(now=now)
        return listed_models(listed, name, draw=self._draw, now=now)

    async def records_of_peers(self, peers: Iterable[str]) -> tuple[ProviderRecord, ...]:
        asked = to_ask(peers)
        parts = [asked[start : start + MAX_PEERS] for start in range(0, len(asked), MAX_PEERS)]
        answers = await asyncio.gather(
            *(self._ask_all(AskRecords("peers", "", "", part)) for part in parts), return_exceptions=True
        )
        told: dict[str, list[bytes]] = {peer: [] for peer in asked}
        for answer in answers:
            if isinstance(answer, PeerError):
                log.info("%s", answer)  # the peers themselves are left
            elif isinstance(answer, BaseException):
                raise answer
            else:
                for peer, data in answer:
                    if peer in told:
                        told[peer].append(data)
        records = self._peers.hear_each(told, now=self._clock())
        missing = set(asked) - {record.peer for record in records}
        if missing:
            told |= await ask_themselves(self._transport, missing)
            records = self._peers.hear_each(told, now=self._clock())
        self._note(records)
        return records

    def _note(self, records: Iterable[ProviderRecord]) -> None:
        """Where providers can be dialled, and that they can be asked."""
        for record in records:
            self._learn(record.peer, record.maddrs)
            if record.peer not in self._helpers and len(self._helpers) < _MAX_HELPERS:
                self._helpers[record.peer] = None

    async def _ask_all(self, question: AskRecords) -> list[SignedRecord]:
        """What the peers that are asked tell, unchecked. Raises `PeerError`s."""
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                answers = await self._ask_several(question)
        except TimeoutError:
            raise PeerTimeout("nobody told us in time who provides what") from None
        return list(itertools.chain.from_iterable(answers))

    async def _ask_several(self, question: AskRecords) -> list[Sequence[SignedRecord]]:
        """The answers of up to `ASKED` peers; of others when those fail. Raises `PeerUnreachable` when all do."""
        waiting = self._order()
        running: dict[asyncio.Task[Sequence[SignedRecord]], PeerId] = {}
        answers: list[Sequence[SignedRecord]] = []
        failure: PeerError | None = None
        try:
            while running or (waiting and not answers):
                while waiting and not answers and len(running) < ASKED:
                    peer = waiting.pop(0)
                    running[asyncio.create_task(ask(self._transport, peer, question), name=f"asking {peer}")] = peer
                done, _ = await asyncio.wait(
                    running, timeout=_GRACE_SECONDS if answers else None, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for task in done:
                    peer = running.pop(task)
                    try:
                        answers.append(task.result())
                        self._distrusted.pop(peer, None)
                    except PeerError as error:
                        log.info("%s did not tell us who provides what: %s", peer, error)
                        self._distrusted[peer] = time.monotonic() + _DISTRUST_SECONDS
                        failure = error
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
        if not answers:
            raise PeerUnreachable(f"no peer that we know tells who provides what: {failure}") from failure
        return answers

    def _order(self) -> list[PeerId]:
        """Whom to ask, in turn: those who did not fail us lately, mixed, so that no single one decides what we see."""
        now = time.monotonic()
        self._distrusted = {peer: until for peer, until in self._distrusted.items() if until > now}
        peers = [peer for peer in {**dict.fromkeys(self._seeds), **self._helpers} if peer != self._transport.peer_id]
        random.shuffle(peers)
        return sorted(peers, key=lambda peer: self._distrusted.get(peer, 0.0))


async def ask(transport: Transport, peer: PeerId, asked: AskRecords) -> Sequence[SignedRecord]:
    """What a peer answers, unchecked. Raises `PeerError`s."""
    frame = await question.ask(transport, peer, RECORDS_PROTOCOL, encode(asked), timeout=_ANSWER_SECONDS)
    match decode(frame):
        case Records(count=count):
            return unpack_records(count, frame.payload)
        case Busy(seconds=seconds):
            raise PeerFailed(f"it is busy for {seconds:.1f} s", peer=peer)
        case _:
            raise ProtocolViolation("a question for an answer", peer=peer)


async def ask_themselves(transport: Transport, peers: Iterable[PeerId]) -> dict[PeerId, list[bytes]]:
    """What peers say of themselves when they are asked, unchecked; those that do not answer are left out.

    No stranger's records can crowd this out. A few at a time, and `THEMSELVES_SECONDS` for all of them.
    """
    said: dict[PeerId, list[bytes]] = {}
    turns = asyncio.Semaphore(_THEMSELVES_AT_ONCE)

    async def one(peer: PeerId) -> None:
        async with turns:
            try:
                answer = await ask(transport, peer, AskRecords("peers", "", "", (peer,)))
            except PeerError as error:
                log.debug("%s does not tell us of itself: %s", peer, error)
                return
        said[peer] = [data for who, data in answer if who == peer]

    asking = {asyncio.create_task(one(peer), name=f"asking {peer}") for peer in set(peers) if peer != transport.peer_id}
    if asking:
        try:
            await asyncio.wait(asking, timeout=THEMSELVES_SECONDS)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)
    return said
