"""Hosts (namespaces) that reach each other over lines whose conditions can be changed while they are used.

    with Namespaces() as net, open_internet(net, ["client", "a", "b"]) as internet:
        internet.shape(Conditions(loss=0.05, delay=0.1, jitter=0.05))
        internet["a"].popen([...])
        internet.cut(["a"], seconds=20)

The lines are netem's where the kernel has it, and a process of ours between TUN devices (`emulator.py`) elsewhere.
"""

from __future__ import annotations

import abc
import contextlib
import fcntl
import functools
import json
import math
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from tests.network import netem
from tests.network.conditions import PERFECT, Conditions
from tests.network.namespaces import TUN, Namespace, Namespaces, command, start_here

Kind = Literal["tun", "netem"]
DEVICE = "wan0"
MTU = 1500
_TUNSETIFF = 0x400454CA  # <linux/if_tun.h>
_IFF_TUN_NO_PI = 0x0001 | 0x1000
_DEVICE_QUEUE = 2000  # packets; what the emulator has not read yet
_ANSWER_SECONDS = 10.0


class Internet(abc.ABC):
    """Hosts by name, each with one address; hosts in no list means all of them. Use `open_internet`."""

    def __init__(self, hosts: dict[str, Namespace], addresses: dict[str, str]) -> None:
        self.hosts = hosts
        self.addresses = addresses

    def __getitem__(self, name: str) -> Namespace:
        return self.hosts[name]

    @abc.abstractmethod
    def shape(self, conditions: Conditions, source: Sequence[str] = (), target: Sequence[str] = ()) -> None:
        """Set the conditions of the lines from `source` to `target` (one direction)."""

    @abc.abstractmethod
    def cut_one_way(
        self, source: Sequence[str], target: Sequence[str], *, seconds: float = math.inf, after: float = 0.0
    ) -> None:
        """Let nothing pass from `source` to `target` for a time."""

    @abc.abstractmethod
    def heal(self) -> None:
        """End every cut."""

    def cut(
        self, some: Sequence[str], others: Sequence[str] = (), *, seconds: float = math.inf, after: float = 0.0
    ) -> None:
        """Part hosts from others (from all) in both directions for a time."""
        self.cut_one_way(some, others, seconds=seconds, after=after)
        self.cut_one_way(others, some, seconds=seconds, after=after)


class TunInternet(Internet):
    """Lines in a process of ours."""

    def __init__(
        self, hosts: dict[str, Namespace], addresses: dict[str, str], process: subprocess.Popen[bytes]
    ) -> None:
        super().__init__(hosts, addresses)
        self._process = process
        self._asking = threading.Lock()

    @property
    def pid(self) -> int:
        """The emulator's process id."""
        return self._process.pid

    def shape(self, conditions: Conditions, source: Sequence[str] = (), target: Sequence[str] = ()) -> None:
        self._ask("shape", source, target, conditions=conditions.to_json())

    def cut_one_way(
        self, source: Sequence[str], target: Sequence[str], *, seconds: float = math.inf, after: float = 0.0
    ) -> None:
        self._ask("cut", source, target, seconds=None if seconds == math.inf else seconds, after=after)

    def heal(self) -> None:
        self._ask("heal", (), ())

    def counts(self, source: Sequence[str] = (), target: Sequence[str] = ()) -> dict[str, int]:
        """How many packets had which fate (`conditions.Fate`) so far."""
        return self._ask("counts", source, target)

    def _ask(self, do: str, source: Sequence[str], target: Sequence[str], **more: Any) -> dict[str, Any]:
        ends = {"from": [self.addresses[name] for name in source], "to": [self.addresses[name] for name in target]}
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the emulator has no pipes")
        with self._asking:
            stdin.write(json.dumps({"do": do, **ends, **more}).encode() + b"\n")
            stdin.flush()
            line = stdout.readline()
        if not line:
            raise RuntimeError(f"the emulator has ended with code {self._process.wait(_ANSWER_SECONDS)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


class NetemInternet(Internet):
    """Lines in the kernel."""

    def __init__(self, hosts: dict[str, Namespace], addresses: dict[str, str], devices: dict[str, str]) -> None:
        super().__init__(hosts, addresses)
        self._devices = devices
        self._shapes = {(a, b): PERFECT for a in hosts for b in hosts if a != b}
        self._cuts: set[tuple[str, str]] = set()
        self._timers: list[threading.Timer] = []
        self._changing = threading.RLock()
        for name in hosts:
            for arguments in netem.prepare(devices[name], [addresses[other] for other in self._others(name)]):
                command("tc", "-n", hosts[name].name, *arguments.split())

    def shape(self, conditions: Conditions, source: Sequence[str] = (), target: Sequence[str] = ()) -> None:
        with self._changing:
            for pair in self._pairs(source, target):
                self._shapes[pair] = conditions
                self._set(pair)

    def cut_one_way(
        self, source: Sequence[str], target: Sequence[str], *, seconds: float = math.inf, after: float = 0.0
    ) -> None:
        pairs = self._pairs(source, target)
        self._after(after, pairs, cut=True)
        if seconds != math.inf:
            self._after(after + seconds, pairs, cut=False)

    def heal(self) -> None:
        self.close()
        self._switch(list(self._shapes), cut=False)

    def close(self) -> None:
        """Call off what is still to come."""
        while self._timers:
            self._timers.pop().cancel()

    def _others(self, name: str) -> list[str]:
        return [other for other in self.hosts if other != name]

    def _pairs(self, source: Sequence[str], target: Sequence[str]) -> list[tuple[str, str]]:
        return [(a, b) for a in source or self.hosts for b in target or self.hosts if a != b]

    def _after(self, seconds: float, pairs: list[tuple[str, str]], *, cut: bool) -> None:
        if seconds <= 0:
            self._switch(pairs, cut=cut)
            return
        timer = threading.Timer(seconds, self._switch, (pairs,), {"cut": cut})
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _switch(self, pairs: list[tuple[str, str]], *, cut: bool) -> None:
        with self._changing:
            for pair in pairs:
                (self._cuts.add if cut else self._cuts.discard)(pair)
                self._set(pair)

    def _set(self, pair: tuple[str, str]) -> None:
        host, number = self.hosts[pair[0]], self._others(pair[0]).index(pair[1]) + 1
        device = self._devices[pair[0]]
        for arguments in netem.shape(device, number, self._shapes[pair], cut=pair in self._cuts):
            command("tc", "-n", host.name, *arguments.split())


@functools.cache
def has_netem() -> bool:
    """Whether this kernel has netem, found by trying."""
    try:
        with Namespaces() as net:
            command("tc", "-n", net.make("netem").name, *("qdisc", "add", "dev", "lo", "root", "netem"))
    except (RuntimeError, OSError):
        return False
    return True


@contextlib.contextmanager
def open_internet(
    net: Namespaces, names: Sequence[str], *, subnet: str = "11.77.0.{}", seed: int = 0, kind: Kind | None = None
) -> Iterator[Internet]:
    """Make a host of each name and perfect lines between all of them; at most 254. `kind`: netem where there is one."""
    hosts = {name: net.make(name) for name in names}
    addresses = {name: subnet.format(number) for number, name in enumerate(names, start=1)}
    for host in hosts.values():
        host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 || true")
    if (kind or ("netem" if has_netem() else "tun")) == "netem":
        switch = net.bridge("switch")
        devices = {name: net.plug(host, switch, f"{addresses[name]}/24") for name, host in hosts.items()}
        internet = NetemInternet(hosts, addresses, devices)
        with contextlib.closing(internet):
            yield internet
        return
    with contextlib.ExitStack() as stack:
        fds = {name: _open_tun(host, f"{addresses[name]}/24") for name, host in hosts.items()}
        with contextlib.ExitStack() as ours:
            for fd in fds.values():
                ours.callback(os.close, fd)
            options = json.dumps({"hosts": [[fd, addresses[name]] for name, fd in fds.items()], "seed": seed})
            process = start_here(
                lambda: subprocess.Popen(
                    [sys.executable, "-m", "tests.network.emulator", options],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    pass_fds=list(fds.values()),
                    start_new_session=True,
                )
            )
        stack.callback(_end, process)
        internet_of_tuns = TunInternet(hosts, addresses, process)
        internet_of_tuns.counts()  # it is there
        yield internet_of_tuns


def _open_tun(host: Namespace, address: str) -> int:
    with host.inside():
        fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN_NO_PI))
    host.ip("address", "add", address, "dev", DEVICE)
    host.ip("link", "set", DEVICE, "mtu", str(MTU), "txqueuelen", str(_DEVICE_QUEUE), "up")
    return fd


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None and process.stdout is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
