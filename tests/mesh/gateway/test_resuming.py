"""What is run again after a failure is free for those who paid for it here: by the gateway's ticket, not by a label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.payment.accounts.resume_tickets import (
    LIFETIME_SECONDS,
    MAX_TIMES,
    ResumeTicket,
    prefix_hash,
    read_ticket,
)
from tests.mesh.gateway.paid import ANN, BOB, Paid, serving_paid
from tests.mesh.gateway.test_billing import ASK, PROMPT_TOKENS, ask, cost, error_of, events

BODY: dict[str, Any] = {**ASK, "model": "lost-midway", "max_tokens": 20, "return_token_ids": True}


@pytest.fixture
def paid() -> Iterator[Paid]:
    with serving_paid() as running:
        yield running


@pytest.fixture
def key(paid: Paid) -> str:
    made = paid.key()
    paid.pay(made, 10**17)
    return made


def charged(paid: Paid, key: str) -> int:
    return int(paid.account(key)["charged"])


def fail(paid: Paid, key: str, *, stream: bool = False, **changes: Any) -> dict[str, Any]:
    """A request that fails after three tokens: what is sent to go on."""
    answer = ask(paid, key, **{**BODY, **changes}, stream=stream)
    if stream:
        got = events(answer)
        ids = [token for each in got[:-1] for token in each["choices"][0].get("token_ids") or ()]
        ticket = got[-1]["resume_ticket"]
    else:
        ids, ticket = answer.json()["choices"][0]["token_ids"], answer.json()["resume_ticket"]
    assert len(ids) == 3
    return {**BODY, **changes, "resume_token_ids": ids, "resume_ticket": ticket}


def repair(paid: Paid) -> None:
    """From now on the model does not fail."""
    paid.backend.behaviours["lost-midway"] = replace(paid.backend.behaviours["lost-midway"], failure=None)


@pytest.mark.parametrize("stream", [False, True])
def test_with_its_ticket_only_new_tokens_are_charged(paid: Paid, key: str, stream: bool) -> None:
    again = fail(paid, key, stream=stream)
    before = charged(paid, key)
    assert before == cost(PROMPT_TOKENS, 3)
    repair(paid)
    assert ask(paid, key, **again).status_code == 200
    assert charged(paid, key) - before == cost(0, 20)
    assert paid.backend.requests[-1].resumed_paid


def test_without_a_ticket_what_is_resumed_from_is_a_prompt_whatever_it_is_called(paid: Paid, key: str) -> None:
    again = fail(paid, key)
    del again["resume_ticket"]
    before = charged(paid, key)
    repair(paid)
    assert ask(paid, key, **again).status_code == 200
    assert charged(paid, key) - before == cost(PROMPT_TOKENS + 3, 20)
    assert not paid.backend.requests[-1].resumed_paid
    label = {**BODY, "prompt": "x", "max_tokens": 200, "resume_token_ids": [100] * 100}
    before = charged(paid, key)
    assert ask(paid, key, **label).status_code == 200
    assert charged(paid, key) - before == cost(2 + 100, 200)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "the swarn"},
        {"resume_token_ids": [1, 2, 3]},
        {"resume_token_ids": None},
        {"model": "echo"},
        {"n": 2, "resume_token_ids": None},
        {"resume_ticket": ""},
        {"resume_ticket": "é" * 500},
        {"resume_ticket": "A" * 228},
    ],
)
def test_a_ticket_is_for_its_model_and_tokens_and_a_bad_one_is_refused(
    paid: Paid, key: str, changes: dict[str, Any]
) -> None:
    again = fail(paid, key)
    repair(paid)
    before = charged(paid, key)
    assert error_of(ask(paid, key, **{**again, **changes})) == (400, "invalid_resume_ticket")
    assert charged(paid, key) == before
    assert ask(paid, key, **again).status_code == 200, "it is still good for what it was made for"


def test_a_ticket_is_for_its_account_for_a_while_and_for_one_time(paid: Paid, key: str) -> None:
    paid.chain.deposit(BOB, 10**18)
    other = paid.key(BOB)
    paid.pay(other, 10**17, BOB)
    again = fail(paid, key)
    repair(paid)
    assert error_of(ask(paid, other, **again)) == (400, "invalid_resume_ticket")
    clock = paid.billing.clock
    paid.billing.clock = lambda: clock() + LIFETIME_SECONDS + 2
    assert error_of(ask(paid, key, **again)) == (400, "invalid_resume_ticket")
    paid.billing.clock = clock
    assert ask(paid, key, **again).status_code == 200
    assert error_of(ask(paid, key, **again)) == (400, "invalid_resume_ticket")


def test_a_ticket_of_which_nothing_came_may_be_used_again(paid: Paid, key: str) -> None:
    again = fail(paid, key)
    broken = paid.backend.behaviours["lost-midway"]
    paid.backend.behaviours["lost-midway"] = replace(broken, fails_at=0)
    for _ in range(3):
        assert ask(paid, key, **again).status_code == 502
    repair(paid)
    assert ask(paid, key, **again).status_code == 200


def test_an_answer_is_run_again_for_nothing_only_so_often(paid: Paid, key: str) -> None:
    again = fail(paid, key)
    for left in reversed(range(MAX_TIMES)):
        said = ask(paid, key, **again).json()
        assert ("resume_ticket" in said) is (left > 0)
        again["resume_token_ids"] += said["choices"][0]["token_ids"]
        again["resume_ticket"] = said.get("resume_ticket")
    assert charged(paid, key) == cost(PROMPT_TOKENS, 3 * (1 + MAX_TIMES))


def test_who_ran_out_of_credit_gets_no_ticket_nor_does_an_answer_of_several_choices(paid: Paid) -> None:
    key = paid.key(ANN)
    paid.pay(key, cost(PROMPT_TOKENS, 6))
    said = ask(paid, key, max_tokens=50, return_token_ids=True).json()
    assert said["error"]["code"] == "insufficient_funds" and "resume_ticket" not in said
    paid.pay(key, 10**17)
    assert "resume_ticket" not in ask(paid, key, **{**BODY, "n": 2}).json()


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**128 - 1), st.integers(0, 255), st.data())
def test_a_ticket_that_is_altered_anywhere_is_none(secret: bytes, wei: int, times: int, data: st.DataObject) -> None:
    made = ResumeTicket(b"r" * 16, b"p" * 20, b"m" * 32, prefix_hash([1], [2]), wei, 1 << 40, times)
    text = made.sealed(secret)
    assert read_ticket(text, secret) == made
    assert read_ticket(text, bytes(32) if secret != bytes(32) else b"\1" * 32) is None
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("ABCDwxyz0189-_=\0 é").filter(lambda each: each != text[at]))
    assert read_ticket(text[:at] + other + text[at + 1 :], secret) is None
    assert read_ticket(text[:at], secret) is None


@given(st.lists(st.integers(0, 9), max_size=6), st.lists(st.integers(0, 9), max_size=6))
def test_where_the_prompt_ends_is_part_of_a_prefix(prompt: list[int], answered: list[int]) -> None:
    tokens = prompt + answered
    hashes = {prefix_hash(tokens[:cut], tokens[cut:]) for cut in range(len(tokens) + 1)}
    assert len(hashes) == len(tokens) + 1
