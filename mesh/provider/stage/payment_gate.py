"""What a stage's clients say about money, and what its collector has to do: the part that waits for the chain."""

from __future__ import annotations

import asyncio
import logging

from mesh.errors import MeshError, ProtocolViolation
from mesh.payment.credit.collector import VoucherCollector
from mesh.provider.stage.control import ControlChannel
from mesh.wire.frame import Frame
from mesh.wire.paying import Compare, Hello, Voucher

logger = logging.getLogger(__name__)

MAX_TASKS_PER_PEER = 64
FLUSH_SECONDS = 1.0


class PaymentGate:
    """Hands introductions and vouchers to the collector."""

    def __init__(self, collector: VoucherCollector) -> None:
        self._collector = collector
        self._working: dict[str, int] = {}

    async def run(self) -> None:
        """Receipts and deadlines, and what clients said about money, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            await self._collector.run()

    async def flush(self) -> None:
        """We are about to leave: claim what was done, and give the gateways a moment to sign for it."""
        await self._collector.flush(FLUSH_SECONDS)

    def hear(self, control: ControlChannel, message: Hello | Voucher | Compare, frame: Frame) -> None:
        """Take an introduction, a voucher or a comparison; the answer comes later."""
        peer = control.peer
        if self._working.get(peer, 0) >= MAX_TASKS_PER_PEER:
            raise ProtocolViolation("too many introductions and vouchers at once", peer=peer)
        self._working[peer] = self._working.get(peer, 0) + 1
        self._tasks.create_task(self._answer(control, message, bytes(frame.payload)))

    async def _answer(self, control: ControlChannel, message: Hello | Voucher | Compare, payload: bytes) -> None:
        try:
            if isinstance(message, Hello):
                await self._collector.greet(control.peer, payload, control.tell)
            elif isinstance(message, Compare):
                await self._collector.compare(control.peer, message)
            else:
                await self._collector.voucher(control.peer, message)
        except MeshError as error:
            logger.warning("%s: %s", control.peer, error)
        finally:
            self._working[control.peer] -= 1
            if not self._working[control.peer]:
                del self._working[control.peer]

    def leave(self, control: ControlChannel) -> None:
        """The control channel has ended."""
        self._collector.leave(control.peer, control.tell)
