"""A prompt of 8,000 tokens through real processes: a short chat beside it is answered as promptly as ever."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import httpx
import pytest

from tests.scenarios.processes import World, start_stages
from tests.shards.models import make_checkpoint

LONG = 8000


def first_token(http: httpx.Client, model: str) -> float:
    """Seconds to the first token of a short chat."""
    body = {"model": model, "prompt": "def add", "max_tokens": 8, "stream": True, "ignore_eos": True}
    began, first = time.monotonic(), 0.0
    with http.stream("POST", "/completions", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("data: {") and not first:
                assert "error" not in json.loads(line[6:])
                first = time.monotonic() - began
    return first


@pytest.mark.slow
def test_a_short_chat_beside_a_long_prompt_waits_no_longer_than_a_second(world: World, tmp_path: Path):
    model = make_checkpoint(tmp_path / "llama", "llama", context_length=LONG + 200, hidden_size=192, n_blocks=8)
    swarm = start_stages(world, model, ["0:4", "4:8"]).wait_serving()
    url = world.start("gateway", "--port", "0", "--json", "--peers", swarm.address).event("ready")["url"]
    done = threading.Event()
    seconds: list[float] = []
    with httpx.Client(base_url=url, timeout=240, trust_env=False) as http:

        def ask_long() -> None:
            began = time.monotonic()
            body = {"model": swarm.model, "prompt": [5] * LONG, "max_tokens": 1}
            answer = http.post("/completions", json=body)
            assert answer.status_code == 200, answer.text
            seconds.append(time.monotonic() - began)
            done.set()

        first_token(http, swarm.model)
        quiet = median(first_token(http, swarm.model) for _ in range(5))
        long = threading.Thread(target=ask_long)
        long.start()
        time.sleep(0.5)
        beside = list(until(done, http, swarm.model))
        long.join()
    assert seconds and beside, "the long prompt was over too soon"
    assert max(beside) <= 2 * quiet + 1.0, (quiet, beside, seconds)


def until(done: threading.Event, http: httpx.Client, model: str) -> Iterator[float]:
    """First tokens of chats that begin and end while the long prompt runs."""
    while True:
        seconds = first_token(http, model)
        if done.is_set():
            return
        yield seconds
