"""The check for leftovers finds what it is there for, and nothing else."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.leftovers import Keeper, Watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

CONFTEST = """
from tests import leftovers

def pytest_configure(config):
    if getattr(config.option, "dist", "no") == "no" or hasattr(config, "workerinput"):
        config.add_cleanup(leftovers.install(config, seconds=0.3))
"""
CASES = """
import asyncio, os, pathlib, socket, subprocess, sys, tempfile, threading, pytest

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(40)"]
PIDS = pathlib.Path(__file__).with_name("pids")
kept = []

def start():
    process = subprocess.Popen(SLEEP)
    kept.append(process)
    with PIDS.open("a") as file:
        file.write(f"{process.pid}\\n")
    return process

@pytest.fixture(scope="module")
def lasting():
    process, folder = start(), tempfile.mkdtemp()
    sock = socket.socket()
    yield process
    process.kill(); process.wait(); sock.close(); os.rmdir(folder)

def test_good_nothing():
    with tempfile.TemporaryDirectory(), socket.socket():
        process = start(); process.kill(); process.wait()

def test_good_lasting(lasting):
    assert lasting.poll() is None

def test_good_tmp_path(tmp_path):
    (tmp_path / "a").write_text("a")

def test_bad_process():
    start()

def test_bad_zombie():
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait = lambda: None
    kept.append(process)

def test_bad_grandchild():
    code = "import subprocess as s, sys; print(s.Popen(sys.argv[1:], start_new_session=True, stdout=s.DEVNULL,"
    code += " stderr=s.DEVNULL).pid)"
    done = subprocess.run([sys.executable, "-c", code, *SLEEP], capture_output=True, text=True)
    with PIDS.open("a") as file:
        file.write(done.stdout)

def test_good_although_the_one_before_was_not(lasting):
    pass

def test_bad_socket_file():
    folder = tempfile.mkdtemp()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(folder + "/s")

def test_bad_temporary_file():
    os.close(tempfile.mkstemp()[0])

def test_bad_open_socket():
    kept.append(socket.socket())

def test_bad_event_loop():
    kept.append(asyncio.new_event_loop())

def test_bad_thread():
    thread = threading.Thread(target=threading.Event().wait, args=(5,), name="forgotten")
    thread.start()

@pytest.fixture(scope="module")
def careless():
    yield start()

def test_bad_careless_fixture(careless):
    pass
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_who_leaves_something_behind_fails_by_name(tmp_path: Path, workers: int) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_cases.py").write_text(CASES)
    arguments = [
        "-q",
        "-rA",
        "-p",
        "no:cacheprovider",
        f"--rootdir={tmp_path}",
        *(["-n", str(workers)] * bool(workers)),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTEST_ADDOPTS": ""}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments, "-c", os.devnull, str(tmp_path)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
    finally:
        for pid in (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else ():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    accused = set(re.findall(r"^ERROR \S*::(test_\w+)", done.stdout, re.M))
    names = set(re.findall(r"^def (test_\w+)", CASES, re.M))
    assert accused == {name for name in names if "_bad_" in name}, done.stdout
    for said in ("thread forgotten", "test_bad_process left behind", "a folder with s", "time.sleep(40)"):
        assert said in done.stdout


def test_a_look_takes_less_than_ten_milliseconds(tmp_path: Path) -> None:
    import time

    keeper = Keeper(Watch("none", tmp_path))
    keeper.left()
    taken = []
    for _ in range(5):
        began = time.process_time()
        assert keeper.left() == {}
        taken.append(time.process_time() - began)

    assert min(taken) < 0.01
