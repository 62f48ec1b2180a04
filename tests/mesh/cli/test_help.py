"""`mesh --help` fits a screen and names every command once; shells complete their names."""

from __future__ import annotations

import os
import subprocess
import sys

import typer

from mesh.cli.help import GROUPS
from mesh.cli.main import app

LINES, COLUMNS = 48, 80
MESH = "import sys; sys.argv[0] = 'mesh'; from mesh.cli.main import app; app(prog_name='mesh')"


def mesh(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MESH, *arguments],
        env={**os.environ, "COLUMNS": str(COLUMNS), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_is_one_screen_on_which_every_command_stands_once() -> None:
    shown = mesh("--help").stdout
    lines = shown.splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS and "..." not in shown.partition("Options")[2]
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for name in names:
        assert sum(line.split()[:1] == [name] for line in lines) == 1


def test_a_shell_completes_commands() -> None:
    words = mesh(_MESH_COMPLETE="complete_bash", COMP_WORDS="mesh do", COMP_CWORD="1").stdout.split()
    assert words == ["doctor"]
