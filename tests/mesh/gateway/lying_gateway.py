"""A gateway that says what a test wants it to say about an account, and keeps the vouchers that it gets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from chain.primitives import checksummed, key_of
from chain.vouchers import PaymentVoucher, digest, recover
from tests.mesh.gateway.paid import ANN, DOMAIN, GATEWAY, PRICE, K

HUGE = "9" * 38


@dataclass
class Liar:
    """`lie` may change what would be honest: it gets the account and how many answers were given before."""

    lie: Callable[[dict[str, Any], int], None] = lambda account, answers: None
    signed: int = 0
    signature: str | None = None
    spent: int = 0
    vouchers: list[int] = field(default_factory=list)
    answers: int = 0
    url: str = ""
    running: set[asyncio.Task[None]] = field(default_factory=set)

    def account(self) -> dict[str, Any]:
        account: dict[str, Any] = {
            "payer": ANN.address,
            "signed": str(self.signed),
            "voucher_signature": self.signature,
            "spent": str(self.spent),
            "charged": str(self.spent),
            "pending": "0",
            "credit": str(self.signed - self.spent),
            "deposit": str(10**20),
            "available": str(10**20),
            "gateway": GATEWAY,
            "chain_id": DOMAIN.chain_id,
            "escrow": checksummed(DOMAIN.contract),
            "increment": str(PRICE * K),
            "prices": {"m": str(PRICE)},
        }
        self.lie(account, self.answers)
        self.answers += 1
        return account

    def take(self, body: dict[str, Any]) -> None:
        voucher = PaymentVoucher(ANN.canonical, key_of(GATEWAY), int(body["cumulative_amount"]))
        assert recover(digest(DOMAIN, voucher), bytes.fromhex(body["signature"][2:])) == ANN.canonical
        self.vouchers.append(voucher.cumulative_amount)
        if voucher.cumulative_amount > self.signed:
            self.signed, self.signature = voucher.cumulative_amount, body["signature"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.running.add(task)
        try:
            await self.answer(reader, writer)
        finally:
            self.running.discard(task)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = [line.lower() for line in head.split("\r\n")]
                length = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
                body = await reader.readexactly(length)
                if head.startswith("POST /mesh/payments"):
                    self.take(json.loads(body))
                answer = json.dumps(self.account()).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
                await writer.drain()


@asynccontextmanager
async def lying(liar: Liar) -> AsyncIterator[Liar]:
    """Serve it; `url` says where."""
    server = await asyncio.start_server(liar.serve, "127.0.0.1", 0)
    async with server:
        liar.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield liar
        finally:
            for task in tuple(liar.running):
                task.cancel()
            await asyncio.gather(*liar.running, return_exceptions=True)
