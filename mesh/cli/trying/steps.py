"""One step after another: it is said what for, then the command is shown as one would type it, and run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mesh.cli.console import out, safe
from mesh.cli.environment import PASSWORD_VARIABLE
from mesh.cli.processes import Child, Children
from mesh.errors import MeshError

COMMAND_SECONDS: Final = 120.0
KEPT: Final = ("MESH_RUNTIME_DIR", "MESH_LOG")
INDENT: Final = 3
WIDE: Final = 160
"""Columns where nobody looks at a terminal: then no value is cut."""


@dataclass(slots=True)
class Walk:
    """The steps of one try, with a data folder of its own: nothing of yours is read or written."""

    family: Children
    folder: Path
    password: str
    variables: dict[str, str] = field(default_factory=dict)
    """More for every command's environment, as `export` would have it."""
    number: int = 0

    @property
    def environment(self) -> Mapping[str, str]:
        """What every command gets over ours."""
        foreign = {name: "" for name in os.environ if name.startswith("MESH_") and name not in KEPT}
        own = {"XDG_DATA_HOME": str(self.folder / "data"), PASSWORD_VARIABLE: self.password}
        return {**foreign, **own, **self.variables}

    def step(self, title: str, why: str) -> None:
        """Begin a step."""
        self.number += 1
        out.print(f"\n[bold]{self.number}. {safe(title)}[/]  {safe(why)}")

    async def run(self, *arguments: str, shown: Sequence[str] | None = None, quiet: bool = False) -> str:
        """Run a command to its end; what it prints, which is shown too. Raises `MeshError` where it fails.

        `shown` is the command as one would type it, where that is shorter.
        """
        self._show(shown or arguments)
        width = out.width - INDENT if out.is_terminal else WIDE
        environment = {**self.environment, "COLUMNS": str(max(40, width))}
        code, said, problem = await self.family.run(
            *self._real(arguments), environment=environment, timeout=COMMAND_SECONDS
        )
        if code:
            raise MeshError(f"`mesh {shlex.join(arguments)}` failed:\n{problem or said}")
        if not quiet:
            for line in (*said.splitlines(), *problem.splitlines()):
                out.print(" " * INDENT + line, markup=False, highlight=False)
        return said

    async def start(
        self, name: str, *arguments: str, shown: Sequence[str], more: Mapping[str, str] | None = None
    ) -> Child:
        """Start a command that stays until the end, in a terminal of its own as it were."""
        self._show(shown, " &")
        return await self.family.start(
            name, *self._real(arguments), "--json", environment={**self.environment, **(more or {})}
        )

    def say(self, text: str) -> None:
        """Something that came of a step."""
        out.print(f"   {safe(text)}", highlight=False)

    def _real(self, words: Sequence[str]) -> list[str]:
        """Wallets are in our folder, in which a command that was typed would run."""
        return [str(self.folder / word) if word.endswith(".json") else word for word in words]

    def _show(self, words: Sequence[str], end: str = "") -> None:
        out.print(f"   [green]$ mesh {safe(shlex.join(words))}{end}[/]", highlight=False)
