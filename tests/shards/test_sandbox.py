"""The sandbox: work of strangers ends within its limits, alone, and with its parent."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shards.errors import SandboxBreach, SandboxRefusal
from shards.sandbox.box import IDLE_WORKERS, Box, Sandbox
from shards.sandbox.limits import Call, Limits
from shards.sandbox.quarantine import FIRST, FORGOTTEN_AFTER, LONGEST, STRIKES, WINDOW, Quarantine

MODULE = "tests.shards.sandbox_operations"
LIMITS = Limits(1, 64 << 20, 1 << 20, blame=False)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(MODULE)
    yield made
    gc.collect()
    made.rest()


def box(sandbox: Sandbox) -> Box:
    return sandbox.box(Call("remember", (1,), LIMITS))


def call(where: Box, operation: str, *arguments: Any, limits: Limits = LIMITS) -> Any:
    return where.call(Call(operation, arguments, limits))


def gone(pid: int, seconds: float = 10.0) -> bool:
    """True once the process has ended."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
    return True


def test_a_box_keeps_its_state_and_shares_it_with_nobody(sandbox: Sandbox) -> None:
    one, other = box(sandbox), box(sandbox)
    assert [call(one, "remember", 5), call(one, "remember", 5), call(other, "remember", 5)] == [2, 3, 2]
    assert call(one, "pid") != call(other, "pid")
    assert call(one, "echo", {"a": [1, None, b"\xff", "é"]}) == {"a": [1, None, b"\xff", "é"]}


def test_a_refusal_has_its_words_and_the_worker_goes_on(sandbox: Sandbox) -> None:
    one = box(sandbox)
    with pytest.raises(SandboxRefusal, match="because é"):
        call(one, "refuse", "because é")
    with pytest.raises(SandboxRefusal) as caught:
        call(one, "refuse", "a" * 1_000_000)
    assert len(str(caught.value)) <= 1000
    assert call(one, "remember", 5) == 2


@pytest.mark.parametrize(
    ("operation", "arguments", "why"),
    [
        ("spin", (), "processor time"),
        ("sleep", (1000,), "more than 16 s"),
        ("grow", (1 << 30,), "memory"),
        ("answer", (2 << 20,), "too large"),
        ("crash", (), "crashed"),
        ("leave", (3,), "not foreseen"),
        ("fail", (), "not foreseen"),
        ("no_answer", (), "not foreseen"),
        ("nothing_of_this_name", (), "not foreseen"),
        ("handles", (), "not foreseen"),
    ],
)
def test_what_breaks_a_limit_or_fails_is_ended_and_starts_afresh(
    sandbox: Sandbox, operation: str, arguments: tuple[Any, ...], why: str
) -> None:
    one, other = box(sandbox), box(sandbox)
    pid, neighbour = call(one, "pid"), call(other, "pid")
    started = time.monotonic()
    with pytest.raises(SandboxBreach, match=why):
        call(one, operation, *arguments)
    assert time.monotonic() - started < 25
    assert gone(pid)
    assert call(one, "remember", 5) == 2
    assert call(other, "pid") == neighbour


def test_a_worker_writes_no_files_and_knows_no_secrets(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WALLET_PASSWORD", "secret")
    one = box(sandbox)
    assert "WALLET_PASSWORD" not in call(one, "environment")
    assert b"secret" not in Path(f"/proc/{call(one, 'pid')}/environ").read_bytes()
    with pytest.raises(SandboxBreach):
        call(one, "file", str(tmp_path / "file"))
    assert not (tmp_path / "file").exists() or not (tmp_path / "file").stat().st_size


def test_the_child_imports_nothing_large(sandbox: Sandbox) -> None:
    from shards.text.chat_template import SANDBOX, ChatTemplate

    template = ChatTemplate("x")
    one = box(sandbox)
    assert call(one, "modules") == []
    servers = [child for child in psutil.Process().children(recursive=True) if "server.py" in " ".join(child.cmdline())]
    assert len(servers) >= 2 and all("torch" not in each.path for one in servers for each in one.memory_maps())
    assert all(one.memory_info().rss < 100 << 20 for one in servers)
    assert template.render([]) == "x" and call(one, "echo", 1) == 1
    SANDBOX.rest()


def test_a_lost_server_is_started_again_and_nobody_is_blamed(sandbox: Sandbox) -> None:
    one = sandbox.box(Call("remember", (1,), Limits(1, 64 << 20, 1 << 20)))
    for _ in range(STRIKES + 1):
        worker = one.call(Call("pid", (), LIMITS))
        server = psutil.Process(worker).parent()
        assert server is not None
        server.kill()
        assert gone(worker)
        assert one.call(Call("remember", (5,), LIMITS)) == 2


def test_a_worker_ends_when_its_box_is_collected(sandbox: Sandbox) -> None:
    one = box(sandbox)
    pid = call(one, "pid")
    del one
    gc.collect()
    assert gone(pid)


def test_few_idle_workers_are_kept_and_all_go_on(sandbox: Sandbox) -> None:
    boxes = [box(sandbox) for _ in range(IDLE_WORKERS + 5)]
    pids = [call(each, "pid") for each in boxes]
    assert sum(psutil.pid_exists(pid) for pid in pids) <= IDLE_WORKERS
    assert [call(each, "remember", 5) for each in boxes] == [2] * len(boxes)
    sandbox.rest()
    assert all(gone(pid) for pid in pids)
    assert call(boxes[0], "remember", 5) == 2


def test_interrupting_the_group_leaves_the_workers_alone(sandbox: Sandbox) -> None:
    one = box(sandbox)
    pid = call(one, "pid")
    server = psutil.Process(pid).ppid()
    for each in (pid, server):
        os.kill(each, signal.SIGINT)
    assert call(one, "pid") == pid


def test_calls_of_many_threads_each_get_their_own_answer(sandbox: Sandbox) -> None:
    boxes = [box(sandbox) for _ in range(4)]
    wrong: list[int] = []

    def ask(number: int) -> None:
        for turn in range(50):
            value = number * 1000 + turn
            if call(boxes[turn % 4], "echo", value) != value:
                wrong.append(value)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_too_many_breaches_set_a_box_aside(sandbox: Sandbox) -> None:
    one = sandbox.box(Call("remember", (1,), LIMITS))
    strict = Limits(1, 64 << 20, 1 << 20)
    for _ in range(STRIKES):
        with pytest.raises(SandboxBreach, match="memory"):
            call(one, "grow", 1 << 30, limits=strict)
    with pytest.raises(SandboxBreach, match="set aside") as caught:
        call(one, "echo", 1)
    assert 0 < caught.value.retry_after <= FIRST
    assert call(box(sandbox), "echo", 1) == 1


def test_what_the_callers_own_text_may_have_done_sets_nothing_aside(sandbox: Sandbox) -> None:
    one = box(sandbox)
    for _ in range(STRIKES + 1):
        with pytest.raises(SandboxBreach, match="memory"):
            call(one, "grow", 1 << 30)
    assert call(one, "echo", 1) == 1


def test_quarantines_grow_while_breaches_go_on() -> None:
    quarantine, now, lasted = Quarantine(), 1000.0, []
    for _ in range(12):
        for _ in range(STRIKES):
            assert quarantine.seconds_left(now) == 0
            quarantine.strike(now)
        lasted.append(quarantine.seconds_left(now))
        now += lasted[-1]
    assert lasted[:3] == [FIRST, 2 * FIRST, 4 * FIRST] and lasted[-1] == LONGEST
    quarantine.strike(now + FORGOTTEN_AFTER + 1)
    for later in (2 * WINDOW, 3 * WINDOW, 3 * WINDOW + 1):
        quarantine.strike(now + FORGOTTEN_AFTER + later)
    assert quarantine.seconds_left(now + FORGOTTEN_AFTER + 3 * WINDOW + 1) == 0, "they were too far apart"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends children with their parents on Linux")
@pytest.mark.parametrize("busy", [False, True])
def test_nothing_outlives_a_parent_that_is_killed(busy: bool) -> None:
    code = (
        "import sys, threading, psutil\n"
        "from shards.sandbox.box import Sandbox\n"
        "from shards.sandbox.limits import Call, Limits\n"
        "limits = Limits(600, 64 << 20, 1 << 20)\n"
        f"box = Sandbox({MODULE!r}).box(Call('remember', (1,), limits))\n"
        "worker = box.call(Call('pid', (), limits))\n"
        "print(worker, psutil.Process(worker).ppid(), flush=True)\n"
        f"box.call(Call('spin', (), limits)) if {busy} else sys.stdin.read()\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
        time.sleep(0.3)
        parent.kill()
    assert all(gone(pid) for pid in pids)
