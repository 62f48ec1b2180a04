"""What CI's script makes of tests that fail: tried once more, and said when they pass only then."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "run"
MAKEFILE = """
test: ; .venv/bin/python -m pytest -q --ignore=tests/chain
test-chain: ; .venv/bin/python -m pytest -q tests/chain
test-slow bench-smoke: ; @echo "$@ was run"
"""
SOUND = "def test_sound():\n    pass\n"
FLAKY = """import pathlib
def test_flaky():
    mark = pathlib.Path(__file__ + ".seen")
    seen = mark.exists()
    mark.touch()
    assert seen
"""
BROKEN = "def test_broken():\n    raise ValueError\n"
UNREADABLE = "import pathlib\nmark = pathlib.Path(__file__ + '.seen')\n" + (
    "if not mark.exists():\n    mark.touch()\n    raise ValueError\n" + SOUND
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with CI's script, whose targets run pytest on whatever tests a test puts there."""
    for folder in (".ci", ".venv/bin", "tests/chain", "tools"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / ".ci" / "run")
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\ntestpaths = tests\naddopts = --import-mode=importlib\nmarkers = slow\n"
    )
    (tmp_path / "tests" / "test_some.py").write_text(SOUND)
    (tmp_path / "tests" / "chain" / "test_chain.py").write_text(SOUND)
    _program(tmp_path / ".venv" / "bin" / "python", f'exec "{sys.executable}" "$@"')
    for name in ("ip", "tc", "iptables"):
        _program(tmp_path / "tools" / name, "exit 1")
    return tmp_path


def _program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def _run(project: Path) -> tuple[int, list[str]]:
    """Its exit status, and what it printed."""
    done = subprocess.run(
        [project / ".ci" / "run"],
        env={"PATH": f"{project / 'tools'}:/usr/local/bin:/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def test_without_failures_nothing_is_flaky(project: Path) -> None:
    status, lines = _run(project)

    assert (status, lines[-2:]) == (0, ["bench-smoke was run", "== flaky (passed only the second time): 0"])


def test_what_passes_only_the_second_time_is_listed_and_counted_at_the_end(project: Path) -> None:
    (project / "tests" / "test_first.py").write_text(FLAKY)
    (project / "tests" / "chain" / "test_second.py").write_text(FLAKY)

    status, lines = _run(project)

    assert status == 0
    assert lines[-4:] == [
        "bench-smoke was run",
        "== flaky (passed only the second time): 2",
        "   tests/test_first.py::test_flaky",
        "   tests/chain/test_second.py::test_flaky",
    ]


def test_what_fails_twice_fails_the_run_which_still_says_what_was_flaky(project: Path) -> None:
    (project / "tests" / "test_first.py").write_text(FLAKY)
    (project / "tests" / "test_second.py").write_text(BROKEN)

    status, lines = _run(project)

    assert status == 1
    assert lines[-2:] == ["== flaky (passed only the second time): 1", "   tests/test_first.py::test_flaky"]


def test_a_file_that_cannot_be_imported_fails_the_run_since_no_test_ran(project: Path) -> None:
    (project / "tests" / "test_first.py").write_text(UNREADABLE)

    status, lines = _run(project)

    assert status == 1
    assert lines[-1] == "== flaky (passed only the second time): 0"
