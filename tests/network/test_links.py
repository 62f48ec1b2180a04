"""The lines between namespaces do what they are told, measured through them by real packets."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from tests.network import netem
from tests.network.conditions import Conditions
from tests.network.internet import Internet, Kind, TunInternet, has_netem, open_internet
from tests.network.namespaces import Namespaces, require
from tests.scenarios.processes import wait_until

PORT = 7000
STAMP = struct.Struct("!Id")


@pytest.fixture(scope="module", params=["tun", "netem"])
def opened(request: pytest.FixtureRequest) -> Iterator[Internet]:
    """Three hosts."""
    kind = cast(Kind, request.param)
    require(tun=kind == "tun")
    if kind == "netem" and not has_netem():
        pytest.skip("this kernel has no netem")
    with Namespaces() as net, open_internet(net, ["a", "b", "c"], kind=kind, seed=3) as opened:
        yield opened


@pytest.fixture
def internet(opened: Internet) -> Internet:
    """Three hosts between which all lines are perfect."""
    opened.shape(Conditions())
    opened.heal()
    return opened


@dataclass(slots=True)
class Probe:
    """Numbered packets from one host to another, and when they came."""

    sender: socket.socket
    receiver: socket.socket
    target: tuple[str, int]
    sent: dict[int, float] = field(default_factory=dict)
    received: list[tuple[int, float]] = field(default_factory=list)

    def send(self, count: int, *, pause: float = 0.001, size: int = 64) -> None:
        for _ in range(count):
            number = len(self.sent)
            self.sent[number] = time.monotonic()
            self.sender.sendto(STAMP.pack(number, self.sent[number]).ljust(size, b"."), self.target)
            time.sleep(pause)

    def listen(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.receiver.recv(2048):
                self.received.append((STAMP.unpack_from(data)[0], time.monotonic()))

    def quiet(self, seconds: float = 0.5) -> None:
        """Wait until nothing has come for a while."""
        while self.received and time.monotonic() - self.received[-1][1] < seconds:
            time.sleep(seconds / 10)

    @property
    def times(self) -> list[float]:
        return sorted(at - self.sent[number] for number, at in self.received)


@contextlib.contextmanager
def probe(internet: Internet, source: str, target: str) -> Iterator[Probe]:
    with internet[target].inside():
        receiver = socket.socket(type=socket.SOCK_DGRAM)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        receiver.bind(("0.0.0.0", PORT))
    with internet[source].inside():
        sender = socket.socket(type=socket.SOCK_DGRAM)
    made = Probe(sender, receiver, (internet.addresses[target], PORT))
    listening = threading.Thread(target=made.listen)
    listening.start()
    try:
        yield made
    finally:
        with contextlib.suppress(OSError):
            receiver.shutdown(socket.SHUT_RD)  # ends the thread's wait; "not connected" is what it says besides
        listening.join(5)
        sender.close()
        receiver.close()


def test_a_perfect_line_delivers_everything_at_once_and_in_order(internet: Internet) -> None:
    with probe(internet, "a", "b") as seen:
        seen.send(500)
        seen.quiet()
    assert [number for number, _ in seen.received] == list(range(500))
    assert seen.times[250] < 0.02  # the machine may be busy


@pytest.mark.parametrize("loss", [0.05, 0.3])
def test_the_share_of_packets_that_is_lost_is_the_loss(internet: Internet, loss: float) -> None:
    internet.shape(Conditions(loss=loss), ["a"], ["b"])
    with probe(internet, "a", "b") as seen, probe(internet, "b", "c") as other:
        for _ in range(30):
            seen.send(100, pause=0.0)
            other.send(10, pause=0.0)
            time.sleep(0.01)
        seen.quiet()
    lost, expected = 3000 - len(seen.received), 3000 * loss
    assert abs(lost - expected) < 4 * (expected * (1 - loss)) ** 0.5  # one run in 16,000 is beyond that
    assert len(other.received) == 300


def test_times_are_within_delay_and_jitter(internet: Internet) -> None:
    internet.shape(Conditions(delay=0.1, jitter=0.05, reorder=True), ["a"], ["b"])
    with probe(internet, "a", "b") as seen:
        seen.send(1000)
        seen.quiet()
    assert len(seen.received) == 1000
    assert seen.times[0] >= 0.049
    assert seen.times[500] == pytest.approx(0.1, abs=0.02)
    assert seen.times[980] < 0.2
    assert seen.times[100] < 0.07 < 0.13 < seen.times[900]
    assert [number for number, _ in seen.received] != sorted(number for number, _ in seen.received)


def test_without_reordering_nothing_overtakes(internet: Internet) -> None:
    internet.shape(Conditions(delay=0.1, jitter=0.05), ["a"], ["b"])
    with probe(internet, "a", "b") as seen:
        seen.send(500)
        seen.quiet()
    assert [number for number, _ in seen.received] == list(range(500))
    assert 0.049 <= seen.times[0] <= seen.times[480] < 0.2


def test_a_rate_is_kept_and_what_the_queue_does_not_hold_is_lost(internet: Internet) -> None:
    if not isinstance(internet, TunInternet):
        pytest.skip("netem's queue is counted in packets")
    internet.shape(Conditions(rate=200_000, queue=100_000), ["a"], ["b"])
    with probe(internet, "a", "b") as seen:
        seen.send(300, pause=0.0, size=1000)
        sending = seen.sent[299] - seen.sent[0]
        seen.quiet()
    left_meanwhile = sending * 200_000 / 1028
    assert 0.9 * 97 <= len(seen.received) <= 1.1 * (97 + left_meanwhile)  # as many packets fit into the queue
    took = seen.received[-1][1] - seen.received[0][1]
    assert (len(seen.received) - 1) * 1028 / took == pytest.approx(200_000, rel=0.15)


def test_a_cut_parts_hosts_until_it_is_healed_and_leaves_the_others_alone(internet: Internet) -> None:
    with probe(internet, "a", "b") as there, probe(internet, "b", "a") as back, probe(internet, "b", "c") as beside:
        internet.cut(["a"])
        for way in (there, back, beside):
            way.send(50)
        beside.quiet()
        assert (len(there.received), len(back.received), len(beside.received)) == (0, 0, 50)
        internet.heal()
        for way in (there, back):
            way.send(50)
            way.quiet()
        assert (len(there.received), len(back.received)) == (50, 50)


def test_a_cut_can_be_one_way(internet: Internet) -> None:
    internet.cut_one_way(["a"], ["b"])
    with probe(internet, "a", "b") as there, probe(internet, "b", "a") as back:
        there.send(50)
        back.send(50)
        back.quiet()
        assert (len(there.received), len(back.received)) == (0, 50)


def test_a_cut_may_begin_later_and_end_by_itself(internet: Internet) -> None:
    began = time.monotonic()
    internet.cut(["a"], ["b"], seconds=0.5, after=0.3)
    with probe(internet, "a", "b") as seen:
        while time.monotonic() - began < 1.2:
            seen.send(1, pause=0.002)
        seen.quiet()
    missing = sorted(set(seen.sent) - {number for number, _ in seen.received})
    assert missing == list(range(missing[0], missing[-1] + 1))
    assert seen.sent[missing[0]] - began == pytest.approx(0.3, abs=0.1)
    assert seen.sent[missing[-1]] - began == pytest.approx(0.8, abs=0.1)


def test_tcp_comes_through_a_bad_line_whole(internet: Internet) -> None:
    internet.shape(Conditions(loss=0.05, delay=0.01, jitter=0.005))
    blob = bytes(range(256)) * 1000
    with internet["b"].inside():
        server = socket.create_server((internet.addresses["b"], 7001))
    with (
        server,
        internet["a"].inside(),
        socket.create_connection((internet.addresses["b"], 7001), timeout=10) as caller,
    ):
        connection, _ = server.accept()
        writing = threading.Thread(target=lambda: (caller.sendall(blob), caller.shutdown(socket.SHUT_WR)))
        writing.start()
        with connection:
            connection.settimeout(20)
            received = b"".join(iter(lambda: connection.recv(65536), b""))
        writing.join(10)
    assert received == blob


def test_the_emulator_is_no_bottleneck_at_thousands_of_packets_a_second() -> None:
    require(tun=True)
    with Namespaces() as net, open_internet(net, ["a", "b"], kind="tun") as internet:
        internet.shape(Conditions(delay=0.02))
        with probe(internet, "a", "b") as seen:
            for _ in range(100):  # 4,000 packets in about half a second
                seen.send(40, pause=0.0, size=1000)
                time.sleep(0.005)
            seen.quiet()
        assert isinstance(internet, TunInternet)
        assert internet.counts()["delivered"] == 4000
        assert len(seen.received) >= 3990


def test_the_emulator_ends_with_the_process_that_uses_it() -> None:
    require(tun=True)
    script = (
        "import os, signal\n"
        "from tests.network.internet import open_internet\n"
        "from tests.network.namespaces import Namespaces\n"
        "with Namespaces() as net, open_internet(net, ['a', 'b'], kind='tun') as internet:\n"
        "    print(internet.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)

    def gone() -> bool:
        try:
            return b"emulator" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        except FileNotFoundError:
            return True

    wait_until(gone, "the emulator has ended")
    with Namespaces():
        pass  # sweeps what it left


def test_netem_is_told_the_same_conditions() -> None:
    asked = Conditions(loss=0.05, delay=0.1, jitter=0.05, rate=1_000_000)
    assert netem.shape("v0a", 2, asked, cut=False) == [
        "qdisc replace dev v0a parent 1:2 handle 3: netem limit 20000 delay 100000us 50000us "
        "loss random 5.0000% rate 8000000bit",
        "qdisc replace dev v0a parent 3: pfifo limit 20000",
    ]
    assert "loss random 100.0000%" in netem.shape("v0a", 2, asked, cut=True)[0]
