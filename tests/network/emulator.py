"""A small internet: carries IP packets among the TUN devices of hosts, each line with conditions of its own.

    python -m tests.network.emulator '{"hosts": [[FD, "11.0.0.1"], …], "seed": 1}'

The devices are inherited. Commands are JSON lines on standard input, each answered by one line; the end of input ends
the process. `from` and `to` are lists of addresses (absent: all hosts):

    {"do": "shape", "conditions": {…}, "from": […], "to": […]}
    {"do": "cut", "from": […], "to": […], "seconds": 20, "after": 0}        (seconds absent: until healed)
    {"do": "heal"}
    {"do": "counts"}                                               → how many packets had which fate
"""

from __future__ import annotations

import contextlib
import errno
import gc
import heapq
import json
import math
import os
import random
import select
import socket
import sys
import time
from typing import Any

from tests.network.conditions import PERFECT, Conditions, Fate, Line

MAX_PACKET = 65536
BATCH = 64
"""Packets taken from one host before the others have their turn."""
MAX_ON_THE_WAY = 200_000


class Emulator:
    """The lines between all ordered pairs of hosts, and what is on its way. `run` until standard input ends."""

    def __init__(self, hosts: list[tuple[int, str]], seed: int) -> None:
        self._address = dict(hosts)
        self._fd = {address: fd for fd, address in hosts}
        self._lines: dict[tuple[int, bytes], tuple[Line, int]] = {}
        """By sender's device and packed destination: the line, and the device where it ends."""
        for fd, address in hosts:
            for other, target in hosts:
                if fd != other:
                    rng = random.Random(f"{seed} {address} {target}")
                    self._lines[fd, socket.inet_aton(target)] = Line(PERFECT, rng), other
        self._heap: list[tuple[float, int, Line, int, bytes]] = []
        self._sent = 0
        self._nowhere = 0
        self._refused = 0

    def run(self) -> None:
        """Carry packets until standard input ends."""
        stdin = sys.stdin.fileno()
        os.set_blocking(stdin, False)
        epoll = select.epoll()
        for fd in (*self._address, stdin):
            epoll.register(fd, select.EPOLLIN)
        said = b""
        while True:
            timeout = -1.0 if not self._heap else max(0.0, self._heap[0][0] - time.monotonic())
            for fd, _ in epoll.poll(timeout):
                if fd != stdin:
                    self._take(fd)
                    continue
                data = os.read(stdin, 65536)
                if not data:
                    return
                *commands, said = (said + data).split(b"\n")
                for command in commands:
                    sys.stdout.write(json.dumps(self._answer(json.loads(command))) + "\n")
                    sys.stdout.flush()
            self._deliver()

    def _take(self, fd: int) -> None:
        lines, heap, read, clock = self._lines, self._heap, os.read, time.monotonic
        for _ in range(BATCH):
            try:
                packet = read(fd, MAX_PACKET)
            except BlockingIOError:
                return
            found = lines.get((fd, packet[16:20])) if packet[0] >> 4 == 4 else None
            if found is None:
                self._nowhere += 1
                continue
            line, target = found
            now = clock()
            arrives = line.send(len(packet), now)
            if arrives is None:
                continue
            if arrives <= now:
                if line.arrive(now):
                    self._write(target, packet)
            elif len(heap) < MAX_ON_THE_WAY:
                self._sent += 1
                heapq.heappush(heap, (arrives, self._sent, line, target, packet))
            else:
                self._refused += 1

    def _deliver(self) -> None:
        heap = self._heap
        now = time.monotonic()
        while heap and heap[0][0] <= now:
            _, _, line, target, packet = heapq.heappop(heap)
            if line.arrive(now):
                self._write(target, packet)

    def _write(self, fd: int, packet: bytes) -> None:
        try:
            os.write(fd, packet)
        except OSError as error:  # the host is down, or has no room: the packet is lost, as on any line
            if error.errno not in (errno.EIO, errno.EINVAL, errno.EAGAIN, errno.ENOBUFS):
                raise
            self._refused += 1

    def _chosen(self, command: dict[str, Any]) -> list[Line]:
        senders = [self._fd[address] for address in command.get("from") or self._fd]
        targets = [socket.inet_aton(address) for address in command.get("to") or self._fd]
        return [self._lines[pair][0] for fd in senders for to in targets if (pair := (fd, to)) in self._lines]

    def _answer(self, command: dict[str, Any]) -> dict[str, Any]:
        now = time.monotonic()
        match command["do"]:
            case "shape":
                asked = Conditions.from_json(command["conditions"])
                for line in self._chosen(command):
                    line.conditions = asked
            case "cut":
                for line in self._chosen(command):
                    line.cut(now, command.get("seconds") or math.inf, after=command.get("after", 0.0))
            case "heal":
                for line in self._chosen(command):
                    line.heal()
            case "counts":
                lines = self._chosen(command)
                counts = {fate.value: sum(line.counts[fate] for line in lines) for fate in Fate}
                return {**counts, "nowhere": self._nowhere, "refused": self._refused, "on the way": len(self._heap)}
            case other:
                return {"error": f"no such command: {other}"}
        return {}


def main() -> None:
    """Run as a process of its own."""
    options = json.loads(sys.argv[1])
    with contextlib.suppress(PermissionError):  # other processes keep the processors busy; a line has its own time
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    emulator = Emulator([(fd, address) for fd, address in options["hosts"]], options["seed"])
    gc.freeze()
    gc.disable()  # nothing here makes cycles
    emulator.run()


if __name__ == "__main__":
    main()
