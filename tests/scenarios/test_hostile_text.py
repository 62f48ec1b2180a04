"""A stranger's chat template and tokenizer, announced to a real gateway: their own requests fail, all others go on."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from shards.checkpoint.source import SHIPPED
from tests.scenarios.processes import MeshProcess, World, wait_until

MAX_HEALTH = 1.0
MAX_MEMORY = 3 << 30
"""Of the gateway and its children: a call may take some hundred megabytes."""
MESSAGES = [{"role": "user", "content": "hi"}]
DIGITS = (
    "{% set n = messages|length * 4000000 %}{% set a = ('f' * n)|int(0, 16) %}{% set b = ('e' * (n // 2))|int(0, 16) %}"
)


@dataclass
class Health:
    """What /health said meanwhile."""

    slowest: float = 0.0
    asked: int = 0
    failures: list[str] = field(default_factory=list)
    memory: int = 0


@contextmanager
def watched(url: str, gateway: MeshProcess) -> Iterator[Health]:
    """Ask /health all the time, and look at the memory of the gateway and its children."""
    found, stop = Health(), threading.Event()

    def watch() -> None:
        process = psutil.Process(gateway.pid)
        with httpx.Client(base_url=url, timeout=60) as http:
            while not stop.wait(0.05):
                began = time.monotonic()
                answer = http.get("/health")
                found.slowest = max(found.slowest, time.monotonic() - began)
                found.asked += 1
                if answer.status_code != 200:
                    found.failures.append(answer.text[:200])
                held = 0
                for each in [process, *process.children(recursive=True)]:
                    try:
                        held += each.memory_info().rss
                    except psutil.NoSuchProcess:
                        continue
                found.memory = max(found.memory, held)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def _model(folder: Path, name: str) -> Path:
    path = folder / name
    shutil.copytree(SHIPPED / "tiny-python", path)
    (path / "mesh.manifest.json").unlink()
    return path


def _evil_template(folder: Path) -> Path:
    path = _model(folder, "evil-template")
    (path / "chat_template.jinja").write_text(DIGITS + "{{ 'x' if a // b else 'y' }}")
    return path


def _evil_tokenizer(folder: Path) -> Path:
    """Reads as any other; what it reads, it multiplies."""
    path = _model(folder, "evil-tokenizer")
    content = json.loads((path / "tokenizer.json").read_text())
    many = [{"type": "Replace", "pattern": {"String": "h"}, "content": "h" * 1000}] * 6
    content["normalizer"] = {"type": "Sequence", "normalizers": many}
    (path / "tokenizer.json").write_text(json.dumps(content))
    return path


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_strangers_announce_stops_neither_the_gateway_nor_another_model(world: World, tmp_path: Path) -> None:
    first = world.join("tiny-python", "--blocks", "0:8")
    peers = first.event("joined")["maddrs"][0]
    others = [world.join(make(tmp_path), "--blocks", "0:8", peers=peers) for make in (_evil_template, _evil_tokenizer)]
    for provider in (first, *others):
        provider.event("serving")
    gateway = world.start("gateway", "--port", "0", "--json", "--peers", peers)
    url = gateway.event("ready")["url"]
    with httpx.Client(base_url=url.removesuffix("/v1"), timeout=120) as http:

        def complete() -> set[str]:
            models = http.get("/mesh/status").json()["models"]
            return {model["id"] for model in models if model["complete"]}

        wait_until(lambda: len(complete()) == 3, "all three models are complete", seconds=60)

        def chat(model: str, **more: Any) -> httpx.Response:
            body = {"model": model, "messages": MESSAGES, "max_tokens": 4, "temperature": 0, **more}
            return http.post("/v1/chat/completions", json=body)

        honest = chat("tiny-python").json()["choices"]
        with watched(str(http.base_url), gateway) as health:
            for _ in range(2):
                answers = [chat("evil-template"), chat("evil-tokenizer")]
                assert chat("tiny-python").json()["choices"] == honest
                for answer in answers:
                    error = answer.json()["error"]
                    assert (answer.status_code, error["code"]) == (502, "model_error")
                    assert "broke the limits" in error["message"]
            _all_at_once(chat)
            began = time.monotonic()
            assert chat("tiny-python").json()["choices"] == honest
            assert time.monotonic() - began < 10

            # By now both have been set aside: no process is started for them, and it is said until when.
            aside = chat("evil-template")
            assert aside.status_code == 502 and "set aside" in aside.json()["error"]["message"]
            assert 1 <= int(aside.headers["Retry-After"]) <= 900

            plain = {"model": "evil-template", "prompt": [1, 2, 3], "max_tokens": 4}
            assert http.post("/v1/completions", json=plain).status_code == 200, "its ids become text all the same"
        assert health.asked > 20 and not health.failures
        assert health.slowest < MAX_HEALTH
        assert health.memory < MAX_MEMORY


def _all_at_once(chat: Any) -> None:
    """Twelve requests to models that break their limits: they may not take the places of others'."""
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda model=model: codes.append(chat(model).status_code))
        for model in ("evil-template", "evil-tokenizer") * 6
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) <= {502, 429} and len(codes) == 12
