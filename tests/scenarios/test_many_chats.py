"""Many chats at once without max_tokens: memory is given as answers grow, so all are taken in and all are answered."""

from __future__ import annotations

import asyncio

from mesh.client.client import Client
from tests.scenarios.processes import Swarm, wait_until

CHATS = 32


async def test_32_chats_at_once_without_max_tokens_are_all_answered_as_each_would_be_alone(swarm: Swarm):
    # Each may grow to the model's context of 512 tokens, twice as much together as the 512 pages of a provider hold.
    asked = [[{"role": "user", "content": f"tell me about span {number}"}] for number in range(CHATS)]
    async with Client(peers=[swarm.address]) as client:
        answers = await asyncio.gather(*(client.chat("llama", messages, temperature=0.0) for messages in asked))
        assert len(answers) == CHATS
        assert all(answer.completion.finish_reason in ("stop", "length") for answer in answers)
        assert max(len(answer.tokens) for answer in answers) > 100
        for number in (0, 13, 31):
            alone = await client.chat("llama", asked[number], temperature=0.0)
            assert alone.text == answers[number].text

    def empty() -> bool:
        (model,) = swarm.world.status(swarm.address)
        return not sum(provider["sessions"] for provider in model["providers"])

    wait_until(empty, "no session is left")
