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
from mesh.discovery.directory import Clock
from mesh.discovery.records import INDEX_KEY, ModelKey, ProviderRecord, provider_key
from mesh.errors import InternalError, PeerError, PeerFailed, PeerTimeout, PeerUnreachable, ProtocolViolation
from mesh.transport.port import PeerId, Transport
from mesh.wire.records import (
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
        self._books = RecordBooks(_MAX_BOOKS)

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
        records = await self._read(provider_key(model), AskRecords("providers", model.name, model.digest))
        for record in records:
            self._learn(record.peer, record.maddrs)
            if record.peer not in self._helpers and len(self._helpers) < _MAX_HELPERS:
                self._helpers[record.peer] = None
        return records

    async def models(self) -> tuple[ModelKey, ...]:
        return tuple(sorted({r.model_key for r in await self._read(INDEX_KEY, AskRecords("models", "", ""))}))

    async def _read(self, key: bytes, question: AskRecords) -> tuple[ProviderRecord, ...]:
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                answers = await self._ask_several(question)
        except TimeoutError:
            raise PeerTimeout("nobody told us in time who provides what") from None
        now = self._clock()
        _, book = self._books.hear(key, itertools.chain.from_iterable(answers), now=now)
        return book.records(now=now)

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
                    running[asyncio.create_task(self._ask(peer, question), name=f"asking {peer}")] = peer
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
                        self._distrusted[peer] = self._clock() + _DISTRUST_SECONDS
                        failure = error
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
        if not answers:
            raise PeerUnreachable(f"no peer that we know tells who provides what: {failure}") from failure
        return answers

    async def _ask(self, peer: PeerId, question: AskRecords) -> Sequence[SignedRecord]:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                channel = await self._transport.open(peer, RECORDS_PROTOCOL, timeout=_ANSWER_SECONDS)
                try:
                    await channel.send(encode(question))
                    frame = await channel.receive()
                finally:
                    await channel.aclose()
        except TimeoutError:
            raise PeerTimeout("it did not answer in time", peer=peer) from None
        if frame is None:
            raise PeerFailed("it closed without an answer", peer=peer)
        match decode(frame):
            case Records(count=count):
                return unpack_records(count, frame.payload)
            case Busy(seconds=seconds):
                raise PeerFailed(f"it is busy for {seconds:.1f} s", peer=peer)
            case _:
                raise ProtocolViolation("a question for an answer", peer=peer)

    def _order(self) -> list[PeerId]:
        """Whom to ask, in turn: those who did not fail us lately, mixed, so that no single one decides what we see."""
        now = self._clock()
        self._distrusted = {peer: until for peer, until in self._distrusted.items() if until > now}
        peers = [peer for peer in {**dict.fromkeys(self._seeds), **self._helpers} if peer != self._transport.peer_id]
        random.shuffle(peers)
        return sorted(peers, key=lambda peer: self._distrusted.get(peer, 0.0))
