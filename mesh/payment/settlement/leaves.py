"""Publication of leaves and service-level reports: served by a gateway over `/mesh/leaves/1`, fetched by anybody."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from chain.errors import InvalidArgument
from chain.leaves import CheckpointLeaves
from chain.primitives import keccak256
from mesh.errors import PeerFailed, PeerTimeout, ProtocolViolation
from mesh.payment.settlement.store import SettlementStore
from mesh.transport.port import Channel, PeerId, Transport
from mesh.wire.leaves import (
    LEAVES_PROTOCOL,
    MAX_DOCUMENT,
    PART_BYTES,
    Assembly,
    Document,
    DocumentPart,
    FetchDocument,
    decode,
    encode,
)

logger = logging.getLogger(__name__)

AT_ONCE = 8
"""Documents on their way at one time; each is held in memory once."""
IDLE_SECONDS = 30.0
SEND_SECONDS = 60.0
FETCH_SECONDS = 60.0


class LeavesService:
    """Serves what the store holds for our gateway. `await service.start()` once the transport runs."""

    def __init__(self, transport: Transport, store: SettlementStore, gateway: str) -> None:
        self._transport = transport
        self._store = store
        self._gateway = gateway
        self._places = asyncio.Semaphore(AT_ONCE)

    async def start(self) -> None:
        await self._transport.serve(LEAVES_PROTOCOL, self._serve)

    def leaves(self, model_id: int, epoch: int) -> bytes | None:
        """The canonical text of the leaves that we posted: what `GET /mesh/leaves/{model}/{epoch}` answers with."""
        return self._store.published(self._gateway, model_id, epoch)

    def reports(self, epoch: int) -> bytes | None:
        """Our signed service-level reports of an epoch (JSON)."""
        return self._store.reports(self._gateway, epoch)

    async def _serve(self, channel: Channel) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    frame = await channel.receive()
            except TimeoutError:
                return
            if frame is None:
                return
            request = decode(frame)
            if not isinstance(request, FetchDocument):
                raise ProtocolViolation("a part of a document that nobody asked for", peer=channel.peer)
            async with self._places:
                await self._answer(channel, request)

    async def _answer(self, channel: Channel, request: FetchDocument) -> None:
        body = None
        if request.gateway == self._gateway:
            found = self.leaves(request.model_id, request.epoch), self.reports(request.epoch)
            body = found[0] if request.what == "leaves" else found[1]
        try:
            async with asyncio.timeout(SEND_SECONDS):
                if body is None or len(body) > MAX_DOCUMENT:
                    await channel.send(encode(DocumentPart(0, 0, f"there are no such {request.what} here")))
                    return
                for at in range(0, max(1, len(body)), PART_BYTES):
                    piece = memoryview(body)[at : at + PART_BYTES]
                    await channel.send(encode(DocumentPart(at, len(body), None), piece))
        except TimeoutError:
            raise PeerTimeout(
                f"the peer did not read {request.what} in {SEND_SECONDS:g} s", peer=channel.peer
            ) from None


async def fetch_document(
    transport: Transport,
    peer: PeerId,
    what: Document,
    gateway: str,
    model_id: int,
    epoch: int,
    *,
    limit: int = MAX_DOCUMENT,
    timeout: float = FETCH_SECONDS,
) -> bytes:
    """One document, at most `limit` bytes, unchecked. Raises `PeerError`s: `PeerFailed` where the peer has none."""
    try:
        async with asyncio.timeout(timeout):
            channel = await transport.open(peer, LEAVES_PROTOCOL)
            try:
                await channel.send(encode(FetchDocument(what, gateway, model_id, epoch)))
                assembly = Assembly(limit)
                while True:
                    frame = await channel.receive()
                    if frame is None:
                        raise PeerFailed("the peer closed before the document was whole", peer=peer)
                    part = decode(frame)
                    if not isinstance(part, DocumentPart):
                        raise ProtocolViolation("a request instead of an answer", peer=peer)
                    if part.error is not None:
                        raise PeerFailed(part.error, peer=peer)
                    if assembly.add(part, frame.payload):
                        return assembly.body
            finally:
                await channel.aclose()
    except TimeoutError:
        raise PeerTimeout(f"no {what} within {timeout:g} s", peer=peer) from None


@dataclass(frozen=True, slots=True)
class CheckedLeaves:
    """Leaves whose root is the posted one. `hash_matches` is False where the chain has another hash of their text."""

    leaves: CheckpointLeaves
    hash_matches: bool


def check_leaves(
    body: bytes, *, gateway: str, model_id: int, epoch: int, root: bytes, data_hash: bytes | None = None
) -> CheckedLeaves:
    """What strangers say are the leaves of a checkpoint. Raises `ProtocolViolation` unless they make its root.

    The root decides: a leaf under it can be proved, whatever hash of the text was posted beside it.
    """
    try:
        leaves = CheckpointLeaves.parse(body)
        tree = leaves.tree()
    except InvalidArgument as error:
        raise ProtocolViolation(f"the leaves do not read: {error}") from error
    if (leaves.gateway, leaves.model_id, leaves.epoch) != (gateway, model_id, epoch) or tree.root != root:
        raise ProtocolViolation("these are not the leaves whose root was posted")
    return CheckedLeaves(leaves, data_hash is None or keccak256(body) == data_hash)


async def fetch_leaves(
    transport: Transport,
    peer: PeerId,
    *,
    gateway: str,
    model_id: int,
    epoch: int,
    root: bytes,
    data_hash: bytes | None = None,
    timeout: float = FETCH_SECONDS,
) -> CheckedLeaves:
    """Leaves from a gateway's peer, checked against what is posted. Raises `PeerError`s."""
    body = await fetch_document(transport, peer, "leaves", gateway, model_id, epoch, timeout=timeout)
    checked = await asyncio.to_thread(
        check_leaves, body, gateway=gateway, model_id=model_id, epoch=epoch, root=root, data_hash=data_hash
    )
    if not checked.hash_matches:
        logger.warning("%s posted another hash than that of its leaves of model %d, epoch %d", gateway, model_id, epoch)
    return checked
