"""Memory that is merely taken does not keep others out: shares, deadlines, and who has to go when there is no room."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from mesh.provider.sessions import (
    LAPSE_SECONDS,
    MOST_LAPSED,
    AdmissionLimits,
    HopSession,
    NotAdmitted,
    SessionTable,
)
from tests.mesh.provider.test_sessions import facts, opening

LIMITS = AdmissionLimits(sessions=8, sessions_per_client=8, kv_bytes=8_000, idle_seconds=60.0, unfed_seconds=20.0)
SIZE = 25
"""Tokens of a session of a thousand bytes."""


def identity(number: int) -> bytes:
    return number.to_bytes(16, "big")


def lapse(table: SessionTable, gone: list[HopSession], now: float) -> list[str]:
    """End sessions as the service does; whose they were."""
    for each in gone:
        table.lapse(each, now)
        table.close(each.id, each.client)
    return [each.client for each in gone]


def fill(table: SessionTable, clients: str, *, fed: bool = False, now: float = 0.0) -> None:
    """One session for each client named, of an eighth of the memory."""
    for number, client in enumerate(clients):
        session = identity(100 + number)
        table.admit(opening(session, capacity=SIZE), client, now)
        if fed:
            table.prompt(session, client, 8, now)


def make_room(table: SessionTable, client: str, now: float, *, capacity: int = SIZE) -> list[str]:
    """Who had to go for a session of `client`, which then fits (or `NotAdmitted` is raised)."""
    request = opening(identity(1), capacity=capacity)
    gone = lapse(table, table.in_the_way(request, client, now), now)
    table.admit(request, client, now)
    return gone


def test_with_room_nobody_has_to_go() -> None:
    table = SessionTable(facts(), LIMITS)
    fill(table, "aaa")
    assert make_room(table, "honest", 1000.0) == []


def test_a_session_that_was_opened_and_never_used_makes_room_after_a_grace() -> None:
    table = SessionTable(facts(), LIMITS)
    fill(table, "aaaaabbc")
    with pytest.raises(NotAdmitted):
        make_room(table, "honest", LIMITS.unfed_grace - 0.1)
    assert make_room(table, "honest", LIMITS.unfed_grace + 0.1) == ["a"], "of whoever holds most"


def test_as_many_have_to_go_as_the_newcomer_needs_and_no_more() -> None:
    table = SessionTable(facts(), LIMITS)
    fill(table, "abcdefgh")
    assert make_room(table, "honest", 6.0, capacity=2 * SIZE + 1) == ["a", "b", "c"], "the oldest first"


def test_many_names_do_not_help_who_takes_memory_and_does_not_use_it() -> None:
    table = SessionTable(facts(), LIMITS)
    fill(table, "abcdefgh")
    for round_ in range(20):
        now = 10.0 * (round_ + 1)
        request = opening(identity(500 + round_), capacity=SIZE)
        gone = lapse(table, table.in_the_way(request, "honest", now), now)
        assert len(gone) <= 1
        table.admit(request, "honest", now)
        table.prompt(request.session, "honest", 8, now)
        table.close(request.session, "honest")
        for number, client in enumerate("abcdefgh"):
            with suppress(NotAdmitted):
                table.admit(opening(identity(900 + 10 * round_ + number), capacity=SIZE), client, now)


def test_who_let_sessions_lapse_pushes_nobody_out_and_gets_less_for_a_while() -> None:
    table = SessionTable(facts(), LIMITS)
    fill(table, "aaaabbbb")
    lapse(table, table.in_the_way(opening(identity(1), capacity=4 * SIZE), "honest", 3.0), 3.0)
    assert table.lapses("a", 3.0) == 4.0 and not table.lapses("b", 3.0)
    assert table.in_the_way(opening(identity(1), capacity=8 * SIZE), "a", 3.0) == []
    table.admit(opening(identity(1), capacity=SIZE), "a", 3.0)
    with pytest.raises(NotAdmitted, match="15%"):
        table.admit(opening(identity(2), capacity=SIZE), "a", 3.0)
    table.admit(opening(identity(2), capacity=SIZE), "a", 3.0 + 2 * LAPSE_SECONDS)


def test_an_ordinary_silence_is_no_lapse() -> None:
    table = SessionTable(facts(), LIMITS)
    fill(table, "a", fed=True)
    lapse(table, table.idle(1000.0), 1000.0)
    assert not table.lapses("a", 1000.0) and not len(table)


def test_how_many_lapsed_clients_are_remembered_is_bounded() -> None:
    table = SessionTable(facts(), LIMITS)
    for number in range(MOST_LAPSED + 10):
        session = table.admit(opening(identity(1), capacity=SIZE), f"client {number}", 0.0)
        lapse(table, [session], 0.0)
    assert len(table._lapsed) == MOST_LAPSED


def test_a_session_at_work_is_never_in_the_way() -> None:
    table = SessionTable(facts(), LIMITS)
    fill(table, "aaaaaac", fed=True)
    fill_one = opening(identity(50), capacity=SIZE)
    table.admit(replace(fill_one), "b", 0.0)
    table.prompt(fill_one.session, "b", 8, 0.0)
    with pytest.raises(NotAdmitted):
        make_room(table, "honest", LIMITS.idle_grace - 1)


def test_a_silent_session_makes_room_for_who_holds_less_than_its_owner() -> None:
    table = SessionTable(facts(), LIMITS)
    fill(table, "aaaaaabb", fed=True)
    late = LIMITS.idle_grace + 1
    assert make_room(table, "honest", late) == ["a"]
    table = SessionTable(facts(), LIMITS)
    fill(table, "aaaaabbb", fed=True)
    with pytest.raises(NotAdmitted):
        make_room(table, "a", late)


def test_nobody_has_to_go_for_a_session_that_would_not_fit_anyway() -> None:
    table = SessionTable(facts(), LIMITS)
    fill(table, "aaaaaac", fed=True)
    table.admit(opening(identity(50), capacity=SIZE), "b", 0.0)
    assert table.in_the_way(opening(identity(1), capacity=3 * SIZE), "honest", 10.0) == []
    assert table.in_the_way(opening(identity(1), capacity=20 * SIZE), "honest", 10.0) == []
    assert table.in_the_way(opening(identity(1), start=1, end=1), "honest", 10.0) == []


def test_places_are_made_like_memory() -> None:
    table = SessionTable(facts(), replace(LIMITS, kv_bytes=1 << 20, sessions=4))
    fill(table, "aabb")
    assert make_room(table, "honest", 6.0) == ["a"]


def test_one_client_leaves_a_part_of_the_cache_to_others_but_a_large_session_may_take_all() -> None:
    table = SessionTable(facts(), LIMITS)
    fill(table, "aaaaaa")
    with pytest.raises(NotAdmitted, match="75%") as caught:
        table.admit(opening(identity(1), capacity=SIZE), "a", 0.0)
    assert caught.value.code == "quota"
    table.admit(opening(identity(1), capacity=SIZE), "b", 0.0)

    table = SessionTable(facts(), LIMITS)
    table.admit(opening(identity(1), capacity=8 * SIZE), "a", 0.0)


def test_a_session_that_never_gets_a_token_ends_sooner_than_one_that_is_silent() -> None:
    table = SessionTable(facts(), LIMITS)
    table.admit(opening(identity(1), capacity=SIZE), "a", 0.0)
    table.admit(opening(identity(2), capacity=SIZE), "a", 0.0)
    table.prompt(identity(2), "a", 8, 0.0)

    assert [each.id for each in table.idle(20.1)] == [identity(1)]
    assert [each.id for each in table.idle(60.1)] == [identity(1), identity(2)]


def test_extending_a_session_is_no_sign_of_life() -> None:
    table = SessionTable(facts(), LIMITS)
    table.admit(opening(identity(2), capacity=SIZE), "a", 0.0)
    table.prompt(identity(2), "a", 8, 0.0)
    for now in range(1, 61):
        table.extend(identity(2), "a", 10 + now, float(now))
    assert [each.id for each in table.idle(60.1)] == [identity(2)]
