"""A gateway pays for work that it has seen to be the model's: trials, audits in service, and what is held back."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.client.backend_config import BackendConfig
from mesh.client.generation import Patience
from mesh.client.trial_book import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MOST_VAIN,
    YOUNG,
    History,
    Subject,
    TrialBook,
    pause_after,
)
from mesh.client.trials import ANSWER, PROMPT, Verification, trial_size
from mesh.client.types import GenerateRequest
from mesh.errors import NoRoute
from mesh.payment.credit.terms import CreditTerms
from mesh.payment.credit.units import weighted_tokens
from mesh.verification.evidence import CAP, CONVICTED, SUSPECT
from shards.model.span import Span
from tests.mesh.payment.money import THREE, Money
from tests.mesh.swarm_in_memory import MODEL, MemorySwarm, memory_swarm, until
from tests.mesh.verification.test_audits import noisy, spoil

HASTY = BackendConfig(patience=Patience(attempts=1, route_seconds=0.5, resume_seconds=0.5))

pytestmark = pytest.mark.timeout(60)

TRIAL = weighted_tokens(*trial_size(64))
"""What one trial costs where providers give credit for 64 weighted tokens, as these do."""


def request(first: int = 3, tokens: int = 12) -> GenerateRequest:
    return GenerateRequest(MODEL, (first, 1, 4, 1, 5), tokens, ignore_eos=True)


ASKED = weighted_tokens(5, 12)


def held(swarm: MemorySwarm, number: int) -> int:
    """Units that a provider holds vouchers for."""
    assert swarm.money is not None
    return sum(slot.voucher_units for slot in swarm.money.journal(f"provider-{number}").slots("held"))


def history(swarm: MemorySwarm, number: int) -> History:
    """What the gateway knows of a provider's work."""
    assert swarm.verification is not None
    return next(iter(swarm.verification.book.all_of(f"provider-{number}").values()), History())


async def test_honest_providers_pass_one_trial_which_they_are_paid_for_like_any_session(folder: Path) -> None:
    async with memory_swarm(folder, THREE, money=Money()) as swarm:
        await swarm.generate(request())
        await swarm.generate(request(7))
        await until(lambda: all(held(swarm, n) == (TRIAL + 2 * ASKED) * len(THREE[n]) for n in range(3)))
        await swarm.backend.audits.finished()
        # One trial of all, and each session of young ones is audited.
        await until(lambda: sum(history(swarm, n).audits for n in range(3)) == 3 + 2)
        assert all(history(swarm, n).has_passed and not history(swarm, n).differing for n in range(3))


async def test_one_that_computes_something_else_is_never_routed_to_nor_paid_and_the_answer_is_the_models(
    folder: Path,
) -> None:
    async with memory_swarm(folder, THREE) as free:
        right = await free.generate(request())
    async with memory_swarm(folder, THREE, money=Money()) as swarm:
        cheat = await swarm.add(Span(2, 4), throughput=1e6)
        spoil(cheat.service, noisy(1e-3))
        answers = [await swarm.generate(request()) for _ in range(3)]
        assert {answer.tokens for answer in answers} == {right.tokens}
        assert all(cheat.peer not in {hop.peer for hop in answer.completion.route} for answer in answers)
        await until(lambda: history(swarm, 3).differing == 1)
        await until(lambda: all(held(swarm, n) >= ASKED * len(THREE[n]) for n in range(3)))
        assert held(swarm, 3) == 0
        assert history(swarm, 3).why.startswith("blocks 2:4 of") and not history(swarm, 3).is_barred


async def test_one_that_turns_bad_after_its_trial_is_found_by_its_next_session_and_nothing_more_is_signed(
    folder: Path,
) -> None:
    async with memory_swarm(folder, THREE, backend=HASTY, money=Money()) as swarm:
        await swarm.generate(request())
        await until(lambda: held(swarm, 0) == (TRIAL + ASKED) * 2)
        await swarm.backend.audits.finished()
        cheat = swarm.providers[0]
        spoil(cheat.service, noisy(1e-2))
        for first in range(40):  # each audits one of its hops, which are all young
            await swarm.generate(request(first))
            await swarm.backend.audits.finished()
            await asyncio.sleep(0.05)
            if history(swarm, 0).evidence > SUSPECT:
                break
        assert history(swarm, 0).differing == 1 and not history(swarm, 0).has_passed
        gained = held(swarm, 0)
        with pytest.raises(NoRoute, match="has not shown its work: blocks 0:2"):
            await swarm.generate(request(50))
        honest = await swarm.add(Span(0, 2))
        answer = await swarm.generate(request(51))
        assert honest.peer in {hop.peer for hop in answer.completion.route}
        assert held(swarm, 0) == gained
        assert all(history(swarm, n).differing == 0 for n in (1, 2))


async def test_a_gateway_that_starts_again_tries_nobody_that_has_passed(folder: Path, tmp_path: Path) -> None:
    money, path = Money(), tmp_path / "trials.sqlite"
    with TrialBook(path) as book:
        async with memory_swarm(folder, THREE, money=money) as swarm:
            assert swarm.verification is not None
            replayers = swarm.verification.replayers
            swarm.verification = Verification(book, replayers)
            await swarm.generate(request(), backend=await swarm.client(gateway="one"))
            await until(lambda: all(book.may_be_paid(f"provider-{n}") for n in range(3)))
    with TrialBook(path) as book:
        async with memory_swarm(folder, THREE, money=money) as swarm:  # the same accounts, new processes
            swarm.verification = Verification(book, replayers)
            await swarm.generate(request(), backend=await swarm.client(gateway="two"))
            signed = money.journal("two")
            await until(lambda: sum(slot.voucher_units for slot in signed.slots("issued")) == ASKED * 5)


async def test_without_the_weights_nobody_is_served_or_paid_unless_the_operator_says_so(folder: Path) -> None:
    async with memory_swarm(folder, THREE, money=Money()) as swarm:
        for serves, gateway in ((False, "one"), (True, "two")):
            with TrialBook() as book:
                swarm.verification = Verification(book, {}, serve_others=serves)
                backend = await swarm.client(gateway=gateway)
                if serves:
                    assert (await swarm.generate(request(), backend=backend)).tokens
                else:
                    with pytest.raises(NoRoute, match="this gateway has not its weights"):
                        await swarm.generate(request(), backend=backend)


async def test_a_later_turn_of_which_hops_have_the_beginning_already_is_audited_too(folder: Path) -> None:
    async with memory_swarm(folder, THREE, money=Money(terms=CreditTerms(1024, 1.0, 0.02))) as swarm:
        assert swarm.verification is not None
        audits, replayers = swarm.backend.audits, swarm.verification.replayers
        turn = GenerateRequest(MODEL, tuple((7 * n) % 290 for n in range(80)), 10, ignore_eos=True)

        async def outcomes() -> list[tuple[str, int]]:
            assert (await swarm.generate(turn)).completion.cached_tokens == 64
            session = audits.last
            assert session is not None
            here = replayers[session.plan.digest]
            found = [await audits.examine(session, hop, session.answer, here) for hop in session.hops]
            return [(verdict.outcome, verdict.positions) for verdict in found if verdict is not None]

        await swarm.generate(turn)
        assert await outcomes() == [("exact", 25)] * 3
        spoil(swarm.providers[1].service, noisy(1e-2))
        assert await outcomes() == [("exact", 25), ("differs", 25), ("exact", 25)]


async def test_one_that_shows_nothing_when_it_is_asked_is_passed_over_for_longer_each_time(folder: Path) -> None:
    money = Money(terms=CreditTerms(1024, 1.0, 0.02))
    async with memory_swarm(folder, (Span(0, 5),), backend=HASTY, money=money) as swarm:
        await swarm.generate(request())
        await until(lambda: history(swarm, 0).audits == 2)
        proving = swarm.providers[0].service._proving
        assert proving is not None
        sign = proving.close

        async def serves_without_records(times: int) -> None:
            proving.close = lambda *asked: []  # type: ignore[method-assign]
            for number in range(times):
                before = history(swarm, 0).vain
                while history(swarm, 0).vain == before:  # one hop is audited only so often
                    await swarm.generate(request(number))
                    await swarm.backend.audits.finished()
                    await asyncio.sleep(0.2)
            proving.close = sign  # type: ignore[method-assign]

        await serves_without_records(MOST_VAIN - 1)
        await swarm.generate(request(20))  # what it shows in service clears it
        await until(lambda: history(swarm, 0).vain == 0)
        await serves_without_records(MOST_VAIN)
        gained = held(swarm, 0)
        with pytest.raises(NoRoute, match=r"has not shown its work: .*there are no records"):
            await swarm.generate(request(50))
        history(swarm, 0).again_at = 0.0
        await asyncio.sleep(1.1)
        assert (await swarm.generate(request(51))).tokens
        await until(lambda: held(swarm, 0) > gained)
        assert history(swarm, 0).withheld == 1


def test_a_trial_that_is_passed_forgives_half_of_what_was_withheld_and_pauses_double() -> None:
    known = History()
    known.weigh(0.0, "", 0.0, in_trial=True)
    pauses, now = [], 0.0
    for _ in range(12):
        sessions = 0
        while known.has_passed:
            known.note_vain("", now, in_trial=False)
            sessions += 1
        pauses.append(known.again_at - now)
        assert sessions == (MOST_VAIN if len(pauses) == 1 else MOST_VAIN // 2)
        now = known.again_at
        known.weigh(0.0, "", now, in_trial=True)
    assert pauses == [pause_after(times) for times in range(1, 13)] and pauses[-1] == LONGEST_PAUSE
    assert not known.is_barred, "it is not known to be a cheat"


@pytest.mark.parametrize("credit", [1, 2, 7, 64, 1024, 1 << 32])
def test_a_trial_fits_into_half_of_a_providers_credit_or_is_as_small_as_there_is(credit: int) -> None:
    prompt, answer = trial_size(credit)
    assert 1 <= prompt <= PROMPT and 1 <= answer <= ANSWER
    assert weighted_tokens(prompt, answer) <= max(credit // 2, 5)


@given(st.lists(st.sampled_from([0.0, 0.5, CAP]), max_size=60))
@settings(max_examples=200)
def test_a_bar_needs_four_findings_more_than_what_cleared_it_and_passing_is_what_was_seen_last(
    found: list[Any],
) -> None:
    known = History()
    for number, ratio in enumerate(found):
        known.weigh(ratio, "", float(number), in_trial=number % 2 == 0)
        assert not (known.has_passed and known.is_barred)
        if ratio == CAP:
            assert not known.has_passed and known.again_at > number
    assert known.audits == len(found)
    if sum(ratio == CAP for ratio in found) < 4:
        assert known.evidence < CONVICTED
    if found and CAP not in found:
        assert known.has_passed
    assert known.is_young == (len(found) < YOUNG or not known.has_passed)


def test_four_audits_in_a_row_bar_a_provider_whatever_it_serves_then(tmp_path: Path) -> None:
    path = tmp_path / "book.sqlite"
    with TrialBook(path) as book:
        good, bad = Subject("ann", "d1", 0, 2), Subject("ann", "d2", 2, 4)
        book.weigh(good, 0.0, "exact", 1.0)
        assert book.may_be_paid("ann")
        for number in range(4):
            assert book.bar("ann") is None
            book.weigh(bad, CAP, f"differs {number}", 2.0)
            assert not book.may_be_paid("ann")
        assert book.bar("ann") == "differs 3"
    with TrialBook(path) as book:
        assert book.bar("ann") == "differs 3" and book.bar("bob") is None
        assert book.of(good).has_passed and not book.may_be_paid("bob")


def test_pauses_between_trials_double_so_that_nobody_lives_on_trials() -> None:
    pauses = [pause_after(times) for times in range(40)]
    assert pauses[0] == pauses[1] == FIRST_PAUSE and pauses[-1] == LONGEST_PAUSE
    assert all(other >= one for one, other in pairwise(pauses))
    day, times = 0.0, 0
    while day < 86_400:
        day, times = day + pause_after(times), times + 1
    assert times < 35
