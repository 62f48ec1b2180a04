"""Memory that is merely taken does not keep others out: shares, deadlines, and who has to go when there is no room."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from msgspec.structs import replace as change

from mesh.provider.stage.admission import (
    LAPSE_SECONDS,
    MOST_LAPSED,
    AdmissionLimits,
    NotAdmitted,
    SessionTable,
)
from mesh.provider.stage.session import StageSession
from mesh.wire.messages import OpenSession
from tests.mesh.provider.test_sessions import PAGE_BYTES, facts, opening

LIMITS = AdmissionLimits(
    sessions=8, sessions_per_client=8, kv_bytes=9 * PAGE_BYTES, idle_seconds=60.0, unfed_seconds=20.0
)


def asking(session: bytes, pages: int = 1) -> OpenSession:
    """A session that begins with so many full pages."""
    return opening(session, fed=16 * pages, capacity=16 * pages + 1)


def identity(number: int) -> bytes:
    return number.to_bytes(16, "big")


def lapse(table: SessionTable, gone: list[StageSession], now: float) -> list[str]:
    """End sessions as the service does; whose they were."""
    for each in gone:
        table.lapse(each, now)
        table.close(each.id, each.client)
    return [each.client for each in gone]


def fill(table: SessionTable, clients: str, *, fed: bool = False, now: float = 0.0) -> None:
    """One session for each client named, of one page; with the eighth all are taken but the spare one."""
    for number, client in enumerate(clients):
        session = identity(100 + number)
        table.admit(asking(session), client, now)
        if fed:
            table.prompt(session, client, 16, now)


def make_room(table: SessionTable, client: str, now: float, *, pages: int = 1) -> list[str]:
    """Who had to go for a session of `client`, which then fits (or `NotAdmitted` is raised)."""
    request = asking(identity(1), pages)
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
    assert make_room(table, "honest", 6.0, pages=3) == ["a", "b", "c"], "the oldest first"


def test_many_names_do_not_help_who_takes_memory_and_does_not_use_it() -> None:
    table = SessionTable(facts(), LIMITS)
    fill(table, "abcdefgh")
    for round_ in range(20):
        now = 10.0 * (round_ + 1)
        request = asking(identity(500 + round_))
        gone = lapse(table, table.in_the_way(request, "honest", now), now)
        assert len(gone) <= 1
        table.admit(request, "honest", now)
        table.prompt(request.session, "honest", 16, now)
        table.close(request.session, "honest")
        for number, client in enumerate("abcdefgh"):
            with suppress(NotAdmitted):
                table.admit(asking(identity(900 + 10 * round_ + number)), client, now)


def test_who_let_sessions_lapse_pushes_nobody_out_and_gets_less_for_a_while() -> None:
    table = SessionTable(facts(), LIMITS)
    fill(table, "aaaabbbb")
    lapse(table, table.in_the_way(asking(identity(1), 4), "honest", 3.0), 3.0)
    assert table.lapses("a", 3.0) == 4.0 and not table.lapses("b", 3.0)
    assert table.in_the_way(asking(identity(1), 8), "a", 3.0) == []
    table.admit(asking(identity(1)), "a", 3.0)
    with pytest.raises(NotAdmitted, match="15%"):
        table.admit(asking(identity(2)), "a", 3.0)
    table.admit(asking(identity(2)), "a", 3.0 + 2 * LAPSE_SECONDS)


def test_an_ordinary_silence_is_no_lapse() -> None:
    table = SessionTable(facts(), LIMITS)
    fill(table, "a", fed=True)
    lapse(table, table.idle(1000.0), 1000.0)
    assert not table.lapses("a", 1000.0) and not len(table)


def test_how_many_lapsed_clients_are_remembered_is_bounded() -> None:
    table = SessionTable(facts(), LIMITS)
    for number in range(MOST_LAPSED + 10):
        session = table.admit(asking(identity(1)), f"client {number}", 0.0)
        lapse(table, [session], 0.0)
    assert len(table._lapsed) == MOST_LAPSED


def test_a_session_at_work_is_never_in_the_way() -> None:
    table = SessionTable(facts(), LIMITS)
    fill(table, "aaaaaac", fed=True)
    fill_one = asking(identity(50))
    table.admit(change(fill_one), "b", 0.0)
    table.prompt(fill_one.session, "b", 16, 0.0)
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
    table.admit(asking(identity(50)), "b", 0.0)
    assert table.in_the_way(asking(identity(1), 3), "honest", 10.0) == []
    assert table.in_the_way(asking(identity(1), 20), "honest", 10.0) == []
    assert table.in_the_way(opening(identity(1), start=1, end=1), "honest", 10.0) == []


def test_places_are_made_like_memory() -> None:
    table = SessionTable(facts(), replace(LIMITS, kv_bytes=1000 * PAGE_BYTES, sessions=4))
    fill(table, "aabb")
    assert make_room(table, "honest", 6.0) == ["a"]


def test_one_client_leaves_a_part_of_the_cache_to_others_but_a_large_session_may_take_all() -> None:
    table = SessionTable(facts(), LIMITS)
    fill(table, "aaaaaa")
    with pytest.raises(NotAdmitted, match="75%") as caught:
        table.admit(asking(identity(1)), "a", 0.0)
    assert caught.value.code == "quota"
    table.admit(asking(identity(1)), "b", 0.0)

    table = SessionTable(facts(), LIMITS)
    table.admit(asking(identity(1), 8), "a", 0.0)


def test_a_session_that_never_gets_a_token_ends_sooner_than_one_that_is_silent() -> None:
    table = SessionTable(facts(), LIMITS)
    table.admit(asking(identity(1)), "a", 0.0)
    table.admit(asking(identity(2)), "a", 0.0)
    table.prompt(identity(2), "a", 16, 0.0)

    assert [each.id for each in table.idle(20.1)] == [identity(1)]
    assert [each.id for each in table.idle(60.1)] == [identity(1), identity(2)]


def test_extending_a_session_is_no_sign_of_life() -> None:
    table = SessionTable(facts(), LIMITS)
    table.admit(asking(identity(2)), "a", 0.0)
    table.prompt(identity(2), "a", 16, 0.0)
    for now in range(1, 61):
        table.extend(identity(2), "a", 10 + now, float(now))
    assert [each.id for each in table.idle(60.1)] == [identity(2)]


def grow(table: SessionTable, session: bytes, tokens: int, now: float) -> None:
    """Tokens come one after another until there are so many."""
    entry = table.get(session)
    assert entry is not None
    for position in range(entry.expected, tokens):
        table.arrive(session, "prev", position, 1, now)


def grown(clients: str, tokens: int) -> SessionTable:
    """A table of nine pages with a session for each client named, in order, grown to so many tokens each."""
    table = SessionTable(facts(), LIMITS)
    for number, client in enumerate(clients):
        table.admit(change(asking(identity(number)), capacity=120, limit=120), client, float(number))
        table.prompt(identity(number), client, 16, float(number))
    for number in range(len(clients)):
        grow(table, identity(number), tokens, 10.0)
    return table


def test_what_a_client_holds_beyond_its_share_since_it_has_grown_is_anothers_for_the_asking() -> None:
    table = grown("aaa", 48)
    assert table.pages_free == 0
    request = asking(identity(9))
    with pytest.raises(NotAdmitted) as caught:
        table.admit(request, "a", 11.0)
    assert caught.value.code == "quota"
    assert table.beyond_share(request, "a") == [], "not for the client itself"
    gone = table.beyond_share(request, "b")
    assert [each.id for each in gone] == [identity(2)], "the youngest, and no more than it takes"
    table.close(gone[0].id, "a")
    table.admit(request, "b", 11.0)


def test_the_oldest_of_all_gives_way_only_when_it_has_got_on() -> None:
    table = SessionTable(facts(), LIMITS)
    table.admit(opening(identity(1), fed=100, capacity=144), "a", 0.0)
    table.prompt(identity(1), "a", 100, 0.0)
    grow(table, identity(1), 131, 1.0)
    large = asking(identity(9), 6)
    assert table.beyond_share(large, "b") == []
    grow(table, identity(1), 132, 1.0)
    assert [each.id for each in table.beyond_share(large, "b")] == [identity(1)]


def test_who_holds_no_more_than_its_share_keeps_it_whoever_asks() -> None:
    table = grown("aab", 48)
    assert table.pages_free == 0
    assert table.beyond_share(asking(identity(9)), "c") == []


def test_nobody_loses_pages_for_a_session_that_they_would_not_be_enough_for() -> None:
    table = grown("aaa", 48)
    assert table.beyond_share(asking(identity(9), 4), "b") == []
    assert table.beyond_share(change(asking(identity(9)), digest="e" * 64), "b") == []
