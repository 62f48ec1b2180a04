"""Hostile peers for `benchmarks.hostile`: a thousand connections that are slow, silent, oversized, garbage or greedy.

    python -m benchmarks.attackers TARGETS.json

TARGETS.json holds `providers` (peer, maddr, direct port, span), `digest`, `context`, `identities` and `scale`. Several
identities, each with a p2pd of its own, open channels through the daemons; plain TCP connections go to the same ports
and to the direct ones. Whoever is thrown out comes back after a pause. On SIGTERM it prints what it did, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesh.discovery.dht import DhtDirectory
from mesh.discovery.directory import Announcer
from mesh.discovery.records import ProviderRecord
from mesh.errors import MeshError
from mesh.identity import Identity
from mesh.transport.daemon import Daemon, DaemonConfig
from mesh.transport.direct.transport import DirectTransport
from mesh.transport.hivemind import HivemindTransport
from mesh.wire.frame import MAGIC, PREFIX, VERSION, FrameLimits, encode_prefix
from mesh.wire.messages import CONTROL_PROTOCOL, RING_PROTOCOL, Activations, OpenSession, Ping, Prompt, encode
from mesh.wire.paying import Hello
from mesh.wire.sampling import to_wire
from shards.engine.sampling_params import SamplingParams
from shards.model.span import Span

PAUSE = 2.0
"""Seconds before somebody who was thrown out comes back."""
OPENING_SECONDS = 20.0
NICE = 5
LARGE = 48 << 20
"""Bytes that a hoarder promises, of which it sends a trickle."""
TRICKLE, TRICKLE_SECONDS = 32 << 10, 0.5
PINGS_PER_SECOND = 100
RECORDS, RECORD_SECONDS = 40, 5.0
FIXED, BIAS = to_wire(SamplingParams())

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Act = Callable[[asyncio.StreamWriter], Awaitable[None]]
# Channels of each identity to each provider.
CHANNELS = {
    "silent": 12, "slow": 10, "garbage": 6, "oversized": 3, "hoarder": 2, "flood": 2, "cache hog": 4, "stray": 4,
    "wrong prompt": 3, "hello": 2,
}  # fmt: skip
# Connections of each identity to the direct port of each provider, invited and through TLS.
INVITED = {"tls slow": 4, "tls hoarder": 2}
# Plain TCP connections to each provider: to p2pd's port, and to the direct one.
CONNECTIONS = {"silent": 28, "slow": 15, "garbage": 12}


@dataclass
class Tally:
    """What has been done, by kind."""

    live: Counter[str] = field(default_factory=Counter)
    most: int = 0
    opened: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    waiting: int = 0
    """Who has not tried yet."""


class Attack:
    """All hostile peers of this process."""

    def __init__(self, targets: dict[str, Any]) -> None:
        self.targets = targets
        self.tally = Tally()

    async def keep(
        self, kind: str, dial: Callable[[], Awaitable[Streams]], act: Callable[..., Awaitable[None]]
    ) -> None:
        """Connect, misbehave, and come back whenever that ends."""
        tally, first = self.tally, True
        while True:
            try:
                async with asyncio.timeout(OPENING_SECONDS):
                    reader, writer = await dial()
            except (MeshError, OSError, TimeoutError):
                tally.refused[kind] += 1
            else:
                tally.opened[kind] += 1
                tally.live[kind] += 1
                tally.most = max(tally.most, tally.live.total())
                tally.waiting -= first
                first = False
                sink = asyncio.create_task(_drain(reader))
                acting = asyncio.create_task(act(writer))
                try:
                    await asyncio.wait({sink, acting}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in (sink, acting):
                        task.cancel()
                    await asyncio.gather(sink, acting, return_exceptions=True)
                    writer.transport.abort()
                    tally.live[kind] -= 1
            tally.waiting -= first
            first = False
            await asyncio.sleep(PAUSE)

    def launch(self, tasks: asyncio.TaskGroup, keeping: Coroutine[Any, Any, None]) -> None:
        """Let one connection begin."""
        self.tally.waiting += 1
        tasks.create_task(keeping)

    async def say(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        self.tally.sent += len(data)
        writer.write(data)
        await writer.drain()

    async def message(self, writer: asyncio.StreamWriter, message: Any, payload: bytes = b"") -> None:
        frame = encode(message, payload)
        await self.say(writer, encode_prefix(frame, FrameLimits()) + frame.header + payload)

    # What each kind does once it is in.

    async def silent(self, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def slow(self, writer: asyncio.StreamWriter) -> None:
        """A byte a second: of a frame, or to a TLS port of a greeting."""
        frame = encode(Ping(1), b"")
        greeting = encode_prefix(frame, FrameLimits()) + frame.header
        while True:
            for byte in greeting:
                await self.say(writer, bytes([byte]))
                await asyncio.sleep(1.0)

    async def slow_tls(self, writer: asyncio.StreamWriter) -> None:
        for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + secrets.token_bytes(500):
            await self.say(writer, bytes([byte]))
            await asyncio.sleep(1.0)

    async def garbage(self, writer: asyncio.StreamWriter) -> None:
        await self.say(writer, secrets.token_bytes(4096))
        await asyncio.Event().wait()

    async def oversized(self, writer: asyncio.StreamWriter) -> None:
        await self.say(writer, PREFIX.pack(MAGIC, VERSION, 0, 0xFFFFFFF0, 0xFFFFFFF0) + bytes(1 << 16))
        await asyncio.Event().wait()

    async def hoarder(self, writer: asyncio.StreamWriter) -> None:
        header = encode(Activations(((bytes(16), 0, 1),)), b"").header
        await self.say(writer, PREFIX.pack(MAGIC, VERSION, 0, len(header), LARGE) + header)
        while True:
            await self.say(writer, bytes(TRICKLE))
            await asyncio.sleep(TRICKLE_SECONDS)

    async def flood(self, writer: asyncio.StreamWriter) -> None:
        frame = encode(Ping(1), b"")
        ping = encode_prefix(frame, FrameLimits()) + frame.header
        while True:
            await self.say(writer, ping * (PINGS_PER_SECOND // 10))
            await asyncio.sleep(0.1)

    async def wrong_prompt(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await self.message(writer, Prompt(secrets.token_bytes(16)), bytes(1 << 20))
            await asyncio.sleep(PAUSE)

    async def hello(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await self.message(writer, Hello(), secrets.token_bytes(400))
            await asyncio.sleep(PAUSE / 4)

    async def stray(self, writer: asyncio.StreamWriter) -> None:
        part = (secrets.token_bytes(16), 0, 4)
        while True:
            await self.message(writer, Activations((part,)), bytes(4 * 4 * self.targets["hidden"]))
            await asyncio.sleep(0.1)

    def cache_hog(self, peer: str, span: Span) -> Act:
        """Opens the largest sessions there are, again and again, and uses none."""

        async def act(writer: asyncio.StreamWriter) -> None:
            while True:
                for _ in range(8):
                    opening = OpenSession(
                        secrets.token_bytes(16), self.targets["digest"], span.start, span.end, peer, peer, 8, 8,
                        self.targets["context"], self.targets["context"], (), False, "float32", FIXED, BIAS,
                    )  # fmt: skip
                    await self.message(writer, opening)
                await asyncio.sleep(PAUSE)

        return act

    # Who they are.

    async def identity(self, tasks: asyncio.TaskGroup, stack: AsyncExitStack, number: int) -> None:
        """One peer with channels of every kind to every provider, and a flood of records."""
        peers = tuple(provider["maddr"] for provider in self.targets["providers"])
        root = Path(self.targets["folder"]) / "run"
        identity = Identity.generate()
        daemon = await stack.enter_async_context(
            Daemon(DaemonConfig(identity, initial_peers=peers, client_mode=True, runtime_root=root))
        )
        give_way()
        transport = await stack.enter_async_context(HivemindTransport(daemon))
        for provider in self.targets["providers"]:
            peer, span = provider["peer"], Span.parse(provider["span"])
            acts = {
                "silent": self.silent, "slow": self.slow, "garbage": self.garbage, "oversized": self.oversized,
                "hoarder": self.hoarder, "flood": self.flood, "cache hog": self.cache_hog(daemon.peer_id, span),
                "stray": self.stray, "wrong prompt": self.wrong_prompt, "hello": self.hello,
            }  # fmt: skip
            for kind, count in CHANNELS.items():
                protocol = RING_PROTOCOL if kind in ("stray", "hoarder") else CONTROL_PROTOCOL

                async def dial(peer: str = peer, protocol: str = protocol) -> Streams:
                    return await transport.open_raw(peer, protocol)

                for _ in range(round(count * self.targets["scale"])):
                    self.launch(tasks, self.keep(kind, dial, acts[kind]))
        direct = await stack.enter_async_context(DirectTransport(identity, transport, hosts=()))
        for provider in self.targets["providers"]:

            async def dial_directly(peer: str = provider["peer"]) -> Streams:
                return await direct.open_raw(peer, RING_PROTOCOL)

            for kind, count in INVITED.items():
                act = self.slow if kind == "tls slow" else self.hoarder
                for _ in range(round(count * self.targets["scale"])):
                    self.launch(tasks, self.keep(kind, dial_directly, act))
        if number == 0:
            directory = await stack.enter_async_context(DhtDirectory(daemon))
            tasks.create_task(self.records(directory))

    async def records(self, directory: DhtDirectory) -> None:
        """Peers that do not exist announce themselves, each with a good signature."""
        while True:
            columns: list[list[Any]] = [[], [], [], []]
            for _ in range(RECORDS):
                invented = Identity.generate()
                record = ProviderRecord(
                    invented.peer_id, f"invented-{secrets.token_hex(4)}", "ab" * 32, 4, Span(0, 4), "serving", 512, 300
                )
                _, entries = Announcer(invented).publish(record, now=time.time())
                for key, value, expires in entries:
                    for column, item in zip(columns, (key, value, expires, invented.peer_id), strict=True):
                        column.append(item)
            with contextlib.suppress(TimeoutError, OSError, MeshError):
                async with asyncio.timeout(RECORD_SECONDS):
                    await directory._node.store_many(*columns[:3], subkeys=columns[3])
            self.tally.opened["record"] += RECORDS
            await asyncio.sleep(RECORD_SECONDS)

    def plain(self, tasks: asyncio.TaskGroup) -> None:
        """TCP connections that never become anything."""
        acts = {"silent": self.silent, "slow": self.slow_tls, "garbage": self.garbage}
        for provider in self.targets["providers"]:
            host, port = provider["maddr"].split("/")[2], int(provider["maddr"].split("/")[4])
            for target in (port, provider["direct"]):

                async def dial(host: str = host, target: int = target) -> Streams:
                    return await asyncio.open_connection(host, target)

                for kind, count in CONNECTIONS.items():
                    for _ in range(round(count * self.targets["scale"])):
                        self.launch(tasks, self.keep(f"tcp {kind}", dial, acts[kind]))

    async def run(self) -> None:
        """Attack until cancelled; says `ready` once everybody has tried to get in."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            self.plain(tasks)
            for number in range(self.targets["identities"]):
                await self.identity(tasks, stack, number)
            began = time.monotonic()
            while self.tally.waiting and time.monotonic() - began < 2 * OPENING_SECONDS:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            _tell({"event": "ready", "live": self.tally.live.total(), "seconds": round(time.monotonic() - began, 1)})
            await asyncio.Event().wait()


def give_way() -> None:
    """Lower the priority of this process and its children: their use of the processors is not what is measured.

    Linux weighs sessions before processes (sched(7), autogroups), and every p2pd has a session of its own.
    """
    with contextlib.suppress(OSError):
        for pid in (*map(int, Path("/proc/thread-self/children").read_text().split()), os.getpid()):
            os.setpriority(os.PRIO_PROCESS, pid, NICE)
            for pause in (0.15, 0.0):  # who is not root may change one in a tenth of a second
                try:
                    Path(f"/proc/{pid}/autogroup").write_text(str(NICE))
                    break
                except BlockingIOError:
                    time.sleep(pause)


async def _drain(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(1 << 16):
            pass


def _tell(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


async def main(targets: dict[str, Any]) -> None:
    """Attack until SIGTERM."""
    attack = Attack(targets)
    give_way()
    running = asyncio.create_task(attack.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    tally = attack.tally
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    _tell({
        "event": "done",
        "most_live": tally.most,
        "opened": dict(tally.opened),
        "refused": dict(tally.refused),
        "megabytes_sent": round(tally.sent / 1e6, 1),
        "cpu_seconds": round(sum(each.ru_utime + each.ru_stime for each in used), 1),
    })  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
