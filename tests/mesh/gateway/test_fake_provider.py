"""A provider without a model at a paid gateway: what the gateway owes is what the developer was charged for."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
import torch

from mesh.client.trial_book import TrialBook
from tests.mesh.gateway.fake_provider import PRICE, Play, Served, served_by_fake
from tests.mesh.swarm_in_memory import until
from tests.shards.models import make_checkpoint

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(60)

WINDOW = 64
NEVER = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def cost(prompt: int, generated: int) -> int:
    return PRICE * (prompt + 4 * generated)


def books_agree(served: Served, expected: int) -> None:
    assert served.charged == expected
    assert served.vouched == expected


async def test_a_route_that_fails_before_its_first_token_is_owed_nothing_however_often_it_is_tried(
    folder: Path,
) -> None:
    async with served_by_fake(folder, Play(progress=True, tokens=0)) as served:
        answer = await served.ask(40, 8)
        assert answer.status_code == 502
        assert served.fake.sessions >= 8
        books_agree(served, 0)


async def test_an_answer_in_one_piece_that_fails_at_its_last_token_is_charged_and_owed_alike(folder: Path) -> None:
    async with served_by_fake(folder, Play(tokens=39), Play(tokens=0)) as served:
        answer = await served.ask(8, 40)
        assert answer.status_code == 200
        said = answer.json()
        assert said["choices"][0]["finish_reason"] == "error" and len(said["choices"][0]["token_ids"]) == 39
        books_agree(served, cost(8, 39))


async def test_an_answer_that_goes_on_after_failures_costs_its_prompt_once(folder: Path) -> None:
    plays = (Play(progress=True, tokens=0), Play(tokens=3), Play(tokens=0), Play(tokens=5), Play(fails=False))
    async with served_by_fake(folder, *plays) as served:
        answer = await served.ask(30, 20)
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["finish_reason"] == "length"
        assert served.fake.sessions == 5
        assert served.charged == cost(30, 20)
        # It claims more than its work: prompts again on every route. Signed is what tokens bear out.
        assert served.vouched == cost(30, 20)


async def test_tokens_after_one_that_cannot_be_are_owed_to_nobody(folder: Path) -> None:
    spoils = Play(at_once=True, token=lambda position: NEVER if position == 12 else 7)
    async with served_by_fake(folder, spoils, attempts=3) as served:
        answer = await served.ask(10, 50)
        assert answer.json()["error"]["code"] == "peer_error"
        assert len(answer.json()["choices"][0]["token_ids"]) == 2
        books_agree(served, cost(10, 2))


def makes_up(*, commits: bool) -> Play:
    draw = random.Random(1)
    return Play(token=lambda position: draw.randrange(5, 60), fails=False, commits=commits)


@pytest.mark.parametrize("commits", [False, True], ids=["no records", "records of what it made up"])
async def test_tokens_that_no_model_said_are_neither_paid_nor_charged_for_nor_seen(folder: Path, commits: bool) -> None:
    async with served_by_fake(folder, makes_up(commits=commits), unverified=False) as served:
        for _ in range(2):
            answer = await served.ask(20, 30)
            assert answer.status_code == 503
            assert "has not shown its work" in answer.json()["error"]["message"]
        assert served.fake.sessions == 1, "one trial, and the next one in a while"
        books_agree(served, 0)
        history = next(iter(book_of(served).all_of("fake").values()))
        assert (history.differing, history.failed) == ((1, 0) if commits else (0, 1))


async def test_a_provider_whose_trials_all_differ_is_barred_for_good_though_its_stake_stands(folder: Path) -> None:
    async with served_by_fake(folder, makes_up(commits=True), unverified=False) as served:
        await served.ask(20, 30)
        subject = next(iter(book_of(served).all_of("fake")))
        for _ in range(3):
            book_of(served).of(subject).again_at = 0.0
            await asyncio.sleep(1.1)  # between two rounds of trials
            await served.ask(20, 30)
        assert served.fake.sessions == 4 and book_of(served).bar("fake")
        served.swarm.backend.issuer.vetting.ids.clear()  # type: ignore[union-attr]
        answer = await served.ask(20, 30)
        assert answer.status_code in (404, 503), answer.text
        assert served.fake.sessions == 4
        books_agree(served, 0)


async def test_an_operator_who_says_so_pays_for_what_nobody_has_verified(folder: Path) -> None:
    async with served_by_fake(folder, makes_up(commits=False), unverified=True) as served:
        answer = await served.ask(20, 30)
        assert answer.status_code == 200
        books_agree(served, cost(20, 30))


def book_of(served: Served) -> TrialBook:
    assert served.swarm.verification is not None
    return served.swarm.verification.book


@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_that_runs_ahead_of_the_window_is_owed_and_the_developer_charged_only_up_to_it(
    folder: Path, stream: bool
) -> None:
    async with served_by_fake(folder, Play(at_once=True, fails=False), attempts=1) as served:
        await served.ask(4, 150, stream=stream)
        assert served.charged == served.vouched
        assert served.charged >= cost(4, WINDOW)
        await served.ask(4, 150, stream=stream)
        assert served.charged == served.vouched


async def leaves_within_the_prompt(served: Served, **changes: object) -> None:
    """Ask, and go away once the provider has the prompt."""
    asking = asyncio.create_task(served.ask(50, 20, **changes))
    await until(lambda: served.fake.sessions == 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_while_its_prompt_is_run_pays_for_it_when_the_first_token_is_there(
    folder: Path, stream: bool
) -> None:
    """Else who sends long prompts and leaves has the hops work for nothing, and the gateway look like a debtor."""
    async with served_by_fake(folder, Play(prefill=0.6, progress=True, tokens=1, fails=False)) as served:
        await leaves_within_the_prompt(served, stream=stream)
        await until(lambda: served.vouched >= cost(50, 1))
        books_agree(served, cost(50, 1))


async def test_who_leaves_a_route_that_then_fails_pays_nothing(folder: Path) -> None:
    async with served_by_fake(folder, Play(prefill=0.6, tokens=0)) as served:
        await leaves_within_the_prompt(served)
        await asyncio.sleep(0.8)
        books_agree(served, 0)
        assert served.fake.sessions == 1


async def test_a_prompt_that_is_called_resumed_is_owed_and_charged_as_a_prompt(folder: Path) -> None:
    async with served_by_fake(folder, Play(fails=False)) as served:
        answer = await served.ask(1, 80, resume_token_ids=[7] * 60)
        assert answer.status_code == 200
        assert len(answer.json()["choices"][0]["token_ids"]) == 20
        books_agree(served, cost(61, 20))
        refused = await served.ask(1, 80, resume_token_ids=[7] * 60, presence_penalty=0.5)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "resume_token_ids")


async def test_what_is_resumed_with_a_ticket_is_neither_charged_nor_owed_again(folder: Path) -> None:
    plays = (Play(tokens=5), Play(tokens=0), Play(tokens=0), Play(tokens=0), Play(fails=False))
    async with served_by_fake(folder, *plays, attempts=3) as served:
        said = (await served.ask(30, 20)).json()
        assert len(said["choices"][0]["token_ids"]) == 5
        served.fake.sessions = 4
        answer = await served.ask(
            30, 20, resume_token_ids=said["choices"][0]["token_ids"], resume_ticket=said["resume_ticket"]
        )
        assert len(answer.json()["choices"][0]["token_ids"]) == 15
        books_agree(served, cost(30, 20))
