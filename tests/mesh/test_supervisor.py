"""The supervisor of a node's stages, with small scripts for stages: restarts, who joins through whom, and the end."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from mesh.cli.processes import Child, Children, Hear, HearLog
from mesh.cli.stages import Supervisor
from mesh.errors import MeshError

JOINS = """
import json, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(json.dumps({"event": "joined", "maddrs": ["/of/" + sys.argv[1]]}), flush=True)
print(json.dumps({"event": "chose", "span": sys.argv[2] if len(sys.argv) > 2 else "0:3"}), flush=True)
"""
SERVES = JOINS + "signal.pause()"
FAILS = JOINS + "print('error: out of memory', file=sys.stderr)\nsys.exit(1)"
NEVER_JOINS = "import sys\nprint('error: no such model', file=sys.stderr)\nsys.exit(1)"
DEAF = JOINS.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN") + "signal.pause()"


class Scripts(Children):
    """Starts a script by the first argument instead of `mesh`."""

    async def start(
        self,
        name: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        hear: Hear | None = None,
        hear_log: HearLog | None = None,
    ) -> Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
        return self.adopt(name, process, hear, hear_log)


@dataclass
class Node:
    """A supervisor over scripts, and what it said and did."""

    family: Scripts
    scripts: dict[str, str]
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    log: list[tuple[str, str]] = field(default_factory=list)
    starts: list[tuple[str, tuple[str, ...], str | None]] = field(default_factory=list)

    def supervisor(self, peers: Sequence[str] = (), *, one_by_one: bool = False) -> Supervisor:
        def arguments(label: str, peers: Sequence[str], span: str | None) -> list[str]:
            self.starts.append((label, tuple(peers), span))
            return [self.scripts[label], label, *([span] if span else [])]

        return Supervisor(
            self.family,
            list(self.scripts),
            arguments,
            lambda label, event: self.events.append((label, event)),
            lambda label, line: self.log.append((label, line)),
            peers=peers,
            one_by_one=one_by_one,
        )

    def told(self, label: str, name: str) -> list[dict[str, Any]]:
        return [event for who, event in self.events if who == label and event["event"] == name]

    async def until(self, there: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not there():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def node(**scripts: str) -> AsyncIterator[Node]:
    family = Scripts()
    try:
        yield Node(family, scripts)
    finally:
        await family.stop()
        assert all(child.process.returncode is not None for child in family.all)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.provider.planner.stages.FIRST_PAUSE", 0.05)
    monkeypatch.setattr("mesh.cli.processes.STOP_SECONDS", 0.5)


async def test_a_stage_that_fails_is_started_again_after_growing_pauses_and_the_other_is_left_alone() -> None:
    async with node(a=SERVES, b=FAILS) as it:
        supervisor = it.supervisor()
        running = asyncio.create_task(supervisor.run())
        await it.until(lambda: len(it.told("b", "stage_ended")) >= 3)
        ended = it.told("b", "stage_ended")
        assert [event["restart_in"] for event in ended[:3]] == [0.05, 0.1, 0.2]
        assert {event["reason"] for event in ended} == {"out of memory"}
        assert ("b", "error: out of memory") in it.log
        assert len(it.told("a", "stage_started")) == 1
        assert supervisor.ask()
        await asyncio.wait_for(running, 10)


async def test_the_first_stage_founds_a_swarm_that_the_others_join_and_comes_back_through_them() -> None:
    async with node(a=SERVES, b=SERVES, c=SERVES) as it:
        supervisor = it.supervisor()
        running = asyncio.create_task(supervisor.run())
        await it.until(lambda: all(it.told(label, "chose") for label in "abc"))
        assert it.starts[0] == ("a", (), None)
        assert all("/of/a" in peers for _, peers, _ in it.starts[1:])
        os.kill(it.told("a", "stage_started")[0]["pid"], 9)
        await it.until(lambda: len(it.told("a", "chose")) == 2)
        assert it.told("a", "stage_ended")[0]["reason"] == "killed by SIGKILL"
        label, peers, span = it.starts[-1]
        assert (label, set(peers), span) == ("a", {"/of/b", "/of/c"}, "0:3"), "with the blocks that it had"
        supervisor.ask()
        await asyncio.wait_for(running, 10)


async def test_if_all_fail_at_once_they_come_back_as_one_swarm() -> None:
    async with node(a=SERVES, b=SERVES) as it:
        supervisor = it.supervisor()
        running = asyncio.create_task(supervisor.run())
        await it.until(lambda: all(it.told(label, "chose") for label in "ab"))
        for label in "ab":
            os.kill(it.told(label, "stage_started")[0]["pid"], 9)
        await it.until(lambda: all(len(it.told(label, "chose")) == 2 for label in "ab"))
        founders = [label for label, peers, _ in it.starts[2:] if not peers]
        assert len(founders) == 1
        supervisor.ask()
        await asyncio.wait_for(running, 10)


async def test_a_stage_that_never_joins_ends_all_with_what_it_said() -> None:
    async with node(a=SERVES, b=NEVER_JOINS) as it:
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(it.supervisor().run(), 20)
        (error,) = caught.value.exceptions
        assert isinstance(error, MeshError) and str(error) == "stage b: no such model"


async def test_those_that_register_with_one_account_start_one_by_one() -> None:
    async with node(a=SERVES, b=SERVES, c=SERVES) as it:
        supervisor = it.supervisor(["/a/swarm"], one_by_one=True)
        running = asyncio.create_task(supervisor.run())
        await it.until(lambda: bool(it.told("c", "chose")))
        order = [(who, event["event"]) for who, event in it.events if event["event"] in ("stage_started", "joined")]
        assert order == [(label, name) for label in "abc" for name in ("stage_started", "joined")]
        supervisor.ask()
        await asyncio.wait_for(running, 10)


async def test_asked_in_a_pause_it_starts_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.provider.planner.stages.FIRST_PAUSE", 30.0)
    async with node(a=FAILS) as it:
        supervisor = it.supervisor()
        running = asyncio.create_task(supervisor.run())
        await it.until(lambda: bool(it.told("a", "stage_ended")))
        assert supervisor.ask() and not supervisor.ask()
        await asyncio.wait_for(running, 5)
        assert len(it.told("a", "stage_started")) == 1


async def test_a_stage_that_does_not_hear_is_killed_when_nobody_waits_any_more() -> None:
    async with node(a=DEAF) as it:
        supervisor = it.supervisor()
        running = asyncio.create_task(supervisor.run())
        await it.until(lambda: bool(it.told("a", "chose")))
        supervisor.ask()
        await asyncio.sleep(0.1)
        assert not running.done(), "it waits for its sessions"
        running.cancel()
        await asyncio.wait({running})
        (child,) = it.family.all
    assert child.process.returncode == -9


def test_an_event_of_a_child_is_the_event_that_it_told(capsys: pytest.CaptureFixture[str]) -> None:
    from mesh.cli.join_events import lines, read_event, show
    from mesh.payment.settlement.loop import SettlementEvent
    from mesh.provider import events
    from shards.model.span import Span

    told = [
        events.Joined("peer", ("/ip4/1.2.3.4/tcp/1",)),
        events.Chose("m", Span(0, 3), 5),
        events.Serving("m", Span(0, 3), 5, 10.0, "float32", "cpu"),
        events.Staked("staked", "0x1"),
        events.Settlement(SettlementEvent("sent", "claim", "text", epoch=3, amount=4)),
        events.Draining(2),
        events.Drained(1),
    ]
    for event in told:
        show(event, as_json=True)
        found = read_event(json.loads(capsys.readouterr().out))
        if isinstance(event, events.Joined):
            assert isinstance(found, events.Joined) and lines(found) == lines(event)
        else:
            assert found == event
    assert read_event({"event": "of another kind"}) is None
