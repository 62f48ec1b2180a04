"""A real gateway's and a real provider's books, each in a file that may be replaced by an earlier copy of itself."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from mesh.errors import MeshError
from mesh.identity import Identity
from mesh.payment.credit.issuer import VoucherIssuer
from mesh.payment.credit.line import Pair
from mesh.payment.credit.store import PaymentJournal
from mesh.payment.credit.terms import CreditTerms
from mesh.wire.messages import Message
from mesh.wire.paying import Compare, Receipt, Unwelcome, Voucher, Welcome
from tests.mesh.payment.credit.actors import BLOCKS, DIGEST, HandGateway
from tests.mesh.payment.money import MODEL_ID, Money, bind

PAIR = Pair("gate", "ann", MODEL_ID)
NAMES = ("gate", "ann")


class Sides:
    """The gateway «gate» and the provider «ann», connected. `async with` it."""

    def __init__(self, folder: Path, *, credit: int = 64) -> None:
        self.money = Money(terms=CreditTerms(tokens=credit, pause_seconds=0.5, receipt_seconds=0.02))
        self.folder = folder
        self.identities = {name: Identity.generate() for name in NAMES}
        self.done: dict[int, int] = {}
        """Units that were worked and reached the gateway, by epoch."""
        self.copies: dict[str, list[Path]] = {name: [] for name in NAMES}
        self.said: list[Message] = []

    async def __aenter__(self) -> Sides:
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        await self._begin()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._end()
        await self._tasks.__aexit__(None, None, None)

    @property
    def credit(self) -> int:
        """In units."""
        return self.money.terms.tokens * BLOCKS

    async def _begin(self) -> None:
        for name in NAMES:
            self.money.journals[name] = PaymentJournal(self.folder / f"{name}.sqlite")
        ann = self.money.provider(self.identities["ann"], "ann", DIGEST, BLOCKS)
        self.gate = HandGateway(self.money, ann.collector, identity=self.identities["gate"])
        self.issuer: VoucherIssuer = self.money.gateway(self.identities["gate"], "gate")(self._tasks)
        self._running = self._tasks.create_task(ann.collector.run())
        peer, welcomes = self.identities["ann"].peer_id, list[Welcome]()

        def tell(message: Message) -> None:
            self.said.append(message)
            match message:
                case Welcome():
                    welcomes.append(message)
                case Receipt():
                    early.append(message) if early is not None else self.issuer.receipt(peer, message)
                case Voucher():
                    self.issuer.shown(peer, message)
                case Compare():
                    self.issuer.compared(peer, message)
                case Unwelcome():
                    self.issuer.unwelcome(peer, message)

        async def say(message: Message) -> None:
            self.said.append(message)
            self._tasks.create_task(self._hear(message))

        early: list[Receipt] | None = []
        me = self.identities["gate"]
        await ann.collector.greet(me.peer_id, bind("gateway", "gate", me, self.money.account("gate")), tell)
        await self.issuer.welcomed(peer, welcomes[0], ann.binding, say)
        before, early = early, None
        for receipt in before:
            self.issuer.receipt(peer, receipt)

    async def _hear(self, message: Message) -> None:
        collector, peer = self.gate.collector, self.identities["gate"].peer_id
        try:
            if isinstance(message, Voucher):
                await collector.voucher(peer, message)
            elif isinstance(message, Compare):
                await collector.compare(peer, message)
        except MeshError as error:
            self.said.append(error)  # type: ignore[arg-type]

    async def _end(self) -> None:
        """Both processes are killed; what they were writing is written."""
        self.issuer.leave(self.identities["ann"].peer_id)
        self._running.cancel()
        await asyncio.sleep(0.1)
        for name in NAMES:
            self.money.journals[name].close()

    def work(self, most: int) -> int:
        """Have prompts run, whose tokens reach the gateway: how many; fewer where the credit is used up."""
        line, done = self.gate.customer.line, 0
        while done < most:
            before = line.open
            if not self.gate.work(1):
                break
            units = line.open - before
            epoch = self.money.chain.epoch
            self.done[epoch] = self.done.get(epoch, 0) + units
            self.issuer.accrue(self.identities["ann"].peer_id, units)
            done += 1
        return done

    async def work_all(self, count: int, seconds: float = 10.0) -> None:
        """Have so many run, waiting for vouchers; TimeoutError when it takes too long."""
        async with asyncio.timeout(seconds):
            while count:
                count -= self.work(count)
                await asyncio.sleep(0.05)

    async def paid(self) -> None:
        """Wait until no voucher is missing that will still come."""
        calm = 0
        async with asyncio.timeout(10):
            while calm < 4:
                before = self.held(), self.gate.customer.line.open
                await asyncio.sleep(0.06)
                calm = calm + 1 if before == (self.held(), 0) else 0

    def held(self) -> dict[int, int]:
        """Units that the provider holds vouchers for, by epoch."""
        return {slot.epoch: slot.voucher_units for slot in self.money.journals["ann"].slots("held")}

    def issued(self) -> dict[int, int]:
        """Units that the gateway knows to have signed for, by epoch."""
        return {slot.epoch: slot.voucher_units for slot in self.money.journals["gate"].slots("issued")}

    def copy(self, name: str) -> None:
        """Keep the books of one side as they are now."""
        path = self.folder / f"{name}-{len(self.copies[name])}.copy"
        with closing(sqlite3.connect(self.folder / f"{name}.sqlite")) as now, closing(sqlite3.connect(path)) as then:
            now.backup(then)
        self.copies[name].append(path)

    async def restore(self, name: str, copy: Path | None) -> None:
        """Both start again, one of them with its books from a copy, or with none."""
        await self._end()
        path = self.folder / f"{name}.sqlite"
        for each in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            each.unlink(missing_ok=True)
        if copy is not None:
            await asyncio.to_thread(shutil.copy, copy, path)
        await self._begin()
