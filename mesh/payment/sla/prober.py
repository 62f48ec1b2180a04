"""Probes of providers: a ping on a control channel of its own, timed, for the book of service levels."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping

from mesh.errors import MeshError, PeerError, ProtocolViolation
from mesh.payment.sla.reports import SlaBook
from mesh.transport.port import PeerId, Transport
from mesh.wire.messages import CONTROL_PROTOCOL, Ping, Pong, decode, encode

logger = logging.getLogger(__name__)

EVERY_SECONDS = 10.0
ANSWER_SECONDS = 5.0
AT_ONCE = 16
MAX_TARGETS = 1000

Targets = Callable[[], Awaitable[Mapping[str, PeerId]]]
"""Peers of the providers to probe, by provider id."""


class Prober:
    """Pings every target once in `every` seconds. `run()` in a task of its own.

    A sweep in which nobody answers says more about our own network than about the providers: it is not counted.
    """

    def __init__(
        self,
        transport: Transport,
        targets: Targets,
        epoch: Callable[[], int],
        book: SlaBook,
        *,
        every: float = EVERY_SECONDS,
        timeout: float = ANSWER_SECONDS,
    ) -> None:
        self._transport = transport
        self._targets = targets
        self._epoch = epoch
        self._book = book
        self._every = every
        self._timeout = timeout

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.sweep()
            except MeshError as error:
                logger.warning("providers cannot be probed now: %s", error)
            await asyncio.sleep(self._every)

    async def sweep(self) -> dict[str, float | None]:
        """Probe all once: milliseconds to each answer, None where there was none."""
        targets = dict(sorted((await self._targets()).items())[:MAX_TARGETS])
        epoch = self._epoch()
        places = asyncio.Semaphore(AT_ONCE)
        found: dict[str, float | None] = {}

        async def probe(provider: str, peer: PeerId) -> None:
            async with places:
                found[provider] = await self._probe(peer)

        async with asyncio.TaskGroup() as tasks:
            for provider, peer in targets.items():
                tasks.create_task(probe(provider, peer))
        if any(latency is not None for latency in found.values()):
            for provider, latency in found.items():
                self._book.observe(provider, epoch, latency is not None, latency)
        return found

    async def _probe(self, peer: PeerId) -> float | None:
        """Milliseconds of a round trip, without the time that it takes to connect."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                channel = await self._transport.open(peer, CONTROL_PROTOCOL)
                try:
                    nonce = secrets.randbits(48)
                    began = loop.time()
                    await channel.send(encode(Ping(nonce)))
                    frame = await channel.receive()
                    took = loop.time() - began
                    if frame is None or decode(frame) != Pong(nonce):
                        raise ProtocolViolation("no answer to a ping", peer=peer)
                    return 1000 * took
                finally:
                    await channel.aclose()
        except (PeerError, TimeoutError) as error:
            logger.info("%s does not answer a probe: %s", peer, error)
            return None
