"""What the README shows is true: its programs run as they are, its commands and options exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.checkpoint.source import resolve
from tests.scenarios.processes import Swarm, World, start_stages

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
PROGRAMS = [text for language, text in BLOCKS if language == "python"]
COMMANDS = sorted(
    {
        line.partition("#")[0].strip()
        for language, text in BLOCKS
        if language == "sh"
        for line in text.splitlines()
        if line.startswith("mesh ")
    }
)


@pytest.fixture(scope="module")
def tiny() -> Iterator[Swarm]:
    """The shipped model on two providers."""
    with World() as world:
        yield start_stages(world, Path("tiny-python"), ("0:4", "4:8")).wait_serving()


def test_there_are_programs_and_commands_in_the_readme() -> None:
    assert len(PROGRAMS) == 2
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_in_the_readme_runs_as_it_is(number: int, tiny: Swarm, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(PROGRAMS[number])
    environment = {**tiny.world.environment, "MESH_PEERS": tiny.address}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_the_readme_exists_with_its_options(command: str) -> None:
    words = shlex.split(command)
    shown = help_of(words[1])
    if "Commands:" in shown:  # a group
        shown = help_of(*words[1:3])
    for word in words[2:]:
        if word.startswith("--"):
            assert word in shown, f"{words[1]} has no {word}"


def help_of(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mesh", *words, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_shipped_model_is_small_trained_and_checked() -> None:
    folder = resolve("tiny-python")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10_000_000
    assert (folder / "mesh.manifest.json").is_file()
    assert re.search(r"[Hh]eld-out", (folder / "README.md").read_text())
