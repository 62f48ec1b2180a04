"""A client without the Go daemon on swarms of real processes: the same tokens as with it, and nothing started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mesh.client.client import Client, build_request
from mesh.client.sync import SyncClient
from mesh.errors import ConfigError, PeerUnreachable
from mesh.identity import Identity
from mesh.transport.runtime_dir import RuntimeDirectory
from tests.scenarios.processes import Swarm, World, start_stages, wait_until

PROMPT = "a span is half-open"


def p2pds(pid: int) -> list[int]:
    """The Go daemons among the descendants of a process."""
    family = psutil.Process(pid).children(recursive=True)
    return [child.pid for child in family if "p2pd" in " ".join(child.cmdline())]


async def test_it_generates_what_the_usual_client_does_and_starts_no_daemon(swarm: Swarm) -> None:
    before = p2pds(os.getpid())
    options = {"max_tokens": 24, "temperature": 0.8, "seed": 7}
    async with Client([swarm.address], transport="libp2p") as light:
        answers = [
            await light.generate(swarm.model, PROMPT, max_tokens=24),
            await light.generate(swarm.model, PROMPT, **options),
        ]
        assert p2pds(os.getpid()) == before
        assert [info.name for info in await light.models() if info.complete] == [swarm.model]
    async with Client([swarm.address], runtime_root=swarm.world.runtime) as usual:
        assert len(p2pds(os.getpid())) > len(before)
        expected = [
            await usual.generate(swarm.model, PROMPT, max_tokens=24),
            await usual.generate(swarm.model, PROMPT, **options),
        ]
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in expected]
    assert [answer.text for answer in answers] == [answer.text for answer in expected]
    assert len(answers[0].completion.route) == 3


def test_the_blocking_client_streams_over_it(swarm: Swarm) -> None:
    with SyncClient([swarm.address], transport="libp2p") as light:
        whole = light.generate(swarm.model, PROMPT, max_tokens=12)
        with light.stream(swarm.model, PROMPT, max_tokens=12) as stream:
            assert "".join(delta.text for delta in stream) == whole.text
        with light.stream(swarm.model, PROMPT, max_tokens=400) as stream:
            next(iter(stream))  # and leave early


def test_a_light_client_imports_no_hivemind(swarm: Swarm) -> None:
    code = (
        "import sys; from mesh import SyncClient\n"
        f"with SyncClient([{swarm.address!r}], transport='libp2p') as c:\n"
        f"    print(len(c.generate({swarm.model!r}, {PROMPT!r}, max_tokens=5).tokens))\n"
        "print(sorted({'hivemind', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**swarm.world.environment, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["5", "[]"]


def test_mesh_generate_does_without_the_daemon(swarm: Swarm) -> None:
    common = ("generate", PROMPT, "--peers", swarm.address, "--max-tokens", "16", "--json")
    light = json.loads(swarm.world.succeed(*common, "--transport", "libp2p"))
    usual = json.loads(swarm.world.succeed(*common))
    assert light["text"] == usual["text"]
    assert light["completion_tokens"] == usual["completion_tokens"] == 16


def test_ctrl_c_in_the_middle_leaves_nothing(swarm: Swarm) -> None:
    world = swarm.world
    before = {pid for pid, _ in world.left()}
    command = world.start(
        *("generate", PROMPT, "--peers", swarm.address, "--transport", "libp2p"), "--max-tokens", "480"
    )
    try:
        wait_until(lambda: len(command.stdout) > 5 or not command.running, "no text")
        assert command.running, str(command)
        assert p2pds(command.pid) == []
        assert command.stop(signal.SIGINT) == 130
    finally:
        command.kill()
        world.processes.remove(command)
    assert "Traceback" not in command.stderr
    wait_until(lambda: {pid for pid, _ in world.left()} <= before, "processes are left")


async def test_an_answer_goes_on_when_the_provider_that_we_joined_through_is_killed(
    world: World, checkpoint: Path
) -> None:
    swarm = start_stages(world, checkpoint, ("2:5", "0:2")).wait_serving()
    seed, other = swarm.providers
    async with Client([swarm.address], transport="libp2p") as light:
        wanted = await light.generate(swarm.model, PROMPT, max_tokens=160)
        ids = (await light.backend.tokenizer(swarm.model)).encode(PROMPT)
        tokens: list[int] = []
        async with light.backend.generate(build_request(swarm.model, ids, {"max_tokens": 160})) as generation:
            async for delta in generation:
                tokens.extend(delta.tokens)
                if len(tokens) >= 8 and seed.running:
                    assert generation.hops[1].peer == swarm.peer(0)
                    seed.kill()
                    # Only the other one, which nobody named to the client, can tell it of the replica that comes.
                    again = world.join(checkpoint, "--blocks", "2:5", peers=other.event("joined")["maddrs"][0])
        assert not seed.running
        assert tuple(tokens) == wanted.tokens
        assert generation.hops[1].peer == again.event("joined")["peer"]
        assert (await light.generate(swarm.model, PROMPT, max_tokens=160)).tokens == wanted.tokens
    with RuntimeDirectory(world.runtime):  # clears away what the killed one could not
        pass


async def test_an_initial_peer_that_is_gone_or_no_address_is_an_error_of_ours() -> None:
    gone = f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}"
    with pytest.raises(PeerUnreachable, match="none of the initial peers"):
        async with Client([gone], transport="libp2p"):
            pass
    for wrong in ("/ip4/127.0.0.1/tcp/1", "nonsense", gone.replace("tcp", "udp"), f"{gone}/p2p-circuit{gone}"):
        with pytest.raises(ConfigError):
            async with Client([wrong], transport="libp2p"):
                pass
    with pytest.raises(ConfigError):
        Client([gone], transport="carrier pigeon")  # type: ignore[arg-type]
