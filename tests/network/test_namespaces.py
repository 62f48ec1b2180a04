"""Namespaces reach each other as they are wired, and nothing of them stays, not even of a run that was killed."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.network.namespaces import REQUIRED, Namespaces, ip, require
from tests.scenarios.processes import wait_until

HOLDS = """
import os, sys, time
from tests.network.namespaces import Namespaces
with Namespaces() as net:
    host = net.make("held")
    child = host.popen(["sleep", "60"])
    print(host.name, child.pid, flush=True)
    time.sleep(60)
"""


def listen(port: int = 5000) -> socket.socket:
    server = socket.socket()
    server.bind(("0.0.0.0", port))
    server.listen()
    server.settimeout(5)
    return server


def test_hosts_on_one_switch_reach_each_other_and_nobody_else(net: Namespaces) -> None:
    switch = net.bridge("switch")
    a, b, alone = net.make("a"), net.make("b"), net.make("alone")
    net.plug(a, switch, "11.0.0.1/16")
    net.plug(b, switch, "11.0.0.2/16")
    with b.inside():
        server = listen()
    with server:
        with a.inside():
            caller = socket.create_connection(("11.0.0.2", 5000), timeout=5)
        with caller:
            connection, (address, _) = server.accept()
            connection.close()
        assert address == "11.0.0.1"
        with alone.inside(), pytest.raises(OSError, match="unreachable"):
            socket.create_connection(("11.0.0.2", 5000), timeout=5)
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", 5000), timeout=5):
        pass  # we are back in our own namespace


def test_a_router_passes_packets_on(net: Namespaces) -> None:
    a, router, b = net.make("a"), net.make("router"), net.make("b")
    net.link(a, router, "10.1.0.2/24", "10.1.0.1/24")
    net.link(b, router, "10.2.0.2/24", "10.2.0.1/24")
    a.ip("route", "add", "default", "via", "10.1.0.1")
    b.ip("route", "add", "default", "via", "10.2.0.1")
    net.forward(router)
    with b.inside():
        server = listen()
    with server, a.inside(), socket.create_connection(("10.2.0.2", 5000), timeout=5):
        connection, (address, _) = server.accept()
        connection.close()
    assert address == "10.1.0.2"


def test_leaving_ends_the_processes_inside_and_removes_the_namespace(net: Namespaces) -> None:
    with Namespaces() as own:
        host = own.make("host")
        child = host.popen(["sleep", "60"])
        wait_until(lambda: child.pid in host.pids(), "the child is inside")
    assert child.wait(5) == -signal.SIGKILL
    assert not host.path.exists()


def test_a_process_started_on_a_thread_that_ends_lives_on(net: Namespaces) -> None:
    host = net.make("host")
    children = []
    starter = threading.Thread(target=lambda: children.append(host.popen(["sleep", "60"])))
    starter.start()
    starter.join()
    wait_until(lambda: children[0].pid in host.pids(), "the child is inside")
    with pytest.raises(subprocess.TimeoutExpired):
        children[0].wait(0.3)
    children[0].kill()
    children[0].wait(5)


def test_what_a_killed_run_leaves_goes_with_the_next(net: Namespaces) -> None:
    run = subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    name, child = run.stdout.readline().split()
    run.kill()
    run.wait()
    run.stdout.close()
    wait_until(lambda: not Path(f"/proc/{child}").exists(), "the child died with the run")
    assert name in ip("netns", "list")
    with Namespaces():
        assert name not in ip("netns", "list")


def test_without_namespaces_a_test_is_skipped_or_fails_where_they_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no command no-such-command"):
        require(commands=["no-such-command"])
    monkeypatch.setenv(REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match="no command no-such-command"):
        require(commands=["no-such-command"])


def test_a_failing_command_says_why(net: Namespaces) -> None:
    with pytest.raises(RuntimeError, match=r"in host: .*No such file"):
        net.make("host").run("cat", "/no/such/file")
    with pytest.raises(RuntimeError, match="no-such-command"):
        net.make("other").run("no-such-command")
