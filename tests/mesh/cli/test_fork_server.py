"""Forked commands: processes of their own in every respect, which end with the process that they are forked from."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.cli import fork_server
from mesh.cli.fork_server import ForkedProcess, ForkServer, modules_of
from mesh.cli.processes import children
from mesh.errors import MeshError

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere commands are started in the usual way"),
]

NOWHERE = ("--peers", "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo")


@pytest.fixture
async def server() -> AsyncIterator[ForkServer]:
    each = ForkServer()
    yield each
    each.close()


async def start(server: ForkServer, *arguments: str, **environment: str) -> ForkedProcess:
    modules = modules_of(arguments)
    assert modules is not None
    return await server.fork(
        arguments, {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **environment}, modules
    )


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while there(pid):  # noqa: ASYNC110 no event tells the end of a stranger
            await asyncio.sleep(0.02)


async def test_output_and_exit_status_are_those_of_the_command(server: ForkServer) -> None:
    helped, refused = (
        await start(server, "join", "--help", COLUMNS="80"),
        await start(server, "join", "--no-such-option"),
    )
    assert b"Usage: mesh join" in await helped.stdout.read()
    assert await helped.wait() == 0
    assert b"No such option: --no-such-option" in await refused.stderr.read()
    assert await refused.wait() == 2
    with pytest.raises(ProcessLookupError):
        refused.terminate()


async def test_a_command_has_its_own_session_its_environment_and_no_other(server: ForkServer) -> None:
    process = await start(server, "gateway", "--port", "0", *NOWHERE, MESH_DATA_HOME="/nowhere")
    try:
        assert os.getsid(process.pid) == process.pid
        parent = parent_of(process.pid)
        assert os.getsid(parent) == parent != os.getsid(0)
        assert (await start(server, "join", "--help", COLUMNS="60")).pid != process.pid
        assert parent_of(process.pid) == parent
    finally:
        process.kill()
    assert await process.wait() == -signal.SIGKILL


async def test_commands_end_with_their_server_and_others_can_be_started(
    server: ForkServer,
) -> None:
    process = await start(server, "gateway", "--port", "0", *NOWHERE)
    os.kill(parent_of(process.pid), signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    await gone(process.pid)
    assert await (await start(server, "join", "--help")).wait() == 0


async def test_everything_ends_with_the_process_that_asked_for_it() -> None:
    script = (
        "import asyncio, os, sys\n"
        "from mesh.cli.fork_server import ForkServer\n"
        "from tests.mesh.cli.test_fork_server import start, NOWHERE\n"
        "async def main():\n"
        "    server = ForkServer()\n"
        "    print((await start(server, 'gateway', '--port', '0', *NOWHERE)).pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    asker = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert asker.stdout is not None
    pid = int(await asker.stdout.readline())
    parent = parent_of(pid)
    asker.kill()
    await asker.wait()
    await gone(pid)
    await gone(parent)


async def test_children_are_told_apart_by_what_they_say_last() -> None:
    async with children() as family:
        child = await family.start("a provider", "join", "--model", "/no/such/folder", "--json")
        with pytest.raises(MeshError, match="a provider ended early"):
            await child.wait_for("serving", 60)
        assert await family.ended(child) == 1


def test_only_commands_that_run_for_long_are_forked() -> None:
    assert modules_of(["status"]) is None
    assert modules_of([]) is None
    free, paid = modules_of(["join", "--model", "m"]), modules_of(["join", "--model", "m", "--wallet", "w"])
    assert free is not None
    assert paid is not None
    assert set(paid) - set(free) == set(fork_server.PAYING)


async def test_a_command_is_run_to_its_end_with_its_words_and_its_width() -> None:
    async with children() as family:
        code, out, err = await family.run("wallet", "--help", environment={"COLUMNS": "60"}, timeout=60)
        assert (code, err) == (0, "")
        assert "import" in out and max(map(len, out.splitlines())) <= 60
        code, out, err = await family.run("wallet", "address", "--wallet", "/nowhere.json", timeout=60)
        assert code != 0 and not out and err
        with pytest.raises(MeshError, match="did not end"):
            await family.run("join", "--model", "tiny-python", *NOWHERE, timeout=0.01)
