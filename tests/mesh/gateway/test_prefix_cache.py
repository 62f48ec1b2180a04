"""What hops keep of one caller's prompts answers that caller's next turn and nobody else's: a gateway over a swarm."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn

from mesh.gateway.app import create_app
from mesh.gateway.config import GatewayConfig
from mesh.gateway.serve import server_config
from shards.model.span import Span
from tests.mesh.swarm_in_memory import MODEL, memory_swarm, until
from tests.shards.stages import random_tokens

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(60)

SPANS = (Span(0, 2), Span(2, 4), Span(4, 5))
PROMPT = random_tokens(100)
NEW = 12


@asynccontextmanager
async def gateway(folder: Path, *keys: str) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway with these keys, on a loopback port, over a swarm in memory."""
    async with memory_swarm(folder, SPANS) as swarm:
        server = uvicorn.Server(server_config(create_app(swarm.backend, GatewayConfig(api_keys=frozenset(keys)))))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            serving = asyncio.create_task(server.serve([listener]))
            try:
                await until(lambda: server.started)
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                async with httpx.AsyncClient(base_url=url, timeout=30) as http:
                    yield http
            finally:
                server.should_exit = True
                await serving


async def ask(http: httpx.AsyncClient, key: str, prompt: list[int]) -> tuple[list[int], int]:
    """The answer's tokens, and how many tokens of the prompt no hop had kept."""
    body: dict[str, Any] = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": NEW,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = (await http.post("/v1/completions", json=body, headers=headers)).raise_for_status().json()
    report = (await http.get(f"/mesh/requests/{answer['id']}", headers=headers)).raise_for_status().json()
    (work,) = {hop["tokens"] for hop in report["choices"][0]["route"]}
    return answer["choices"][0]["token_ids"], work - (NEW - 1)


async def test_a_second_turn_is_answered_from_the_first_and_nobody_elses_prompt_is(folder: Path) -> None:
    async with gateway(folder, "sk-ann", "sk-bob") as http:
        first, run = await ask(http, "sk-ann", PROMPT)
        assert run == 100
        assert await ask(http, "sk-bob", PROMPT) == (first, 100), "the other key finds nothing of it"
        turn = [*PROMPT, *first, *random_tokens(9, seed=2)]
        second, run = await ask(http, "sk-ann", turn)
        assert run == len(turn) - 96, "the same key finds all full pages"
        assert await ask(http, "sk-bob", turn) == (second, len(turn) - 96), "bob has his own from his first turn"
        assert (await ask(http, "sk-bob", random_tokens(100, seed=3)))[1] == 100


async def test_without_keys_an_address_is_a_caller(folder: Path) -> None:
    async with gateway(folder) as http:
        assert [(await ask(http, "", PROMPT))[1] for _ in range(2)] == [100, 4]
        assert [(await ask(http, f"sk-made-up-{number}", PROMPT))[1] for number in range(2)] == [4, 4]
