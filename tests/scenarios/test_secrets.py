"""Secrets in the environment of `mesh` stay with the process that needs them: its children do not get them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.scenarios.processes import World
from tests.scenarios.test_stages import TWO_CPUS, stages_serve, start

SECRETS: Mapping[str, str] = {
    "MESH_WALLET_PASSWORD": "the password of the wallet",
    "MESH_API_KEY": "the key of an account",
    "HF_TOKEN": "the token of a user elsewhere",
    "AWS_SECRET_ACCESS_KEY": "the key of a cloud",
    "DATABASE_URL": "postgres://user:the-password-of-a-database@host",
}
OURS = ("MESH_WALLET_PASSWORD", "MESH_API_KEY")


@dataclass(frozen=True)
class Descendant:
    """A process that a command started, or one of those did."""

    pid: int
    command: str
    environment: str

    @property
    def is_daemon(self) -> bool:
        return Path(self.command.split("\0")[0]).name == "p2pd"


def descendants(pid: int) -> list[Descendant]:
    found: list[Descendant] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            folder = Path(f"/proc/{child}")
            texts = [(folder / name).read_bytes().decode() for name in ("cmdline", "environ")]
            found += [Descendant(int(child), *texts), *descendants(int(child))]
    return found


@pytest.fixture
def with_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="reads /proc")  # noqa: PTH112
@pytest.mark.usefixtures("with_secrets")
def test_the_daemon_of_a_provider_gets_no_secret_and_no_child_gets_ours(world: World, checkpoint: Path) -> None:
    node = world.join(checkpoint)
    node.event("serving")
    family = descendants(node.pid)
    daemons = [each for each in family if each.is_daemon]
    assert daemons
    for each in daemons:
        for name, value in SECRETS.items():
            assert name not in each.environment and value not in each.environment + each.command
    for each in family:
        for name in OURS:
            assert SECRETS[name] not in each.environment + each.command


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="reads /proc")  # noqa: PTH112
@pytest.mark.usefixtures("with_secrets")
def test_stages_without_a_wallet_get_no_password(world: World, checkpoint: Path) -> None:
    node = start(world, "--model", str(checkpoint), *TWO_CPUS)
    stages_serve(node, 2)
    family = descendants(node.pid)
    assert sum(each.is_daemon for each in family) == 2
    assert len(family) >= 4
    for each in family:
        for name in OURS:
            assert SECRETS[name] not in each.environment + each.command
