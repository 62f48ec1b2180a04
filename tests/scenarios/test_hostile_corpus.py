"""A gateway, a provider and `mesh status` live through all hostile strings and files that there are, some hundred.

The chain, the gateway, the honest provider, `mesh join` of hostile folders and `mesh status` are real processes; the
strangers' providers are real nodes in this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from chain.client.staking import StakingClient
from chain.devnet.accounts import faucet
from chain.units import WEI_PER_FUNC
from mesh.client.payer import Payer
from mesh.discovery.records import ModelKey
from mesh.errors import MeshError
from mesh.provider.model_files import read_model_files
from shards.checkpoint.source import SHIPPED
from tests.guarded import guarded
from tests.profile import LONG
from tests.scenarios.corpus import chain_strings, prober
from tests.scenarios.corpus.records import malformed, well_formed
from tests.scenarios.corpus.strangers import Case, Model, Stranger, publish, strangers
from tests.scenarios.paid import LOOPBACK, PaidSwarm, paid_swarm
from tests.shards.hostile import folders, templates, tokenizers

MODEL = "tiny-python"
STRANGERS = 12
MAX_HEALTH = 1.0
MAX_MEMORY = {"gateway": 3 << 30, "provider": 2 << 30}
"""With all children: one call on a stranger's text may take some hundred megabytes, while it runs."""
MAX_GROWTH = 96 << 20
"""Of the process itself, from when half of the corpus was through to when all was."""
MAX_FOLDER_MEMORY = 1 << 30
STATUS_SECONDS = 90.0
ANSWER_SECONDS = 20.0
CASE_SECONDS = 180.0
RECORDS_SECONDS = 45.0
FOLDERS_SECONDS = 240.0
STRIDE = 1 if LONG else 3
"""Of tokenizers, templates and folders every so many-th: alone each of them is tried in tests/shards/hostile."""
FOLDERS = list({**folders.SERVED, **folders.LOADED}.values())[::STRIDE]
TALK = [{"role": "user", "content": "hi"}]


def cases() -> list[Case]:
    """The heavy ones apart from each other, so that they do not all come at once."""
    some = tokenizers.cases()[::STRIDE]
    found = [Case("tokenizers", each.name, each.files, each.text, each.tokens) for each in some]
    for each in templates.cases()[::STRIDE]:
        files = {"tokenizer.json": tokenizers.tokenizer(), "chat_template.jinja": each.source.encode()}
        found.append(Case("templates", each.name, files, None, (0, 1)))
    return [found[at] for start in range(7) for at in range(start, len(found), 7)]


@dataclass
class Seen:
    """What came of it all."""

    lived: Counter[str] = field(default_factory=Counter)
    """Items by kind."""
    codes: Counter[int] = field(default_factory=Counter)
    looks: list[dict[str, Any]] = field(default_factory=list)
    """Of the prober."""
    honest: list[float] = field(default_factory=list)
    """Seconds of honest answers."""
    status: list[float] = field(default_factory=list)
    half: float = 0.0
    """When half of the cases were through (monotonic)."""

    def memory(self, which: int, kind: int, *, since: float = 0.0, until: float = float("inf")) -> list[int]:
        """Bytes of the gateway (0) or the provider (1): of the process (0), or with its children (1)."""
        return [each["memory"][which][kind] for each in self.looks if "memory" in each and since <= each["at"] <= until]

    def summary(self) -> str:
        if not self.looks or not self.honest:
            return f"it ended early: {self.lived}"
        lines = [f"{sum(self.lived.values())} hostile items: " + ", ".join(f"{n} {k}" for k, n in self.lived.items())]
        slowest = max(each["seconds"] for each in self.looks)
        late = max(each["late"] for each in self.looks)
        lines.append(f"/health: {len(self.looks)} answers, the slowest after {slowest:.3f} s")
        lines.append(f"who asked woke up {late:.3f} s late at most: the machine was busy")
        lines.append(f"answers to strangers' models: {dict(sorted(self.codes.items()))}")
        lines.append(f"honest answers: {len(self.honest)}, the slowest after {max(self.honest):.1f} s")
        lines.append(f"mesh status: {', '.join(f'{seconds:.1f} s' for seconds in self.status)}")
        for which, name in enumerate(MAX_MEMORY):
            for kind, what in enumerate(("", " with children")):
                found = [each >> 20 for each in self.memory(which, kind)]
                half = self.memory(which, kind, since=self.half)[0] >> 20
                lines.append(f"{name}{what}, MiB: before {found[0]}, half {half}, peak {max(found)}, after {found[-1]}")
        return "\n".join(lines)


def is_safe(text: str) -> bool:
    """Nothing that a terminal could take for a command."""
    return all(each.isprintable() or each == "\n" for each in text)


@asynccontextmanager
async def probing(url: str, pids: Sequence[int], seen: Seen) -> AsyncIterator[None]:
    """/health and memory are looked at all the time, by another process."""
    process = await asyncio.create_subprocess_exec(
        *guarded([sys.executable, "-m", prober.__name__, url, *map(str, pids)]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    out = process.stdout

    async def read() -> None:
        async for line in out:
            seen.looks.append(json.loads(line))

    reading = asyncio.create_task(read())
    try:
        yield
    finally:
        process.stdin.close()
        async with asyncio.timeout(60):
            await reading
            assert await process.wait() == 0


@dataclass
class Scenario:
    """The swarm, and everybody in it."""

    swarm: PaidSwarm
    http: httpx.AsyncClient
    strangers: list[Stranger]
    seen: Seen
    expected: list[int] = field(default_factory=list)
    waiting: list[Model] = field(default_factory=list)

    async def honest(self) -> None:
        """The honest model answers, token for token as always."""
        began = time.monotonic()
        body = {"model": MODEL, "messages": TALK, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        answer = await self.http.post("/chat/completions", json={**body, "return_token_ids": True})
        assert answer.status_code == 200, answer.text
        (choice,) = answer.json()["choices"]
        self.expected = self.expected or choice["token_ids"]
        assert choice["token_ids"] == self.expected and len(self.expected) == 8
        self.seen.honest.append(time.monotonic() - began)

    async def keep_asking(self) -> None:
        while True:
            await self.honest()
            await asyncio.sleep(1.5)

    async def status(self) -> None:
        """`mesh status` as people see it, on a terminal's width."""
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *guarded([sys.executable, "-m", "mesh", "status", "--peers", self.swarm.address]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(STATUS_SECONDS):
            said, told = await process.communicate()
        shown = said.decode()
        assert process.returncode == 0, told.decode()[-2000:]
        assert is_safe(shown) and is_safe(told.decode()), shown
        assert MODEL in shown
        self.seen.status.append(time.monotonic() - began)

    async def play_all(self, stranger: Stranger) -> None:
        while self.waiting:
            model = self.waiting.pop()
            async with asyncio.timeout(CASE_SECONDS):
                await self.play(stranger, model)
            self.seen.lived[model.case.kind] += 1
            if not self.seen.half and len(self.waiting) <= self.seen.lived["tokenizers"] + self.seen.lived["templates"]:
                self.seen.half = time.monotonic()

    async def play(self, stranger: Stranger, model: Model) -> None:
        """The gateway is asked for the stranger's model until it has answered with its files."""
        stranger.model, case = model, model.case
        with contextlib.suppress(MeshError):  # on a busy machine: it announces itself again in a moment
            await stranger.announce()
        body: dict[str, Any] = {"model": model.name, "max_tokens": len(case.tokens), "temperature": 0}
        path = "/chat/completions" if case.text is None else "/completions"
        body |= {"messages": TALK} if case.text is None else {"prompt": case.text}
        while True:
            known = case.name in stranger.fetched
            answer = await self.http.post(path, json=body)
            self.seen.codes[answer.status_code] += 1
            assert answer.status_code in (200, 400, 404, 429, 502, 503, 504), (case.name, answer.text)
            if not known and case.name in stranger.fetched and answer.status_code != 429:
                return
            await asyncio.sleep(0.5)

    async def announce(self) -> None:
        """Records of peers that are not there, again and again as they expire."""
        key = ModelKey(MODEL, read_model_files(MODEL, SHIPPED / MODEL).digest)
        while True:
            good, bad = well_formed(key, int(self.http.base_url.port or 0)), malformed(key)
            share = -(-len(good) // len(self.strangers))
            taken = 0
            for number, stranger in enumerate(self.strangers):
                if some := good[number * share : (number + 1) * share]:
                    taken += await stranger.spread(some)
                stranger.poison(bad)
            refused = len(bad[:20]) - await self.strangers[-1].spread(bad[:20])
            self.seen.lived |= Counter({"records": taken, "records that are none": len(bad)})
            assert refused == 20, "no node takes what does not hold"
            await asyncio.sleep(RECORDS_SECONDS)


async def join_folders(folder: Path, peers: str, seen: Seen) -> None:
    """A provider is asked to serve each of the hostile folders: one line, no file of ours, no endless wait."""
    secret = folder / "home" / "id_ed25519"
    secret.parent.mkdir(parents=True)
    secret.write_bytes(folders.SECRET)
    paths = []
    for number, pack in enumerate(FOLDERS):
        path = folder / str(number) / "model"
        shutil.copytree(SHIPPED / MODEL, path)
        (path / "mesh.manifest.json").unlink()
        pack(path, secret)
        paths.append(path)
    process = await asyncio.create_subprocess_exec(
        *guarded([sys.executable, "-m", "tests.scenarios.corpus.joins"]),
        *("--host-maddrs", LOOPBACK, "--peers", peers, "--blocks", "0:1", "--threads", "1"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(FOLDERS_SECONDS):
            said, _ = await process.communicate("".join(f"{path}\n" for path in paths).encode())
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    for line in said.splitlines():
        done = json.loads(line)
        assert done["code"] == 1, done
        assert "Traceback" not in done["said"] and folders.SECRET.decode().strip() not in done["said"], done
        assert is_safe(done["said"]) and done["memory"] < MAX_FOLDER_MEMORY, done
        seen.lived["model folders"] += 1


@asynccontextmanager
async def scenario(folder: Path, client: StakingClient, swarm: PaidSwarm) -> AsyncIterator[Scenario]:
    """The honest provider and the gateway run, and the strangers are there."""
    seen = Seen()
    models = await publish(client, cases())
    provider = await swarm.provider("ann", SHIPPED / MODEL, "0:8")
    gateway = await swarm.gateway("gate")
    pids = [gateway.process.pid, provider.process.pid]
    developer = swarm.chain.accounts["developer"]
    payer = Payer(
        swarm.urls["gate"],
        swarm.keys["gate"],
        developer,
        budget=40 * WEI_PER_FUNC,
        store=folder / "promises",
        beside=True,
    )
    async with (
        payer,
        httpx.AsyncClient(
            base_url=swarm.urls["gate"],
            headers={"Authorization": f"Bearer {swarm.keys['gate']}"},
            timeout=120,
            trust_env=False,
            limits=httpx.Limits(keepalive_expiry=1.0),
        ) as http,
        strangers(client, faucet(1), models[:STRANGERS], swarm.address) as made,
    ):
        await swarm.until_complete(http, MODEL)
        try:
            async with probing(swarm.urls["gate"], pids, seen):
                yield Scenario(swarm, http, made, seen, waiting=models)
        finally:
            sys.stdout.write(f"\n{seen.summary()}\n")
        assert gateway.process.returncode is None and provider.process.returncode is None
        log = "\n".join([*gateway.log, *provider.log])
        assert "Traceback" not in log, log


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_everything_hostile_at_once_stops_nobody(tmp_path: Path) -> None:
    async with paid_swarm(tmp_path / "run", SHIPPED / MODEL, ("ann", "gate")) as swarm:
        chain = swarm.chain
        async with StakingClient(chain.url, chain.deployment, account=faucet(1), poll=0.05, timeout=60) as client:
            gateways = await chain_strings.stake_gateways(client)
            async with scenario(tmp_path, client, swarm) as all_:
                seen = all_.seen
                await all_.honest()
                await all_.status()
                async with asyncio.TaskGroup() as tasks:
                    asking = tasks.create_task(all_.keep_asking())
                    announcing = tasks.create_task(all_.announce())

                    async def write() -> None:
                        names = [each.model.name for each in all_.strangers]
                        seen.lived["chain strings"] = await chain_strings.write_all(client, gateways, names)

                    others = [tasks.create_task(write())]
                    others += [tasks.create_task(join_folders(tmp_path / "folders", swarm.address, seen))]
                    playing = [tasks.create_task(all_.play_all(stranger)) for stranger in all_.strangers]
                    await asyncio.wait(others)
                    await all_.status()
                    await asyncio.wait(playing)
                    asking.cancel()
                    await all_.status()
                    announcing.cancel()
                await all_.honest()
                await asyncio.sleep(1.0)
        _judge(seen)


def _judge(seen: Seen) -> None:
    assert sum(seen.lived.values()) >= 200
    assert seen.lived["tokenizers"] + seen.lived["templates"] == len(cases()) >= 140 // STRIDE
    assert seen.lived["model folders"] == len(FOLDERS) >= 30 // STRIDE
    assert seen.lived["chain strings"] >= 100 and seen.lived["records"] >= 30
    assert {each["status"] for each in seen.looks} == {200}
    assert max(each["seconds"] for each in seen.looks) < MAX_HEALTH
    assert max(seen.honest) < ANSWER_SECONDS
    for which, (name, most) in enumerate(MAX_MEMORY.items()):
        assert max(seen.memory(which, 1)) < most, name
        own = seen.memory(which, 0, since=seen.half)
        assert own[-1] - own[0] < MAX_GROWTH, name
